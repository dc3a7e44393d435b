"""The tiling of noise predictions that PASD's published code uses (after MultiDiffusion, arXiv 2302.08113).

Kept for parity: it weights square tiles by a narrow gaussian, whose centre lies half a latent too low, so that few
latents far from all centres decide by tiny weights. `vision.tiles.Tiles` has none of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vision.tiles import Box


@dataclass(frozen=True)
class GaussianTiles:
    """Square tiles, one after the other, column by column."""

    size: int
    """Side of a tile in latents; a picture of no more than its square goes whole."""
    shared: int = 8
    """Latents that neighbours share, on one side."""

    def __post_init__(self) -> None:
        if not 0 <= self.shared < self.size:
            raise ValueError(f"Neighbours share at least 0 and fewer than all {self.size} latents, got {self.shared}.")

    def boxes(self, height: int, width: int) -> list[Box]:
        """The tiles of `height` x `width` latents, columns from left to right."""
        if height * width <= self.size**2:
            return [Box(0, 0, height, width)]
        side = min(self.size, height, width)
        if side <= self.shared:
            raise ValueError(f"{height} x {width} latents are too few for tiles that share {self.shared}.")
        return [
            Box(top, left, top + side, left + side)
            for left in self._starts(width, side)
            for top in self._starts(height, side)
        ]

    def run(self, fn: Callable[..., Tensor], *tensors: Tensor, with_boxes: bool = False) -> Tensor:
        """`fn(*tensors)` of (b, c, h, w) tensors, tile by tile; as in `vision.tiles.Tiles.run`, without scale."""
        height, width = tensors[0].shape[-2:]
        boxes = self.boxes(height, width)
        total: Tensor | None = None
        for box in boxes:
            parts = [tensor[..., box.top : box.bottom, box.left : box.right] for tensor in tensors]
            result = fn([box], *parts) if with_boxes else fn(*parts)
            if len(boxes) == 1:
                return result
            if total is None:
                total = result.new_zeros(*result.shape[:2], height, width, dtype=torch.float32)
                share = torch.zeros_like(total[:1, :1])
                weights = self.weights(box.bottom - box.top).to(result.device)
            area = (..., slice(box.top, box.bottom), slice(box.left, box.right))
            total[area] += (result * weights).float()
            share[area] += weights.float()
        return (total / share).to(result.dtype)

    @staticmethod
    def weights(side: int) -> Tensor:
        """(side, side) float64, rows first."""
        places = torch.arange(side, dtype=torch.float64)

        def bell(centre: float) -> Tensor:
            return torch.exp(-((places - centre) ** 2) / (side**2 * 2 * 0.01)) / math.sqrt(2 * math.pi * 0.01)

        return torch.outer(bell(side / 2), bell((side - 1) / 2))

    def _starts(self, length: int, side: int) -> list[int]:
        stride = side - self.shared
        count = max(1, math.ceil((length - side) / stride) + 1)
        return [min(i * stride, length - side) for i in range(count)]
