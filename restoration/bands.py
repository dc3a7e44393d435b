"""Results as bands from top to bottom: in tiles, at another scale, and joined in the form of what a user gave.

b: batch, h, w: pixels of the input; H, W: of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Generic, TypeVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from vision.images import ImageLike, as_loaded, keep_grey, pad_to_multiple, to_pil, to_tensor, to_uint8
from vision.resize import imresize_bands
from vision.tiles import Box

Finish = Callable[[Tensor], Tensor]
Progress = Callable[[float], object]
"""Called with the finished share in [0, 1]."""
Observers = Iterable[Callable[[Any], object]]
Picture = PIL.Image.Image | np.ndarray | Tensor
"""A result, in the form of what was given."""
T = TypeVar("T")


def scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width of `scale` times a picture, at least one pixel each."""
    return max(1, round(height * scale)), max(1, round(width * scale))


class Restores(Generic[T]):
    """What a restorer whose `bands` are results in [0, 1] does with all that users have; `T` are its options."""

    def __call__(self, image: ImageLike, options: T | None = None, *, observers: Observers = ()) -> Picture:
        """Restore a picture or a batch.

        Args:
            image: path, PIL image, (h, w, 3) uint8 array, or tensor (b, 3, h, w) or (3, h, w) RGB in [0, 1].
            options: None for the defaults.
            observers: called with every step; of every tile where tiles are restored one by one.

        Returns:
            What was given: PIL image (for paths too; transparency is enlarged beside), array, or float32 tensor.
        """
        given = image if isinstance(image, (Tensor, np.ndarray)) else as_loaded(image)
        finish = None if isinstance(given, Tensor) else to_uint8
        bands = list(self.bands(to_tensor(given), options, finish=finish, observers=observers))
        result = bands[0] if len(bands) == 1 else torch.cat(bands, dim=2)
        if isinstance(given, Tensor):
            return result if given.ndim == 4 else result[0]
        if isinstance(given, np.ndarray):
            return result[0].permute(1, 2, 0).contiguous().numpy()
        return given.with_colours(to_pil(result))


class TileRestorer(Restores[T]):
    """A restorer whose network enlarges by one `scale`, and takes large pictures tile by tile.

    It tells its `facts`, how to `_cut` a picture with some options (None: not at all), and how to `_restore` a picture
    or tile.
    """

    scale: int
    """Output pixels per input pixel of the network."""

    def output_size(self, height: int, width: int, options: T | None = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        return scaled(height, width, self.facts(options).scale)

    def bands(
        self,
        image: Tensor,
        options: T | None = None,
        *,
        finish: Finish | None = None,
        observers: Observers = (),
        progress: Progress | None = None,
    ) -> Iterator[Tensor]:
        """The result as finished bands (b, 3, rows, W) from top to bottom; with tiles, memory does not grow.

        Args:
            image: (b, 3, h, w) RGB in [0, 1].
            options: None for the defaults.
            finish: applied to finished pieces, for example `vision.images.to_uint8`.
            observers: called with every step.
            progress: called with the finished share in [0, 1].

        Raises:
            ValueError: the options do not suit this network.
        """
        options, finish = options or self.Options(), keep_grey(image, finish)
        size, own = (self.output_size(*image.shape[-2:], options), scaled(*image.shape[-2:], self.scale))
        work = Work(list(observers), progress)
        if size == own:
            yield from self._pieces(image, options, finish, work)
            return
        for band in imresize_bands(self._pieces(image, options, lambda piece: piece, work), own[0], size):
            yield finish(band.clamp(0, 1))

    def _pieces(self, image: Tensor, options: T, finish: Finish, work: Work) -> Iterator[Tensor]:
        """`bands` at the network's own scale; the picture is mirrored to multiples of the tiles' unit."""
        left, width = image.shape[-2] * self.scale, image.shape[-1] * self.scale
        tiles = self._cut(options)
        if tiles is None or max(image.shape[-2:]) <= tiles.size:
            yield finish(self._restore([Box(0, 0, *image.shape[-2:])], image, options=options, work=work, whole=True))
            return
        padded = pad_to_multiple(image, tiles.unit)
        work.total = len(tiles.boxes(*padded.shape[-2:]))
        restore = partial(self._restore, options=options, work=work, whole=False)
        for band in tiles.bands(restore, padded, scale=self.scale, with_boxes=True, finish=finish):
            if left > 0:
                yield band[..., :left, :width]
            left -= band.shape[-2]


@dataclass
class Work:
    """How far the restoration of a picture is, and who wants to know."""

    observers: list[Callable[[Any], object]]
    """Called with every step."""
    progress: Progress | None = None
    """Called with the finished share in [0, 1]."""
    total: int = 1
    """Tiles."""
    done: int = 0
    """Finished tiles."""

    def report(self, share: float = 1.0) -> None:
        """This share of the current tile is done; it is finished at 1."""
        if self.progress is not None:
            self.progress((self.done + share) / self.total)
        self.done += share == 1


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
