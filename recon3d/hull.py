"""What silhouettes alone say: the visual hull, whether cameras, masks and a mesh agree, and where the object is."""

from __future__ import annotations

from itertools import permutations, product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recon3d.isosurface import grid_points
from recon3d.mesh import Mesh
from recon3d.views import Views

SHARED = 0.3
"""Share of all silhouettes that those of a mesh and of the views have in common, below which they are strangers."""
TURNED = 0.2
"""By how much more a mesh must share when it is turned to other axes for these to be the right ones."""


def check_agreement(views: Views) -> None:
    """Raise ValueError when the silhouettes cannot come from one object inside [-1, 1]^3 at these cameras."""
    covered = hull_coverage(views)
    if covered < 0.6:
        raise ValueError(
            f"The silhouettes contradict each other: only {covered:.0%} of them can come from one object at these "
            "cameras. Check poses and intrinsics (focal length, image size) and the masks."
        )


@torch.no_grad()
def check_same_world(mesh: Mesh, views: Views) -> None:
    """Raise ValueError when the silhouettes of a mesh miss those of the views, or would not with other axes.

    Programs differ in which axis is up. Silhouettes alone tell little of round objects: these are not refused.
    """
    small = views[list(range(0, len(views), -(-len(views) // 8)))]
    small = small.resized(64, max(1, round(64 * views.cameras.width / views.cameras.height)))
    points, _, _ = mesh.sample(20_000, torch.Generator().manual_seed(0))
    shared = _shared(points, small)
    if shared > 1 - TURNED:
        return
    turns = [turn.to(points) for turn in _turns()]
    turned = [_shared(points @ turn.T, small) for turn in turns]
    # Of turns that a symmetric object cannot tell apart, the one that leaves most in place.
    best = max(
        range(len(turns)), key=lambda number: (turned[number] > max(turned) - 0.03, float(turns[number].trace()))
    )
    told = f"The mesh and the views are not in one world: their silhouettes have {shared:.0%} in common"
    if turned[best] > shared + TURNED and turned[best] > 2 * SHARED:
        signs = [("" if float(row.sum()) > 0 else "-") + "xyz"[int(row.abs().argmax())] for row in turns[best]]
        raise ValueError(
            f"{told}, and {turned[best]:.0%} when the mesh is turned so that (x, y, z) becomes ({', '.join(signs)}). "
            "Turn it so first."
        )
    if shared < SHARED:
        raise ValueError(f"{told}. Check the place, size and axes of the mesh, and the poses of the views.")


def _shared(points: Tensor, views: Views) -> float:
    """Share that the silhouettes of surface points (points, 3) have in common with those of the views (mean IoU)."""
    height, width = views.cameras.height, views.cameras.width
    shares = []
    for clip, mask in zip(views.cameras.clip(points), views.masks[:, 0] > 0.5, strict=True):
        clip = clip[clip[:, 3] > 0]
        xy = (clip[:, :2] / clip[:, 3:] + 1) / 2
        seen = ((xy >= 0) & (xy < 1)).all(-1)
        column, row = (xy[seen] * xy.new_tensor([width, height])).long().unbind(-1)
        drawn = torch.zeros_like(mask)
        drawn[row, column] = True
        shares.append(float((drawn & mask).sum() / (drawn | mask).sum().clamp(min=1)))
    return float(np.mean(shares))


def _turns() -> list[Tensor]:
    """The 24 rotations (3, 3) of the axes onto axes."""
    turns = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        turn = torch.eye(3)[list(order)] * torch.tensor(signs)[:, None]
        if float(torch.linalg.det(turn)) > 0:
            turns.append(turn)
    return turns


@torch.no_grad()
def visual_hull(views: Views, resolution: int = 48, tolerance: int = 0, radius: float = 1.0) -> Tensor:
    """(n, n, n) bool: grid points of the box [-radius, radius]^3 inside the silhouettes of all views but `tolerance`.

    A point outside a picture counts as inside its silhouette only where the silhouette touches the border: such a
    picture may cut the object off.
    """
    points = grid_points((resolution,) * 3, views.masks.device) * radius
    votes = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for number in range(len(views)):
        votes += _silhouette_hits(views, number, points)
    return (votes >= len(views) - tolerance).view((resolution,) * 3)


def _silhouette_hits(views: Views, number: int, points: Tensor) -> Tensor:
    clip = views.cameras[number].clip(points)[0]
    xy = clip[:, :2] / clip[:, 3:].clamp(min=1e-6)
    mask = views.masks[number][None]
    value = torch.nn.functional.grid_sample(mask, xy[None, None], padding_mode="border", align_corners=False).flatten()
    outside = (xy.abs() > 1).any(-1)
    cut_off = max(float(edge.amax()) for edge in (mask[..., 0, :], mask[..., -1, :], mask[..., 0], mask[..., -1])) > 0.5
    return torch.where(outside, torch.full_like(outside, cut_off), value > 0.25) & (clip[:, 3] > 0)


@torch.no_grad()
def hull_coverage(views: Views, resolution: int = 40) -> float:
    """Share of the silhouettes' pixels that the visual hull explains: about 1 when cameras and masks agree."""
    small = views.resized(64, max(1, round(64 * views.cameras.width / views.cameras.height)))
    points = grid_points((resolution,) * 3, views.masks.device)[visual_hull(small, resolution).flatten()]
    if len(points) == 0:
        return 0.0
    height, width = small.cameras.height, small.cameras.width
    shares = []
    for clip, mask in zip(small.cameras.clip(points), small.masks[:, 0] > 0.75, strict=True):
        xy = (clip[:, :2] / clip[:, 3:].clamp(min=1e-6) + 1) / 2
        column, row = (xy[:, 0] * width).long().clamp(0, width - 1), (xy[:, 1] * height).long().clamp(0, height - 1)
        drawn = torch.zeros(1, 1, height, width, device=mask.device)
        drawn[0, 0, row, column] = 1
        # Grid points are further apart than pixels.
        drawn = torch.nn.functional.max_pool2d(drawn, 7, 1, 3)[0, 0] > 0
        if mask.any():
            shares.append(float((drawn & mask).sum() / mask.sum()))
    return float(np.mean(shares)) if shares else 0.0


def place(views: Views, how: Literal["auto", "unit"] = "auto") -> tuple[Tensor, float]:
    """Centre (3,) and scale with which (x - centre) * scale lies in [-1, 1]^3.

    "unit": the world as it is. "auto": the same when the silhouettes meet there and fill a fair part of the box, else
    `fit_box`.
    """
    as_it_is = views.cameras.c2w.new_zeros(3), 1.0
    if how == "unit":
        return as_it_is
    hull = visual_hull(views, 48)
    if hull.any():
        index = hull.nonzero()
        extent = int((index.amax(0) - index.amin(0)).max()) / 47
        if 0.3 < extent < 0.98 and hull_coverage(views) > 0.9:
            return as_it_is
    return fit_box(views)


def fit_box(views: Views, size: float = 1.6) -> tuple[Tensor, float]:
    """Centre (3,) and scale that bring the object of arbitrary cameras into [-size / 2, size / 2]^3.

    The centre is where the optical axes come closest to each other; the size follows from the silhouettes and is then
    corrected by the visual hull.

    Raises:
        ValueError: when the cameras all look the same way or the silhouettes do not meet.
    """
    # Small linear algebra in float64, which not every device has.
    positions, axes = views.cameras.positions.cpu().double(), views.cameras.forward.cpu().double()
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    system = across.sum(0)
    if float(torch.linalg.eigvalsh(system)[0]) < 1e-3 * len(views):
        raise ValueError("All cameras look in the same direction; the size of the object cannot be found from them.")
    centre = torch.linalg.solve(system, (across @ positions[:, :, None]).sum(0)[:, 0])
    reach = []
    for number, mask in enumerate(views.masks[:, 0] > 0.5):
        rows, columns = mask.nonzero(as_tuple=True)
        fx, fy, cx, cy = views.cameras.intrinsics[number].tolist()
        angle = max(float((columns - cx).abs().max()) / fx, float((rows - cy).abs().max()) / fy)
        reach.append(angle * float((positions[number] - centre).norm()))
    centre, scale = centre.to(views.cameras.c2w), 0.9 / max(reach)
    for _ in range(2):
        hull = visual_hull(views.moved(centre, scale), 64)
        points = grid_points((64,) * 3, hull.device)[hull.flatten()]
        if len(points) < 8:
            raise ValueError(
                "The silhouettes do not meet in space; check poses, intrinsics and masks, "
                "or give the box of the object."
            )
        low, high = points.amin(0), points.amax(0)
        centre = centre + (low + high) / 2 / scale
        scale = scale * size / float((high - low + 2 / 63).amax())
    return centre, scale
