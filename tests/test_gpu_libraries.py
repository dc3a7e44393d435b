"""Libraries that only GPUs use: where one is installed, its functions take what we give them."""

from __future__ import annotations

import inspect

import pytest
import torch


def test_nvdiffrast():
    dr = pytest.importorskip("nvdiffrast.torch", reason="nvdiffrast is not installed")
    inspect.signature(dr.RasterizeCudaContext).bind(device=torch.device("cuda"))
    inspect.signature(dr.rasterize).bind(None, torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.int32), (8, 8))


def test_diso():
    diso = pytest.importorskip("diso", reason="diso is not installed")
    inspect.signature(diso.DiffMC).bind(dtype=torch.float32)
    inspect.signature(diso.DiffMC.forward).bind(None, torch.zeros(2, 2, 2), None, isovalue=0.0)


def test_vllm():
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    outputs = pytest.importorskip("vllm.outputs")
    inspect.signature(vllm.LLM).bind(model="folder", dtype="bfloat16", mm_processor_kwargs={"max_pixels": 1})
    inspect.signature(vllm.LLM.generate).bind(None, [{"prompt_token_ids": [1]}], [None], use_tqdm=False)
    chosen = vllm.SamplingParams(max_tokens=3, temperature=0.5, top_p=0.9, seed=1, logprobs=0)
    assert (chosen.max_tokens, chosen.seed, chosen.logprobs) == (3, 1, 0)
    named = {"text", "token_ids", "cumulative_logprob", "finish_reason"}
    assert named <= set(inspect.signature(outputs.CompletionOutput).parameters)


def test_bitsandbytes():
    optim = pytest.importorskip("bitsandbytes.optim", reason="bitsandbytes is not installed")
    weight = torch.nn.Parameter(torch.ones(2))
    inspect.signature(optim.AdamW8bit).bind([weight], lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
