"""Normals for files: smooth over curved surfaces, broken at sharp edges."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST_CORNERS = 64
"""Where more faces than this meet, one normal serves all."""


def split_at_creases(vertices: Tensor, faces: Tensor, degrees: float = 50.0) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices doubled along sharp edges, so that each has one normal.

    Args:
        vertices: (vertices, 3).
        faces: (faces, 3) int64.
        degrees: faces that meet at more than this do not share a normal.

    Returns:
        (new vertices,) int64 which old vertex each is; (faces, 3) int64; (new vertices, 3) unit normals.
    """
    _, place = torch.unique(vertices, dim=0, return_inverse=True)  # seams of textures are no edges
    a, b, c = vertices.double()[faces].unbind(1)
    crossed = torch.cross(b - a, c - a, dim=-1)
    unit = torch.nn.functional.normalize(crossed, dim=-1, eps=1e-30)
    face = torch.arange(len(faces)).repeat_interleave(3)
    corner, other = _pairs(place[faces].flatten())
    alike = (unit[face[corner]] * unit[face[other]]).sum(-1) > math.cos(math.radians(degrees))
    total = torch.zeros(3 * len(faces), 3, dtype=torch.float64)
    total.index_add_(0, corner[alike], crossed[face[other[alike]]])
    crowded = torch.bincount(place[faces].flatten())[place[faces].flatten()] > MOST_CORNERS
    smooth = torch.zeros(int(place.max()) + 1, 3, dtype=torch.float64).index_add_(
        0, place[faces].flatten(), crossed[face]
    )
    total[crowded] = smooth[place[faces].flatten()[crowded]]
    normals = torch.nn.functional.normalize(total, dim=-1, eps=1e-30)
    normals[normals.norm(dim=-1) < 0.5] = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    rounded = (normals * 1000).round().long()
    rows, index = torch.unique(torch.cat([faces.reshape(-1, 1), rounded], 1), dim=0, return_inverse=True)
    chosen = torch.empty(len(rows), 3, dtype=torch.float64)
    chosen[index] = normals
    return rows[:, 0], index.view(-1, 3), chosen.float()


def _pairs(group: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered pairs of members of the same group (members,), themselves included; large groups have none."""
    order = torch.argsort(group, stable=True)
    counts = torch.bincount(group)
    starts = counts.cumsum(0) - counts
    size = torch.where(counts > MOST_CORNERS, 0, counts)[group[order]]
    first = torch.arange(len(order)).repeat_interleave(size)
    within = torch.arange(len(first)) - (size.cumsum(0) - size).repeat_interleave(size)
    return order[first], order[starts[group[order[first]]] + within]
