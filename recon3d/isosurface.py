"""Differentiable marching cubes: topology from scikit-image, vertex positions recomputed from the grid values.

A surface vertex lies on a grid edge whose ends have opposite signs; its place on the edge is a function of the
two values
alone, so gradients reach exactly those values. That also allows a sparse evaluation: values of the whole grid without
gradient decide the topology, then only the ends of cut edges are evaluated again with gradient (`extract_sparse`).

The signed distance is negative inside. The grid is padded with one ring outside the surface, so that shapes
cut by the box are closed; vertices may lie up to one cell outside.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import marching_cubes
from torch import Tensor

RING = 1.0
"""Signed distance on the padding ring around the grid."""


@dataclass(frozen=True)
class Topology:
    """Which grid edges a surface cuts and how its vertices are joined."""

    edge_lo: Tensor
    """(edges, 3) int64 grid indices of the lower ends, -1 or n on the padding ring."""
    edge_hi: Tensor
    """(edges, 3) int64 grid indices of the upper ends."""
    members: Tensor
    """(centres, 12) int64 indices of cut edges, -1 where there are fewer: vertices in the middle of an ambiguous
    cell, the mean of its cut edges; they follow after the edge vertices."""
    faces: Tensor
    """(faces, 3) int64, outward normals."""
    resolution: tuple[int, int, int]
    """The grid's size."""

    def positions(self, lo_values: Tensor, hi_values: Tensor) -> Tensor:
        """(vertices, 3) in grid-index units from the signed distances (edges,) at both ends of the cut edges."""
        difference = hi_values - lo_values
        flat = difference == 0
        safe = torch.where(flat, torch.ones_like(difference), difference)
        t = torch.where(flat, 0.5, (-lo_values / safe).clamp(0, 1))
        on_edges = self.edge_lo + t[:, None] * (self.edge_hi - self.edge_lo).to(t.dtype)
        if len(self.members) == 0:
            return on_edges
        used = (self.members >= 0).to(t.dtype).unsqueeze(-1)
        centres = (on_edges[self.members.clamp(min=0)] * used).sum(1) / used.sum(1)
        return torch.cat([on_edges, centres])

    def to_world(self, positions: Tensor) -> Tensor:
        """Map positions (positions, 3) in grid-index units to the box [-1, 1]^3."""
        return positions * (2 / (positions.new_tensor(self.resolution) - 1)) - 1


def find_topology(sdf: Tensor) -> Topology:
    """Find the zero surface of a grid (nx, ny, nz) of signed distances, negative inside. No gradient.

    A grid without a sign change (counting the ring) gives no vertices and no faces.
    """
    # Only signs matter for which edges are cut. Squeezing the magnitudes keeps every vertex clearly off the grid points
    # in scikit-image's float32 output, so that its edge can be read off its coordinates.
    resolution, exact = tuple(sdf.shape), torch.float32 if sdf.device.type == "mps" else torch.float64
    padded = torch.nn.functional.pad(sdf.detach().to(exact), (1,) * 6, value=RING)
    magnitude = 0.05 + padded.abs() / (1 + padded.abs())
    squeezed = torch.where(padded < 0, -magnitude, magnitude).float().cpu().numpy()
    inside = squeezed < 0
    if not inside.any():
        empty = torch.zeros(0, 3, dtype=torch.int64, device=sdf.device)
        return Topology(empty, empty, empty.new_zeros(0, 12), empty, resolution)
    found, faces, _, _ = marching_cubes(squeezed, 0.0)
    rounded = np.rint(found)
    offset = np.abs(found - rounded)
    axis = offset.argmax(1)
    rows = np.arange(len(found))
    base = rounded.astype(np.int64)
    base[rows, axis] = np.floor(found[rows, axis]).astype(np.int64)
    tip = base.copy()
    tip[rows, axis] += 1
    at_edge = (np.sort(offset, axis=1)[:, 1] < 1e-3) & (inside[tuple(base.T)] != inside[tuple(tip.T)])
    # Vertices come once per edge; skimage merges those of neighbouring cells.
    order = np.concatenate([rows[at_edge], rows[~at_edge]])
    number = np.empty_like(order)
    number[order] = rows
    edges = at_edge.sum()
    lo, hi = base[at_edge], tip[at_edge]
    members = _centres(found[~at_edge], lo, hi, inside)
    faces = number[faces.astype(np.int64)]
    device = sdf.device
    return Topology(
        torch.from_numpy(lo - 1).to(device),
        torch.from_numpy(hi - 1).to(device),
        torch.from_numpy(members).to(device),
        torch.from_numpy(faces[_proper(faces, edges)]).to(device),
        resolution,
    )


def _proper(faces: np.ndarray, edges: int) -> np.ndarray:
    """Faces with three different corners."""
    return (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])


def _centres(found: np.ndarray, lo: np.ndarray, hi: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(centres, 12) the cut edges around the cell of every vertex that lies on none."""
    members = np.full((len(found), 12), -1, dtype=np.int64)
    if len(found) == 0:
        return members
    shape = inside.shape
    axis = (hi - lo).argmax(1)
    key = np.ravel_multi_index(tuple(lo.T), shape) * 3 + axis
    order = np.argsort(key)
    sorted_key = key[order]
    for row, cell in enumerate(np.floor(found).astype(np.int64)):
        wanted = []
        for direction in range(3):
            others = [other for other in range(3) if other != direction]
            for first in (0, 1):
                for second in (0, 1):
                    corner = cell.copy()
                    corner[others[0]] += first
                    corner[others[1]] += second
                    wanted.append(np.ravel_multi_index(tuple(corner), shape) * 3 + direction)
        place = np.searchsorted(sorted_key, wanted).clip(max=len(sorted_key) - 1)
        hit = sorted_key[place] == wanted
        members[row, : hit.sum()] = order[place[hit]]
    return members


def _values_at(sdf: Tensor, index: Tensor) -> Tensor:
    """Signed distances at grid indices (points, 3), the ring's value outside."""
    size = torch.tensor(sdf.shape, device=sdf.device)
    outside = ((index < 0) | (index >= size)).any(-1)
    clamped = torch.minimum(index.clamp(min=0), size - 1)
    flat = (clamped[:, 0] * size[1] + clamped[:, 1]) * size[2] + clamped[:, 2]
    return torch.where(outside, RING, sdf.flatten().index_select(0, flat))


def extract_surface(density: Tensor, level: float = 10.0, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """The surface density = level of a grid over [-1, 1]^3, dense inside.

    Args:
        density: (nx, ny, nz), index order x, y, z.
        level: iso value; signed distance is level - density.
        backend: "torch", or "diso" (CUDA), or "auto": diso on CUDA when it is installed.

    Returns:
        vertices (vertices, 3), differentiable in `density`, and faces (faces, 3) int64. Both empty without a surface.
    """
    sdf = level - density
    if backend == "auto":
        backend = "diso" if density.is_cuda and importlib.util.find_spec("diso") else "torch"
    if backend == "diso":
        return _extract_diso(sdf)
    topology = find_topology(sdf)
    positions = topology.positions(_values_at(sdf, topology.edge_lo), _values_at(sdf, topology.edge_hi))
    return topology.to_world(positions), topology.faces


def _extract_diso(sdf: Tensor) -> tuple[Tensor, Tensor]:
    from diso import DiffMC

    # The ring is added here: diso gives nothing for a grid without a sign change, before it adds its own.
    kind = torch.promote_types(sdf.dtype, torch.float32)  # it has no half precision
    ringed = torch.nn.functional.pad(sdf.to(kind), (1,) * 6, value=RING)
    vertices, faces = DiffMC(dtype=kind).to(sdf.device)(ringed, None, isovalue=0.0)
    index = vertices * (vertices.new_tensor(ringed.shape) - 1) - 1
    return (index * (2 / (vertices.new_tensor(sdf.shape) - 1)) - 1).to(sdf.dtype), faces.long()


def grid_points(resolution: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
    """(nx * ny * nz, 3) grid points of the box [-1, 1]^3, index order x, y, z."""
    axes = [torch.linspace(-1, 1, count, device=device) for count in resolution]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)


def extract_sparse(
    density: Callable[[Tensor], Tensor], grid: Tensor, level: float = 10.0, fixed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Like `extract_surface` of `grid`, with gradients into the field that made it.

    Only the ends of cut edges are evaluated with gradient; the gradient equals that of the dense evaluation.

    Args:
        density: maps points (points, 3) to densities (points,), differentiable.
        grid: (nx, ny, nz) its values on the grid, without gradient.
        level: iso value.
        fixed: (nx, ny, nz) bool, where the values of `grid` stand although the field says otherwise.
    """
    topology = find_topology(level - grid)
    if len(topology.faces) == 0:
        return grid.new_zeros(0, 3), topology.faces
    _, ny, nz = topology.resolution
    ends = torch.cat([topology.edge_lo, topology.edge_hi])
    size = torch.tensor(topology.resolution, device=grid.device)
    outside = ((ends < 0) | (ends >= size)).any(-1)
    flat = (ends[:, 0] * ny + ends[:, 1]) * nz + ends[:, 2]
    unique, inverse = torch.unique(torch.where(outside, -1, flat), return_inverse=True)
    index = torch.stack([unique // (ny * nz), unique // nz % ny, unique % nz], -1)
    points = index.to(grid.dtype) * (2 / (size.to(grid.dtype) - 1)) - 1
    ring = unique < 0
    held = ring if fixed is None else ring | fixed.flatten()[unique.clamp(min=0)]
    known = torch.where(ring, RING, level - grid.flatten()[unique.clamp(min=0)])
    values = known.index_copy(0, (~held).nonzero().squeeze(-1), level - density(points[~held]))
    lo, hi = values.index_select(0, inverse).chunk(2)
    return topology.to_world(topology.positions(lo, hi)), topology.faces


def solid_core(inside: Tensor, allowed: Tensor | None = None, gap: int = 2, skin: int = 2) -> Tensor:
    """(nx, ny, nz) bool: grid points deep inside a shape, cavities and narrow pits included.

    What pictures never see is undetermined: fitted densities are full of hollows. Calling their place solid removes the
    surfaces in there.

    Args:
        inside: (nx, ny, nz) bool.
        allowed: (nx, ny, nz) bool; nothing outside is called solid (a visual hull keeps true gaps open).
        gap: openings up to twice this many grid points wide are closed first.
        skin: layers under the outer surface that stay as they are.
    """
    found = inside.nonzero()
    if len(found) == 0:
        return torch.zeros_like(inside)
    margin = gap + 1
    low, high = found.amin(0).tolist(), (found.amax(0) + 1).tolist()
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    padded = np.pad(inside[window].cpu().numpy(), margin)
    closed = ndimage.binary_closing(padded, iterations=gap)
    labels, _ = ndimage.label(~closed)
    filled = labels != labels[0, 0, 0]
    deep = ndimage.binary_erosion(filled, iterations=skin)[(slice(margin, -margin),) * 3]
    core = torch.zeros_like(inside)
    core[window] = torch.from_numpy(deep).to(inside.device)
    return core if allowed is None else core & allowed
