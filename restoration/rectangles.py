"""The rectangles of a picture that are worth what they cost, found exactly among all that cuts from side to side make.

A block of tiles is left, taken as one rectangle, or cut in two along a line, and its parts likewise: of all ways, the
one that leaves most when what the rectangles cost is taken from what they are worth. Every rectangle of a block is
looked at once, the smaller ones first, and of all blocks at the same time.

n: blocks, s: tiles per side of a block, h, w, t, l: height, width, top and left of a rectangle in tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vision.tiles import Box

BLOCK = 16
"""Tiles per side of a block; no rectangle crosses the border of one, so that time grows with the picture alone."""
AT_ONCE = 64
"""Blocks that are searched at the same time; 60 MB."""


@dataclass(frozen=True)
class Grid:
    """A picture cut into tiles, and what a rectangle of them costs."""

    height: int
    """Of the picture, in pixels."""
    width: int
    """Of the picture, in pixels."""
    tile: int
    """Side of a tile, in pixels; the last ones may be cut off."""
    context: int
    """Pixels around a rectangle, as far as the picture goes, that are paid as well."""
    call: int
    """What a rectangle costs beside its pixels, in pixels."""

    def sides(self, first: np.ndarray, count: int, length: int) -> np.ndarray:
        """Pixels of `count` tiles from the number `first` on, with context, along a side of `length` pixels."""
        ends = np.minimum((first + count) * self.tile + self.context, length)
        return np.maximum(ends - np.maximum(first * self.tile - self.context, 0), 0)


def worth_their_cost(worth: np.ndarray, grid: Grid, block: int = BLOCK) -> list[Box]:
    """Rectangles (in tiles) whose tiles are worth more than they cost, by blocks from the uppermost on.

    Args:
        worth: (rows, columns) of every tile, in pixels that may be paid for it, at least 0.
        grid: says what a rectangle costs.
        block: tiles per side of a block.
    """
    rows, columns = worth.shape
    down, across = -(-rows // block), -(-columns // block)
    padded = np.pad(worth, ((0, -rows % block), (0, -columns % block)))
    blocks = padded.reshape(down, block, across, block).swapaxes(1, 2).reshape(-1, block, block)
    tops, lefts = (side.flatten() * block for side in np.indices((down, across)))
    filled = np.flatnonzero(blocks.any((1, 2)))
    found = []
    for some in np.split(filled, range(AT_ONCE, len(filled), AT_ONCE)):
        for box in _Search(blocks[some], tops[some], lefts[some], grid).boxes():
            found.append(Box(box.top, box.left, min(box.bottom, rows), min(box.right, columns)))
    return found


class _Search:
    """What is left of every rectangle of some blocks (n, s, s) that begin at the tiles (`tops`, `lefts`), both (n,).

    `by_top`, `by_bottom` and `by_right` hold the same numbers, by [h, w, block, top or bottom, left or right], so that
    all places of a cut are one slice.
    """

    def __init__(self, worth: np.ndarray, tops: np.ndarray, lefts: np.ndarray, grid: Grid):
        count, side, _ = worth.shape
        self.tops, self.lefts, self.grid, self.side = tops, lefts, grid, side
        self.sums = np.pad(worth, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
        self.by_top = np.zeros((side + 1, side + 1, count, side, side), np.float32)
        self.by_bottom = np.zeros((side + 1, side + 1, count, side + 1, side), np.float32)
        self.by_right = np.zeros((side + 1, side + 1, count, side, side + 1), np.float32)
        for h in range(1, side + 1):
            for w in range(1, side + 1):
                self._fill(h, w)

    def boxes(self) -> Iterator[Box]:
        """The rectangles of the best way, in tiles of the picture."""
        for block, (top, left) in enumerate(zip(self.tops.tolist(), self.lefts.tolist(), strict=True)):
            for box in self._way(block, 0, 0, self.side, self.side):
                yield Box(top + box.top, left + box.left, top + box.bottom, left + box.right)

    def _fill(self, h: int, w: int) -> None:
        tops, lefts = self.side + 1 - h, self.side + 1 - w
        best = np.maximum(self._taken(h, w), 0)
        if h > 1:
            below = self.by_bottom[h - 1 : 0 : -1, w, :, h : h + tops, :lefts]
            np.maximum(best, (self.by_top[1:h, w, :, :tops, :lefts] + below).max(0), out=best)
        if w > 1:
            beside = self.by_right[h, w - 1 : 0 : -1, :, :tops, w : w + lefts]
            np.maximum(best, (self.by_top[h, 1:w, :, :tops, :lefts] + beside).max(0), out=best)
        self.by_top[h, w, :, :tops, :lefts] = best
        self.by_bottom[h, w, :, h : h + tops, :lefts] = best
        self.by_right[h, w, :, :tops, w : w + lefts] = best

    def _taken(self, h: int, w: int) -> np.ndarray:
        """(n, tops, lefts) float32: what is left of rectangles of h x w tiles that are taken as one."""
        sums, grid = self.sums, self.grid
        held = sums[:, h:, w:] - sums[:, :-h, w:] - sums[:, h:, :-w] + sums[:, :-h, :-w]
        tops = self.tops[:, None] + np.arange(self.side + 1 - h)
        lefts = self.lefts[:, None] + np.arange(self.side + 1 - w)
        heights, widths = grid.sides(tops, h, grid.height), grid.sides(lefts, w, grid.width)
        return (held - heights[:, :, None] * widths[:, None, :] - grid.call).astype(np.float32)

    def _way(self, block: int, top: int, left: int, h: int, w: int) -> Iterator[Box]:
        """The rectangles of the best way to treat one."""
        best = self.by_top[h, w, block, top, left]
        if best <= 0:
            return
        if self._taken(h, w)[block, top, left] >= best:
            yield Box(top, left, top + h, left + w)
            return
        rows = self.by_top[1:h, w, block, top, left] + self.by_bottom[h - 1 : 0 : -1, w, block, top + h, left]
        columns = self.by_top[h, 1:w, block, top, left] + self.by_right[h, w - 1 : 0 : -1, block, top, left + w]
        if rows.max(initial=-1) >= columns.max(initial=-1):
            cut = 1 + int(rows.argmax())
            yield from self._way(block, top, left, cut, w)
            yield from self._way(block, top + cut, left, h - cut, w)
        else:
            cut = 1 + int(columns.argmax())
            yield from self._way(block, top, left, h, cut)
            yield from self._way(block, top, left + cut, h, w - cut)
