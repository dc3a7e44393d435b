"""Posed pictures of one object, with silhouettes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon3d.cameras import Cameras, concatenate

MIN_VIEWS = 2
"""Fewer views never fix a shape."""


@dataclass(frozen=True)
class Views:
    """Pictures with cameras and silhouettes."""

    images: Tensor
    """(views, 3, height, width) RGB in [0, 1] on white."""
    masks: Tensor
    """(views, 1, height, width) in [0, 1]: 1 where the object is."""
    cameras: Cameras
    """One per picture."""
    depths: Tensor | None = None
    """(views, 1, height, width) along the optical axis, 0 on the background; None where they are not known."""
    notes: tuple[str, ...] = ()
    """Sentences on what was done to the pictures as they were read; parts and copies of the views have none."""

    def __post_init__(self) -> None:
        size = (len(self.cameras), self.cameras.height, self.cameras.width)
        if self.images.shape != (size[0], 3, *size[1:]) or self.masks.shape != (size[0], 1, *size[1:]):
            raise ValueError(
                f"{size[0]} cameras of {size[1]} x {size[2]} pixels need images and masks of that size, got "
                f"{tuple(self.images.shape)} and {tuple(self.masks.shape)}."
            )

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Views:
        """Some of the views."""
        depths = None if self.depths is None else self.depths[index]
        return Views(self.images[index], self.masks[index], self.cameras[index], depths)

    def resized(self, height: int, width: int) -> Views:
        """The views in another size, antialiased; depths are dropped."""
        if (height, width) == (self.cameras.height, self.cameras.width):
            return self

        def scale(pictures: Tensor) -> Tensor:
            resized = torch.nn.functional.interpolate(pictures, (height, width), mode="bilinear", antialias=True)
            return resized.clamp(0, 1)

        return Views(scale(self.images), scale(self.masks), self.cameras.resized(height, width))

    def padded(self, height: int, width: int) -> Views:
        """The views with white added at the right and below; depths are dropped."""
        beside = (0, width - self.cameras.width, 0, height - self.cameras.height)
        images = torch.nn.functional.pad(self.images, beside, value=1.0)
        masks = torch.nn.functional.pad(self.masks, beside)
        return Views(images, masks, replace(self.cameras, height=height, width=width))

    def moved(self, centre: Tensor, scale: float) -> Views:
        """The same pictures of a world where x becomes (x - centre) * scale, with a centre (3,)."""
        depths = None if self.depths is None else self.depths * scale
        return replace(self, cameras=self.cameras.moved(centre, scale), depths=depths)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Views:
        """The views on another device, their cameras in another precision."""
        depths = None if self.depths is None else self.depths.to(device)
        return Views(self.images.to(device), self.masks.to(device), self.cameras.to(device, dtype), depths)

    def check(self) -> Views:
        """Return the views, or raise ValueError where no object can be rebuilt from them."""
        if len(self) < MIN_VIEWS:
            raise ValueError(
                f"An object cannot be rebuilt from {len(self)} view; give at least {MIN_VIEWS} from different sides, "
                "better six or more."
            )
        if not torch.isfinite(self.images).all() or not torch.isfinite(self.masks).all():
            raise ValueError("The views hold pixels that are NaN or infinite.")
        if not torch.isfinite(self.cameras.c2w).all() or not torch.isfinite(self.cameras.intrinsics).all():
            raise ValueError("The cameras hold numbers that are NaN or infinite.")
        check_cameras(self.cameras)
        empty = (self.masks.flatten(1).amax(1) < 0.5).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"View {empty[0]} shows no object: its mask is empty.")
        full = (self.masks.flatten(1).mean(1) > 0.995).nonzero().flatten().tolist()
        if full:
            raise ValueError(
                f"View {full[0]} has no background: its mask covers the whole picture. Give pictures with alpha, "
                "on white, or ask for background removal."
            )
        return self


def join_views(parts: Sequence[Views]) -> Views:
    """All views of the parts, which share one size; depths are dropped."""
    cameras = concatenate(*(part.cameras for part in parts))
    return Views(torch.cat([part.images for part in parts]), torch.cat([part.masks for part in parts]), cameras)


def check_cameras(cameras: Cameras) -> None:
    """Raise ValueError where a pose is no rotation, or a lens cannot belong to its picture."""
    rotations = cameras.c2w[:, :3, :3]
    bent = (rotations.transpose(1, 2) @ rotations - torch.eye(3).to(rotations)).abs().amax((1, 2)) > 1e-2
    for number in (bent | (torch.linalg.det(rotations) < 0)).nonzero().flatten().tolist():
        raise ValueError(
            f"The pose of view {number} is no rotation and translation: its matrix is scaled, sheared or mirrored."
        )
    for number, (fx, fy, cx, cy) in enumerate(cameras.intrinsics.tolist()):
        if fx <= 0 or fy <= 0:
            raise ValueError(f"The focal lengths of view {number} must be positive, got {fx:g} and {fy:g} pixels.")
        if not (0 < cx < cameras.width and 0 < cy < cameras.height):
            raise ValueError(
                f"The principal point of view {number} ({cx:g}, {cy:g}) lies outside its picture of "
                f"{cameras.width} x {cameras.height} pixels; the intrinsics belong to another image size."
            )
        if not 0.5 < fx / fy < 2:
            raise ValueError(f"View {number} has very unequal focal lengths ({fx:g} and {fy:g} pixels).")


def split_grid(image: Tensor, rows: int = 3, columns: int = 2) -> Tensor:
    """(rows * columns, 3, h, w) tiles of a grid (3, height, width), row by row."""
    _, height, width = image.shape[-3:]
    if height % rows or width % columns:
        raise ValueError(f"A picture of {height} x {width} pixels does not divide into {rows} x {columns} tiles.")
    tiles = image.reshape(-1, 3, rows, height // rows, columns, width // columns)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, height // rows, width // columns)


def join_grid(images: Tensor, rows: int = 3, columns: int = 2) -> Tensor:
    """(3, height, width) grid of tiles (rows * columns, 3, h, w); undoes `split_grid`."""
    h, w = images.shape[-2:]
    return images.view(rows, columns, 3, h, w).permute(2, 0, 3, 1, 4).reshape(3, rows * h, columns * w)
