"""Mesh rasterisation in plain torch: visibility without gradient, everything after it with gradient.

Conventions: clip space vertices (x, y, z, w) with w > 0 in front of the camera; the centre of pixel (row,
column) lies at
((column + 0.5) / width * 2 - 1, (row + 0.5) / height * 2 - 1), so row 0 is at y = -1; the nearest z / w wins; both
windings are drawn; triangles that reach behind the camera are dropped. nvdiffrast, when installed and on CUDA,
can do the visibility (`backend="nvdiffrast"`); barycentrics and antialiasing stay the same.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

Backend = Literal["auto", "torch", "nvdiffrast"]


@dataclass(frozen=True)
class Fragments:
    """What is visible in one picture."""

    face_id: Tensor
    """(height, width) int64, -1 where nothing is."""
    pixel_index: Tensor
    """(fragments,) int64 flat indices of the covered pixels."""
    bary: Tensor
    """(fragments, 3) perspective-correct barycentrics, differentiable."""
    depth: Tensor
    """(fragments,) z / w, without gradient."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.face_id.shape[0], self.face_id.shape[1]

    @property
    def visible(self) -> Tensor:
        """(fragments,) the face of every covered pixel."""
        return self.face_id.flatten()[self.pixel_index]

    def scatter(self, values: Tensor, background: float = 0.0) -> Tensor:
        """Put per-fragment values (fragments, channels) into a picture (height, width, channels)."""
        height, width = self.size
        canvas = values.new_full((height * width, values.shape[-1]), background)
        return canvas.index_copy(0, self.pixel_index, values).view(height, width, -1)

    @property
    def mask(self) -> Tensor:
        """(height, width) 1 where a triangle covers the pixel centre."""
        return (self.face_id >= 0).to(self.bary.dtype)


def rasterize(
    clip: Tensor, faces: Tensor, size: tuple[int, int], *, backend: Backend = "auto", chunk: int = 1 << 22
) -> Fragments:
    """Find the nearest triangle of every pixel and its barycentrics.

    Args:
        clip: (vertices, 4) clip space positions.
        faces: (faces, 3) int64.
        size: height and width.
        backend: who finds the visible triangles; "auto" takes nvdiffrast on CUDA when it is installed.
        chunk: most candidate (face, pixel) pairs tested at once; bounds the memory.
    """
    face_id = visible_faces(clip.detach(), faces, size, backend=backend, chunk=chunk)
    flat = face_id.flatten()
    pixel_index = (flat >= 0).nonzero().squeeze(-1)
    corners = gather(clip, faces[flat[pixel_index]])  # (fragments, 3, 4)
    bary = barycentrics(corners, pixel_index, size)
    with torch.no_grad():
        z, w = (bary * corners[..., 2]).sum(-1), (bary * corners[..., 3]).sum(-1)
    return Fragments(face_id, pixel_index, bary, z / w)


def gather(values: Tensor, index: Tensor) -> Tensor:
    """values[index] whose backward adds rows instead of sorting them."""
    return values.index_select(0, index.flatten()).view(*index.shape, *values.shape[1:])


def barycentrics(corners: Tensor, pixel_index: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 3) perspective-correct barycentrics of pixel centres from the homogeneous corners (n, 3, 4).

    With p_i = (x_i - u w_i, y_i - v w_i) the weights are the cross products of the other two corners, normalised;
    no division by w.
    """
    height, width = size
    w = corners[..., 3]
    u = ((pixel_index % width).to(w.dtype) + 0.5) * (2 / width) - 1
    v = ((pixel_index // width).to(w.dtype) + 0.5) * (2 / height) - 1
    x = corners[..., 0] - u[:, None] * w
    y = corners[..., 1] - v[:, None] * w
    areas = x.roll(-1, 1) * y.roll(-2, 1) - y.roll(-1, 1) * x.roll(-2, 1)
    return areas / areas.sum(-1, keepdim=True)


def visible_faces(
    clip: Tensor, faces: Tensor, size: tuple[int, int], *, backend: Backend = "auto", chunk: int = 1 << 22
) -> Tensor:
    """(height, width) int64 index of the nearest covering triangle, -1 where none."""
    if len(faces) == 0:
        return torch.full(size, -1, dtype=torch.int64, device=clip.device)
    if backend == "auto":
        backend = "nvdiffrast" if clip.is_cuda and importlib.util.find_spec("nvdiffrast") else "torch"
    if backend == "nvdiffrast":
        return _visible_nvdiffrast(clip, faces, size)
    return _visible_torch(clip, faces, size, chunk)


@cache
def _context(device: torch.device) -> Any:
    """nvdiffrast's context, whose buffers are costly to make, once per device."""
    import nvdiffrast.torch as dr

    return dr.RasterizeCudaContext(device=device)


def _visible_nvdiffrast(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
    import nvdiffrast.torch as dr

    image, _ = dr.rasterize(_context(clip.device), clip[None].float().contiguous(), faces.int().contiguous(), size)
    return image[0, ..., 3].long() - 1


@torch.no_grad()
def _visible_torch(clip: Tensor, faces: Tensor, size: tuple[int, int], chunk: int) -> Tensor:
    height, width = size
    w = clip[:, 3]
    in_front = w > 1e-8
    safe_w = torch.where(in_front, w, torch.ones_like(w))
    # Screen positions in pixels, with integers at the pixel centres.
    screen_x = (clip[:, 0] / safe_w + 1) * (width / 2) - 0.5
    screen_y = (clip[:, 1] / safe_w + 1) * (height / 2) - 0.5
    screen_z = clip[:, 2] / safe_w
    x, y = gather(screen_x, faces), gather(screen_y, faces)  # (faces, 3)
    left, right = x.amin(1).ceil().clamp(min=0), x.amax(1).floor().clamp(max=width - 1)
    top, bottom = y.amin(1).ceil().clamp(min=0), y.amax(1).floor().clamp(max=height - 1)
    drawn = (right >= left) & (bottom >= top) & in_front[faces].all(1)
    face = drawn.nonzero().squeeze(-1)
    x, y, z = x[face], y[face], gather(screen_z, faces[face])
    left, top = left[face].long(), top[face].long()
    columns = right[face].long() - left + 1
    counts = columns * (bottom[face].long() - top + 1)

    nearest = clip.new_full((height * width,), float("inf"))
    hits: list[tuple[Tensor, Tensor, Tensor]] = []
    for begin, end in _spans(counts, chunk):
        part = torch.repeat_interleave(torch.arange(begin, end, device=clip.device), counts[begin:end])
        first = counts[begin:end].cumsum(0) - counts[begin:end]
        offset = torch.arange(len(part), device=clip.device) - first[part - begin]
        wide = gather(columns, part)
        down = offset // wide
        row, column = gather(top, part) + down, gather(left, part) + (offset - down * wide)
        part, column, row, depth = _covered(x, y, z, part, column, row)
        pixel = row * width + column
        nearest.scatter_reduce_(0, pixel, depth, "amin")
        hits.append((pixel, depth, face[part]))
    # The lowest face index wins among equal depths, so that the result does not depend on the chunks.
    winner = torch.full_like(nearest, faces.shape[0], dtype=torch.int64)
    for pixel, depth, index in hits:
        front = depth == nearest[pixel]
        winner.scatter_reduce_(0, pixel[front], index[front], "amin")
    return torch.where(winner == faces.shape[0], -1, winner).view(height, width)


def _covered(
    x: Tensor, y: Tensor, z: Tensor, part: Tensor, column: Tensor, row: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Triangle, column and row of those candidates whose pixel centre lies in their triangle, and their depth there.

    What lies outside one edge is dropped before the next edge is looked at.
    """
    # Per-triangle edge functions a * column + b * row + c, oriented so that the inside is positive.
    a, b = y - y.roll(-1, 1), x.roll(-1, 1) - x
    area = b[:, 0] * (y[:, 2] - y[:, 0]) + a[:, 0] * (x[:, 2] - x[:, 0])
    sign = torch.where(area == 0, torch.nan, area.sign())  # without an area nothing is inside
    edges: list[Tensor] = []
    for corner in range(3):
        across = row - gather(y[:, corner], part)
        along = column - gather(x[:, corner], part)
        edge = gather(b[:, corner] * sign, part) * across + gather(a[:, corner] * sign, part) * along
        inside = (edge >= 0).nonzero().squeeze(-1)
        part, column, row, *edges = (gather(values, inside) for values in (part, column, row, *edges, edge))
    depth = torch.zeros_like(edges[0])
    for corner, edge in enumerate(edges):
        depth += edge * gather((1 / area.abs()) * z[:, (corner + 2) % 3], part)
    return part, column, row, depth


def _spans(counts: Tensor, chunk: int) -> list[tuple[int, int]]:
    """Cut the triangles into runs of at most `chunk` candidates each (at least one triangle)."""
    ends = counts.cumsum(0)
    spans, begin, used = [], 0, 0
    while begin < len(counts):
        end = int(torch.searchsorted(ends, used + chunk, right=True))
        end = max(end, begin + 1)
        spans.append((begin, end))
        begin, used = end, int(ends[end - 1])
    return spans


def interpolate(values: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """(fragments, channels) vertex values (vertices, channels) at the covered pixels."""
    return (gather(values, faces[fragments.visible]) * fragments.bary.unsqueeze(-1)).sum(1)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(faces, 3) unit normals; 0 where a face has no area."""
    a, b, c = gather(vertices, faces).unbind(1)
    return torch.nn.functional.normalize(torch.cross(b - a, c - a, dim=-1), dim=-1)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(vertices, 3) unit area-weighted normals; (0, 0, 1) where no face gives one."""
    corners = gather(vertices, faces)
    crossed = torch.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1)
    total = torch.zeros_like(vertices).index_add(0, faces.flatten(), crossed.repeat_interleave(3, 0))
    up = total.new_tensor([0.0, 0.0, 1.0])
    total = torch.where((total * total).sum(-1, keepdim=True) > 1e-20, total, up)
    return torch.nn.functional.normalize(total, dim=-1)


def opposite_vertices(faces: Tensor) -> Tensor:
    """(faces, 3) the vertex across each edge, -1 at a border; edge k runs from corner k to corner k + 1.

    Edges with more than two faces count as borders.
    """
    start, end, third = faces, faces.roll(-1, 1), faces.roll(-2, 1)
    low, high = torch.minimum(start, end).flatten(), torch.maximum(start, end).flatten()
    key, order = torch.sort(low * (int(faces.max()) + 1 if len(faces) else 1) + high, stable=True)
    third = third.flatten()[order]
    same = key[1:] == key[:-1]
    pad = same.new_zeros(1)
    with_next, with_previous = torch.cat([same, pad]), torch.cat([pad, same])
    two_before = torch.cat([pad, pad, key[2:] == key[:-2]])[: len(key)]
    two_after = torch.cat([key[2:] == key[:-2], pad, pad])[: len(key)]
    pair_first = with_next & ~with_previous & ~two_after
    pair_second = with_previous & ~with_next & ~two_before
    opposite = torch.full_like(third, -1)
    opposite = torch.where(pair_first, third.roll(-1), opposite)
    opposite = torch.where(pair_second, third.roll(1), opposite)
    return torch.empty_like(opposite).index_copy_(0, order, opposite).view(-1, 3)


def antialias(
    image: Tensor, fragments: Fragments, clip: Tensor, faces: Tensor, opposite: Tensor | None = None
) -> Tensor:
    """Blend pixels across silhouette edges, with gradients to the vertices that form them.

    For every pair of neighbouring pixels with different triangles, the silhouette edge of the front triangle that
    crosses between the two pixel centres says how much of one reaches over the other (nvdiffrast, Laine et al. 2020,
    section 3.6).

    Args:
        image: (height, width, channels).
        fragments: what is visible.
        clip: (vertices, 4) clip space positions.
        faces: (faces, 3).
        opposite: `opposite_vertices(faces)` when it is at hand.
    """
    height, width = fragments.size
    opposite = opposite_vertices(faces) if opposite is None else opposite
    ids = fragments.face_id
    depth = ids.new_full((height * width,), float("inf"), dtype=clip.dtype)
    depth = depth.index_copy(0, fragments.pixel_index, fragments.depth.to(clip.dtype)).view(height, width)
    index = torch.arange(height * width, device=ids.device).view(height, width)
    centre = clip.new_tensor([width / 2, height / 2])
    own, other, along = [], [], []
    for axis in (1, 0):
        near, far = (slice(None), slice(0, -1)), (slice(None), slice(1, None))
        if axis == 0:
            near, far = near[::-1], far[::-1]
        differs = ids[near] != ids[far]
        first, second = index[near][differs], index[far][differs]
        front = depth[near][differs] <= depth[far][differs]  # infinite where empty
        own.append(torch.where(front, first, second))
        other.append(torch.where(front, second, first))
        along.append(torch.full_like(first, 1 - axis))
    pixel, neighbour, axis = torch.cat(own), torch.cat(other), torch.cat(along)  # axis 0: x, 1: y
    pair, reach = _crossings(pixel, neighbour, axis, ids, clip, faces, opposite, centre)
    flat = image.reshape(height * width, -1)
    pixel, neighbour = pixel[pair], neighbour[pair]
    difference = gather(flat, neighbour) - gather(flat, pixel)
    # The sign of the weight turns with the target: below half the own pixel gives way, above it the neighbour does.
    target = torch.where(reach < 0.5, pixel, neighbour)
    return flat.index_add(0, target, difference * (0.5 - reach)[:, None]).view(image.shape)


def _crossings(
    pixel: Tensor,
    neighbour: Tensor,
    axis: Tensor,
    ids: Tensor,
    clip: Tensor,
    faces: Tensor,
    opposite: Tensor,
    half: Tensor,
) -> tuple[Tensor, Tensor]:
    """Which pairs a silhouette edge crosses, and how far (0 to 1) from the own centre toward the neighbour."""
    width = ids.shape[1]
    face = ids.flatten()[pixel]
    step = (neighbour - pixel).sign().to(clip.dtype)
    centre = torch.stack([pixel % width, pixel // width], -1).to(clip.dtype) + 0.5

    def local(vertices: Tensor) -> Tensor:  # (pairs, k) -> (pairs, k, 2): along toward the neighbour, across
        corner = gather(clip, vertices)
        xy = (corner[..., :2] / corner[..., 3:] + 1) * half - centre[:, None]
        swapped = torch.where(axis[:, None, None] == 1, xy.flip(-1), xy)
        return swapped * torch.stack([step, torch.ones_like(step)], -1)[:, None]

    corners = local(faces[face])
    start, end, third = corners, corners.roll(-1, 1), corners.roll(-2, 1)
    with torch.no_grad():
        across = opposite[face]
        beyond = local(across.clamp(min=0))
        silhouette = (across < 0) | (_side(start, end, third) * _side(start, end, beyond) > 0)
        delta = end - start
        crosses = (start[..., 1] >= 0) != (end[..., 1] >= 0)
        upright = delta[..., 1].abs() >= delta[..., 0].abs()
        counts = silhouette & upright
    # The line between the centres leaves the triangle at its farthest edge; that edge must form the outline.
    safe = torch.where(crosses, end[..., 1] - start[..., 1], torch.ones_like(end[..., 1]))
    distance = start[..., 0] - start[..., 1] * (end[..., 0] - start[..., 0]) / safe
    distance, edge = torch.where(crosses, distance, torch.full_like(distance, -float("inf"))).max(dim=1)
    accepted = (distance > -1 / 16) & (distance < 1 + 1 / 16) & counts.gather(1, edge[:, None])[:, 0]
    pair = accepted.nonzero().squeeze(-1)
    return pair, distance[pair].clamp(0, 1)


def _side(start: Tensor, end: Tensor, point: Tensor) -> Tensor:
    """Twice the signed area of (start, end, point), each (..., 2)."""
    first, second = end - start, point - start
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
