"""A chat model on vLLM, for large judges; needs the package vllm and its GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reward_vlm.dialogue import Dialogue
from reward_vlm.endpoint import openai_messages
from reward_vlm.vlm import Reply, Sampling


class VLLMChat:
    """`ChatModel.generate` on vLLM. Items draw from vLLM's own seeded samplers, one seed per item."""

    def __init__(self, engine: Any):
        self.engine = engine

    @classmethod
    def from_folder(cls, folder: Path, dtype: torch.dtype, max_pixels: int | None = None) -> VLLMChat:
        """Start an engine on the weights of a folder.

        Raises:
            ValueError: vllm is not installed.
        """
        try:
            from vllm import LLM
        except ImportError:
            raise ValueError("The engine vllm needs the package vllm (pip install vllm) and a GPU.") from None
        limits = {} if max_pixels is None else {"mm_processor_kwargs": {"max_pixels": max_pixels}}
        return cls(LLM(model=str(folder), dtype=str(dtype).removeprefix("torch."), **limits))

    def generate(
        self,
        dialogues: Sequence[Dialogue],
        sampling: Sampling | None = None,
        *,
        generators: Sequence[torch.Generator] | None = None,
    ) -> list[Reply]:
        """One reply per dialogue; the arguments are those of `ChatModel.generate`."""
        from vllm import SamplingParams

        sampling = sampling or Sampling()
        parameters = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=None if generators is None else generators[i].initial_seed(),
                logprobs=0,
            )
            for i in range(len(dialogues))
        ]
        outputs = self.engine.chat([openai_messages(dialogue) for dialogue in dialogues], parameters, use_tqdm=False)
        first = [output.outputs[0] for output in outputs]
        return [
            Reply(said.text, float(said.cumulative_logprob or 0.0), len(said.token_ids), said.finish_reason == "stop")
            for said in first
        ]
