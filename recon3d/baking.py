"""Plain projection baking: the mean of the pictures that see a place, the baseline of everything that paints."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from recon3d.mesh import Mesh
from recon3d.raster import face_normals
from recon3d.render import render
from recon3d.views import Views

GRAZING = 0.15
"""Cosine between normal and line of sight up to which a view does not count."""
BEHIND = 0.0125
"""Share of the surface's size by which a place may lie behind what its pixel sees and still be taken for it."""
SAMPLES = 200_000
"""Points of the surface that give normals, and colours to what no view sees."""


def bake_plainly(mesh: Mesh, views: Views) -> Callable[[Tensor], Tensor]:
    """A function from points (points, 3) on a surface to their colours (points, 3) in [0, 1].

    Every point takes the mean of the views that see it, weighted by the squared cosine between its normal and the line
    of sight; what no view sees takes the colour of the nearest place that is seen.

    Args:
        mesh: the surface, whose colours do not matter.
        views: pictures with cameras and masks, in the world of the mesh.

    Raises:
        ValueError: no view sees the surface.
    """
    bare = Mesh(mesh.vertices, mesh.faces)
    depths = render(bare, views.cameras, supersample=1).depths
    samples, face, _ = bare.sample(SAMPLES, torch.Generator().manual_seed(0))
    low, high = bare.bounds()
    tolerance = BEHIND * float((high - low).amax())
    normals, nearest_sample = face_normals(bare.vertices, bare.faces[face]), _finder(samples)
    colors, weights = mean_of_views(views, depths, samples, normals, tolerance)
    known = weights > 0
    if not bool(known.any()):
        raise ValueError("No view sees the surface.")
    nearest_known = _finder(samples[known])

    def color(points: Tensor) -> Tensor:
        means, weights = mean_of_views(views, depths, points, normals[nearest_sample(points)], tolerance)
        unseen = weights == 0
        means[unseen] = colors[known][nearest_known(points[unseen])]
        return means

    return color


@torch.no_grad()
def mean_of_views(
    views: Views, depths: Tensor, points: Tensor, normals: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Colours (points, 3) of surface points, and their weights (points,), which are 0 where no view sees one.

    Pixels that the object covers in part do not count.

    Args:
        depths: (views, 1, height, width) of the surface, one sample per pixel.
        points, normals: (points, 3), normals of length 1.
        tolerance: depth by which a point may lie behind what its pixel sees and still be taken for it.
    """
    total, weights = torch.zeros_like(points), torch.zeros_like(points[:, 0])
    for number, clip in enumerate(views.cameras.clip(points)):
        where = (clip[:, :2] / clip[:, 3:])[None, None]
        color = grid_sample(views.images[number][None], where, align_corners=False)[0, :, 0].T
        mask = grid_sample(views.masks[number][None], where, align_corners=False)[0, 0, 0]
        depth = grid_sample(depths[number][None], where, mode="nearest", align_corners=False)[0, 0, 0]
        cosine = (normals * normalize(views.cameras.positions[number] - points, dim=-1)).sum(-1)
        seen = (cosine > GRAZING) & (mask > 0.99) & ((clip[:, 3] - depth).abs() < tolerance)
        weight = cosine.square() * seen
        total, weights = total + weight[:, None] * color, weights + weight
    return total / weights.clamp(min=1e-6)[:, None], weights


def _finder(places: Tensor) -> Callable[[Tensor], Tensor]:
    """A function to the numbers of the nearest of places (places, 3)."""
    tree = cKDTree(places.cpu().numpy())
    return lambda points: torch.from_numpy(tree.query(points.cpu().numpy())[1]).to(points.device)
