"""Transparency: hidden colours give way to visible ones, and edges stay as sharp as those of the picture."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from vision.resize import imresize_bands

FAINT = 16
"""Opacity, of 255, from which a colour counts fully; below it the neighbours' colours mix in."""
_ROWS = 64  # of the input, enlarged at a time


def bleed(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours in which visible ones flow into what transparency hides, so that hidden ones reach no edge.

    Every level of a pyramid averages what is visible; from the coarsest up, it fills what the finer one hides.

    Args:
        colours: (h, w) or (h, w, c) numbers of any type.
        alpha: (h, w) uint8, 255 is opaque.

    Returns:
        The same shape and type; pixels that are not faint are as they were.
    """
    if not (hidden := alpha < FAINT).any() or not alpha.any():
        return colours
    planes = torch.from_numpy(colours.reshape(*alpha.shape, -1).astype(np.float32)).permute(2, 0, 1)[None]
    weight = torch.from_numpy(alpha.astype(np.float32))[None, None]
    filled = _fill(planes, weight / max(1, min(FAINT, int(alpha.max()))))[0].permute(1, 2, 0).numpy()
    filled = filled if colours.dtype.kind == "f" else np.round(filled)
    mask = hidden.reshape(*alpha.shape, *[1] * (colours.ndim - 2))
    return np.where(mask, filled.reshape(colours.shape).astype(colours.dtype), colours)


def _fill(colours: Tensor, weight: Tensor) -> Tensor:
    """(1, c, h, w) colours where the weight (1, 1, h, w) is at least 1, elsewhere mixed with a coarser level's."""
    if min(weight.shape[-2:]) == max(weight.shape[-2:]) == 1:
        return colours
    sums = F.avg_pool2d(colours * weight, 2, ceil_mode=True, count_include_pad=False)
    weights = F.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = _fill(sums / weights.clamp(min=1e-6), weights * 4)
    coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear")[..., : colours.shape[-2], : colours.shape[-1]]
    return torch.lerp(coarse, colours, weight.clamp(max=1))


def enlarge_alpha(alpha: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """Transparency (mode L) of another size (width, height), its hard edges as hard as if drawn at that size.

    Bicubic, and where it grows, values move away from the middle of what is near: edges become narrower by the factor.
    An edge is what changes within three pixels as much as within seven; soft shadows are left bicubic.
    """
    width, height = size
    factor = min(width / alpha.width, height / alpha.height)
    if factor <= 1:
        return alpha.resize(size, PIL.Image.Resampling.BICUBIC if factor < 1 else PIL.Image.Resampling.NEAREST)
    values = torch.from_numpy(np.asarray(alpha, np.float32))[None, None]
    low, high = -F.max_pool2d(-values, 3, 1, 1), F.max_pool2d(values, 3, 1, 1)
    wide = F.max_pool2d(values, 7, 1, 3) + F.max_pool2d(-values, 7, 1, 3)
    hard = (((high - low) / wide.clamp(min=1e-6) - 0.6) / 0.3).clamp(0, 1)
    stacked = torch.cat([values, low, high, hard], dim=1)
    result, top = np.empty((height, width), np.uint8), 0
    for band in imresize_bands(stacked.split(_ROWS, dim=-2), alpha.height, (height, width)):
        smooth, low, high, hard = band[0]
        middle = (low + high) / 2
        steep = middle + (smooth - middle) * (1 + (factor - 1) * hard.clamp(0, 1))
        rows = torch.maximum(torch.minimum(steep, high), low).round().clamp(0, 255)
        result[top : top + len(rows)] = rows.to(torch.uint8).numpy()
        top += len(rows)
    return PIL.Image.fromarray(result)
