"""Every training on the second device, in the precisions that it offers; stopped after an update, it goes on there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from restoration import PASDRestorer
from restoration.pasd.pixel_stage import Finishing
from tests.kill_trainings import TRAININGS

PRECISIONS = ["no", "bf16", "fp16"]
OWN_LOOP = [name for name in TRAININGS if name not in ("confidence", "r1 sft", "r1 rl", "r1 rounds", "scl")]
MANY = pytest.mark.slow


@pytest.fixture(autouse=True)
def plain_kernels(monkeypatch):
    """TRL's Triton kernels need a driver; its branches in plain torch do not. A process has one precision."""
    import trl.kernels.chunked_logprob as kernels
    from trl.trainer import utils

    for module in (kernels, utils):
        monkeypatch.setattr(module, "_use_triton", lambda device: False)
    monkeypatch.setattr(utils, "_supports_trl_loss_kernel", lambda *tensors: False)
    AcceleratorState._reset_state(True)


def prepared(name, tmp_path):
    inputs, recipe = TRAININGS[name]
    (tmp_path / "inputs").mkdir()
    inputs(tmp_path / "inputs")
    return recipe(tmp_path / "inputs", tmp_path / "run")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", OWN_LOOP)
def test_our_loop(name, precision, tmp_path):
    train, options = prepared(name, tmp_path)
    options = replace(options, mixed_precision=precision, steps=2)
    assert train(options, max_seconds=0.0) is None
    assert (train(options) / "model_index.json").exists() or any((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pixel_stage_of_pasd(dtype):
    stage = Finishing(PASDRestorer.from_pretrained("builtin:tiny")).to("cuda")
    side = round(48 * stage.frozen[0].config.scale)
    batch = {"high": torch.rand(1, 3, side, side).cuda(), "low": torch.rand(1, 3, 48, 48).cuda()}
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss, logs = stage(batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.is_cuda and loss.isfinite() and {"error", "tones"} <= logs.keys()


def test_the_classifier(tmp_path):
    train, options = prepared("confidence", tmp_path)
    assert any(train(options).iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name", ["r1 sft", *(pytest.param(name, marks=MANY) for name in ("r1 rl", "r1 rounds")), "scl"]
)
def test_judges_and_correctors(name, dtype, tmp_path):
    train, options = prepared(name, tmp_path)
    assert (train(replace(options, dtype=dtype)) / "model.safetensors").exists()


@MANY
@pytest.mark.parametrize("name", OWN_LOOP)
def test_a_stopped_training_ends_as_a_straight_one(name, tmp_path):
    train, options = prepared(name, tmp_path)
    straight = train(replace(options, folder=tmp_path / "straight"))
    train(options, max_seconds=0.0)
    for path in train(options).rglob("*.safetensors"):
        twin = straight / path.relative_to(tmp_path / "run" / straight.relative_to(tmp_path / "straight"))
        assert path.read_bytes() == twin.read_bytes(), path
