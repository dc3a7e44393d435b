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
from recon3d.raster import vertex_normals, visible_faces

AGGRESSIONS = (7, 5, 3, 1)
"""How quickly the simplification gives up accuracy, from its default on."""


def simplify(mesh: Mesh, num_faces: int) -> Mesh:
    """Quadric simplification to at most `num_faces` faces; vertices take the colour of the nearest old surface.

    A closed surface stays closed and manifold where that can be had: where its parts come to touch they are parted
    again, and where the fast way fails, more careful ones are tried. If none of them keeps it closed, the most careful
    one that comes down to `num_faces` counts. A mesh that has no more faces comes back as it is.
    """
    if len(mesh.faces) <= num_faces:
        return mesh
    plain = Mesh(*merge_vertices(mesh.vertices.cpu(), mesh.faces.cpu()))
    middle = plain.vertices.mean(0) * (plain.vertices.dtype == torch.float64)  # far from the origin float32 is coarse
    simpler, tries, flawless = plain, [], not plain.surface_notes()
    for aggression in AGGRESSIONS if len(plain.faces) > num_faces else ():
        vertices, faces = fast_simplification.simplify(
            (plain.vertices - middle).float().numpy(), plain.faces.int().numpy(), target_count=num_faces, agg=aggression
        )
        simpler = Mesh(torch.from_numpy(vertices).to(middle) + middle, torch.from_numpy(faces).long())
        if not flawless:
            break
        simpler = parted(simpler.keep_faces(~folded(simpler.faces)))
        if not simpler.surface_notes() and len(simpler.faces) <= num_faces:
            break
        tries.append(simpler)
    else:
        simpler = min(reversed(tries), key=lambda mesh: max(len(mesh.faces), num_faces), default=plain)
    simpler = simpler.to(mesh.vertices.device)
    return replace(simpler, colors=nearest_color(mesh, simpler.vertices))


def folded(faces: Tensor) -> Tensor:
    """(faces,) bool: pairs of faces (faces, 3) on the same three corners, which enclose nothing."""
    _, group, counts = torch.unique(faces.sort(1).values, dim=0, return_inverse=True, return_counts=True)
    return counts[group] % 2 == 0


PARTED = 1e-3
"""How far sheets that touched are moved apart, in mean lengths of an edge."""


def parted(mesh: Mesh) -> Mesh:
    """The bare mesh, with sheets that touch along an edge parted: where a thin handle or wall has collapsed, an edge
    belongs to four faces.

    Its vertices are doubled, one for each sheet, and moved a little into their sheets. Sheets that change sides along
    such an edge stay open there.
    """
    faces, count = mesh.faces.cpu().numpy(), len(mesh.faces)
    ends = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2), 1)  # edge 3 f + k: from corner k of f
    _, edge, times = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    edge = edge.ravel()
    touching = np.unique(ends[times[edge] > 2])
    if not len(touching):
        return mesh
    order = np.argsort(edge, kind="stable")
    pairs = np.flatnonzero((edge[order][:-1] == edge[order][1:]) & (times[edge[order]][:-1] == 2))
    rows, columns = [], []  # corners at one vertex, of faces that share an ordinary edge
    for near, far in ((0, 0), (0, 1), (1, 0), (1, 1)):
        one, other = (
            flat - flat % 3 + (flat % 3 + step) % 3 for flat, step in ((order[pairs], near), (order[pairs + 1], far))
        )
        same = faces.ravel()[one] == faces.ravel()[other]
        rows.append(one[same])
        columns.append(other[same])
    graph = (np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns)))
    _, sheet = sparse.csgraph.connected_components(
        sparse.coo_matrix(graph, shape=(3 * count, 3 * count)), directed=False
    )
    known = len(mesh.vertices)
    kept, first, number = np.unique(
        np.where(np.isin(faces.ravel(), touching), known + sheet, faces.ravel()), return_index=True, return_inverse=True
    )
    source = torch.from_numpy(faces.ravel()[first]).to(mesh.faces.device)
    made = Mesh(mesh.vertices[source], torch.from_numpy(number.reshape(-1, 3)).to(mesh.faces.device))
    inwards = -vertex_normals(made.vertices, made.faces)
    doubled = torch.from_numpy(kept >= known).to(inwards.device).unsqueeze(-1)
    corners = made.vertices[made.faces]
    length = (corners - corners.roll(1, 1)).norm(dim=-1).mean()
    return Mesh(made.vertices + PARTED * length * inwards * doubled, made.faces)


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
    for clip in cameras.to(mesh.vertices.device).clip(mesh.vertices.detach()).float():
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
