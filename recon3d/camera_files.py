"""Cameras in files: NeRF-style `transforms.json`, text cameras of the published GTR, and what all kinds share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon3d.cameras import Cameras, opencv_to_opengl, opengl_to_opencv, same_sides
from recon3d.lens import Distortion, check_model
from vision.config import read_json
from vision.files import read_text

LENS_KEYS = ("fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")
DISTORTION_KEYS = ("k1", "k2", "k3", "p1", "p2")
DENOMINATOR_KEYS = ("k4", "k5", "k6")
"""Of OpenCV's full model; elsewhere programs read them differently."""
MAX_NAME = 1000
"""Signs of the path of a picture."""
MAX_SIDE = 1_000_000
"""Pixels of a side of a picture."""
WIDEST_DEGREES = 175.0
"""Angle of view that no focal length in pixels exceeds; those that are shares of the side exceed it by far."""
OTHER_LENSES = ("is_fisheye", "latlong", "equirectangular", "orthographic", "ftheta_p0")
"""Marks of lenses that are no pinholes."""


@dataclass(frozen=True)
class Shot:
    """One picture as a camera file describes it."""

    name: str
    """File name of the picture."""
    c2w: Tensor
    """(4, 4) OpenCV camera-to-world, float64: worlds may be far from their origin."""
    lens: Mapping[str, float]
    """What is known of fl_x, fl_y, cx, cy (pixels), camera_angle_x and camera_angle_y (radians)."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that the lens is for, None where the file does not say."""
    distortion: Distortion = field(default_factory=Distortion)
    """How the lens bends the picture."""
    mask: str | None = None
    """File name of a picture that is black where the object is not."""

    def __post_init__(self) -> None:
        for name in (self.name, self.mask or ""):
            if len(name) > MAX_NAME:
                raise ValueError(f"A camera file names a picture by {len(name):,} signs, {name:.80}... It is not read.")

    def fits(self, height: int, width: int) -> bool:
        """Whether a picture has the camera's size, or is the same picture in another size."""
        return self.size is None or same_sides((height, width), self.size)

    def intrinsics(self, height: int, width: int) -> Tensor:
        """(4,) fx, fy, cx, cy in pixels, float64, for a picture of that size.

        Raises:
            ValueError: the camera is for pictures with other sides, or no focal length is known, or one is not in
                pixels.
        """
        if not self.fits(height, width):
            raise ValueError(
                f"The camera of {self.name} is for {self.size[0]} x {self.size[1]} pixels, "
                f"but the picture has {height} x {width}."
            )
        own_height, own_width = self.size or (height, width)
        for axis, side in (("x", own_width), ("y", own_height)):
            length = self.lens.get(f"fl_{axis}", float(side))
            if length < side / 2 / math.tan(math.radians(WIDEST_DEGREES / 2)):
                raise ValueError(
                    f"The camera of {self.name} has the focal length fl_{axis} {length:g} for a side of {side} pixels, "
                    "which no pinhole has; it must be in pixels, not a share of the side."
                )
        fx, fy = _focal(self.lens, "x", own_width), _focal(self.lens, "y", own_height)
        if fx is None and fy is None:
            raise ValueError(
                f"The camera of {self.name} gives no focal length: it needs fl_x, fl_y, camera_angle_x or "
                "camera_angle_y."
            )
        fx, fy = fy if fx is None else fx, fx if fy is None else fy
        cx, cy = self.lens.get("cx", own_width / 2), self.lens.get("cy", own_height / 2)
        x, y = width / own_width, height / own_height
        return torch.tensor([fx * x, fy * y, cx * x, cy * y], dtype=torch.float64)


def _focal(lens: Mapping[str, float], axis: str, side: float) -> float | None:
    """The focal length in pixels along one axis, where the picture measures `side`; None where it is not known."""
    if f"fl_{axis}" in lens:
        return lens[f"fl_{axis}"]
    angle = lens.get(f"camera_angle_{axis}")
    return None if angle is None else 0.5 * side / math.tan(angle / 2)


def _pinhole(fx: float, fy: float, cx: float, cy: float) -> dict[str, float]:
    return {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}


def load_transforms(path: Path) -> list[Shot]:
    """Read a NeRF-style `transforms.json`: OpenGL camera-to-world, lens for all frames or per frame.

    Raises:
        ValueError: when the file is no JSON, has no frames, a frame has no usable transform_matrix or lens, or the
            lens is no pinhole.
    """
    data = read_json(path)
    frames = data.get("frames")
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"{path} has no list of frames with poses.")
    return [_frame(data, frame, f"Frame {number} of {path}") for number, frame in enumerate(frames)]


def _frame(shared: Mapping[str, Any], frame: Any, where: str) -> Shot:
    if not isinstance(frame, dict):
        raise ValueError(f"{where} must be an object with file_path and transform_matrix.")
    values = {key: value for key, value in {**shared, **frame}.items() if value is not None}
    for key in ("file_path", "mask_path"):
        if not isinstance(values.get(key, "-"), str) or not values.get(key, "-"):
            raise ValueError(f"{where} must name its picture in {key}, got {values[key]!r:.80}.")
    if "file_path" not in values:
        raise ValueError(f"{where} names no picture: it has no file_path.")
    size = None
    if "h" in values and "w" in values:
        size = whole_pixels(values["h"], values["w"], where)
    lens = {key: finite([values[key]], f"{key} of {where}")[0] for key in LENS_KEYS if key in values}
    for key in ("camera_angle_x", "camera_angle_y"):
        if not 0 < lens.get(key, 1.0) < math.pi:
            raise ValueError(f"{key} of {where} must lie between 0 and pi (radians), got {lens[key]:g}.")
    c2w = opengl_to_opencv(_pose(values.get("transform_matrix"), where))
    return Shot(values["file_path"], c2w, lens, size, _distortion(values, where), values.get("mask_path"))


def _distortion(values: Mapping[str, Any], where: str) -> Distortion:
    """The distortion that a frame names.

    Raises:
        ValueError: its lens is no pinhole, or it has numbers whose meaning is not certain.
    """
    other = [key for key in OTHER_LENSES if values.get(key) or (key in values and key == "ftheta_p0")]  # p0 may be 0
    if str(kind := values.get("camera_type", "perspective")).lower() not in ("perspective", "pinhole"):
        other.append(str(kind))
    model = values.get("camera_model", "PINHOLE")
    check_model(other[0] if other else str(model), f"The camera of {where}")
    keys = [key for key in (*DISTORTION_KEYS, *DENOMINATOR_KEYS) if key in values]
    numbers = {key: finite([values[key]], f"{key} of {where}")[0] for key in keys}
    if model != "FULL_OPENCV":
        for key in DENOMINATOR_KEYS:
            if abs(numbers.pop(key, 0.0)) > 1e-8:
                raise ValueError(f"{where} has the lens distortion {key}, which is supported for FULL_OPENCV alone.")
    return Distortion(**numbers)


def _pose(matrix: Any, where: str) -> Tensor:
    """(4, 4) float64 of a 4 x 4 matrix, or of its upper three rows."""
    rows = matrix if isinstance(matrix, list) else []
    if len(rows) not in (3, 4) or any(not isinstance(row, list) or len(row) != 4 for row in rows):
        raise ValueError(f"The transform_matrix of {where} is not 4 x 4 (or 3 x 4).")
    pose = torch.eye(4, dtype=torch.float64)
    for number, row in enumerate(rows):
        pose[number] = torch.tensor(finite(row, f"The transform_matrix of {where}"), dtype=torch.float64)
    return _placed(pose, f"The transform_matrix of {where}")


def _placed(pose: Tensor, what: str) -> Tensor:
    """A pose whose last row says that it is one."""
    if bool(((pose[3] - pose.new_tensor([0.0, 0.0, 0.0, 1.0])).abs() > 1e-6).any()):
        raise ValueError(f"{what} must end with the row 0 0 0 1, got {pose[3].tolist()}; it may be transposed.")
    return pose


def finite(values: Sequence[Any], what: str) -> list[float]:
    """The values as numbers.

    Raises:
        ValueError: one is none, NaN or infinite; the sentence names it as `what`.
    """
    numbers = []
    for value in values:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{what} must be numbers that are finite, got {value!r:.80}.")
        numbers.append(number)
    return numbers


def whole_pixels(height: Any, width: Any, where: str) -> tuple[int, int]:
    """Height and width in whole pixels."""
    numbers = finite([height, width], f"Height and width of {where}")
    if any(not 1 <= number <= MAX_SIDE or number != int(number) for number in numbers):
        raise ValueError(
            f"Height and width of {where} must be whole pixels from 1 to {MAX_SIDE:,}, got {numbers[0]:g} and "
            f"{numbers[1]:g}."
        )
    return int(numbers[0]), int(numbers[1])


def save_transforms(path: Path, names: Sequence[str], cameras: Cameras) -> None:
    """Write a NeRF-style `transforms.json` with per-frame intrinsics."""
    frames = []
    for name, pose, lens in zip(names, opencv_to_opengl(cameras.c2w), cameras.intrinsics.tolist(), strict=True):
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **_pinhole(*lens)})
    path.write_text(json.dumps({"w": cameras.width, "h": cameras.height, "frames": frames}, indent=1))


def load_gtr_camera(path: Path, name: str) -> Shot:
    """Read the text camera of the published GTR for the picture `name`.

    A line "extrinsic", the OpenCV world-to-camera matrix, a header line, then fx fy cx cy height width.

    Raises:
        ValueError: the file is damaged.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    try:
        start = lines.index("extrinsic") + 1
        w2c = torch.tensor([[float(v) for v in line.split()] for line in lines[start : start + 4]], dtype=torch.float64)
        numbers = [float(v) for v in [line for line in lines[start + 4 :] if line][1].split()]
        *lens, height, width = numbers
        pinhole = _pinhole(*lens)
        c2w = torch.linalg.inv(w2c.reshape(4, 4))
    except (ValueError, IndexError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} is not a camera file: it needs a line 'extrinsic', four rows of a 4 x 4 matrix, a header line and "
            "a line with fx fy cx cy height width."
        ) from error
    finite([*c2w.flatten().tolist(), *numbers], f"The camera in {path}")
    return Shot(name, _placed(c2w, f"The extrinsic of {path}"), pinhole, whole_pixels(height, width, str(path)))


def save_gtr_camera(path: Path, cameras: Cameras) -> None:
    """Write one camera in the text format of the published GTR."""
    rows = "\n".join(" ".join(f"{v:.17g}" for v in row) for row in cameras.w2c[0].tolist())
    lens = " ".join(f"{v:.17g}" for v in cameras.intrinsics[0].tolist())
    path.write_text(f"extrinsic\n{rows}\n\nfx fy cx cy height width\n{lens} {cameras.height} {cameras.width}\n")
