"""Sizes on the way through PASD, and the colours and the size of the result.

Pictures are resized in 8 bits by Pillow, as the published code does: it is what the networks were trained with. Results
are resized by Pillow in floats, unless the published code's 8 bits are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from PIL.Image import Resampling
from torch import Tensor

from vision.images import match_color, to_pil, to_tensor, to_uint8

Size = tuple[int, int]
Color = Literal["wavelet", "adain", "none"]
MOST_OBLONG = 8
"""Long side over short side of what the networks see."""


class Sizes(NamedTuple):
    """(width, height) in pixels, in the order of the steps."""

    enlarged: Size
    """The result's size."""
    resized: Size
    """With a short side of at least the process size."""
    processed: Size
    """In multiples of the unit."""
    output: Size


@dataclass(frozen=True)
class Sized:
    """A batch of pictures at the size that the networks see."""

    original: Tensor
    """(b, 3, h, w) what was given, RGB in [0, 1]."""
    image: Tensor
    """(b, 3, H, W) float32, what the networks see, RGB in [0, 1]."""
    size: tuple[int, int]
    """Height and width of the result."""
    sizes: Sizes
    """Of the input, of what the networks see and of the result."""


def plan(width: int, height: int, output: Size, process_size: int, unit: int = 8, longest: int | None = None) -> Sizes:
    """How a picture of `width` x `height` is resized.

    Args:
        output: (width, height) of the result.
        process_size: short side that the networks should see at least; smaller pictures are enlarged and the result is
            shrunk again.
        unit: sides are rounded down to multiples of it.
        longest: with it the short side becomes exactly `process_size` (colourization), unless the long side would
            exceed this.
    """
    enlarged = (width, height) if longest is not None else output
    short, long = sorted(enlarged)
    resized = enlarged
    if longest is not None or short < process_size:
        sides = [process_size, int(process_size * long / short)]
        if longest is not None and sides[1] > longest:
            sides = [int(longest * sides[0] / sides[1]), longest]
        resized = (sides[0], sides[1]) if enlarged[0] <= enlarged[1] else (sides[1], sides[0])
    processed = tuple(max(side // unit, 1) * unit for side in resized)
    return Sizes(enlarged, resized, processed, output)


def thicken(width: int, height: int, output: Size, process_size: int) -> tuple[Size, Size]:
    """A thin picture and its result, both with more of the short side, which is mirrored and cut off again.

    Enlarged to a short side of `process_size`, a picture of 1 x 400 pixels would be 400 times as long. With these sizes
    the long side stays within `MOST_OBLONG` times the short one.

    Args:
        width: of the picture.
        height: of the picture.
        output: (width, height) of the result.
        process_size: see `plan`.

    Returns:
        (width, height) of the picture and of the result; as they were where that is enough.
    """
    own = (width, height)
    wanted = min(process_size, math.ceil(max(output) / MOST_OBLONG))
    if min(output) >= wanted:
        return own, output
    thin = output.index(min(output))
    scale = output[thin] / own[thin]
    side = math.ceil(wanted / scale)
    picture, result = [*own], [*output]
    picture[thin], result[thin] = side, max(round(side * scale), output[thin])
    return (picture[0], picture[1]), (result[0], result[1])


def as_gray(image: Tensor) -> Tensor:
    """The brightness (b, 3, h, w) of pictures (b, 3, h, w) in [0, 1], as Pillow computes it in 8 bits."""
    return torch.cat([to_tensor(to_pil(item).convert("L").convert("RGB")) for item in image])


def prepare(image: Tensor, sizes: Sizes) -> Tensor:
    """The picture (b, 3, h, w) in [0, 1] as the networks see it: (b, 3, H, W) in [0, 1], in steps of 1/255."""
    return torch.cat([to_tensor(_prepared(to_pil(item), sizes)) for item in image])


def _prepared(picture: PIL.Image.Image, sizes: Sizes) -> PIL.Image.Image:
    picture = _resize(picture, sizes.enlarged)
    picture = _resize(picture, sizes.resized, Resampling.BILINEAR)
    return _resize(picture, sizes.processed)


def finish(image: Tensor, source: Tensor, size: Size, color: Color = "wavelet", eight_bit: bool = False) -> Tensor:
    """The result with the source's colours at its final size.

    Args:
        image: (b, 3, H, W) decoded, in [0, 1].
        source: (b, 3, H, W) what the networks saw.
        size: (width, height).
        color: how colours are transferred.
        eight_bit: round and cut to 8 bits where the published code does; otherwise nowhere.

    Returns:
        (b, 3, height, width) in [0, 1].
    """
    if eight_bit:
        image = to_uint8(image).float() / 255
    if color != "none":
        image = match_color(image, source, color).clamp(0, 1)
        if eight_bit:
            image = to_uint8(image, truncate=True).float() / 255
    if size == (image.shape[-1], image.shape[-2]):
        return image
    if eight_bit:
        return torch.cat([to_tensor(_resize(to_pil(item), size)) for item in image])
    planes = [PIL.Image.fromarray(plane.numpy()) for plane in image.flatten(0, 1)]
    resized = [torch.from_numpy(np.array(_resize(plane, size))) for plane in planes]
    return torch.stack(resized).unflatten(0, image.shape[:2]).clamp(0, 1)


def transfer_chroma(result: Tensor, gray: Tensor, eight_bit: bool = False) -> Tensor:
    """The brightness of `gray` with the colours of `result`, as PASD colourizes (in YUV of ITU-R BT.601).

    Args:
        result: (b, 3, H, W) in [0, 1], resized (bilinear) to the other's size.
        gray: (b, 3, h, w) in [0, 1].
        eight_bit: round to 8 bits where OpenCV does.

    Returns:
        (b, 3, h, w) in [0, 1].
    """

    def rounded(x: Tensor) -> Tensor:
        return (x * 255).round() / 255 if eight_bit else x

    colors = rounded(F.interpolate(rounded(result), gray.shape[-2:], mode="bilinear"))
    luma = rounded(_luma(gray))
    own = rounded(_luma(colors))
    u, v = 0.492 * (colors[:, 2:] - own), 0.877 * (colors[:, :1] - own)
    u, v = (rounded((part + 128 / 255).clamp(0, 1)) - 128 / 255 for part in (u, v))
    return rounded(torch.cat([luma + 1.14 * v, luma - 0.395 * u - 0.581 * v, luma + 2.032 * u], dim=1).clamp(0, 1))


def _luma(image: Tensor) -> Tensor:
    return (image * image.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)


def _resize(picture: PIL.Image.Image, size: Size, filter: Resampling = Resampling.BICUBIC) -> PIL.Image.Image:
    return picture if picture.size == size else picture.resize(size, filter)
