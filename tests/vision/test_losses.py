from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from vision import losses


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 24, 20, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def test_ssim_loss_is_one_minus_the_usual_number():
    a, b = pictures()
    options = {
        "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "full": True,
    }  # fmt: skip
    expected = []
    for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True):
        maps = [structural_similarity(p, q, **options)[1][5:-5, 5:-5].mean() for p, q in zip(x, y, strict=True)]
        expected.append(np.mean(maps))
    assert abs(losses.ssim_loss(a, b).item() - (1 - np.mean(expected))) < 1e-5
    assert losses.ssim_loss(a, a).item() < 1e-6
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        losses.ssim_loss(a[..., :8], b[..., :8])


def test_texture_difference_sees_grain_but_not_its_position():
    generator = torch.Generator().manual_seed(0)
    grain, other = (0.5 + 0.1 * torch.randn(2, 3, 64, 64, generator=generator) for _ in range(2))
    blurred = torch.nn.functional.avg_pool2d(grain, 3, 1, 1)
    assert losses.texture_difference(grain, grain).item() == 0
    assert losses.texture_difference(other, grain) < 0.5 * losses.texture_difference(blurred, grain)
    assert torch.nn.functional.l1_loss(other, grain) > torch.nn.functional.l1_loss(blurred, grain)
    assert losses.texture_difference(grain + 0.2, grain).item() < 1e-4
    near = blurred.requires_grad_(True)
    losses.texture_difference(near, grain).backward()
    assert near.grad.isfinite().all() and near.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="at least 40 pixels per side"):
        losses.texture_difference(grain[..., :32], other[..., :32])


def test_artefact_difference_weighs_dots_more_than_an_even_difference():
    flat = torch.full((1, 3, 32, 32), 0.5)
    dots = flat.clone()
    dots[..., ::8, ::8] += 0.32
    checks = 1 - 2.0 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2)
    even, weave = flat + 0.32 / 64, flat + 0.32 / 64 * checks  # the same mean absolute difference
    found = [losses.artefact_difference(x, flat).item() for x in (flat, even, weave, dots)]
    assert found[0] == 0
    assert found[1] < 1e-6
    assert found[3] == pytest.approx(0.32 / 64 * 0.32 * 48**0.5 / 49, rel=0.1)
    assert found[3] > 5 * found[2] > 0


def test_pattern_difference_sees_dots_that_repeat_and_little_grain():
    generator = torch.Generator().manual_seed(0)
    flat = torch.full((1, 3, 64, 64), 0.5)
    grain = flat + 0.1 * torch.randn(flat.shape, generator=generator)
    dots = flat.clone()
    dots[..., ::4, ::4] += 0.4
    assert losses.pattern_difference(grain, grain).item() == 0
    assert losses.pattern_difference(dots, flat).item() == pytest.approx(0.4 / 16)
    assert losses.pattern_difference(grain, flat) < 0.3 * torch.nn.functional.l1_loss(grain, flat)


def test_feature_difference_is_relative_and_has_gradients_in_one_picture():
    a, b = pictures()

    class Network(torch.nn.Module):
        def forward(self, x):
            return [x - x.mean(), torch.nn.functional.avg_pool2d(x, 2)]

    network = Network()

    near = (0.5 * a + 0.5 * b).requires_grad_(True)
    found = losses.feature_difference(network, near, a)
    assert losses.feature_difference(network, a, a).item() == 0
    assert 0 < found < losses.feature_difference(network, b, a)
    found.backward()
    assert near.grad.isfinite().all() and near.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", (losses.l1, losses.charbonnier, losses.ssim_loss, losses.gradient_difference))
def test_losses_grow_with_the_difference_and_have_gradients(loss):
    a, b = pictures()
    near = (0.5 * a + 0.5 * b).requires_grad_(True)
    assert loss(near, a) < loss(b, a)
    loss(near, a).backward()
    assert near.grad.isfinite().all() and near.grad.abs().sum() > 0


def test_gradient_difference_ignores_brightness():
    a, _ = pictures()
    assert losses.gradient_difference(0.5 * a + 0.3, 0.5 * a).item() < 1e-4


@pytest.mark.parametrize("kind", losses.GAN_KINDS)
def test_gan_losses_pull_logits_apart(kind):
    low, high = torch.zeros(4, 1), torch.full((4, 1), 0.9)
    assert losses.generator_loss(kind, high) < losses.generator_loss(kind, low)
    assert losses.discriminator_loss(kind, high, True) < losses.discriminator_loss(kind, low, True)
    assert losses.discriminator_loss(kind, low, False) < losses.discriminator_loss(kind, high, False)


def test_balanced_cross_entropy_counts_classes_alike():
    logits = torch.tensor([[2.0, 0.0]]).repeat(100, 1)
    labels = torch.cat([torch.zeros(99), torch.ones(1)]).long()
    balanced = losses.class_balanced_cross_entropy(logits, labels)
    even = torch.nn.functional.cross_entropy(logits[:2], torch.tensor([0, 1]))
    assert abs(balanced - even) < 0.01


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="must be one of vanilla, lsgan, wgan, wgan_softplus, hinge, got x"):
        losses.generator_loss("x", torch.zeros(1))
    with pytest.raises(ValueError, match="backbone must be one of vgg, alex, squeeze, got x"):
        losses.load_perceptual("x")


def test_missing_perceptual_weights_are_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"LPIPS needs (the package lpips|torchvision's weights)"):
        losses.load_perceptual()
