"""Posed pinhole cameras and the conventions they come in.

Inside the package every camera is an OpenCV one: camera-to-world matrices with x to the right, y down and z forward,
intrinsics (fx, fy, cx, cy) in pixels, the centre of the top left pixel at (0.5, 0.5). Everything else is converted
at the border: OpenGL matrices (x right, y up, z backward), the six-view rigs of GTR (world y up) and InstantMesh
(world z up), NeRF-style `transforms.json`, COLMAP text models and the text cameras of the GTR release.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

GTR_THETA = (70.0, 100.0, 70.0, 100.0, 70.0, 100.0)
"""Degrees from world up of the six views of GTR, in the order of the Zero123++ grid."""
GTR_PHI = (60.0, 0.0, -60.0, -120.0, 180.0, 120.0)
"""Degrees around world up of the six views of GTR; 90 minus the azimuth of Zero123++."""


@dataclass(frozen=True)
class Cameras:
    """Views of one scene that share an image size.

    `c2w`: (views, 4, 4) OpenCV camera-to-world. `intrinsics`: (views, 4) fx, fy, cx, cy in pixels.
    `height`, `width`: the image size in pixels.
    """

    c2w: Tensor
    intrinsics: Tensor
    height: int
    width: int

    def __post_init__(self) -> None:
        views = self.c2w.shape[0] if self.c2w.dim() == 3 else -1
        if self.c2w.shape != (views, 4, 4) or self.intrinsics.shape != (views, 4):
            raise ValueError(
                "Cameras need c2w of shape (views, 4, 4) and intrinsics of shape (views, 4), "
                f"got {tuple(self.c2w.shape)} and {tuple(self.intrinsics.shape)}."
            )
        if self.height < 1 or self.width < 1:
            raise ValueError(f"The image size of a camera must be positive, got {self.height} x {self.width}.")

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """The cameras at `index`; a single number keeps the leading axis."""
        if isinstance(index, int):
            index = [index]
        return replace(self, c2w=self.c2w[index], intrinsics=self.intrinsics[index])

    @property
    def positions(self) -> Tensor:
        """(views, 3) camera centres in the world."""
        return self.c2w[:, :3, 3]

    @property
    def forward(self) -> Tensor:
        """(views, 3) unit viewing directions."""
        return torch.nn.functional.normalize(self.c2w[:, :3, 2], dim=-1)

    @property
    def w2c(self) -> Tensor:
        """(views, 4, 4) world-to-camera, OpenCV axes."""
        return torch.linalg.inv(self.c2w)

    @property
    def view(self) -> Tensor:
        """(views, 4, 4) world to OpenGL camera."""
        return torch.linalg.inv(opencv_to_opengl(self.c2w))

    def projection(self, near: float = 0.1, far: float = 100.0) -> Tensor:
        """(views, 4, 4) OpenGL projection with negated second row, so that raster row 0 is the image top."""
        fx, fy, cx, cy = self.intrinsics.unbind(-1)
        return projection(
            2 * fx / self.width, -2 * fy / self.height, 1 - 2 * cx / self.width, 1 - 2 * cy / self.height, near, far
        )

    def mvp(self, near: float = 0.1, far: float = 100.0) -> Tensor:
        """(views, 4, 4) world to clip space."""
        return self.projection(near, far) @ self.view

    def clip(self, points: Tensor) -> Tensor:
        """Project points (points, 3) to clip space (views, points, 4)."""
        mvp = self.mvp().to(points.dtype)
        return points @ mvp[:, :, :3].transpose(1, 2) + mvp[:, None, :, 3]

    def rays(self, normalise: bool = True) -> tuple[Tensor, Tensor]:
        """World rays through the pixel centres.

        Returns origins and directions (views, height, width, 3). Unit directions, or with `normalise=False` those whose
        component along the optical axis is 1, so that the ray parameter is the depth.
        """
        options = {"dtype": self.c2w.dtype, "device": self.c2w.device}
        v, u = torch.meshgrid(
            torch.arange(self.height, **options) + 0.5, torch.arange(self.width, **options) + 0.5, indexing="ij"
        )
        fx, fy, cx, cy = (value[:, None, None] for value in self.intrinsics.unbind(-1))
        local = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u).expand(len(self), -1, -1)], dim=-1)
        directions = torch.einsum("nij,nhwj->nhwi", self.c2w[:, :3, :3], local)
        if normalise:
            directions = torch.nn.functional.normalize(directions, dim=-1)
        return self.positions[:, None, None].expand_as(directions), directions

    def resized(self, height: int, width: int) -> Cameras:
        """The same cameras with pictures of another size."""
        x, y = width / self.width, height / self.height
        scale = torch.tensor([x, y, x, y], dtype=self.intrinsics.dtype, device=self.intrinsics.device)
        return replace(self, intrinsics=self.intrinsics * scale, height=height, width=width)

    def moved(self, centre: Tensor, scale: float) -> Cameras:
        """The cameras in a world where x becomes (x - centre) * scale."""
        c2w = self.c2w.clone()
        c2w[:, :3, 3] = (c2w[:, :3, 3] - centre) * scale
        return replace(self, c2w=c2w)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """The cameras on another device or in another precision."""
        return replace(self, c2w=self.c2w.to(device, dtype), intrinsics=self.intrinsics.to(device, dtype))


def concatenate(first: Cameras, second: Cameras) -> Cameras:
    """The views of both, first those of `first`; the image sizes must agree."""
    if (first.height, first.width) != (second.height, second.width):
        raise ValueError(
            f"Cameras of different image sizes cannot be joined: {first.height} x {first.width} and "
            f"{second.height} x {second.width}."
        )
    return replace(
        first,
        c2w=torch.cat([first.c2w, second.c2w]),
        intrinsics=torch.cat([first.intrinsics, second.intrinsics]),
    )


def projection(x: Tensor, y: Tensor, dx: Tensor, dy: Tensor, near: float, far: float) -> Tensor:
    """(views, 4, 4) OpenGL perspective with scales x, y (views,) and centre offsets dx, dy (views,)."""
    matrix = x.new_zeros(*x.shape, 4, 4)
    matrix[..., 0, 0], matrix[..., 1, 1] = x, y
    matrix[..., 0, 2], matrix[..., 1, 2] = dx, dy
    matrix[..., 2, 2] = -(far + near) / (far - near)
    matrix[..., 2, 3] = -2 * far * near / (far - near)
    matrix[..., 3, 2] = -1
    return matrix


def opencv_to_opengl(c2w: Tensor) -> Tensor:
    """Flip the y and z axes of camera-to-world matrices (..., 4, 4); its own inverse."""
    return c2w * c2w.new_tensor([1.0, -1.0, -1.0, 1.0])


def opengl_to_opencv(c2w: Tensor) -> Tensor:
    """Flip the y and z axes of camera-to-world matrices (..., 4, 4); its own inverse."""
    return opencv_to_opengl(c2w)


def intrinsics_from_fov(fov_degrees: float, height: int, width: int, views: int = 1) -> Tensor:
    """(views, 4) centred intrinsics with square pixels for a vertical field of view."""
    focal = 0.5 * height / math.tan(math.radians(fov_degrees) / 2)
    return torch.tensor([[focal, focal, width / 2, height / 2]], dtype=torch.float32).repeat(views, 1)


def moments(origins: Tensor, directions: Tensor) -> Tensor:
    """Pluecker moments (..., 3) of rays, cross(direction, origin): the order of the GTR release."""
    return torch.cross(directions, origins, dim=-1)


def look_at(positions: Tensor, target: Tensor | None = None, up: Sequence[float] = (0.0, 1.0, 0.0)) -> Tensor:
    """(views, 4, 4) OpenGL camera-to-world of cameras at `positions` (views, 3) that look at `target` (3,) or 0."""
    target = torch.zeros_like(positions[0]) if target is None else target
    backward = torch.nn.functional.normalize(positions - target, dim=-1)
    world_up = positions.new_tensor(list(up)).expand_as(positions)
    right = torch.cross(world_up, backward, dim=-1)
    looks_along_up = right.norm(dim=-1, keepdim=True) < 1e-6
    spare = torch.cross(world_up.roll(1, dims=-1), backward, dim=-1)
    right = torch.nn.functional.normalize(torch.where(looks_along_up, spare, right), dim=-1)
    return _assemble(right, torch.cross(backward, right, dim=-1), backward, positions)


def _assemble(right: Tensor, up: Tensor, backward: Tensor, positions: Tensor) -> Tensor:
    c2w = torch.eye(4, dtype=positions.dtype, device=positions.device).repeat(len(positions), 1, 1)
    c2w[:, :3, :] = torch.stack([right, up, backward, positions], dim=-1)
    return c2w


def sphere(azimuth: Sequence[float] | Tensor, elevation: Sequence[float] | Tensor, radius: float) -> Tensor:
    """(views, 3) points radius * (cos el cos az, sin el, cos el sin az), world y up, from degrees."""
    az = torch.deg2rad(torch.as_tensor(azimuth, dtype=torch.float64))
    el = torch.deg2rad(torch.as_tensor(elevation, dtype=torch.float64))
    az, el = torch.broadcast_tensors(az, el)
    return radius * torch.stack([el.cos() * az.cos(), el.sin(), el.cos() * az.sin()], dim=-1)


def orbit(
    azimuth: Sequence[float] | Tensor,
    elevation: Sequence[float] | Tensor | float,
    radius: float = 4.0,
    fov_degrees: float = 30.0,
    size: int | tuple[int, int] = 512,
) -> Cameras:
    """Cameras on a sphere around the origin that look at it; world y up, angles in degrees."""
    height, width = (size, size) if isinstance(size, int) else size
    positions = sphere(azimuth, elevation, radius)
    c2w = opengl_to_opencv(look_at(positions)).float()
    return Cameras(c2w, intrinsics_from_fov(fov_degrees, height, width, len(c2w)), height, width)


def release_orbit(azimuth: Sequence[float], elevation: Sequence[float], radius: float) -> Tensor:
    """(views, 4, 4) OpenGL camera-to-world of the turntable as the GTR release computes it.

    Equal to `orbit` except for exactly three cameras: the cross products there name no axis and then run over the
    first axis of length three, which mixes the cameras. Kept for parity only.
    """
    positions = sphere(azimuth, elevation, radius).float()
    axis = 0 if len(positions) == 3 else 1
    backward = torch.nn.functional.normalize(positions, dim=-1)
    world_up = torch.tensor([0.0, 1.0, 0.0]).expand_as(positions)
    right = torch.nn.functional.normalize(torch.cross(world_up, backward, dim=axis), dim=-1)
    up = torch.nn.functional.normalize(torch.cross(backward, right, dim=axis), dim=-1)
    return _assemble(right, up, backward, positions)


def gtr_rig(
    size: int = 512,
    radius: float = 4.0,
    fov_degrees: float = 30.0,
    theta: Sequence[float] = GTR_THETA,
    phi: Sequence[float] = GTR_PHI,
) -> Cameras:
    """The six views of GTR: world y up, `theta` degrees from up, `phi` degrees around it."""
    return orbit(phi, [90.0 - value for value in theta], radius, fov_degrees, size)


def instantmesh_rig(size: int = 320, radius: float = 4.0, fov_degrees: float = 30.0) -> Cameras:
    """The same six views in the world of InstantMesh (z up), OpenCV cameras."""
    cameras = gtr_rig(size, radius, fov_degrees)
    return replace(cameras, c2w=gtr_to_instantmesh(cameras.c2w))


def instantmesh_to_gtr(c2w: Tensor) -> Tensor:
    """Turn camera-to-world matrices (..., 4, 4) from the InstantMesh world: (x, y, z) becomes (y, z, x)."""
    return c2w[..., [1, 2, 0, 3], :]


def gtr_to_instantmesh(c2w: Tensor) -> Tensor:
    """Turn camera-to-world matrices (..., 4, 4) into the InstantMesh world: (x, y, z) becomes (z, x, y)."""
    return c2w[..., [2, 0, 1, 3], :]


def instantmesh_vectors(cameras: Cameras) -> Tensor:
    """(views, 16) the camera vectors of InstantMesh: OpenGL pose rows, then intrinsics divided by the image size."""
    size = cameras.intrinsics.new_tensor([cameras.width, cameras.height, cameras.width, cameras.height])
    poses = opencv_to_opengl(cameras.c2w)[:, :3].flatten(1)
    return torch.cat([poses, cameras.intrinsics / size], dim=-1)


def turntable(frames: int = 50, elevation: float = 20.0, radius: float = 3.5, size: int = 256) -> Cameras:
    """A full turn around the object, field of view 50 degrees, as in the videos of the GTR release."""
    azimuth = torch.arange(frames) * (360.0 / frames)
    return orbit(azimuth, torch.full((frames,), float(elevation)), radius, 50.0, size)


def surround(size: int = 256, radius: float = 4.0, fov_degrees: float = 30.0) -> Cameras:
    """48 views from all sides (elevations -60, -20, 20 and 60 degrees): what none of them sees is hidden."""
    azimuth = torch.arange(12).repeat(4) * 30.0
    elevation = torch.tensor([-60.0, -20.0, 20.0, 60.0]).repeat_interleave(12)
    return orbit(azimuth, elevation, radius, fov_degrees, size)


# Files --------------------------------------------------------------------------------------------------------------


def load_transforms(path: Path) -> tuple[list[str], list[tuple[int, int] | None], Tensor, list[dict[str, float]]]:
    """Read a NeRF-style `transforms.json`.

    Returns the file names of the frames, their sizes (height, width) or None where the file does not say, OpenCV
    camera-to-world (views, 4, 4), and per frame what is known of fl_x, fl_y, cx, cy, camera_angle_x, camera_angle_y.

    Raises:
        ValueError: when the file is no JSON, has no frames, or a frame has no 4 x 4 transform_matrix.
    """
    try:
        data = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from error
    if not isinstance(data, dict) or not isinstance(data.get("frames"), list) or not data["frames"]:
        raise ValueError(f"{path} has no list of frames with poses.")
    names, sizes, poses, lenses = [], [], [], []
    keys = ("fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")
    for number, frame in enumerate(data["frames"]):
        matrix = torch.tensor(frame.get("transform_matrix", []), dtype=torch.float64)
        if matrix.shape != (4, 4) or "file_path" not in frame:
            raise ValueError(f"Frame {number} of {path} needs a file_path and a 4 x 4 transform_matrix.")
        names.append(str(frame["file_path"]))
        poses.append(matrix)
        merged = {**data, **frame}
        sizes.append((int(merged["h"]), int(merged["w"])) if "h" in merged and "w" in merged else None)
        lenses.append({key: float(merged[key]) for key in keys if key in merged})
    return names, sizes, opengl_to_opencv(torch.stack(poses)).float(), lenses


def lens_to_intrinsics(lens: dict[str, float], height: int, width: int, source: str) -> Tensor:
    """(4,) fx, fy, cx, cy from the entries of a `transforms.json` frame for a picture of that size."""
    if "fl_x" in lens:
        fx = lens["fl_x"]
    elif "camera_angle_x" in lens:
        fx = 0.5 * width / math.tan(lens["camera_angle_x"] / 2)
    else:
        raise ValueError(f"{source} gives no focal length: it needs fl_x or camera_angle_x.")
    if "fl_y" in lens:
        fy = lens["fl_y"]
    elif "camera_angle_y" in lens:
        fy = 0.5 * height / math.tan(lens["camera_angle_y"] / 2)
    else:
        fy = fx
    return torch.tensor([fx, fy, lens.get("cx", width / 2), lens.get("cy", height / 2)], dtype=torch.float32)


def save_transforms(path: Path, names: Sequence[str], cameras: Cameras) -> None:
    """Write a NeRF-style `transforms.json` with per-frame intrinsics."""
    frames = []
    for name, pose, lens in zip(names, opencv_to_opengl(cameras.c2w), cameras.intrinsics.tolist(), strict=True):
        entries = dict(zip(("fl_x", "fl_y", "cx", "cy"), lens, strict=True))
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **entries})
    path.write_text(json.dumps({"w": cameras.width, "h": cameras.height, "frames": frames}, indent=1))


def load_colmap(folder: Path) -> tuple[list[str], list[tuple[int, int]], Tensor, Tensor]:
    """Read `cameras.txt` and `images.txt` of a COLMAP text model.

    Returns file names, sizes (height, width), OpenCV camera-to-world (views, 4, 4) and intrinsics (views, 4).

    Raises:
        ValueError: for a damaged file or a camera model with lens distortion that is not zero.
    """
    lenses = {}
    for line in _lines(folder / "cameras.txt"):
        number, model, width, height, *values = line.split()
        lenses[number] = (int(height), int(width), _colmap_lens(model, [float(v) for v in values]))
    names, sizes, poses, intrinsics = [], [], [], []
    for line in _lines(folder / "images.txt", keep_empty=True)[::2]:
        entries = line.split(maxsplit=9)
        if len(entries) != 10 or entries[8] not in lenses:
            raise ValueError(f"{folder / 'images.txt'} has a damaged line: {line!r}.")
        w2c = torch.eye(4, dtype=torch.float64)
        w2c[:3, :3] = quaternion_to_matrix(torch.tensor([float(v) for v in entries[1:5]], dtype=torch.float64))
        w2c[:3, 3] = torch.tensor([float(v) for v in entries[5:8]], dtype=torch.float64)
        height, width, lens = lenses[entries[8]]
        names.append(entries[9])
        sizes.append((height, width))
        poses.append(torch.linalg.inv(w2c))
        intrinsics.append(lens)
    if not poses:
        raise ValueError(f"{folder / 'images.txt'} names no picture.")
    return names, sizes, torch.stack(poses).float(), torch.tensor(intrinsics, dtype=torch.float32)


def _lines(path: Path, keep_empty: bool = False) -> list[str]:
    lines = [line.strip() for line in path.read_text().splitlines() if not line.startswith("#")]
    return lines if keep_empty else [line for line in lines if line]


def _colmap_lens(model: str, values: list[float]) -> list[float]:
    if model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        lens, distortion = [values[0], values[0], values[1], values[2]], values[3:]
    elif model in ("PINHOLE", "OPENCV", "FULL_OPENCV"):
        lens, distortion = values[:4], values[4:]
    else:
        raise ValueError(f"COLMAP camera model {model} is not supported; undistort the pictures to PINHOLE first.")
    if any(abs(value) > 1e-8 for value in distortion):
        raise ValueError(f"A COLMAP camera ({model}) has lens distortion; undistort the pictures to PINHOLE first.")
    return lens


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """(3, 3) rotation of a quaternion (w, x, y, z)."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=0).tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=quaternion.dtype)


def load_gtr_camera(path: Path) -> tuple[Tensor, Tensor, int, int]:
    """Read one text camera of the GTR release: OpenCV world-to-camera, then fx fy cx cy height width.

    Returns camera-to-world (4, 4), intrinsics (4,), height and width.
    """
    lines = [line.strip() for line in path.read_text().splitlines()]
    try:
        start = lines.index("extrinsic") + 1
        extrinsic = torch.tensor([[float(v) for v in line.split()] for line in lines[start : start + 4]])
        numbers = [float(v) for v in [line for line in lines[start + 4 :] if line][1].split()]
        fx, fy, cx, cy, height, width = numbers
        c2w = torch.linalg.inv(extrinsic.reshape(4, 4))
    except (ValueError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a camera file: it needs a line 'extrinsic', four rows of a 4 x 4 matrix, a header line and "
            "a line with fx fy cx cy height width."
        ) from error
    return c2w, torch.tensor([fx, fy, cx, cy]), int(height), int(width)


def save_gtr_camera(path: Path, cameras: Cameras) -> None:
    """Write one camera in the text format of the GTR release."""
    rows = "\n".join(" ".join(f"{v:.9g}" for v in row) for row in cameras.w2c[0].tolist())
    lens = " ".join(f"{v:.9g}" for v in cameras.intrinsics[0].tolist())
    path.write_text(f"extrinsic\n{rows}\n\nfx fy cx cy height width\n{lens} {cameras.height} {cameras.width}\n")
