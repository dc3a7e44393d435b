"""Fewer faces, and no hidden ones: simplification, visibility, connected parts."""

from __future__ import annotations

from dataclasses import replace

import fast_simplification
import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree
from torch import Tensor

from recon3d.cameras import Cameras, surround
from recon3d.mesh import Mesh, merge_vertices
from recon3d.raster import visible_faces


def simplify(mesh: Mesh, num_faces: int) -> Mesh:
    """Quadric simplification to about `num_faces` faces; vertices take the colour of the nearest old surface."""
    vertices, merged = merge_vertices(mesh.vertices.cpu(), mesh.faces.cpu())
    faces = merged
    if len(merged) > num_faces:
        new_vertices, new_faces = fast_simplification.simplify(
            vertices.float().numpy(), merged.int().numpy(), target_count=num_faces
        )
        vertices, faces = torch.from_numpy(new_vertices), torch.from_numpy(new_faces).long()
    simpler = Mesh(vertices.to(mesh.vertices), faces.to(mesh.faces.device))
    if not bool(folded(merged).any()):  # two-sided sheets are meant to be so; folds made here are not
        simpler = simpler.keep_faces(~folded(simpler.faces))
    return replace(simpler, colors=nearest_color(mesh, simpler.vertices))


def folded(faces: Tensor) -> Tensor:
    """(faces,) bool: pairs of faces (faces, 3) on the same three corners, which enclose nothing."""
    _, group, counts = torch.unique(faces.sort(1).values, dim=0, return_inverse=True, return_counts=True)
    return counts[group] % 2 == 0


def nearest_color(mesh: Mesh, points: Tensor, samples: int = 200_000) -> Tensor:
    """(points, 3) colours of the nearest of many surface samples of the mesh."""
    generator = torch.Generator().manual_seed(0)
    surface, face, bary = mesh.sample(samples, generator)
    _, nearest = cKDTree(surface.cpu().numpy()).query(points.detach().cpu().numpy())
    nearest = torch.from_numpy(nearest).to(face.device)
    return mesh.surface_color(face[nearest], bary[nearest])


def seen_faces(mesh: Mesh, cameras: Cameras | None = None) -> Tensor:
    """(faces,) bool: visible in at least one pixel of the cameras (48 views around the unit box by default)."""
    cameras = surround() if cameras is None else cameras
    seen = torch.zeros(len(mesh.faces), dtype=torch.bool, device=mesh.faces.device)
    for clip in cameras.to(mesh.vertices.device).clip(mesh.vertices.detach().float()):
        ids = visible_faces(clip, mesh.faces, (cameras.height, cameras.width))
        seen[ids[ids >= 0]] = True
    return seen


def drop_hidden(mesh: Mesh, cameras: Cameras | None = None, *, whole_parts: bool = True) -> Mesh:
    """Remove surfaces that no camera can see, such as shells inside a solid.

    Args:
        cameras: who looks; 48 views around the unit box by default.
        whole_parts: drop only connected parts of which nothing is seen, so that closed surfaces stay closed; otherwise
            every single face that is not seen goes.
    """
    seen = seen_faces(mesh, cameras)
    if not seen.any():
        return mesh
    if whole_parts:
        part = connected_parts(mesh.faces, len(mesh.vertices))
        visible = torch.zeros(int(part.max()) + 1, dtype=torch.bool, device=part.device)
        visible[part[seen]] = True
        seen = visible[part]
    return mesh.keep_faces(seen)


def connected_parts(faces: Tensor, num_vertices: int) -> Tensor:
    """(faces,) number of the connected part each face belongs to."""
    ends = faces.cpu().numpy()
    rows, columns = np.concatenate([ends[:, 0], ends[:, 1]]), np.concatenate([ends[:, 1], ends[:, 2]])
    graph = sparse.coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(num_vertices, num_vertices))
    _, labels = sparse.csgraph.connected_components(graph, directed=False)
    return torch.from_numpy(labels[ends[:, 0]].astype(np.int64)).to(faces.device)
