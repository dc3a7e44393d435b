"""Results as bands from top to bottom: in tiles, at another scale, and joined in the form of what a user gave.

b: batch, h, w: pixels of the input; H, W: of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from vision.images import ImageLike, as_loaded, pad_to_multiple, to_pil, to_tensor, to_uint8
from vision.resize import imresize_bands
from vision.tiles import Box, Tiles

Finish = Callable[[Tensor], Tensor]
Picture = PIL.Image.Image | np.ndarray | Tensor
"""A result, in the form of what was given."""


def scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width of `scale` times a picture, at least one pixel each."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def tiled(
    image: Tensor, restore: Callable[[list[Box], Tensor], Tensor], tiles: Tiles, scale: int, finish: Finish
) -> Iterator[Tensor]:
    """The result of a picture cut into tiles.

    Args:
        image: (b, 3, h, w), of any size; it is mirrored to multiples of the tiles' unit, and the result is cut.
        restore: boxes and tiles (b, 3, th, tw) -> (b, 3, scale th, scale tw).
        tiles: how to cut.
        scale: output pixels per input pixel.
        finish: applied to finished pieces.
    """
    left, width = image.shape[-2] * scale, image.shape[-1] * scale
    padded = pad_to_multiple(image, tiles.unit)
    for band in tiles.bands(restore, padded, scale=scale, with_boxes=True, finish=finish):
        if left > 0:
            yield band[..., :left, :width]
        left -= band.shape[-2]


def resized(
    size: tuple[int, int], own: tuple[int, int], make: Callable[[Finish], Iterable[Tensor]], finish: Finish
) -> Iterator[Tensor]:
    """Bands of a result of `size` (height, width), of a network whose own results have another one.

    Args:
        size: wanted height and width.
        own: height and width of what `make` gives.
        make: gives the bands in [0, 1], of a function that finishes them.
        finish: applied to the resized bands.
    """
    if size == own:
        yield from make(finish)
    else:
        for band in imresize_bands(make(lambda piece: piece), own[0], size):
            yield finish(band.clamp(0, 1))


def join(bands: Iterable[Tensor]) -> Tensor:
    """(b, 3, H, W) of bands (b, 3, rows, W)."""
    bands = list(bands)
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=2)


def whole(image: ImageLike, bands: Callable[..., Iterator[Tensor]]) -> Picture:
    """The result in the form of what was given: PIL image (for paths too; transparency is enlarged beside), array, or
    float32 tensor.

    Args:
        image: path, PIL image, (h, w, 3) uint8 array, or tensor (b, 3, h, w) or (3, h, w) RGB in [0, 1].
        bands: gives bands of a tensor and, by name, what finishes them.
    """
    if isinstance(image, Tensor):
        result = join(bands(to_tensor(image), finish=None))
        return result if image.ndim == 4 else result[0]
    loaded = None if isinstance(image, np.ndarray) else as_loaded(image)
    result = join(bands(to_tensor(image if loaded is None else loaded), finish=to_uint8))
    if loaded is None:
        return result[0].permute(1, 2, 0).contiguous().numpy()
    return loaded.with_colours(to_pil(result))


def self_ensemble(network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Mean of what a network makes of the eight flips and turns of (b, 3, h, w), each turned back.

    Source: Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution" (2017), section 3.3.
    """
    total = 0
    for transposed, *flips in product((False, True), repeat=3):
        axes = [axis for axis, flipped in zip((2, 3), flips, strict=True) if flipped]
        view = image.flip(axes)
        result = network(view.transpose(2, 3)).transpose(2, 3) if transposed else network(view)
        total = total + result.flip(axes)
    return total / 8
