"""Posed pinhole cameras and the conventions they come in.

Inside the package every camera is an OpenCV one: camera-to-world matrices with x to the right, y down and z forward,
intrinsics (fx, fy, cx, cy) in pixels, the centre of the top left pixel at (0.5, 0.5). Everything else is converted
at the border: OpenGL matrices (x right, y up, z backward), the six-view rigs of GTR (world y up) and InstantMesh
(world z up), NeRF-style `transforms.json`, COLMAP models and the text cameras of the published GTR. Cameras from files
are float64, for worlds far from their origin, until the object has been moved to the box that it is computed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GTR_THETA = (70.0, 100.0, 70.0, 100.0, 70.0, 100.0)
"""Degrees from world up of the six views of GTR, in the order of the Zero123++ grid."""
GTR_PHI = (60.0, 0.0, -60.0, -120.0, 180.0, 120.0)
"""Degrees around world up of the six views of GTR; 90 minus the azimuth of Zero123++."""


@dataclass(frozen=True)
class Cameras:
    """Views of one scene that share an image size."""

    c2w: Tensor
    """(views, 4, 4) OpenCV camera-to-world."""
    intrinsics: Tensor
    """(views, 4) fx, fy, cx, cy in pixels."""
    height: int
    """Of the images, in pixels."""
    width: int
    """Of the images, in pixels."""

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
        """The cameras in a world where x becomes (x - centre) * scale, in the more precise of both types."""
        kind = torch.promote_types(self.c2w.dtype, centre.dtype)
        c2w = self.c2w.to(kind, copy=True)
        c2w[:, :3, 3] = (c2w[:, :3, 3] - centre.to(c2w)) * scale
        return replace(self, c2w=c2w, intrinsics=self.intrinsics.to(kind))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """The cameras on another device or in another precision."""
        return replace(self, c2w=self.c2w.to(device, dtype), intrinsics=self.intrinsics.to(device, dtype))


def concatenate(*parts: Cameras) -> Cameras:
    """The views of all parts in their order; the image sizes must agree."""
    sizes = {(part.height, part.width) for part in parts}
    if len(sizes) != 1:
        named = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise ValueError(f"Cameras of different image sizes cannot be joined: {named}.")
    return replace(
        parts[0],
        c2w=torch.cat([part.c2w for part in parts]),
        intrinsics=torch.cat([part.intrinsics for part in parts]),
    )


def same_sides(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (height, width) are those of one picture; sides are whole pixels, so one may be off by one."""
    (height, width), (other_height, other_width) = size, other
    across, down = other_width * height / other_height, other_height * width / other_width
    return abs(width - across) <= 1 or abs(height - down) <= 1


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
    """Pluecker moments (..., 3) of rays, cross(direction, origin): the order of the published GTR."""
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


def published_orbit(azimuth: Sequence[float], elevation: Sequence[float], radius: float) -> Tensor:
    """(views, 4, 4) OpenGL camera-to-world of the turntable as the published GTR computes it.

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


def instantmesh_orbit(
    azimuth: Sequence[float] | Tensor,
    elevation: Sequence[float] | Tensor | float,
    radius: float = 4.0,
    fov_degrees: float = 30.0,
    size: int = 320,
) -> Cameras:
    """OpenCV cameras around the origin in the world of InstantMesh (z up), angles in degrees, azimuth from x to y."""
    cameras = orbit(90.0 - torch.as_tensor(azimuth, dtype=torch.float64), elevation, radius, fov_degrees, size)
    return replace(cameras, c2w=gtr_to_instantmesh(cameras.c2w))


def gtr_to_instantmesh(c2w: Tensor) -> Tensor:
    """Turn camera-to-world matrices (..., 4, 4) into the InstantMesh world: (x, y, z) becomes (z, x, y)."""
    return c2w[..., [2, 0, 1, 3], :]


def instantmesh_vectors(cameras: Cameras) -> Tensor:
    """(views, 16) the camera vectors of InstantMesh: OpenGL pose rows, then intrinsics divided by the image size."""
    size = cameras.intrinsics.new_tensor([cameras.width, cameras.height, cameras.width, cameras.height])
    poses = opencv_to_opengl(cameras.c2w)[:, :3].flatten(1)
    return torch.cat([poses, cameras.intrinsics / size], dim=-1)


def turntable(frames: int = 50, elevation: float = 20.0, radius: float = 3.5, size: int = 256) -> Cameras:
    """A full turn around the object, field of view 50 degrees, as in the videos of the published GTR."""
    azimuth = torch.arange(frames) * (360.0 / frames)
    return orbit(azimuth, torch.full((frames,), float(elevation)), radius, 50.0, size)


def surround(size: int = 256, radius: float = 4.0, fov_degrees: float = 30.0) -> Cameras:
    """48 views from all sides (elevations -60, -20, 20 and 60 degrees): what none of them sees is hidden."""
    azimuth = torch.arange(12).repeat(4) * 30.0
    elevation = torch.tensor([-60.0, -20.0, 20.0, 60.0]).repeat_interleave(12)
    return orbit(azimuth, elevation, radius, fov_degrees, size)
