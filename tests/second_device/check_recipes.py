"""The recipes of the weights that ship, in small, on the second device: stopped after every stage, they go on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from reward_vlm.r1 import recipe_mini as r1_recipe
from reward_vlm.r1 import recipe_restoration
from reward_vlm.r1.judge import R1Judge
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.tiny import SMALLEST
from reward_vlm.vlm import ChatModel
from tests.kill_trainings import MORE, guessing, training
from tests.restoration.iter import test_mini
from tests.restoration.pasd import test_train as pasd_tests
from tests.reward_vlm.r1 import test_recipe_restoration
from tests.second_device.check_trainings import plain_kernels  # noqa: F401
from vision.edit import PIEEditor
from vision.edit import recipe_mini as pie_recipe


@pytest.fixture(params=["no", "bf16"])
def precision(request, monkeypatch):
    """Of the stages on our own loop."""
    for module in (test_mini.recipe_mini, pie_recipe):
        settings = module.stage_settings

        def chosen(*arguments, settings=settings, **others):
            return replace(settings(*arguments, **others), mixed_precision=request.param)

        monkeypatch.setattr(module, "stage_settings", chosen)
    return request.param


def test_iter(precision, tmp_path, monkeypatch):
    test_mini.test_the_recipe_runs_resumes_and_its_weights_load(tmp_path, monkeypatch)


@pytest.mark.parametrize("half", ["no", "bf16"])
def test_pasd(half, tmp_path, monkeypatch):
    from restoration.pasd import recipe_mini

    settings = recipe_mini.stage_settings
    monkeypatch.setattr(
        recipe_mini, "stage_settings", lambda *a, **others: replace(settings(*a, **others), mixed_precision=half)
    )
    pasd_tests.test_the_small_base_and_pasd_on_it(tmp_path, monkeypatch)


class Slices:
    """Drawn by code in place of brains: the ill ones have a bright patch."""

    def __init__(self, volume, seed, healthy=0.3):
        self.seed = seed

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(self.seed * 1000 + index)
        image, severity = torch.rand(1, pie_recipe.SIDE, pie_recipe.SIDE, generator=generator) / 2, (index % 4) / 3
        image[:, 20:40, 20:40] += severity / 2
        return SimpleNamespace(image=image, severity=severity)


def test_pie(precision, tmp_path, monkeypatch):
    monkeypatch.setattr(pie_recipe, "BrainImages", Slices)
    for name in ("load_mni", "load_colin"):
        monkeypatch.setattr(pie_recipe, name, lambda volumes: None)
    recipe = pie_recipe.BrainTraining(
        folder=tmp_path / "stopped", images=8, steps=(2, 2, 2), batch_sizes=(4, 2, 4), vae_channels=(16, 16, 16),
        channels=(32, 32),
    )  # fmt: skip
    said = []
    while (folder := pie_recipe.train(recipe, log=said.append, max_seconds=0.0)) is None:
        pass
    straight = pie_recipe.train(replace(recipe, folder=tmp_path / "straight"))
    assert any(line.startswith("AUC on the held-out brain") for line in said)
    for path in folder.rglob("*.safetensors"):
        assert path.read_bytes() == (straight / path.relative_to(folder)).read_bytes(), path
    assert PIEEditor.from_pretrained(folder).unet is not None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_r1(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(r1_recipe, "R1Training", partial(r1_recipe.R1Training, dtype=dtype))
    weights = r1_recipe.train(
        r1_recipe.MiniR1Training(
            folder=tmp_path, sft_steps=2, sft_every=2, rounds=1, steps=2, rows=(64, 64, 2), tests=2, size=SMALLEST
        )
    )
    assert R1Judge.from_pretrained(weights).config.template == "plain"


def test_scl(tmp_path, monkeypatch):
    monkeypatch.setattr(ChatModel, "generate", ChatModel.generate)  # which `guessing` replaces
    _, recipe = MORE["scl mini"]
    (tmp_path / "inputs").mkdir()
    weights = guessing(training(recipe))(tmp_path / "inputs", tmp_path / "run")
    assert SCLCorrector.from_pretrained(weights).config.style == "plain"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_judge_of_restorations(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(r1_recipe, "R1Training", partial(r1_recipe.R1Training, dtype=dtype))
    assert issubclass(recipe_restoration.PictureJudgeTraining, r1_recipe.MiniR1Training)
    test_recipe_restoration.test_both_stages_train_a_judge_that_loads(tmp_path, monkeypatch)
