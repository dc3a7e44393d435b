"""Smooth surfaces: bumps are taken off a mesh, and gradients are smoothed so that vertices move together.

Lengths say how far smoothing reaches, in the units of the vertices; the mesh's own edges may be shorter or longer.
The Laplacian is the uniform one, a vertex minus the mean of its neighbours, so that triangles become even too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from recon3d.mesh import Mesh
from recon3d.surfaces import connected_parts


def laplacian(faces: Tensor, num_vertices: int) -> sparse.csc_matrix:
    """(vertices, vertices) a vertex minus the mean of its neighbours."""
    ends = faces.cpu().numpy()
    rows = np.concatenate([ends[:, [0, 1, 2]].ravel(), ends[:, [1, 2, 0]].ravel()])
    columns = np.concatenate([ends[:, [1, 2, 0]].ravel(), ends[:, [0, 1, 2]].ravel()])
    joined = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(num_vertices, num_vertices)).tocsr()
    joined.data[:] = 1
    degree = np.asarray(joined.sum(1)).ravel()
    return (sparse.identity(num_vertices) - sparse.diags(1 / np.maximum(degree, 1)) @ joined).tocsc()


def edge_length(vertices: Tensor, faces: Tensor) -> float:
    """Mean length of the edges of the faces (faces, 3) of vertices (vertices, 3)."""
    corners = vertices.detach()[faces]
    return float((corners - corners.roll(1, 1)).norm(dim=-1).mean())


def smooth(mesh: Mesh, length: float = 0.1) -> Mesh:
    """The mesh without bumps smaller than a few times `length`; its shape hardly shrinks.

    Minimises the squared distance to the given vertices plus the squared Laplacian: (I + (length / edge)^4 L^2) x = x0.
    """
    bend = laplacian(mesh.faces, len(mesh.vertices))
    strength = (length / edge_length(mesh.vertices, mesh.faces)) ** 4
    return replace(mesh, vertices=_solver(strength * (bend @ bend))(mesh.vertices.detach()))


def smoother(vertices: Tensor, faces: Tensor, length: float) -> Callable[[Tensor], Tensor]:
    """A function that smooths values (vertices, channels) of a mesh over `length`: (I + (length / edge)^2 L) x = x0.

    Descending along smoothed gradients keeps a surface smooth however far it moves (Nicolet, Jacobson and Jakob 2021,
    "Large steps in inverse rendering of geometry").
    """
    strength = (length / edge_length(vertices, faces)) ** 2
    return _solver(strength * laplacian(faces, len(vertices)))


def drop_crumbs(mesh: Mesh, share: float = 0.02) -> Mesh:
    """The mesh without connected parts that have less than `share` of the area of the largest."""
    part = connected_parts(mesh.faces, len(mesh.vertices))
    area = torch.zeros(int(part.max()) + 1, device=part.device).index_add(0, part, mesh.face_areas())
    return mesh.keep_faces((area >= share * area.max())[part])


def _solver(added: sparse.csc_matrix) -> Callable[[Tensor], Tensor]:
    """Solves (I + added) x = values, channel by channel, in float64."""
    factors = splu((sparse.identity(added.shape[0]) + added).tocsc())
    return lambda values: torch.from_numpy(factors.solve(values.detach().cpu().double().numpy())).to(values)
