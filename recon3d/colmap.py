"""COLMAP models, sparse or dense: `cameras` and `images` as text or binary (the points are not needed)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recon3d.camera_files import Shot, finite, whole_pixels
from recon3d.lens import lens_of
from vision.files import read_text

BINARY_MODELS = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8), ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4), ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12),
    ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
)  # fmt: skip
"""Name and count of numbers of the models by their number in binary files."""
FOLDERS = ("", "sparse/0", "sparse", "colmap/sparse/0")
"""Where a model lies in the folder of its pictures, as programs write it."""


@dataclass(frozen=True)
class Camera:
    """A lens that pictures share."""

    model: str
    """COLMAP's name of the model."""
    size: tuple[int, int]
    """Height and width in pixels."""
    numbers: list[float]
    """The model's numbers."""


@dataclass(frozen=True)
class Image:
    """A picture with its pose."""

    name: str
    """File name, relative to the folder of the pictures."""
    pose: list[float]
    """World to camera: quaternion (w, x, y, z), translation."""
    camera: int
    """Number of its camera."""


def find_colmap(folder: Path) -> Path | None:
    """The folder of the COLMAP model that belongs to a folder of pictures."""
    for model in (folder / name for name in FOLDERS):
        if _has(model, ".bin") or _has(model, ".txt"):
            return model
    return None


def load_colmap(folder: Path) -> list[Shot]:
    """Read a COLMAP model, binary where it is both, as COLMAP does.

    Raises:
        ValueError: for a damaged file, a camera that is no pinhole, or none where a picture needs one.
    """
    if _has(folder, ".bin"):
        cameras, images = _binary_cameras(folder / "cameras.bin"), _binary_images(folder / "images.bin")
    else:
        cameras, images = _text_cameras(folder / "cameras.txt"), _text_images(folder / "images.txt")
    if not images:
        raise ValueError(f"The COLMAP model in {folder} names no picture.")
    return [_shot(folder, image, cameras) for image in images]


def _has(folder: Path, ending: str) -> bool:
    return all((folder / (name + ending)).is_file() for name in ("cameras", "images"))


def _shot(folder: Path, image: Image, cameras: dict[int, Camera]) -> Shot:
    if image.camera not in cameras:
        known = ", ".join(map(str, sorted(cameras)[:8])) or "none"
        raise ValueError(f"Picture {image.name} in {folder} uses camera {image.camera}; its cameras are {known}.")
    camera = cameras[image.camera]
    whose = f"Camera {image.camera} in {folder}"
    lens, distortion = lens_of(camera.model, finite(camera.numbers, whose), whose)
    pose = torch.tensor(finite(image.pose, f"The pose of {image.name} in {folder}"), dtype=torch.float64)
    if not bool(pose[:4].any()):
        raise ValueError(f"The rotation of {image.name} in {folder} is a quaternion of zeros.")
    w2c = torch.eye(4, dtype=torch.float64)
    w2c[:3, :3], w2c[:3, 3] = quaternion_to_matrix(pose[:4]), pose[4:]
    return Shot(image.name, torch.linalg.inv(w2c), lens, whole_pixels(*camera.size, whose), distortion)


def _text_cameras(path: Path) -> dict[int, Camera]:
    cameras = {}
    for line in filter(None, _lines(path)):
        try:
            number, model, width, height, *numbers = line.split()
            cameras[int(number)] = Camera(model, (int(height), int(width)), [float(value) for value in numbers])
        except ValueError as error:
            raise ValueError(f"{path} has a damaged line: {line[:200]!r}.") from error
    return cameras


def _text_images(path: Path) -> list[Image]:
    """Each picture's line may be followed by one with its points (x, y, number), which some programs leave out."""
    images: list[Image] = []
    points_may_follow = False
    for line in _lines(path):
        if not line or (points_may_follow and _are_points(line)):
            points_may_follow = False
            continue
        try:
            _, *pose, camera, name = line.split(maxsplit=9)
            w, x, y, z, a, b, c = map(float, pose)
            images.append(Image(name, [w, x, y, z, a, b, c], int(camera)))
        except ValueError as error:
            raise ValueError(f"{path} has a damaged line: {line[:200]!r}.") from error
        points_may_follow = True
    return images


def _lines(path: Path) -> list[str]:
    """Lines without comments."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [line for line in lines if not line.startswith("#")]


def _are_points(line: str) -> bool:
    """Whether a line holds nothing but triples of numbers; a picture's has 10 entries or a name."""
    entries = line.split()
    try:
        return len(entries) % 3 == 0 and all(float(entry) == float(entry) for entry in entries)
    except ValueError:
        return False


class _Binary:
    """Little-endian numbers and names of a file, one after the other; beyond its end is an error."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, form: str) -> tuple:
        """The numbers of a `struct` format."""
        start = self.skip(struct.calcsize("<" + form))
        return struct.unpack_from("<" + form, self.data, start)

    def skip(self, count: int) -> int:
        """Where the `count` bytes start that are passed over."""
        start, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise ValueError(f"{self.path} is damaged or cut off: it ends after {len(self.data):,} bytes.")
        return start

    def name(self) -> str:
        """Text up to a zero byte."""
        end = self.data.find(b"\0", self.at)
        start = self.skip((end if end >= 0 else len(self.data)) + 1 - self.at)
        try:
            return self.data[start : self.at - 1].decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self.path} is damaged: the name of a picture is no text.") from None


def _binary_cameras(path: Path) -> dict[int, Camera]:
    file = _Binary(path)
    cameras = {}
    for _ in range(*file.take("Q")):
        number, model, width, height = file.take("IiQQ")
        if not 0 <= model < len(BINARY_MODELS):
            raise ValueError(f"{path} is damaged or newer than this program: it has a camera of model {model}.")
        name, count = BINARY_MODELS[model]
        cameras[number] = Camera(name, (height, width), list(file.take(f"{count}d")))
    return cameras


def _binary_images(path: Path) -> list[Image]:
    file = _Binary(path)
    images = []
    for _ in range(*file.take("Q")):
        _, *pose, camera = file.take("I7dI")
        images.append(Image(file.name(), pose, camera))
        file.skip(24 * file.take("Q")[0])  # the points in the picture
    return images


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """(3, 3) rotation of a quaternion (w, x, y, z)."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=0).tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=quaternion.dtype)
