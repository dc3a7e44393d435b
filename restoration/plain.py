"""Restorers without a network: the picture as it is, and plain enlargement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from restoration.bands import Picture, scaled, whole
from restoration.restorer import Facts
from vision.images import ImageLike
from vision.resize import imresize


@dataclass(frozen=True)
class PlainOptions:
    """What one call may change."""

    scale: float | None = None
    """Output pixels per input pixel; None: 1 for none, 4 for bicubic."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale <= 32:
            raise ValueError(f"scale must lie in (0, 32], got {self.scale}.")


class PlainRestorer:
    """Resizes bicubically, as MATLAB does; at scale 1 the picture stays as it is.

    Args:
        scale: where the options give none.
    """

    Options = PlainOptions

    def __init__(self, scale: float = 1):
        self.scale = scale

    @classmethod
    def from_pretrained(cls, *, scale: float = 1, device: Any = None, dtype: Any = None) -> PlainRestorer:
        """A restorer; there are no weights, and pictures are resized where they are, in their own numbers."""
        return cls(scale)

    def facts(self, options: PlainOptions | None = None) -> Facts:
        """What a caller must know of this restorer with these options."""
        scale = self.scale if options is None or options.scale is None else options.scale
        return Facts("none" if scale == 1 else "bicubic", scale, copies=scale == 1, keeps_grey=True)

    def output_size(self, height: int, width: int, options: PlainOptions | None = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        return scaled(height, width, self.facts(options).scale)

    def __call__(self, image: ImageLike, options: PlainOptions | None = None) -> Picture:
        """The result in the form of what was given, see `restoration.bands.whole`."""
        return whole(image, lambda pixels, finish: self.bands(pixels, options, finish=finish))

    def bands(
        self,
        image: Tensor,
        options: PlainOptions | None = None,
        *,
        finish: Callable[[Tensor], Tensor] | None = None,
        observers: Iterable[Callable[[Any], object]] = (),
        progress: Callable[[float], object] | None = None,
    ) -> Iterator[Tensor]:
        """The result of (b, 3, h, w) RGB in [0, 1] as one band (b, 3, H, W)."""
        size = self.output_size(*image.shape[-2:], options)
        result = image if self.facts(options).copies else imresize(image, size=size).clamp(0, 1)
        yield result if finish is None else finish(result)
