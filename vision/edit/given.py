"""Pictures and masks as a user gives them: as canvases of their own size, or as one batch for the networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from vision.edit.canvas import Canvas
from vision.edit.masks import load_region
from vision.edit.pictures import floor_sides
from vision.images import ImageLike, as_loaded, from_pil, to_pil, to_tensor

Resize = Callable[[PIL.Image.Image], PIL.Image.Image]


def as_canvases(images: Sequence[ImageLike], mask: Any = None) -> list[Canvas]:
    """Pictures at their own size with their regions: one mask for all, or one for each.

    Raises:
        ValueError: a picture cannot be used, or a mask does not fit its picture.
    """
    loaded = [from_pil(to_pil(to_tensor(x))) if isinstance(x, (Tensor, np.ndarray)) else as_loaded(x) for x in images]
    canvases = [Canvas.of(picture) for picture in loaded]
    if mask is None:
        return canvases
    masks = each_mask(mask, len(canvases))
    return [canvas.within(load_region(m, canvas.size)) for canvas, m in zip(canvases, masks, strict=True)]


def as_batch(
    image: ImageLike | Sequence[ImageLike], mask: Any, resize: Resize | None, unit: int
) -> tuple[Tensor, list[PIL.Image.Image] | None]:
    """Pictures (b, 3, H, W) in [0, 1], and their regions: one, or one for each; None edits everywhere.

    Args:
        image: a picture or several; a tensor is taken as it is.
        mask: one for all or one for each, or None.
        resize: gives pictures and regions the size that the networks see; None keeps theirs.
        unit: sides are floored to multiples of it; those of a tensor must be.

    Raises:
        ValueError: pictures have different sizes, or a mask does not fit its picture.
    """
    if isinstance(image, Tensor):
        original = to_tensor(image)
        height, width = original.shape[-2:]
        if height % unit or width % unit:
            raise ValueError(f"The sides of a tensor must be multiples of {unit}, got {height} x {width}.")
        sizes, resize = [(height, width)], None
    else:
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        loaded = [to_pil(to_tensor(x)) if isinstance(x, (Tensor, np.ndarray)) else as_loaded(x).rgb for x in images]
        sizes = [picture.size[::-1] for picture in loaded]
        tensors = [floor_sides(resize(x) if resize else x, unit) for x in loaded]
        if len({tensor.shape for tensor in tensors}) > 1:
            raise ValueError(
                "Pictures of a batch must have one size; edit them one by one, or name a resolution that "
                "PIE cuts them to."
            )
        original = torch.cat(tensors)
    if mask is None:
        return original, None
    masks = each_mask(mask, len(original))
    shared = all(m is masks[0] for m in masks) and len(set(sizes)) == 1
    count = 1 if shared else len(masks)
    regions = [load_region(masks[i], sizes[i % len(sizes)]) for i in range(count)]
    return original, [resize(region) for region in regions] if resize else regions


def each_mask(mask: Any, count: int) -> list[Any]:
    """The mask of every picture, from one for all or one for each."""
    masks = list(mask) if isinstance(mask, (list, tuple)) else [mask]
    if isinstance(mask, Tensor) and mask.ndim == 4:
        masks = list(mask.split(1))
    if len(masks) not in (1, count):
        raise ValueError(f"There are {len(masks)} masks for {count} pictures; give one, or one for each.")
    return masks * (count // len(masks))
