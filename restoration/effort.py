"""The expensive restorer where it gains, plain enlargement elsewhere: behind `restore --effort auto`.

A picture is cut into tiles. What plain enlargement will lose in a tile is told by what it loses one octave below: the
tile is halved, enlarged again and compared with itself. The fewest tiles that hold `SHARE` of this in the whole
picture go through the restorer; a sky, a wall and what is out of focus do not. After MAgICoRe (arXiv 2409.12147),
which refines only what is hard and unsure; a tile is hard where it has detail that an enlargement cannot keep.

h, w: pixels of the input; s: output pixels per input pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from restoration.bands import Finish, Observers, Progress, TileRestorer, Work
from restoration.restorer import Facts, Restorer
from vision.images import is_grey, pad_to_multiple, to_y
from vision.resize import imresize
from vision.strategies.routing import worth_most
from vision.tiles import Box, Tiles

SHARE = 0.97
"""Of what plain enlargement loses, held by the tiles that are restored; chosen on training photographs."""
UNSEEN = (0.5 / 255) ** 2
"""Mean square loss of a tile that counts as none: half a step of 8 bit."""
TILES = Tiles(64, 8, 8)
"""How pictures are cut, in input pixels."""


@dataclass(frozen=True)
class Route:
    """Which tiles of a picture get the expensive restorer."""

    boxes: tuple[Box, ...]
    """All tiles, row by row."""
    expensive: frozenset[int]
    """Places of those that do."""
    whole: bool
    """Whether these tiles with their overlaps cover as much as the picture, which then is restored as one."""

    @property
    def numbers(self) -> dict[str, float]:
        """For the trace of choices."""
        return {"tiles": len(self.boxes), "tiles_restored": len(self.boxes if self.whole else self.expensive)}

    def __str__(self) -> str:
        """For people, without the full stop."""
        if self.whole:
            return f"all {len(self.boxes)} tiles restored, since most hold detail"
        return f"{len(self.expensive)} of {len(self.boxes)} tiles restored, since the others hold no detail"


class RoutedRestorer:
    """Another restorer, asked for the tiles of a picture in which it gains.

    Args:
        restorer: the expensive one; its scale with the options, or without one, must be a whole number.
        share: of what plain enlargement loses, that the restored tiles hold at least, in (0, 1].
    """

    def __init__(self, restorer: Restorer, share: float = SHARE):
        self.restorer, self.share = restorer, share
        self.Options = restorer.Options
        self.last: Route | None = None

    def facts(self, options: Any = None) -> Facts:
        """What a caller must know; tiles are never too small for memory."""
        return replace(self.restorer.facts(options), tiling=True, steps=False)

    def output_size(self, height: int, width: int, options: Any = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        return self.restorer.output_size(height, width, options)

    def route(self, image: Tensor) -> Route:
        """Which tiles of (b, 3, h, w) get the restorer; of a batch, the same in all."""
        padded = pad_to_multiple(image, TILES.unit)
        boxes = TILES.boxes(*padded.shape[-2:])
        lost = lost_by_enlarging(padded).mean((0, 1))
        found = [float(lost[box.top : box.bottom, box.left : box.right].mean()) for box in boxes]
        found = [mean if mean > UNSEEN else 0.0 for mean in found]
        expensive = worth_most(found, self.share)
        area = sum((box.bottom - box.top) * (box.right - box.left) for box in map(boxes.__getitem__, expensive))
        return Route(tuple(boxes), expensive, area >= padded[0, 0].numel())

    def bands(
        self,
        image: Tensor,
        options: Any = None,
        *,
        finish: Finish | None = None,
        observers: Observers = (),
        progress: Progress | None = None,
    ) -> Iterator[Tensor]:
        """The result of (b, 3, h, w) RGB in [0, 1] as bands (b, 3, rows, W) from top to bottom.

        Raises:
            ValueError: the restorer has no whole scale of its own.
        """
        options = self.restorer.Options() if options is None else options
        route = self.last = self.route(image)
        coloured = not self.restorer.facts(options).keeps_grey and bool(is_grey(image).any())
        maker = self.restorer if route.whole or coloured else _Mixed(self.restorer, route, options)
        yield from maker.bands(image, options, finish=finish, observers=observers, progress=progress)


class _Mixed(TileRestorer[Any]):
    """The restorer in the tiles of a route, plain enlargement in the others, at the restorer's own scale."""

    def __init__(self, restorer: Restorer, route: Route, options: Any):
        self.restorer, self.Options, self.facts = restorer, restorer.Options, restorer.facts
        asked = restorer.facts(options).scale
        self.own = options if asked == round(asked) else replace(options, scale=None)
        scale = restorer.facts(self.own).scale
        if scale != round(scale):
            raise ValueError(f"effort needs a restorer whose own scale is a whole number, got {scale:g}.")
        self.scale = round(scale)
        self.expensive = {route.boxes[place]: place for place in route.expensive}

    def _cut(self, options: Any) -> Tiles:
        return TILES

    def _restore(self, boxes: list[Box], image: Tensor, *, work: Work, **how: Any) -> Tensor:
        number = self.expensive.get(boxes[0])
        if number is None:
            result = imresize(image, self.scale).clamp(0, 1)
        else:
            seeded = self.restorer.facts(self.own).seed
            chosen = replace(self.own, seed=self.own.seed + number) if seeded else self.own
            result = torch.cat(list(self.restorer.bands(image, chosen)), dim=2).float()
        work.report()
        return result


def lost_by_enlarging(image: Tensor) -> Tensor:
    """(b, 1, h, w) squared difference of luma to itself, halved and enlarged again bicubically; sides must be even."""
    luma = to_y(image)
    return (luma - imresize(imresize(luma, 0.5), size=tuple(luma.shape[-2:]))).square()
