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
from vision.refine import Step, drain, observed
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
    """What restorers do with all that users have; `T` are their options.

    A restorer tells the `output_size`, and makes the pieces of a result in [0, 1] (`_pieces`).
    """

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

    def keeps_grey(self, options: T) -> bool:
        """Whether grey pictures get back to grey."""
        return True

    def own_size(self, height: int, width: int, options: T) -> tuple[int, int]:
        """Height and width before the result is resized to what was asked for."""
        return self.output_size(height, width, options)

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
            ValueError: the options do not suit this restorer.
        """
        options, work = options or self.Options(), Work(list(observers), progress)
        if self.keeps_grey(options):
            finish = keep_grey(image, finish)
        finish = finish or (lambda piece: piece)
        size, own = (measure(*image.shape[-2:], options) for measure in (self.output_size, self.own_size))
        if size == own:
            yield from self._pieces(image, options, finish, work)
            return
        for band in imresize_bands(self._pieces(image, options, lambda piece: piece, work), own[0], size):
            yield finish(band.clamp(0, 1))


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

    def own_size(self, height: int, width: int, options: T) -> tuple[int, int]:
        """Height and width at the network's own scale."""
        return scaled(height, width, self.scale)

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


class RunRestorer(Restores[T]):
    """A restorer that takes a batch of pictures whole through steps on the core.

    It makes a run out of pictures (`start`), which has them as `original` and the complete `options`, goes through it
    (`run_steps`), and shows a state (`decode`), with its colours and size (`finish`).
    """

    def _pieces(self, image: Tensor, options: T, finish: Finish, work: Work) -> Iterator[Tensor]:
        run = self.start(image, options)
        moves = getattr(run.options, "steps", 1)
        yield finish(self.restore(run, [*work.observers, lambda step: work.report((step.index + 1) / (moves + 1))]))
        work.report()

    def restore(self, run: Any, observers: Observers = ()) -> Tensor:
        """The result (b, 3, H, W), float32 on the CPU, of a run that `start` made."""
        last = drain(self.run_steps(run), observers)
        return self.finish(run, self.decode(last.state, run.options))

    def steps(
        self, image: ImageLike, options: T | None = None, *, observers: Observers = (), resume: Step | None = None
    ) -> Iterator[Step]:
        """Iterate over the steps of a picture or batch; `decode(step.state, options)` shows where it is.

        Args:
            image, options, observers: as in `__call__`.
            resume: go on after this step of an earlier run.
        """
        yield from observed(self.run_steps(self.start(to_tensor(image), options), resume=resume), observers)


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
