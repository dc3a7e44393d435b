"""Restorers without a network: the picture as it is, and plain enlargement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from restoration.bands import TileRestorer, Work
from restoration.restorer import Facts


@dataclass(frozen=True)
class PlainOptions:
    """What one call may change."""

    scale: float | None = None
    """Output pixels per input pixel; None: 1 for none, 4 for bicubic."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale <= 32:
            raise ValueError(f"scale must lie in (0, 32], got {self.scale}.")


class PlainRestorer(TileRestorer[PlainOptions]):
    """Resizes bicubically, as MATLAB does; at scale 1 the picture stays as it is.

    Args:
        enlarges: scale where the options give none.
    """

    Options = PlainOptions
    scale = 1

    def __init__(self, enlarges: float = 1):
        self.enlarges = enlarges

    @classmethod
    def from_pretrained(cls, *, scale: float = 1, device: Any = None, dtype: Any = None) -> PlainRestorer:
        """A restorer; there are no weights, and pictures are resized where they are, in their own numbers."""
        return cls(scale)

    def facts(self, options: PlainOptions | None = None) -> Facts:
        """What a caller must know of this restorer with these options."""
        scale = self.enlarges if options is None or options.scale is None else options.scale
        return Facts("none" if scale == 1 else "bicubic", scale, copies=scale == 1, keeps_grey=True)

    def _cut(self, options: PlainOptions) -> None:
        """Pictures are taken whole."""

    def _restore(self, boxes: Any, image: Tensor, *, work: Work, **how: Any) -> Tensor:
        work.report()
        return image
