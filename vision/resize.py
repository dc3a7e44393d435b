"""Resampling of images: MATLAB's bicubic `imresize`, as papers measure with, and OpenCV's kinds."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def imresize(
    image: Tensor, scale: float | None = None, size: tuple[int, int] | None = None, antialias: bool = True
) -> Tensor:
    """Resize as MATLAB's `imresize(image, scale, "bicubic")` does.

    Cubic kernel with a = -0.5, widened by 1 / scale when shrinking with `antialias`; borders are mirrored
    with the edge repeated; nothing is clipped.

    Args:
        image: (..., height, width), floating point.
        scale: factor for both sides; the output has ceil(side * scale) pixels.
        size: (height, width) of the output instead of `scale`; each side gets its own factor.

    Returns:
        (..., out_height, out_width), same dtype and device.
    """
    if (scale is None) == (size is None):
        raise ValueError("Give either scale or size to imresize.")
    height, width = image.shape[-2:]
    if size is None:
        size = (math.ceil(height * scale), math.ceil(width * scale))
        scales = (scale, scale)
    else:
        scales = (size[0] / height, size[1] / width)
    rows = _resize_matrix(height, size[0], float(scales[0]), antialias).to(image)
    columns = _resize_matrix(width, size[1], float(scales[1]), antialias).to(image)
    return rows @ image @ columns.T


@lru_cache(maxsize=64)
def _resize_matrix(length: int, out_length: int, scale: float, antialias: bool) -> Tensor:
    """(out_length, length) float64 weights of a one-dimensional resize; each row sums to one."""
    stretch = scale if antialias and scale < 1 else 1.0
    support = math.ceil(4.0 / stretch) + 2
    centres = (torch.arange(out_length, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centres - 2.0 / stretch)
    taps = first[:, None] + torch.arange(support, dtype=torch.float64)
    weights = _cubic((centres[:, None] - taps) * stretch)
    weights = weights / weights.sum(1, keepdim=True)
    period = torch.remainder(taps.long(), 2 * length)
    index = torch.minimum(period, 2 * length - 1 - period)
    return torch.zeros(out_length, length, dtype=torch.float64).scatter_add_(1, index, weights)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resize(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize as OpenCV's `resize` does with INTER_LINEAR, INTER_CUBIC and INTER_AREA.

    Linear and cubic (a = -0.75) use half-pixel centres, no antialiasing and replicated borders. Area is the
    exact mean over the fraction of pixels that each output pixel covers; where a side grows it becomes
    OpenCV's sharper linear.

    Args:
        image: (..., height, width), floating point.
        size: (height, width) of the output.
        mode: "linear", "cubic" or "area".

    Returns:
        (..., out_height, out_width), same dtype and device; cubic may leave the range of the input.
    """
    if mode not in ("linear", "cubic", "area"):
        raise ValueError(f'mode must be "linear", "cubic" or "area", got {mode!r}.')
    shrinks = size[0] <= image.shape[-2] and size[1] <= image.shape[-1]
    kind = "box" if mode == "area" and shrinks else mode
    rows = _tap_matrix(image.shape[-2], size[0], kind).to(image)
    columns = _tap_matrix(image.shape[-1], size[1], kind).to(image)
    return rows @ image @ columns.T


@lru_cache(maxsize=512)
def _tap_matrix(length: int, out_length: int, kind: str) -> Tensor:
    """(out_length, length) float64 weights of one side; box is area that shrinks, area is area that grows."""
    step = length / out_length
    out = torch.arange(out_length, dtype=torch.float64)
    if kind == "box":
        pixels = torch.arange(length, dtype=torch.float64)
        ends = torch.minimum((out[:, None] + 1) * step, pixels + 1)
        starts = torch.maximum(out[:, None] * step, pixels)
        return (ends - starts).clamp_min(0) / step
    if kind == "area":
        left = torch.floor(out * step)
        right_share = (out + 1) - (left + 1) / step
        right_share = torch.where(right_share <= 0, torch.zeros_like(out), right_share - right_share.floor())
    else:
        centre = (out + 0.5) * step - 0.5
        left = torch.floor(centre)
        right_share = centre - left
    if kind == "cubic":
        a = -0.75
        near = [right_share, 1 - right_share]
        far = [1 + right_share, 2 - right_share]
        inner = [(a + 2) * x**3 - (a + 3) * x**2 + 1 for x in near]
        outer = [a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a for x in far]
        offsets, weights = (-1, 0, 1, 2), (outer[0], inner[0], inner[1], outer[1])
    else:
        offsets, weights = (0, 1), (1 - right_share, right_share)
    index = torch.stack([left + offset for offset in offsets], 1).long().clamp(0, length - 1)
    taps = torch.stack(weights, 1)
    return torch.zeros(out_length, length, dtype=torch.float64).scatter_add_(1, index, taps)
