"""The expensive restorer where it gains, plain enlargement elsewhere: behind `restore --effort auto`.

A picture is cut into small tiles. What plain enlargement will lose in a tile is told by what it loses one octave below:
the tile is halved, enlarged again and compared with itself. Rectangles of tiles go through the restorer where they pay:
what they hold of the loss is at least `PRICE` times what as many pixels as they cost lose on average. A sky, a wall and
what is out of focus do not; of all ways to cut the picture into rectangles the one that leaves most is taken. One price
for all pictures spends pixels where they gain most decibels, in pictures whose loss is in few places as in others.
After MAgICoRe (arXiv 2409.12147), which refines only what is hard and unsure; a tile is hard where it has detail that
an enlargement cannot keep.

b: batch, h, w: pixels of the input; H, W: of the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from restoration.bands import Finish, Observers, Progress, Restores, Work
from restoration.rectangles import BLOCK, Grid, worth_their_cost
from restoration.restorer import Facts, Restorer
from vision.images import is_grey, pad_to_multiple, to_y
from vision.resize import imresize
from vision.tiles import Box

PRICE = 0.35
"""What a pixel that is restored must hold of the loss, in times of what a pixel loses on average; chosen on photographs
that no test shows."""
UNSEEN = (0.25 / 255) ** 2
"""Mean square loss of a tile that counts as none: a quarter of a step of 8 bit."""
TILE = 8
"""Side of a tile, in input pixels."""
CONTEXT = 2
"""Input pixels around a rectangle that are restored as well, and over which it fades into its surroundings."""
CALL = 64
"""What a further rectangle costs beside its pixels, in pixels."""


@dataclass(frozen=True)
class Route:
    """Which parts of a picture get the expensive restorer."""

    tiles: int
    """How many there are."""
    expensive: int
    """How many of them the rectangles cover."""
    boxes: tuple[Box, ...]
    """The rectangles, in input pixels, without context, from the uppermost block on."""
    pixels: int
    """Input pixels that the restorer gets, context included, where the picture is not restored as one."""
    whole: bool
    """Whether the rectangles with their context have as many pixels as the picture, which then is restored as one."""

    @property
    def numbers(self) -> dict[str, float]:
        """For the trace of choices."""
        return {"tiles": self.tiles, "tiles_restored": self.tiles if self.whole else self.expensive}

    def __str__(self) -> str:
        """For people, without the full stop."""
        if self.whole:
            return f"all {self.tiles} tiles restored, since most hold detail"
        return f"{self.expensive} of {self.tiles} tiles restored, since the others hold no detail"


class RoutedRestorer:
    """Another restorer, asked for the parts of a picture in which it gains.

    Args:
        restorer: the expensive one; its scale with the options, or without one, must be a whole number.
        price: of a restored pixel, above 0, see `PRICE`; at 0.1 hardly anything is left out.

    Raises:
        ValueError: the price is not above 0.
    """

    def __init__(self, restorer: Restorer, price: float = PRICE):
        if not price > 0:
            raise ValueError(f"price must be above 0, got {price}.")
        self.restorer, self.price = restorer, price
        self.Options = restorer.Options
        self.last: Route | None = None

    def facts(self, options: Any = None) -> Facts:
        """What a caller must know; parts are never too large for memory."""
        return replace(self.restorer.facts(options), tiling=True, steps=False)

    def output_size(self, height: int, width: int, options: Any = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        return self.restorer.output_size(height, width, options)

    def context(self, options: Any = None) -> int:
        """Input pixels around a rectangle: `CONTEXT`, or so many that the restorer takes what is a pixel wide."""
        return max(CONTEXT, self.restorer.facts(options).smallest - 1)

    def route(self, image: Tensor, options: Any = None) -> Route:
        """Which parts of (b, 3, h, w) get the restorer; of a batch, the same in all."""
        height, width = image.shape[-2:]
        lost = F.avg_pool2d(lost_by_enlarging(pad_to_multiple(image, TILE)), TILE).mean((0, 1)).double()
        lost = torch.where(lost > UNSEEN, lost, 0.0)
        context = self.context(options)
        mean = float(lost.mean())
        if mean == 0:
            return Route(lost.numel(), 0, (), 0, False)
        worth = lost.cpu().numpy() * TILE**2 / (self.price * mean)
        held = worth_their_cost(worth, Grid(height, width, TILE, context, CALL))
        boxes = []
        for found in held:
            top, left, bottom, right = (side * TILE for side in found)
            boxes.append(Box(top, left, min(bottom, height), min(right, width)))
        tiles = sum((found.bottom - found.top) * (found.right - found.left) for found in held)
        around = [widened(box, context, height, width) for box in boxes]
        pixels = sum((box.bottom - box.top) * (box.right - box.left) for box in around)
        return Route(lost.numel(), tiles, tuple(boxes), pixels, pixels >= height * width)

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
        route = self.last = self.route(image, options)
        context = self.context(options)
        coloured = not self.restorer.facts(options).keeps_grey and bool(is_grey(image).any())
        maker = self.restorer if route.whole or coloured else _Mixed(self.restorer, route, context, options)
        yield from maker.bands(image, options, finish=finish, observers=observers, progress=progress)


class _Mixed(Restores[Any]):
    """The restorer in the rectangles of a route, plain enlargement elsewhere, at the restorer's own scale."""

    def __init__(self, restorer: Restorer, route: Route, context: int, options: Any):
        self.restorer, self.Options, self.context = restorer, restorer.Options, context
        asked = restorer.facts(options).scale
        self.own = options if asked == round(asked) else replace(options, scale=None)
        scale = restorer.facts(self.own).scale
        if scale != round(scale):
            raise ValueError(f"effort needs a restorer whose own scale is a whole number, got {scale:g}.")
        self.scale = round(scale)
        self.boxes = route.boxes

    def output_size(self, height: int, width: int, options: Any = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        return self.restorer.output_size(height, width, options)

    def own_size(self, height: int, width: int, options: Any) -> tuple[int, int]:
        """Height and width at the restorer's own scale."""
        return self.scale * height, self.scale * width

    def _pieces(self, image: Tensor, options: Any, finish: Finish, work: Work) -> Iterator[Tensor]:
        """Blocks of rows: the weighted sum of the restored rectangles, and plain enlargement where weight is left."""
        height, width, scale = *image.shape[-2:], self.scale
        work.total = max(1, len(self.boxes))
        below: Tensor | None = None  # (b, 4, rows, W): what the block above reached of this one
        for top in range(0, height, BLOCK * TILE):
            bottom = min(top + BLOCK * TILE, height)
            first, last = max(top - self.context, 0), min(bottom + self.context, height)
            until = height if bottom == height else bottom - self.context
            summed = image.new_zeros(len(image), 4, (last - first) * scale, width * scale, dtype=torch.float32)
            if below is not None:
                summed[..., : below.shape[-2], :] = below
            for number, box in enumerate(self.boxes):
                if top <= box.top < bottom:
                    around = widened(box, self.context, height, width)
                    place = Box(around.top - first, around.left, around.bottom - first, around.right)
                    cut(summed, place, scale).add_(self._weighted(image, box, around, number))
                    work.report()
            done = (until - first) * scale
            plain = _enlarged_rows(image, first, until, scale)
            colours, weight = summed[:, :3, :done], summed[:, 3:, :done]
            yield finish((colours + (1 - weight).clamp(min=0) * plain) / weight.clamp(min=1))
            below = summed[..., done:, :]
        if not self.boxes:
            work.report()

    def _weighted(self, image: Tensor, box: Box, around: Box, number: int) -> Tensor:
        """(b, 4, rows, columns): the restored rectangle times its weight, and the weight."""
        seeded = self.restorer.facts(self.own).seed
        options = replace(self.own, seed=self.own.seed + number) if seeded else self.own
        part = image[..., around.top : around.bottom, around.left : around.right]
        made = torch.cat(list(self.restorer.bands(part, options)), dim=2).to(image.device, torch.float32)
        rows = _fade(box.top - around.top, box.bottom - box.top, around.bottom - box.bottom, self.scale)
        columns = _fade(box.left - around.left, box.right - box.left, around.right - box.right, self.scale)
        weight = (rows[:, None] * columns).to(made).expand(len(made), 1, -1, -1)
        return torch.cat([made * weight, weight], dim=1)


def lost_by_enlarging(image: Tensor) -> Tensor:
    """(b, 1, h, w) squared difference of luma to itself, halved and enlarged again bicubically; sides must be even."""
    luma = to_y(image)
    return (luma - imresize(imresize(luma, 0.5), size=tuple(luma.shape[-2:]))).square()


def widened(box: Box, context: int, height: int, width: int) -> Box:
    """A box with context on each side, as far as the picture goes."""
    top, left = max(box.top - context, 0), max(box.left - context, 0)
    return Box(top, left, min(box.bottom + context, height), min(box.right + context, width))


def cut(result: Tensor, box: Box, scale: int) -> Tensor:
    """The part of a result (..., H, W) that a box of input pixels became."""
    return result[..., box.top * scale : box.bottom * scale, box.left * scale : box.right * scale]


def _fade(before: int, inside: int, after: int, scale: int) -> Tensor:
    """Weights along one side: from 0 to 1 over the context before, 1 inside, from 1 to 0 over the context after."""
    ramps = [(torch.arange(side * scale) + 0.5) / max(side * scale, 1) for side in (before, after)]
    rising, falling = (0.5 - 0.5 * torch.cos(math.pi * ramp) for ramp in ramps)
    return torch.cat([rising, torch.ones(inside * scale), falling.flip(0)])


def _enlarged_rows(image: Tensor, first: int, until: int, scale: int) -> Tensor:
    """Rows `first` to `until` of (b, 3, h, w), enlarged plainly: (b, 3, rows * scale, W) float32."""
    top, bottom = max(first - TILE, 0), min(until + TILE, image.shape[-2])
    enlarged = imresize(image[..., top:bottom, :].float(), scale).clamp(0, 1)
    return enlarged[..., (first - top) * scale : (until - top) * scale, :]
