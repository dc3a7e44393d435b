"""Degradations: reproducible, in range, and clear about what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from restoration import RECIPES, Draws, degrade, kernels, recipe
from restoration.degradation import add_gaussian_noise, convolve, round_to_8_bit
from restoration.jpeg import jpeg, tensor_jpeg
from restoration.recipes import BSRGANRecipe, StageRecipe
from vision.resize import imresize, resize


@pytest.fixture
def image():
    rough = torch.rand(3, 10, 12, generator=torch.Generator().manual_seed(0))
    return imresize(rough, 4.0).clamp(0, 1)


@pytest.mark.parametrize("name", RECIPES)
def test_results_have_the_right_size_range_and_depth(name, image):
    low = degrade(image, name, Draws.seeded(0))
    assert low.shape == (3, 10, 12) and low.dtype == torch.float32
    assert torch.equal(low, round_to_8_bit(low)) and low.min() >= 0 and low.max() <= 1


@pytest.mark.parametrize("name", ["bsrgan", "bsrgan_light", "realesrgan"])
def test_the_same_seed_gives_the_same_image_and_another_does_not(name, image):
    first = degrade(image, name, Draws.seeded(3, 1, 7))
    assert torch.equal(first, degrade(image, name, Draws.seeded(3, 1, 7)))
    assert not torch.equal(first, degrade(image, name, Draws.seeded(3, 1, 8)))
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    degrade(image, name, torch.Generator().manual_seed(1))
    assert torch.equal(state[0], torch.random.get_rng_state()) and np.array_equal(state[1], np.random.get_state()[1])


@pytest.mark.parametrize("name", RECIPES)
def test_an_item_does_not_depend_on_its_batch(name, image):
    batch = torch.stack([image, image.flip(-1)])
    together = degrade(batch, name, [torch.Generator().manual_seed(seed) for seed in (4, 5)])
    alone = degrade(batch[1], name, torch.Generator().manual_seed(5))
    assert torch.equal(together[1], alone)


@pytest.mark.parametrize("name", ["bsrgan", "bsrgan_light", "realesrgan"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_many_draws_stay_finite_at_every_scale(name, scale, image):
    how = replace(recipe(name), scale=scale)
    for seed in range(12):
        low = degrade(image[:, :25, :26], how, Draws.seeded(seed))
        assert low.shape == (3, 25 // scale, 26 // scale) and low.isfinite().all()


def test_tiny_images_survive_large_kernels():
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    for name in RECIPES:
        assert all(degrade(image, name, Draws.seeded(seed)).shape == (3, 1, 1) for seed in range(8))


def test_real_esrgan_can_return_to_full_size(image):
    assert degrade(image, replace(recipe("realesrgan"), resize_back=True), Draws.seeded(0)).shape == image.shape


@pytest.mark.parametrize(("border", "scipy_mode"), [("mirror", "mirror"), ("wrap", "wrap")])
@pytest.mark.parametrize("size", [1, 4, 7, 25])
def test_convolution_equals_the_plain_sum(border, scipy_mode, size, image):
    kernel = np.random.default_rng(size).random((size, size))
    kernel /= kernel.sum()
    ours = convolve(image, kernel, border)
    plain = np.stack([ndimage.convolve(channel.double().numpy(), kernel, mode=scipy_mode) for channel in image])
    assert (ours - torch.from_numpy(plain)).abs().max() < 1e-6


def test_every_item_has_its_own_kernel(image):
    batch = torch.stack([image, image])
    pair = torch.stack([torch.from_numpy(kernels.pulse(7)), torch.from_numpy(kernels.gaussian(7, 2.0))])
    blurred = convolve(batch, pair)
    assert torch.allclose(blurred[0], image, atol=1e-6)
    assert torch.allclose(blurred[1], convolve(image, kernels.gaussian(7, 2.0)), atol=1e-6)


@pytest.mark.parametrize("size", [6, 7])
def test_vanishing_widths_keep_a_sum_of_one(size):
    for kernel in (kernels.gaussian(size, 0.0), kernels.rotated_gaussian(size, 0.3, 1e-15, 1e-15)):
        assert math.isclose(kernel.sum(), 1.0)


@pytest.mark.parametrize("mode", ["linear", "cubic", "area"])
def test_resizing_keeps_constants_and_nothing_changes_at_the_same_size(mode, image):
    for size in ((5, 7), (60, 31), (80, 90)):
        assert torch.allclose(resize(torch.full((3, 40, 48), 0.3), size, mode), torch.tensor(0.3), atol=1e-6)
    assert torch.allclose(resize(image, (40, 48), mode), image, atol=1e-6)


def test_tensor_jpeg_is_near_the_real_one_on_gray_and_coarser_is_worse(image):
    gray = image.mean(0, keepdim=True).expand(3, -1, -1)[:, :32, :48]  # colours are upsampled differently
    assert (tensor_jpeg(gray[None], 95)[0] - jpeg(gray, 95)).abs().mean() < 2 / 255
    fine, coarse = (tensor_jpeg(image[None], quality)[0] for quality in (95, 20))
    assert (coarse - image).square().mean() > 1.5 * (fine - image).square().mean()


def test_gray_noise_is_the_same_for_all_colours():
    image = torch.full((1, 3, 16, 16), 0.5)
    noisy = add_gaussian_noise(image, (10, 10), 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(noisy[:, 0], noisy[:, 1]) and 8 / 255 < noisy.std() < 12 / 255


def test_errors_are_sentences(image):
    with pytest.raises(ValueError, match="no degradation 'fog'; choose one of bicubic, bsrgan"):
        degrade(image, "fog", Draws.seeded(0))
    with pytest.raises(ValueError, match="with or without a batch"):
        degrade(image[:1], "bicubic", Draws.seeded(0))
    with pytest.raises(ValueError, match="3 x 48 pixels cannot shrink by 4"):
        degrade(image.transpose(1, 2)[..., :3], "bicubic", Draws.seeded(0))
    with pytest.raises(ValueError, match="Got 1 generators for 2 images"):
        degrade(torch.stack([image, image]), "bicubic", [Draws.seeded(0)])
    with pytest.raises(ValueError, match=r"jpeg_probability must lie in \[0, 1\], got 2"):
        BSRGANRecipe(jpeg_probability=2)
    with pytest.raises(ValueError, match=r"qualities must be an increasing pair within \[1, 100\]"):
        StageRecipe(qualities=(50, 101))
    with pytest.raises(ValueError, match=r"scale must be a whole number from 1, got 0\."):
        replace(recipe("blind"), scale=0)
    with pytest.raises(ValueError, match="mode must be"):
        resize(image, (4, 4), "nearest")
