"""Resampling of images: MATLAB's bicubic `imresize`, as papers measure with, and OpenCV's kinds.

Every output pixel is a weighted sum of a few input pixels (its taps), so the memory needed is that of the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""


class Taps(NamedTuple):
    """What every pixel of one side of a resized picture is made of."""

    index: Tensor
    """(out_length, n) int64: input pixels."""
    weights: Tensor
    """(out_length, n) float64: their shares; every row sums to one."""

    def apply(self, image: Tensor) -> Tensor:
        """(..., length, width) -> (..., out_length, width); half precision is summed in float32."""
        dtype = torch.promote_types(image.dtype, torch.float32)
        total: Tensor | None = None
        for index, weights in zip(self.index.T.to(image.device), self.weights.T.to(image.device, dtype), strict=True):
            rows, weights = image.index_select(-2, index).to(dtype), weights[:, None]
            total = rows.mul_(weights) if total is None else total.addcmul_(rows, weights)
        assert total is not None
        return total.to(image.dtype)


def _resized(image: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Both sides resized. Columns are resized as rows of the transposed image: whole rows are quick to gather."""
    turned = rows.apply(image).transpose(-2, -1).contiguous()
    return columns.apply(turned).transpose(-2, -1).contiguous()


def imresize(image: Tensor, scale: float | None = None, size: Size | None = None, antialias: bool = True) -> Tensor:
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
    rows, columns = (
        _cubic_taps(length, wanted, float(factor), antialias)
        for length, wanted, factor in zip((height, width), size, scales, strict=True)
    )
    return _resized(image, rows, columns)


def imresize_bands(bands: Iterable[Tensor], height: int, size: Size) -> Iterator[Tensor]:
    """`imresize(image, size=size)` of an image that comes and goes in horizontal bands; the same numbers.

    Args:
        bands: (..., rows, width) from top to bottom, `height` rows together.
        height: of the whole image.
        size: (height, width) of the output.

    Yields:
        (..., out_rows, out_width) from top to bottom.
    """
    taps = _cubic_taps(height, size[0], size[0] / height, True)
    ends = taps.index.amax(1).cummax(0).values + 1  # input rows that an output row has to wait for
    starts = taps.index.amin(1).flip(0).cummin(0).values.flip(0)  # those above are not needed any more
    kept: Tensor | None = None
    begin = done = 0
    for band in bands:
        kept = band if kept is None else torch.cat([kept, band], dim=-2)
        ready = int((ends <= begin + kept.shape[-2]).sum())
        if ready == done:
            continue
        rows = Taps(taps.index[done:ready] - begin, taps.weights[done:ready])
        yield _resized(kept, rows, _cubic_taps(band.shape[-1], size[1], size[1] / band.shape[-1], True))
        done = ready
        first = int(starts[done]) if done < size[0] else height
        kept, begin = kept[..., max(first - begin, 0) :, :].clone(), max(first, begin)


def _cubic_taps(length: int, out_length: int, scale: float, antialias: bool) -> Taps:
    """Of one side; mirrored at the ends."""
    stretch = scale if antialias and scale < 1 else 1.0
    support = math.ceil(4.0 / stretch) + 2
    centres = (torch.arange(out_length, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centres - 2.0 / stretch)
    taps = first[:, None] + torch.arange(support, dtype=torch.float64)
    weights = _cubic((centres[:, None] - taps) * stretch)
    weights = weights / weights.sum(1, keepdim=True)
    used = weights.any(0)
    period = torch.remainder(taps[:, used].long(), 2 * length)
    return Taps(torch.minimum(period, 2 * length - 1 - period), weights[:, used])


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resize(image: Tensor, size: Size, mode: str) -> Tensor:
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
    rows, columns = (_opencv_taps(image.shape[side], size[side], kind) for side in (-2, -1))
    return _resized(image, rows, columns)


def _opencv_taps(length: int, out_length: int, kind: str) -> Taps:
    """Of one side; box is area that shrinks, area is area that grows."""
    step = length / out_length
    out = torch.arange(out_length, dtype=torch.float64)
    if kind == "box":
        index = torch.floor(out * step)[:, None] + torch.arange(math.ceil(step) + 1)
        ends = torch.minimum((out[:, None] + 1) * step, index + 1)
        starts = torch.maximum(out[:, None] * step, index)
        return Taps(index.long().clamp_max(length - 1), (ends - starts).clamp_min(0) / step)
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
    return Taps(index, torch.stack(weights, 1))
