"""Turn good images into bad ones: blur, resize, noise and compression on tensors, without OpenCV.

`degrade(image, "bsrgan", generator)` follows a recipe of `restoration.recipes`. The published pipelines draw
from three random streams (Python, numpy, torch), so `Draws` holds one of each: the same three seeds give the
published results number by number. Images are RGB in [0, 1], (3, height, width) or (batch, 3, height, width).

Differences from the published code: blurs run in the frequency domain (equal to rounding), kernels narrower
than a pixel never vanish (the published ones become 0 / 0), and images are cropped to multiples of the scale
on the right axes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from scipy.fft import next_fast_len
from torch import Tensor

from restoration import kernels
from restoration.jpeg import jpeg, tensor_jpeg
from restoration.recipes import (
    BicubicRecipe,
    BlindRecipe,
    BSRGANRecipe,
    RealESRGANRecipe,
    Recipe,
    StageRecipe,
    recipe,
)
from vision.resize import imresize, resize

_MODES = ("linear", "cubic", "area")
_TORCH_MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class Draws:
    """The three random streams that one degradation draws from; they advance as it runs."""

    python: random.Random
    """Of the order and the kinds of the steps."""
    numpy: np.random.RandomState
    """Of strengths and noise."""
    torch: torch.Generator
    """Of what tensors draw."""

    @classmethod
    def from_seeds(cls, python: int, numpy: int, torch_: int) -> Draws:
        """Streams that equal `random.seed`, `numpy.random.seed` and `torch.manual_seed` on these seeds."""
        return cls(random.Random(python), np.random.RandomState(numpy), torch.Generator().manual_seed(torch_))

    @classmethod
    def seeded(cls, *key: int) -> Draws:
        """Independent streams for a key of whole numbers from 0, such as (seed, epoch, index)."""
        return cls.from_seeds(*(int(state) for state in np.random.SeedSequence(key).generate_state(3)))


def degrade(
    image: Tensor, how: Recipe | str, generator: Draws | torch.Generator | Sequence[Draws | torch.Generator]
) -> Tensor:
    """A degraded, smaller version of an image.

    Args:
        image: (3, height, width) or (batch, 3, height, width) RGB in [0, 1]. Sides are cut at the right and
            bottom to multiples of the scale first.
        how: a recipe, or the name of one.
        generator: where randomness comes from; one for all items in turn, or one per item. A torch generator
            only seeds the three streams of each item.

    Returns:
        (3, height / scale, width / scale), with the batch if there was one: float32 multiples of 1/255.

    Raises:
        ValueError: when the image is not RGB, is smaller than one output pixel, or generators do not fit the
            batch.
    """
    how = recipe(how) if isinstance(how, str) else how
    if image.ndim not in (3, 4) or image.shape[-3] != 3:
        raise ValueError(f"degrade takes (3, height, width) with or without a batch, got {tuple(image.shape)}.")
    height, width = (side - side % how.scale for side in image.shape[-2:])
    if min(height, width) == 0:
        raise ValueError(f"{image.shape[-1]} x {image.shape[-2]} pixels cannot shrink by {how.scale}.")
    items = image[..., :height, :width].float().reshape(-1, 3, height, width)
    shared = isinstance(generator, Draws | torch.Generator)
    generators = [generator] * len(items) if shared else list(generator)
    if len(generators) != len(items):
        raise ValueError(f"Got {len(generators)} generators for {len(items)} images; give one, or one each.")
    results = [_run(item, how, _draws(source)) for item, source in zip(items, generators, strict=True)]
    return torch.stack(results) if image.ndim == 4 else results[0]


def _draws(source: Draws | torch.Generator) -> Draws:
    if isinstance(source, Draws):
        return source
    return Draws.from_seeds(*torch.randint(2**32, (3,), generator=source, device=source.device).tolist())


def _run(image: Tensor, how: Recipe, draws: Draws) -> Tensor:
    if isinstance(how, BicubicRecipe):
        return round_to_8_bit(imresize(image, 1 / how.scale))
    if isinstance(how, BlindRecipe):
        return blind(image, how)
    if isinstance(how, BSRGANRecipe):
        return bsrgan(image, how, draws)
    return real_esrgan(image, how, draws)


# operations


def round_to_8_bit(image: Tensor) -> Tensor:
    """The nearest multiples of 1/255 in [0, 1]."""
    return (image * 255).round().clamp(0, 255) / 255


def convolve(image: Tensor, kernel: np.ndarray | Tensor, border: str = "mirror") -> Tensor:
    """Convolve every channel, in the frequency domain; the centre of a kernel is its pixel size // 2.

    Args:
        image: (..., height, width).
        kernel: (size, size) of any size, or (batch, size, size) for an image (batch, channels, height,
            width).
        border: "mirror" (the edge is not repeated) or "wrap".

    Returns:
        Same shape and dtype as `image`.
    """
    kernel = torch.as_tensor(kernel, dtype=image.dtype, device=image.device)
    if kernel.ndim == 3:
        kernel = kernel[:, None]
    size = kernel.shape[-1]
    rows, columns = (_border_index(side, size, border).to(image.device) for side in image.shape[-2:])
    padded = image[..., rows[:, None], columns[None, :]]
    shape = [next_fast_len(side, real=True) for side in padded.shape[-2:]]
    spectrum = torch.fft.rfft2(padded, s=shape) * torch.fft.rfft2(kernel, s=shape)
    result = torch.fft.irfft2(spectrum, s=shape)[..., size - 1 :, size - 1 :]
    return result[..., : image.shape[-2], : image.shape[-1]].contiguous()


def _border_index(length: int, size: int, border: str) -> Tensor:
    """(length + size - 1,) indices into a side extended for a kernel of `size`."""
    index = torch.arange(-((size - 1) // 2), length + size // 2)
    if border == "wrap":
        return index.remainder(length)
    if border != "mirror":
        raise ValueError(f'border must be "mirror" or "wrap", got {border!r}.')
    period = max(1, 2 * (length - 1))
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def sharpen(image: Tensor, weight: float = 0.5, radius: int = 50, threshold: float = 10) -> Tensor:
    """Unsharp masking where the residue exceeds `threshold` / 255, blended softly (Real-ESRGAN, section 3.2).

    Args:
        image: (..., 3, height, width) in [0, 1].
        weight: how much of the residue is added.
        radius: pixels of the blur, made odd; its width follows OpenCV's rule for a width of 0.
        threshold: in steps of 8 bit.

    Returns:
        Same shape, in [0, 1].
    """
    size = radius + 1 - radius % 2
    kernel = kernels.gaussian(size, 0.3 * ((size - 1) * 0.5 - 1) + 0.8)
    residue = image - convolve(image, kernel)
    softness = convolve((residue.abs() * 255 > threshold).to(image), kernel)
    return softness * (image + weight * residue).clamp(0, 1) + (1 - softness) * image


# BSRGAN


def bsrgan(image: Tensor, how: BSRGANRecipe, draws: Draws) -> Tensor:
    """One image (3, height, width), sides multiples of the scale, through BSRGAN's shuffled degradations."""
    scale, final_size = how.scale, (image.shape[-2] // how.scale, image.shape[-1] // how.scale)
    if scale == 4 and draws.python.random() < how.halve_probability:
        if draws.numpy.rand() < 0.5:
            image = resize(image, (image.shape[-2] // 2, image.shape[-1] // 2), draws.python.choice(_MODES))
        else:
            image = imresize(image, 0.5)
        image, scale = image.clamp(0, 1), 2
    order = draws.python.sample(range(7), 7)
    first, last = order.index(2), order.index(3)
    if first > last:  # the resize to the final size comes after the free one
        order[first], order[last] = order[last], order[first]
    for operation in order:
        if operation in (0, 1):
            image = convolve(image, bsrgan_kernel(how, scale, draws))
        elif operation == 2:
            image = _shrink(image, how, scale, draws)
        elif operation == 3:
            image = resize(image, final_size, draws.python.choice(_MODES)).clamp(0, 1)
        elif operation == 4:
            image = _bsrgan_noise(image, how.noise_levels, draws)
        elif operation == 5:
            if draws.python.random() < how.jpeg_probability:
                image = jpeg(image, draws.python.randint(*how.qualities))
        else:
            draws.python.random()  # stands for camera noise, which the published training left out
    return jpeg(image, draws.python.randint(*how.qualities))


def bsrgan_kernel(how: BSRGANRecipe, scale: int, draws: Draws) -> np.ndarray:
    """A random Gaussian blur (size, size), with two widths and an angle or round, half of the time each."""
    python = draws.python
    if python.random() < 0.5:
        highest = (4 + scale) * how.blur_factor
        along, across = highest * python.random(), highest * python.random()
        size = python.choice(how.oriented_sizes)
        return kernels.rotated_gaussian(size, python.random() * math.pi, along, across)
    size = python.choice(how.round_sizes)
    return kernels.gaussian(size, (2 + 0.2 * scale) * how.blur_factor * python.random())


def _shrink(image: Tensor, how: BSRGANRecipe, scale: int, draws: Draws) -> Tensor:
    """Resize freely by up to 1 / (2 scale), or blur with a shifted Gaussian and take every scale-th pixel."""
    if draws.python.random() < how.free_resize_probability:
        factor = 1 / draws.python.uniform(1, 2 * scale)
        size = (max(1, int(factor * image.shape[-2])), max(1, int(factor * image.shape[-1])))
        return resize(image, size, draws.python.choice(_MODES)).clamp(0, 1)
    kernel = kernels.gaussian(25, draws.python.uniform(0.1, 0.6 * scale))
    return convolve(image, kernels.shifted(kernel, scale))[..., ::scale, ::scale].clamp(0, 1)


def _bsrgan_noise(image: Tensor, levels: tuple[int, int], draws: Draws) -> Tensor:
    """Add noise: per colour (40 %), the same for all (40 %), or correlated between colours (20 %)."""
    shape = (*image.shape[-2:], 3)
    level, kind = draws.python.randint(*levels) / 255, draws.numpy.rand()
    if kind > 0.6:
        noise = draws.numpy.normal(0, level, shape)
    elif kind < 0.4:
        noise = draws.numpy.normal(0, level, (*shape[:2], 1))
    else:
        variances = draws.numpy.rand(3)
        basis = np.linalg.svd(draws.numpy.rand(3, 3))[0]
        covariance = np.abs((levels[1] / 255) ** 2 * (basis.T * variances) @ basis)
        noise = draws.numpy.multivariate_normal(np.zeros(3), covariance, shape[:2], check_valid="ignore")
    return (image + torch.from_numpy(noise).to(image).permute(2, 0, 1)).clamp(0, 1)


# Real-ESRGAN


def real_esrgan(image: Tensor, how: RealESRGANRecipe, draws: Draws) -> Tensor:
    """One image (3, height, width) through both rounds of Real-ESRGAN; at full size if the recipe says so."""
    height, width = image.shape[-2:]
    blur, second_blur, last = real_esrgan_kernels(how, draws)
    x = convolve(image[None], blur)
    factor = _resize_factor(how.first, draws)
    x = F.interpolate(x, scale_factor=factor, mode=draws.python.choice(_TORCH_MODES))
    x = _noise(x, how.first, draws)
    x = tensor_jpeg(x, _quality(how.first, draws))

    if draws.numpy.uniform() < how.second_blur_probability:
        x = convolve(x, second_blur)
    factor = _resize_factor(how.second, draws)
    size = (max(1, int(height / how.scale * factor)), max(1, int(width / how.scale * factor)))
    x = F.interpolate(x, size=size, mode=draws.python.choice(_TORCH_MODES))
    x = _noise(x, how.second, draws)

    small = (height // how.scale, width // how.scale)
    if draws.numpy.uniform() < 0.5:
        x = convolve(F.interpolate(x, size=small, mode=draws.python.choice(_TORCH_MODES)), last)
        x = tensor_jpeg(x.clamp(0, 1), _quality(how.second, draws))
    else:
        x = tensor_jpeg(x.clamp(0, 1), _quality(how.second, draws))
        x = convolve(F.interpolate(x, size=small, mode=draws.python.choice(_TORCH_MODES)), last)
    if how.resize_back:
        x = F.interpolate(x, size=(height, width), mode=draws.python.choice(_TORCH_MODES))
    return round_to_8_bit(x[0])


def real_esrgan_kernels(how: RealESRGANRecipe, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The blur of each round and the last low-pass filter, all as large as the largest kernel size."""
    largest = max(how.kernel_sizes)
    blurs = [_stage_kernel(how, stage, largest, draws) for stage in (how.first, how.second)]
    if draws.numpy.uniform() < how.final_sinc_probability:
        size = draws.python.choice(how.kernel_sizes)
        return *blurs, kernels.sinc(draws.numpy.uniform(math.pi / 3, math.pi), size, pad_to=largest)
    return *blurs, kernels.pulse(largest)


def _stage_kernel(how: RealESRGANRecipe, stage: StageRecipe, pad_to: int, draws: Draws) -> np.ndarray:
    size = draws.python.choice(how.kernel_sizes)
    if draws.numpy.uniform() < stage.sinc_probability:
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        return kernels.sinc(draws.numpy.uniform(lowest, math.pi), size, pad_to)
    return kernels.padded(shaped_kernel(how, stage.sigmas, size, draws), pad_to)


def shaped_kernel(how: RealESRGANRecipe, sigmas: tuple[float, float], size: int, draws: Draws) -> np.ndarray:
    """A random one of the six blur shapes (size, size), with widths from `sigmas`."""
    shape = draws.python.choices(kernels.SHAPES, how.shape_shares)[0]
    sigma_x = sigma_y = draws.numpy.uniform(*sigmas)
    rotation, beta = 0.0, 1.0
    if shape.endswith("aniso"):
        sigma_y, rotation = draws.numpy.uniform(*sigmas), draws.numpy.uniform(-math.pi, math.pi)
    if shape.startswith(("generalized", "plateau")):
        betas = how.plateau_betas if shape.startswith("plateau") else how.generalized_betas
        below_one = draws.numpy.uniform() < 0.5
        beta = draws.numpy.uniform(betas[0], 1) if below_one else draws.numpy.uniform(1, betas[1])
    return kernels.shaped(shape, size, sigma_x, sigma_y, rotation, beta)


def _resize_factor(stage: StageRecipe, draws: Draws) -> float:
    direction = draws.python.choices(("grow", "shrink", "keep"), stage.resize_shares)[0]
    if direction == "grow":
        return draws.numpy.uniform(1, stage.resize_range[1])
    return draws.numpy.uniform(stage.resize_range[0], 1) if direction == "shrink" else 1.0


def _quality(stage: StageRecipe, draws: Draws) -> Tensor:
    return torch.zeros(1).uniform_(*stage.qualities, generator=draws.torch)


def _noise(image: Tensor, stage: StageRecipe, draws: Draws) -> Tensor:
    if draws.numpy.uniform() < stage.gaussian_probability:
        return add_gaussian_noise(image, stage.gaussian_levels, stage.gray_probability, draws.torch)
    return add_poisson_noise(image, stage.poisson_scales, stage.gray_probability, draws.torch)


def add_gaussian_noise(
    image: Tensor, levels: tuple[float, float], gray_probability: float, generator: torch.Generator
) -> Tensor:
    """(1, 3, height, width) in [0, 1] with Gaussian noise of a level drawn from `levels` (of 255), at times the same
    for all colours, drawn on the CPU."""
    level = torch.rand(1, generator=generator) * (levels[1] - levels[0]) + levels[0]
    gray = bool(torch.rand(1, generator=generator) < gray_probability)
    if gray:
        noise = torch.randn(image.shape[-2:], generator=generator)[None, None]
        torch.randn(image.shape, generator=generator)  # the published order draws colour noise in any case
    else:
        noise = torch.randn(image.shape, generator=generator)
    return (image + (noise * level / 255).to(image)).clamp(0, 1)


def add_poisson_noise(
    image: Tensor, scales: tuple[float, float], gray_probability: float, generator: torch.Generator
) -> Tensor:
    """(1, 3, height, width) in [0, 1] with photon noise times a factor drawn from `scales`, at times the same for all
    colours, drawn on the CPU; more distinct 8-bit values mean more photons."""
    scale = torch.rand(1, generator=generator) * (scales[1] - scales[0]) + scales[0]
    gray = bool(torch.rand(1, generator=generator) < gray_probability)
    light = image.cpu()
    noise = torch.zeros(1)
    if gray:
        weights = torch.tensor((0.2989, 0.587, 0.114)).view(1, 3, 1, 1)
        noise = _photon_noise((light * weights).sum(1, keepdim=True), generator)
    colour_noise = _photon_noise(light, generator)  # the published order draws it in any case
    return (image + ((noise if gray else colour_noise) * scale).to(image)).clamp(0, 1)


def _photon_noise(light: Tensor, generator: torch.Generator) -> Tensor:
    light = round_to_8_bit(light)
    photons = 2 ** math.ceil(math.log2(len(torch.unique(light))))
    return torch.poisson(light * photons, generator=generator) / photons - light


# a fixed degradation for tables

BLUR_RADIUS, NOISE_LEVEL, QUALITY = 1.5, 6.0, 60
"""Radius of Pillow's Gaussian blur in pixels, standard deviation of the noise (of 255), quality of JPEG."""


def blind(image: Tensor, how: BlindRecipe) -> Tensor:
    """One image (3, height, width) blurred, shrunk, made noisy and compressed, the same way every time."""
    array = (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    size = (image.shape[-1] // how.scale, image.shape[-2] // how.scale)
    picture = Image.fromarray(array).filter(ImageFilter.GaussianBlur(BLUR_RADIUS))
    small = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    small = small + np.random.default_rng(0).normal(0, NOISE_LEVEL, small.shape)
    tensor = torch.from_numpy(np.clip(np.round(small), 0, 255)).permute(2, 0, 1).float() / 255
    return jpeg(tensor, QUALITY).to(image.device)
