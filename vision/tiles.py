"""Run a function on overlapping tiles and blend the results, with memory bounded by the tile.

Every output pixel comes from tiles in which it has at least `overlap` / 2 pixels of context, and neighbours
fade into each other over `overlap` pixels: a shift-invariant function whose receptive field (its full width)
is below `overlap` gives the same result tiled and whole, and one with a wider view shows no border. Rows of
tiles are finished from the top, so the result can be streamed (`bands`) and need never exist as a whole.

Shapes: b batch, c channels, h and w the input's height and width, s the scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Blend = Literal["cosine", "linear"]


class Box(NamedTuple):
    """A tile in input pixels, end exclusive."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Tiles:
    """How to cut images or latents into overlapping tiles."""

    size: int
    """Largest side of a tile in input pixels, its overlap included; an image that fits goes whole."""
    overlap: int = 16
    """Input pixels of context on each inner side of a tile; neighbours share twice as many."""
    unit: int = 1
    """Sides and origins of tiles are multiples of it; so must be `size`, `overlap` and the sides of the
    image."""
    blend: Blend = "cosine"
    """Shape of the fade between neighbours."""
    batch: int = 1
    """Tiles per call of the function, stacked along the batch."""

    def __post_init__(self) -> None:
        for name in ("size", "unit", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.size % self.unit or self.overlap % self.unit:
            raise ValueError(
                f"size and overlap must be multiples of {self.unit}, got size {self.size} and overlap {self.overlap}."
            )
        if not 0 <= 2 * self.overlap < self.size:
            raise ValueError(f"overlap must lie in [0, size / 2), got overlap {self.overlap} for size {self.size}.")
        if self.blend not in ("cosine", "linear"):
            raise ValueError(f"blend must be 'cosine' or 'linear', got {self.blend!r}.")

    def boxes(self, height: int, width: int) -> list[Box]:
        """All tiles of an image of `height` x `width` input pixels, row by row; all have the same size."""
        rows, columns = self._spans(height), self._spans(width)
        return [Box(top, left, bottom, right) for top, bottom in rows for left, right in columns]

    def run(self, fn: Callable[..., Tensor], *tensors: Tensor, scale: float = 1, with_boxes: bool = False) -> Tensor:
        """`fn(*tensors)`, computed tile by tile.

        Args:
            fn: takes one tile of each tensor, (n, c, th, tw) with n = `batch` x b, and returns (n, c', th *
                s, tw * s). With `with_boxes` its first argument is the list of the tiles' boxes, for what
                depends on the place.
            tensors: (b, c, h, w) each, of one height and width.
            scale: output pixels per input pixel; `scale` x `unit` must be whole.
            with_boxes: see `fn`.

        Returns:
            (b, c', h * s, w * s), on the device of the first tensor.
        """
        result: Tensor | None = None
        done = 0
        for band in self.bands(fn, *tensors, scale=scale, with_boxes=with_boxes):
            if result is None:
                if band.shape[-2] == self._scaled(tensors[0].shape[-2], scale):
                    return band
                result = band.new_empty(*band.shape[:2], self._scaled(tensors[0].shape[-2], scale), band.shape[-1])
            result[..., done : done + band.shape[-2], :] = band
            done += band.shape[-2]
        assert result is not None
        return result

    def bands(
        self,
        fn: Callable[..., Tensor],
        *tensors: Tensor,
        scale: float = 1,
        with_boxes: bool = False,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """The result of `run` as finished horizontal bands (b, c', rows, w * s) from top to bottom.

        `finish` is applied to finished pieces (b, c', rows, columns) as soon as they are blended: with
        `images.to_uint8` no more than one row of tiles exists as uint8, and one strip of `overlap` as float.
        """
        height, width = self._check(tensors, scale)
        rows, columns = self._spans(height), self._spans(width)
        finish = finish or (lambda piece: piece)
        if len(rows) == len(columns) == 1:
            group = [Box(0, 0, height, width)]
            found = fn(*[group] * with_boxes, *tensors)
            self._check_result(found, group, len(tensors[0]), scale)
            yield finish(found.to(tensors[0].device))
            return
        row_weights = [self._weights(rows, i, scale) for i in range(len(rows))]
        column_weights = [self._weights(columns, j, scale) for j in range(len(columns))]
        above: Tensor | None = None  # (b, c', shared rows, w * s): weighted sum of the rows above
        for i, (top, bottom) in enumerate(rows):
            final = self._scaled((rows[i + 1][0] if i + 1 < len(rows) else bottom) - top, scale)
            parts, below = [], []
            before: Tensor | None = None  # weighted sum of the columns shared with the tiles on the left
            for first in range(0, len(columns), self.batch):
                group = [Box(top, left, bottom, right) for left, right in columns[first : first + self.batch]]
                found = fn(*[group] * with_boxes, *self._cut(tensors, group))
                self._check_result(found, group, len(tensors[0]), scale)
                for j, tile in enumerate(found.to(tensors[0].device).split(len(tensors[0])), first):
                    left, right = columns[j]
                    width = self._scaled((columns[j + 1][0] if j + 1 < len(columns) else right) - left, scale)
                    piece = tile.to(torch.promote_types(tile.dtype, torch.float32))
                    piece = piece * column_weights[j].to(piece.device)
                    if before is not None:
                        piece[..., : before.shape[-1]] += before
                    before = piece[..., width:].clone()
                    piece = piece[..., :width] * row_weights[i].to(piece.device)[:, None]
                    if above is not None:
                        place = self._scaled(left, scale)
                        piece[..., : above.shape[-2], :] += above[..., place : place + width]
                    parts.append(finish(piece[..., :final, :].to(tile.dtype)))
                    below.append(piece[..., final:, :].clone())
            above = torch.cat(below, dim=-1)
            yield torch.cat(parts, dim=-1)

    def _cut(self, tensors: Sequence[Tensor], group: Sequence[Box]) -> list[Tensor]:
        """The tiles of some boxes, (n * b, c, th, tw) of each tensor."""
        return [torch.cat([t[..., box.top : box.bottom, box.left : box.right] for box in group]) for t in tensors]

    def _check_result(self, result: Tensor, group: Sequence[Box], items: int, scale: float) -> None:
        top, left, bottom, right = group[0]
        height, width, count = self._scaled(bottom - top, scale), self._scaled(right - left, scale), items * len(group)
        if tuple(result.shape[-2:]) != (height, width) or len(result) != count:
            raise ValueError(
                f"The function gave {tuple(result.shape)} for {count} tiles of {bottom - top} x {right - left}; "
                f"scale {scale} needs {count} results of {height} x {width}."
            )

    def _spans(self, length: int) -> list[tuple[int, int]]:
        """Starts and ends of equal tiles along one axis; the fewest that cover it, no larger than needed."""
        if length <= self.size:
            return [(0, length)]
        count = math.ceil((length - 2 * self.overlap) / (self.size - 2 * self.overlap))
        core = math.ceil((length - 2 * self.overlap) / count / self.unit) * self.unit
        side = core + 2 * self.overlap
        starts = [min(i * core, length - side) for i in range(count)]
        return [(start, start + side) for start in starts]

    def _weights(self, spans: Sequence[tuple[int, int]], index: int, scale: float) -> Tensor:
        """Share of tile `index` in each of its output pixels along one axis, (side * s,) float32; all tiles
        sum to 1."""
        first, last = spans[index]
        total = torch.zeros(self._scaled(last - first, scale), dtype=torch.float64)
        own = total
        for i, (start, end) in enumerate(spans):
            if end <= first or start >= last:
                continue
            place = self._scaled(start - first, scale) if start >= first else -self._scaled(first - start, scale)
            positions = torch.arange(len(total), dtype=torch.float64) + 0.5 - place
            weight = self._fade(positions, i > 0, scale) * self._fade(
                self._scaled(end - start, scale) - positions, i + 1 < len(spans), scale
            )
            total = total + weight
            own = weight if i == index else own
        return (own / total).float()

    def _fade(self, distance: Tensor, inner: bool, scale: float) -> Tensor:
        """Weight by the distance to one edge of a tile, in output pixels: 0 up to overlap / 2, 1 from 3
        overlap / 2."""
        if not inner or not self.overlap:
            return (distance > 0).double()
        width = self.overlap * scale
        ramp = ((distance - width / 2) / width).clamp(0, 1)
        return 0.5 - 0.5 * torch.cos(math.pi * ramp) if self.blend == "cosine" else ramp

    def _scaled(self, length: int, scale: float) -> int:
        return round(length * scale)

    def _check(self, tensors: Sequence[Tensor], scale: float) -> tuple[int, int]:
        if not tensors:
            raise ValueError("Tiles.run needs at least one tensor.")
        sizes = {tuple(tensor.shape[-2:]) for tensor in tensors}
        batches = {tensor.shape[0] for tensor in tensors}
        if len(sizes) != 1 or len(batches) != 1 or any(tensor.ndim != 4 for tensor in tensors):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise ValueError(f"Tiles need tensors (b, c, h, w) of one batch, height and width, got {shapes}.")
        height, width = sizes.pop()
        if height % self.unit or width % self.unit:
            raise ValueError(f"Sides must be multiples of {self.unit}, got {height} x {width}; pad the image first.")
        if not math.isclose(self.unit * scale, round(self.unit * scale)) or round(self.unit * scale) < 1:
            raise ValueError(f"scale x unit must be a whole number, got {scale} x {self.unit}.")
        return height, width
