from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from restoration.iter import ITEROptions, ITERRestorer
from restoration.iter.options import BUILTIN
from restoration.iter.train import ITERTraining, TokenChance, straight_through, train, visible_targets

TINY = {
    "network": BUILTIN["tiny"].published,
    "crop": 64,
    "steps": 1,
    "batch_size": 2,
    "accumulate": 1,
    "perceptual": 0.0,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(3):
        small = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        PIL.Image.fromarray(small).resize((96, 80), PIL.Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def vqgan(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    options = ITERTraining(stage="vqgan", images=images, folder=folder, discriminator_channels=8, **TINY)
    lines = []
    result = train(options, log=lines.append)
    assert any("adversarial" in line and "discriminator.loss" in line for line in lines)
    return result


def test_stage_vqgan_writes_a_vqgan(vqgan):
    assert (vqgan / "vqgan.safetensors").exists() and not (vqgan / "model.safetensors").exists()


@pytest.mark.parametrize("stage", ("distortion", "refine"))
def test_later_stages_write_a_restorer_and_leave_the_vqgan(stage, vqgan, images, tmp_path):
    from safetensors.torch import load_file

    options = ITERTraining(stage=stage, images=images, folder=tmp_path, start=vqgan, **TINY)
    folder = train(options)
    restorer = ITERRestorer.from_pretrained(folder)
    before, after = load_file(vqgan / "vqgan.safetensors"), restorer.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert restorer(torch.rand(1, 3, 16, 16), ITEROptions(steps=2)).shape == (1, 3, 64, 64)


def test_stages_ask_for_what_they_need(images, tmp_path):
    with pytest.raises(ValueError, match="stage refine needs start"):
        ITERTraining(stage="refine", images=images, **TINY)
    with pytest.raises(ValueError, match="stage must be vqgan, distortion or refine, got all"):
        ITERTraining(stage="all", **TINY)
    with pytest.raises(ValueError, match="crop must be a multiple of 64, got 50"):
        ITERTraining(crop=50)
    with pytest.raises(FileNotFoundError, match="no weights in the start folder"):
        train(ITERTraining(stage="refine", images=images, folder=tmp_path, start=tmp_path, **TINY))


def test_the_hidden_share_follows_the_rate():
    rates, positions = torch.tensor([0.0, 0.5, 1.0]), torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    visible = visible_targets(rates, positions)
    assert (1 - visible).sum((1, 2, 3)).tolist() == [64, 45, 1]
    hidden_least = positions[1][visible[1] == 0].min()
    assert (positions[1][visible[1] == 1] < hidden_least).all()


def test_straight_through_is_hard_forward_and_soft_backward():
    logits = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    chance = TokenChance.draw(torch.zeros(2, 1, 3, 3).long(), 5, torch.Generator().manual_seed(1))
    hard = straight_through(logits, chance.gumbel)
    assert torch.equal(hard.round(), (hard > 0.5).float()) and torch.equal(hard.round().sum(1), torch.ones(2, 3, 3))
    (hard * torch.arange(5.0).view(1, 5, 1, 1)).sum().backward()
    soft = (logits - chance.gumbel.log()).softmax(1)
    (expected,) = torch.autograd.grad((soft * torch.arange(5.0).view(1, 5, 1, 1)).sum(), logits)
    torch.testing.assert_close(logits.grad, expected)
