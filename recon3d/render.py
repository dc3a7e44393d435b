"""Pictures of meshes: differentiable surfaces for the mesh stage, and antialiased pictures with known cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon3d.cameras import Cameras
from recon3d.mesh import Mesh
from recon3d.raster import Fragments, antialias, interpolate, opposite_vertices, rasterize, vertex_normals
from recon3d.views import Views


@dataclass(frozen=True)
class Surface:
    """What a camera sees of a mesh, channels last."""

    fragments: Fragments
    """Visibility."""
    position: Tensor
    """(fragments, 3) world points."""
    mask: Tensor
    """(height, width, 1) antialiased coverage."""
    depth: Tensor
    """(height, width, 1) along the optical axis, 0 outside."""
    normal: Tensor | None
    """(height, width, 3) antialiased and normalised; None when it was not asked for."""


def render_surface(
    vertices: Tensor,
    faces: Tensor,
    camera: Cameras,
    *,
    opposite: Tensor | None = None,
    normals: bool = True,
) -> Surface:
    """Rasterise a mesh for one camera as the mesh stage of GTR does, with gradients to the vertices (vertices, 3);
    faces and `opposite` are (faces, 3)."""
    clip = camera.clip(vertices)[0]
    fragments = rasterize(clip, faces, (camera.height, camera.width))
    opposite = opposite_vertices(faces) if opposite is None else opposite
    position = interpolate(vertices, faces, fragments)
    mask = antialias(fragments.mask[..., None], fragments, clip, faces, opposite)
    axis = camera.c2w[0, :3, 2]
    depth = fragments.scatter(((position - camera.c2w[0, :3, 3]) @ axis)[:, None])
    normal = None
    if normals:
        smooth = fragments.scatter(interpolate(vertex_normals(vertices, faces), faces, fragments))
        smooth = antialias(smooth, fragments, clip, faces, opposite)
        normal = torch.nn.functional.normalize(smooth, dim=-1)
    return Surface(fragments, position, mask, depth, normal)


@torch.no_grad()
def render(
    mesh: Mesh,
    cameras: Cameras,
    *,
    supersample: int = 2,
    color: Callable[[Tensor], Tensor] | None = None,
) -> Views:
    """Unlit pictures of a mesh on white.

    Args:
        supersample: samples per pixel side; their mean is the pixel.
        color: maps surface points (points, 3) to colours (points, 3); None takes the mesh's own colours.

    Returns:
        Views with masks (share of covered samples) and depths (mean over covered samples).
    """
    fine = cameras.resized(cameras.height * supersample, cameras.width * supersample).to(mesh.vertices.device)
    images, masks, depths = [], [], []
    for clip in fine.clip(mesh.vertices).float():
        fragments = rasterize(clip, mesh.faces, (fine.height, fine.width))
        if color is None:
            rgb = mesh.surface_color(fragments.visible, fragments.bary)
        else:
            rgb = color(interpolate(mesh.vertices, mesh.faces, fragments))
        images.append(fragments.scatter(rgb.clamp(0, 1), 1.0))
        masks.append(fragments.mask[..., None])
        depths.append(fragments.scatter(interpolate(clip[:, 3:], mesh.faces, fragments)))

    def shrink(pictures: list[Tensor]) -> Tensor:
        return torch.nn.functional.avg_pool2d(torch.stack(pictures).permute(0, 3, 1, 2), supersample)

    mask = shrink(masks)
    depth = torch.where(mask > 0, shrink(depths) / mask.clamp(min=1e-6), 0.0)
    return Views(shrink(images), mask, cameras.to(mesh.vertices.device), depth)
