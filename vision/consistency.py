"""How well a picture follows from a restoration of it: a measure that needs no truth and no training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.resize import imresize

BLURS = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Widths, in pixels of the input, of the blurs that `consistency` tries."""


def consistency(result: Tensor, image: Tensor) -> tuple[float, float]:
    """How well the input follows from a result: the result, blurred and shrunk to the input's size, against the input.

    The blur that fits best is taken, since a blurred input may come from a sharp picture. A plain enlargement is
    consistent with its input and still no better than it: compare restorations with each other.

    Args:
        result: (1, 3, H, W) RGB in [0, 1].
        image: (1, 3, h, w) the input, not larger.

    Returns:
        Minus the root of the mean squared difference, in [-1, 0], and the width of the blur in pixels of the input.

    Raises:
        ValueError: the result is smaller than the input.
    """
    (height, width), (rows, columns) = image.shape[-2:], result.shape[-2:]
    if rows < height or columns < width:
        raise ValueError(f"a result of {columns} x {rows} pixels is smaller than its input of {width} x {height}.")
    found = []
    for blur in BLURS:
        soft = _gaussian(result, (blur * rows / height, blur * columns / width))
        small = soft if (rows, columns) == (height, width) else imresize(soft, size=(height, width))
        found.append((-float((small.clamp(0, 1) - image).square().mean().sqrt()), blur))
    return max(found, key=lambda pair: pair[0])


def _gaussian(image: Tensor, widths: tuple[float, float]) -> Tensor:
    """Gaussian blur of (batch, channels, height, width), widths in pixels of rows and columns, edges repeated."""
    for axis, width in zip((-2, -1), widths, strict=True):
        if width == 0:
            continue
        radius = min(math.ceil(3 * width), image.shape[axis] - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        taps = torch.exp(-(offsets**2) / (2 * width**2))
        shape = (1, 1, -1, 1) if axis == -2 else (1, 1, 1, -1)
        pad = (0, 0, radius, radius) if axis == -2 else (radius, radius, 0, 0)
        padded = F.pad(image, pad, mode="replicate")
        channels = image.shape[1]
        kernel = (taps / taps.sum()).view(shape).expand(channels, -1, -1, -1)
        image = F.conv2d(padded, kernel, groups=channels)
    return image
