"""Texture atlases: unwrapping with xatlas, and painting from a colour field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import xatlas
from scipy import ndimage
from torch import Tensor

from recon3d.mesh import Mesh
from recon3d.raster import interpolate, rasterize
from recon3d.surfaces import simplify


def unwrap(mesh: Mesh) -> Mesh:
    """Lay the surface out in the unit square (xatlas); vertices double along the seams, colours follow."""
    vertices = np.ascontiguousarray(mesh.vertices.detach().cpu().numpy(), dtype=np.float32)
    source, faces, uv = xatlas.parametrize(vertices, mesh.faces.cpu().numpy().astype(np.uint32))
    source = torch.from_numpy(source.astype(np.int64)).to(mesh.faces.device)
    return Mesh(
        mesh.vertices[source],
        torch.from_numpy(faces.astype(np.int64)).to(mesh.faces.device),
        None if mesh.colors is None else mesh.colors[source],
        torch.from_numpy(uv.astype(np.float32)).to(mesh.vertices.device),
    )


@torch.no_grad()
def bake(
    mesh: Mesh, color: Callable[[Tensor], Tensor], size: int = 1024, max_faces: int = 10_000, chunk: int = 1 << 17
) -> Mesh:
    """Give the mesh a texture atlas painted by a colour field.

    Args:
        mesh: any mesh; simplified first when it has more than `max_faces` (unwrapping large meshes takes minutes).
        color: maps surface points (points, 3) to colours (points, 3) in [0, 1].
        size: texture side in pixels.
    """
    if len(mesh.faces) > max_faces:
        mesh = simplify(replace(mesh, colors=None, uv=None, textures=(), face_texture=None), max_faces)
    mesh = unwrap(replace(mesh, colors=None))
    texture, _, _ = paint_texture(mesh, color, size, chunk)
    return replace(
        mesh,
        textures=(texture,),
        face_texture=torch.zeros(len(mesh.faces), dtype=torch.int64, device=mesh.faces.device),
    )


def paint_texture(
    mesh: Mesh, color: Callable[[Tensor], Tensor], size: int, chunk: int = 1 << 17
) -> tuple[Tensor, Tensor, Tensor]:
    """Texture (size, size, 3) of an unwrapped mesh, with its surface points and their texels.

    Texels outside the charts copy their nearest neighbour inside, so that bilinear look-ups stay clean at seams.
    """
    flat = torch.cat([mesh.uv * 2 - 1, torch.zeros_like(mesh.uv[:, :1]), torch.ones_like(mesh.uv[:, :1])], -1)
    fragments = rasterize(flat, mesh.faces, (size, size))
    points = interpolate(mesh.vertices, mesh.faces, fragments)
    colors = torch.cat([color(part) for part in points.split(chunk)]).clamp(0, 1)
    filled = spread(fragments.scatter(colors), fragments.face_id >= 0)
    return filled.flip(0), points, fragments.pixel_index  # row 0 becomes v = 1


def spread(picture: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels of (height, width, channels) with their nearest known one, `known` (height, width) bool."""
    if bool(known.all()) or not bool(known.any()):
        return picture
    rows, columns = ndimage.distance_transform_edt(~known.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(rows).long(), torch.from_numpy(columns).long()
    return picture[rows.to(picture.device), columns.to(picture.device)]
