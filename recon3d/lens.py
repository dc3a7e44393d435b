"""Lenses of pinhole cameras: the models that camera files name, and pictures without their distortion.

A point (x, y) of the plane at depth 1 is bent to (x', y') and lands on the pixel (fx x' + cx, fy y' + cy). How it is
bent is OpenCV's model ("Camera Calibration and 3D Reconstruction", detailed description), of which COLMAP's and NeRF's
models are parts. Fisheye lenses and panoramas follow other laws and are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

PINHOLE_MODELS: Mapping[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
"""COLMAP's name of a model -> its numbers in order; f is fl_x and fl_y in one."""
BAND = 2_000_000
"""Pixels that are looked up together."""


@dataclass(frozen=True)
class Distortion:
    """How a lens bends the picture: OpenCV's rational radial and tangential model; all 0 is a pinhole."""

    k1: float = 0.0
    """Radial, of r^2."""
    k2: float = 0.0
    """Radial, of r^4."""
    p1: float = 0.0
    """Tangential, along y."""
    p2: float = 0.0
    """Tangential, along x."""
    k3: float = 0.0
    """Radial, of r^6."""
    k4: float = 0.0
    """Radial, of r^2 in the denominator."""
    k5: float = 0.0
    """Radial, of r^4 in the denominator."""
    k6: float = 0.0
    """Radial, of r^6 in the denominator."""

    def __bool__(self) -> bool:
        return any(abs(number) > 1e-8 for number in astuple(self))

    def _radial(self, square: Tensor) -> Tensor:
        """By how much a point at the squared radius r^2 moves outwards."""
        above = 1 + square * (self.k1 + square * (self.k2 + square * self.k3))
        return above / (1 + square * (self.k4 + square * (self.k5 + square * self.k6)))

    def _tangential(self, points: Tensor, square: Tensor) -> Tensor:
        x, y = points.unbind(-1)
        return torch.stack(
            [
                2 * self.p1 * x * y + self.p2 * (square + 2 * x * x),
                self.p1 * (square + 2 * y * y) + 2 * self.p2 * x * y,
            ],
            dim=-1,
        )

    def bend(self, points: Tensor) -> Tensor:
        """Where the lens puts points (..., 2) of the plane at depth 1."""
        square = points.square().sum(-1)
        return points * self._radial(square)[..., None] + self._tangential(points, square)

    def straighten(self, bent: Tensor) -> Tensor:
        """The points (..., 2) that `bend` puts at `bent` (..., 2), by iteration.

        Raises:
            ValueError: some have no such point: there the model folds over.
        """
        points = bent
        for _ in range(500):
            square = points.square().sum(-1)
            points = (bent - self._tangential(points, square)) / self._radial(square)[..., None]
        if not bool(((self.bend(points) - bent).abs() < 1e-6).all()):  # also where it became NaN
            raise ValueError("its distortion folds over inside the picture")
        return points

    def reach(self) -> float:
        """The radius up to which points further out are bent further out; infinite where that never ends."""
        radius = torch.linspace(0, 10, 10_001, dtype=torch.float64)
        falls = (radius * self._radial(radius.square())).diff() <= 0
        return float(radius[falls.nonzero()[0, 0]]) if bool(falls.any()) else math.inf


def undistort(picture: Tensor, intrinsics: Tensor, distortion: Distortion) -> tuple[Tensor, Tensor]:
    """A picture as a pinhole camera in the same place would show it.

    Nothing of the picture is lost: where the lens compresses its border, the focal lengths become shorter. What lies
    beyond the border repeats it.

    Args:
        picture: (1, channels, height, width).
        intrinsics: (4,) fx, fy, cx, cy in pixels, float64.
        distortion: of its lens.

    Returns:
        The picture in the same size, and its intrinsics.

    Raises:
        ValueError: the model is not one to one inside the picture.
    """
    height, width = picture.shape[-2:]
    focal, centre = intrinsics[:2], intrinsics[2:]
    outline = (_outline(height, width) - centre) / focal
    straight = distortion.straighten(outline)
    if float(straight.norm(dim=-1).amax()) > distortion.reach():
        raise ValueError("its distortion folds over inside the picture")
    room = torch.where(straight > 0, centre.new_tensor([width, height]) - centre, centre) / focal
    focal = focal / (straight.abs() / room).amax().clamp(min=1)
    bands, reach = [], distortion.reach()
    for rows in torch.arange(height).split(max(1, BAND // width)):
        points = (_centres(rows, width) - centre) / focal
        # Beyond its reach the model comes back into the picture.
        points = points * (reach / points.norm(dim=-1, keepdim=True)).clamp(max=1)
        found = distortion.bend(points) * intrinsics[:2] + centre
        grid = (found / found.new_tensor([width, height]) * 2 - 1)[None].to(picture.dtype)
        bands.append(torch.nn.functional.grid_sample(picture, grid, padding_mode="border", align_corners=False))
    return torch.cat(bands, 2), torch.cat([focal, centre])


def _centres(rows: Tensor, width: int) -> Tensor:
    """(rows, width, 2) x and y of the centres of the pixels in some rows."""
    y, x = torch.meshgrid(rows.double() + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij")
    return torch.stack([x, y], -1)


def _outline(height: int, width: int, steps: int = 64) -> Tensor:
    """(points, 2) around the border of a picture."""
    along = torch.linspace(0, 1, steps, dtype=torch.float64)
    x, y, low = along * width, along * height, torch.zeros_like(along)
    sides = [(x, low), (x, low + height), (low, y), (low + width, y)]
    return torch.cat([torch.stack(side, -1) for side in sides])


def lens_of(model: str, numbers: Sequence[float], whose: str) -> tuple[dict[str, float], Distortion]:
    """Focal lengths and principal point (fl_x, fl_y, cx, cy), and distortion, of one of COLMAP's models.

    Raises:
        ValueError: the model is no pinhole with distortion, or has another count of numbers; the sentence says `whose`.
    """
    check_model(model, whose)
    names = PINHOLE_MODELS[model]
    if len(numbers) != len(names):
        raise ValueError(
            f"{whose} is {model}, which has {len(names)} numbers ({', '.join(names)}), got {len(numbers)}."
        )
    values = dict(zip(names, numbers, strict=True))
    if "f" in values:
        values["fl_x"] = values["fl_y"] = values.pop("f")
    lens = {name: values.pop(name) for name in ("fl_x", "fl_y", "cx", "cy")}
    return lens, Distortion(**values)


def check_model(model: str, whose: str) -> None:
    """Raise ValueError for lenses that are no pinholes, whatever their numbers say."""
    if model not in PINHOLE_MODELS:
        raise ValueError(
            f"{whose} is {model:.40}, which is no pinhole; supported are {', '.join(PINHOLE_MODELS)}. Undistort the "
            "pictures to PINHOLE first (colmap image_undistorter does)."
        )
