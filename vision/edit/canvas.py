"""A picture at its own size and in its own numbers: the square of it that the networks see, and the way back.

Small networks see few pixels. What they change is enlarged and added to the picture inside the region, so that a scan
keeps its size, its bits and its detail, and everything outside the region stays exactly as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import PIL.Image
import torch.nn.functional as F
from torch import Tensor

from vision.images import LoadedImage, Metadata

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Canvas:
    """A picture that is edited through a window."""

    values: np.ndarray
    """(h, w) grey or (h, w, 3) colours, integers or floats: the picture's own numbers."""
    low: float
    """The number that is shown as black."""
    high: float
    """The number that is shown as white; less than `low` when the picture is stored as a negative."""
    alpha: PIL.Image.Image | None = None
    """Transparency, mode L."""
    icc: bytes | None = None
    """Colour profile."""
    metadata: Metadata = field(default_factory=Metadata)
    """What else the file says."""
    region: np.ndarray | None = None
    """(h, w) uint8, how much of a change gets through; None: everything may change."""

    @classmethod
    def of(cls, picture: LoadedImage) -> Canvas:
        """A picture as it was read. Of 16-bit ones the bits that are used count: 12-bit values are not near black."""
        rgb = np.asarray(picture.rgb)
        if picture.deep is not None:
            deep = picture.deep
            white = 1.0 if deep.dtype.kind == "f" else max(255, 2 ** int(deep.max()).bit_length() - 1)
            icc = picture.icc if deep.ndim == 3 else None
            return cls(deep, 0, white, picture.alpha, icc, picture.metadata)
        plain = picture.icc is None and _is_grey(rgb)  # the profile describes three colours
        return cls(rgb[..., 0] if plain else rgb, 0, 255, picture.alpha, picture.icc, picture.metadata)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[0], self.values.shape[1]

    def shown(self, values: np.ndarray | None = None) -> PIL.Image.Image:
        """The picture, or other values in its place, in 8 bit (mode L or RGB)."""
        values = self.values if values is None else values
        if values.dtype != np.uint8 or (self.low, self.high) != (0, 255):
            share = (values.astype(np.float64) - self.low) / (self.high - self.low)
            values = np.round(255 * share.clip(0, 1)).astype(np.uint8)
        return PIL.Image.fromarray(np.ascontiguousarray(values))

    def visible(self) -> PIL.Image.Image:
        """(mode RGB) the picture as the networks see it: what transparency hides is the mean of what can be seen."""
        rgb = self.shown().convert("RGB")
        if self.alpha is None or not self.alpha.getbbox():
            return rgb
        colours, alpha = np.asarray(rgb, np.float32), np.asarray(self.alpha, np.float32)[..., None] / 255
        mean = (colours * alpha).sum(axis=(0, 1)) / alpha.sum()
        return PIL.Image.fromarray(np.round(alpha * colours + (1 - alpha) * mean).astype(np.uint8))

    def window(self, resolution: int, around: float = 0.0) -> Box:
        """The part that is edited: a square of the shorter side, in the middle or as near to it as the region lets it,
        or the region with what lies around it, or all.

        Args:
            resolution: not 0: the square.
            around: sides in multiples of the region's, in [1, inf); 0, or without a region: all.
        """
        height, width = self.size
        if not resolution:
            return self._around(around) if around and self.region is not None else (0, 0, width, height)
        side, corner = min(height, width), []
        for axis, length in ((0, width), (1, height)):
            start = (length - side) // 2
            if self.region is not None and self.region.any():
                places = np.flatnonzero(self.region.any(axis=axis))
                first, last = int(places[0]), int(places[-1]) + 1
                if last - first > side:
                    start = (first + last - side) // 2
                else:
                    start = min(max(start, last - side), first)
                start = min(max(start, 0), length - side)
            corner.append(start)
        return corner[0], corner[1], corner[0] + side, corner[1] + side

    def _around(self, share: float) -> Box:
        """The region's own box, `share` times as wide and high (32 pixels at least), as far as the picture goes."""
        sides = []
        for axis, length in ((0, self.size[1]), (1, self.size[0])):
            places = np.flatnonzero(self.region.any(axis=axis))
            first, last = int(places[0]), int(places[-1]) + 1
            margin = (max(share * (last - first), 32) - (last - first)) / 2
            sides.append((max(0, int(first - margin)), min(length, math.ceil(last + margin))))
        (left, right), (top, bottom) = sides
        return left, top, right, bottom

    def seen(self, box: Box) -> PIL.Image.Image:
        """(mode RGB) the window that the networks see."""
        return self.visible().crop(box)

    def seen_region(self, box: Box) -> PIL.Image.Image | None:
        """(mode RGB) the region in the window."""
        return None if self.region is None else PIL.Image.fromarray(self.region).crop(box).convert("RGB")

    def with_change(self, change: Tensor, box: Box) -> np.ndarray:
        """The picture's numbers after a change; outside the region and the window they stay as they were.

        Args:
            change: (3, rows, columns) of any size, in shares of white; grey pictures get the mean of its colours.
            box: where it belongs.
        """
        left, top, right, bottom = box
        size = bottom - top, right - left
        weight = self._weight(box, right - left, change.shape[-1])
        if self.values.ndim == 2 or _is_grey(self.values):
            change = change.mean(dim=0, keepdim=True).expand(*self.values.shape[2:] or (1,), -1, -1)
        wide = F.interpolate(change[None].float().cpu(), size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
        added = (wide.double().numpy() * weight[..., None] * (self.high - self.low)).reshape(
            (*size, *self.values.shape[2:])
        )
        result = self.values.copy()
        part = result[top:bottom, left:right]
        before = part.astype(np.float64)
        lowest, highest = sorted((self.low, self.high))
        after = np.clip(before + added, np.minimum(before, lowest), np.maximum(before, highest))
        part[...] = after if result.dtype.kind == "f" else np.where(added == 0, before, np.round(after))
        return result

    def _weight(self, box: Box, width: int, seen: int) -> np.ndarray:
        """(rows, columns) in [0, 1] of a window: the region, fading inwards over two pixels of the networks."""
        from scipy.ndimage import distance_transform_edt

        left, top, right, bottom = box
        height, whole = self.size
        region = np.full((height, whole), 255, np.uint8) if self.region is None else self.region
        inside = np.zeros((bottom - top + 2, right - left + 2), bool)
        inside[1:-1, 1:-1] = region[top:bottom, left:right] > 0
        # A window that ends where the picture ends has no border there.
        if top == 0:
            inside[0] = inside[1]
        if bottom == height:
            inside[-1] = inside[-2]
        if left == 0:
            inside[:, 0] = inside[:, 1]
        if right == whole:
            inside[:, -1] = inside[:, -2]
        if inside.all():
            return region[top:bottom, left:right] / 255.0
        distance = distance_transform_edt(inside)[1:-1, 1:-1]
        fade = max(1.0, min(2.0 * width / seen, 0.5 * float(distance.max())))
        ramp = (distance / fade).clip(0, 1)
        return region[top:bottom, left:right] / 255.0 * ramp**2 * (3 - 2 * ramp)

    def within(self, region: PIL.Image.Image | None) -> Canvas:
        """The same picture, of which only a region (mode L or RGB; the brightest colour counts) may change."""
        if region is None:
            return self
        array = np.asarray(region)
        return replace(self, region=array if array.ndim == 2 else array.max(axis=2))

    def picture(self, values: np.ndarray) -> PIL.Image.Image:
        """Numbers of this picture as a PIL image with its transparency and profile; 16-bit colours in 8 bits."""
        wide = values.ndim == 3 and values.dtype != np.uint8  # PIL has no such images
        result = self.shown(values) if wide else PIL.Image.fromarray(np.ascontiguousarray(values))
        if self.alpha is not None and result.mode in ("L", "RGB"):
            result.putalpha(self.alpha)
        if self.icc is not None:
            result.info["icc_profile"] = self.icc
        return result


def _is_grey(values: np.ndarray) -> bool:
    """Whether the channels of (h, w, 3) are equal everywhere."""
    return bool((values == values[..., :1]).all())
