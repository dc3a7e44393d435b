"""Cameras in files: NeRF-style `transforms.json`, COLMAP text models, text cameras of the GTR release."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recon3d.cameras import Cameras, opencv_to_opengl, opengl_to_opencv

LENS_KEYS = ("fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")
DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")


@dataclass(frozen=True)
class Shot:
    """One picture as a camera file describes it.

    `name`: file name of the picture. `c2w`: (4, 4) OpenCV camera-to-world. `lens`: what is known of fl_x, fl_y, cx, cy
    (pixels), camera_angle_x and camera_angle_y (radians). `size`: height and width in pixels, None where the file does
    not say.
    """

    name: str
    c2w: Tensor
    lens: Mapping[str, float]
    size: tuple[int, int] | None = None

    def intrinsics(self, height: int, width: int) -> Tensor:
        """(4,) fx, fy, cx, cy in pixels for a picture of that size.

        Raises:
            ValueError: the camera is for another size, or no focal length is known.
        """
        if self.size is not None and self.size != (height, width):
            raise ValueError(
                f"The camera of {self.name} is for {self.size[0]} x {self.size[1]} pixels, "
                f"but the picture has {height} x {width}."
            )
        lens = self.lens
        if "fl_x" in lens:
            fx = lens["fl_x"]
        elif "camera_angle_x" in lens:
            fx = 0.5 * width / math.tan(lens["camera_angle_x"] / 2)
        else:
            raise ValueError(f"The camera of {self.name} gives no focal length: it needs fl_x or camera_angle_x.")
        fy = lens.get("fl_y", fx)
        if "fl_y" not in lens and "camera_angle_y" in lens:
            fy = 0.5 * height / math.tan(lens["camera_angle_y"] / 2)
        return torch.tensor([fx, fy, lens.get("cx", width / 2), lens.get("cy", height / 2)], dtype=torch.float32)


def _pinhole(fx: float, fy: float, cx: float, cy: float) -> dict[str, float]:
    return {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}


def load_transforms(path: Path) -> list[Shot]:
    """Read a NeRF-style `transforms.json`: OpenGL camera-to-world, lens for all frames or per frame.

    Raises:
        ValueError: when the file is no JSON, has no frames, a frame has no usable 4 x 4 transform_matrix or lens, or
            the lens is distorted.
    """
    try:
        data = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from error
    if not isinstance(data, dict) or not isinstance(data.get("frames"), list) or not data["frames"]:
        raise ValueError(f"{path} has no list of frames with poses.")
    shots = []
    for number, frame in enumerate(data["frames"]):
        try:
            merged = {**data, **frame}
            name = str(frame["file_path"])
            matrix = torch.tensor([[float(v) for v in row] for row in frame["transform_matrix"]], dtype=torch.float64)
            lens = {key: float(merged[key]) for key in LENS_KEYS if key in merged}
            bent = any(abs(float(merged.get(key, 0.0))) > 1e-8 for key in DISTORTION_KEYS)
            size = (int(merged["h"]), int(merged["w"])) if "h" in merged and "w" in merged else None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Frame {number} of {path} needs a file_path, a 4 x 4 transform_matrix and numbers for the lens."
            ) from error
        if matrix.shape != (4, 4):
            raise ValueError(f"The transform_matrix of frame {number} of {path} is not 4 x 4.")
        if bent:
            raise ValueError(f"{path} has lens distortion; undistort the pictures first.")
        shots.append(Shot(name, opengl_to_opencv(matrix).float(), lens, size))
    return shots


def save_transforms(path: Path, names: Sequence[str], cameras: Cameras) -> None:
    """Write a NeRF-style `transforms.json` with per-frame intrinsics."""
    frames = []
    for name, pose, lens in zip(names, opencv_to_opengl(cameras.c2w), cameras.intrinsics.tolist(), strict=True):
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **_pinhole(*lens)})
    path.write_text(json.dumps({"w": cameras.width, "h": cameras.height, "frames": frames}, indent=1))


def load_colmap(folder: Path) -> list[Shot]:
    """Read `cameras.txt` and `images.txt` of a COLMAP text model.

    Raises:
        ValueError: for a damaged file or a camera model with lens distortion that is not zero.
    """
    lenses = {}
    for line in _lines(folder / "cameras.txt"):
        try:
            number, model, width, height, *values = line.split()
            size, numbers = (int(height), int(width)), [float(v) for v in values]
        except ValueError as error:
            raise ValueError(f"{folder / 'cameras.txt'} has a damaged line: {line!r}.") from error
        lenses[number] = (size, _colmap_lens(model, numbers))
    shots = []
    for line in _lines(folder / "images.txt", keep_empty=True)[::2]:
        entries = line.split(maxsplit=9)
        try:
            numbers = torch.tensor([float(v) for v in entries[1:8]], dtype=torch.float64)
            size, lens = lenses[entries[8]]
            name = entries[9]
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(f"{folder / 'images.txt'} has a damaged line: {line!r}.") from error
        w2c = torch.eye(4, dtype=torch.float64)
        w2c[:3, :3], w2c[:3, 3] = quaternion_to_matrix(numbers[:4]), numbers[4:]
        shots.append(Shot(name, torch.linalg.inv(w2c).float(), lens, size))
    if not shots:
        raise ValueError(f"{folder / 'images.txt'} names no picture.")
    return shots


def _lines(path: Path, keep_empty: bool = False) -> list[str]:
    """Lines without comments; in `images.txt` a picture without points is followed by an empty line, which counts."""
    lines = [line.strip() for line in path.read_text().splitlines() if not line.startswith("#")]
    return lines if keep_empty else [line for line in lines if line]


def _colmap_lens(model: str, values: list[float]) -> dict[str, float]:
    if model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        lens, distortion = [values[0], *values[:3]], values[3:]
    elif model in ("PINHOLE", "OPENCV", "FULL_OPENCV"):
        lens, distortion = values[:4], values[4:]
    else:
        raise ValueError(f"COLMAP camera model {model} is not supported; undistort the pictures to PINHOLE first.")
    if any(abs(value) > 1e-8 for value in distortion):
        raise ValueError(f"A COLMAP camera ({model}) has lens distortion; undistort the pictures to PINHOLE first.")
    if len(lens) != 4:
        raise ValueError(f"A COLMAP camera ({model}) has too few numbers.")
    return _pinhole(*lens)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """(3, 3) rotation of a quaternion (w, x, y, z)."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=0).tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=quaternion.dtype)


def load_gtr_camera(path: Path, name: str) -> Shot:
    """Read the text camera of the GTR release for the picture `name`.

    A line "extrinsic", the OpenCV world-to-camera matrix, a header line, then fx fy cx cy height width.
    """
    lines = [line.strip() for line in path.read_text().splitlines()]
    try:
        start = lines.index("extrinsic") + 1
        extrinsic = torch.tensor([[float(v) for v in line.split()] for line in lines[start : start + 4]])
        numbers = [float(v) for v in [line for line in lines[start + 4 :] if line][1].split()]
        *lens, height, width = numbers
        return Shot(name, torch.linalg.inv(extrinsic.reshape(4, 4)), _pinhole(*lens), (int(height), int(width)))
    except (ValueError, IndexError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} is not a camera file: it needs a line 'extrinsic', four rows of a 4 x 4 matrix, a header line and "
            "a line with fx fy cx cy height width."
        ) from error


def save_gtr_camera(path: Path, cameras: Cameras) -> None:
    """Write one camera in the text format of the GTR release."""
    rows = "\n".join(" ".join(f"{v:.9g}" for v in row) for row in cameras.w2c[0].tolist())
    lens = " ".join(f"{v:.9g}" for v in cameras.intrinsics[0].tolist())
    path.write_text(f"extrinsic\n{rows}\n\nfx fy cx cy height width\n{lens} {cameras.height} {cameras.width}\n")
