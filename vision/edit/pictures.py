"""Pictures as the editor takes and gives them: sizes as the published code has them, colours held to the original's."""

from __future__ import annotations

import PIL.Image
import torch
from torch import Tensor

from vision.images import to_tensor


def resize_and_cut(picture: PIL.Image.Image, resolution: int) -> PIL.Image.Image:
    """The shorter side resized to `resolution` pixels (bilinear, antialiased), then the middle square."""
    width, height = picture.size
    if width <= height:
        size = resolution, int(resolution * height / width)
    else:
        size = int(resolution * width / height), resolution
    if max(size) > 16 * resolution:  # the whole of so long a picture would fill the memory: only its middle is resized
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return picture.crop((left, top, left + side, top + side)).resize(
            (resolution, resolution), PIL.Image.Resampling.BILINEAR
        )
    picture = picture.resize(size, PIL.Image.Resampling.BILINEAR)
    left, top = (round((side - resolution) / 2) for side in picture.size)
    return picture.crop((left, top, left + resolution, top + resolution))


def to_area(picture: PIL.Image.Image, side: int, unit: int) -> PIL.Image.Image:
    """The picture in its own shape with the area of a square of `side` pixels; sides are multiples of `unit`."""
    scale = side / (picture.width * picture.height) ** 0.5
    width, height = (max(1, round(scale * length / unit)) * unit for length in picture.size)
    return picture.resize((width, height), PIL.Image.Resampling.LANCZOS)


def floor_sides(picture: PIL.Image.Image, factor: int) -> Tensor:
    """(1, 3, height, width) in [0, 1], with sides floored to multiples of `factor` (Lanczos).

    Raises:
        ValueError: a side is shorter than `factor`.
    """
    width, height = (side // factor * factor for side in picture.size)
    if not width or not height:
        raise ValueError(
            f"The picture has {picture.width} x {picture.height} pixels, but {factor} per side are needed."
        )
    return to_tensor(picture.resize((width, height), PIL.Image.Resampling.LANCZOS))


def hold_colors(image: Tensor, original: Tensor, region: Tensor | None) -> Tensor:
    """`image` with the mean and deviation of every channel outside the region as in the original; all without a region.

    Args:
        image: (b, 3, h, w) in [0, 1].
        original: the same shape.
        region: (b or 1, 1, h, w) in [0, 1].

    Returns:
        (b, 3, h, w) in [0, 1].
    """
    weight = torch.ones_like(image[:, :1]) if region is None else 1 - region.to(image)
    total = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = (x * weight).sum(dim=(2, 3), keepdim=True) / total
        variance = ((x - mean).square() * weight).sum(dim=(2, 3), keepdim=True) / total
        return mean, (variance + 1e-8).sqrt()

    (mean, deviation), (wanted_mean, wanted_deviation) = statistics(image), statistics(original)
    return ((image - mean) / deviation * wanted_deviation + wanted_mean).clamp(0, 1)
