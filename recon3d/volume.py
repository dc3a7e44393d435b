"""Ray sampling and volume rendering, as in the volume stage of GTR (no importance sampling, no view dependence)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MISS = 1e10
"""Near and far of a ray that misses the box."""


def ray_box(origins: Tensor, directions: Tensor, aabb: Tensor, min_near: float = 0.2) -> tuple[Tensor, Tensor]:
    """Entry and exit distances (..., 1) of rays (..., 3) through a box `aabb` (6,): minimum corner, maximum corner.

    The entry is at least `min_near`. Rays that miss get 1e10 for both.
    """
    inverse = 1 / torch.where(directions.abs() < 1e-15, torch.full_like(directions, 1e-15), directions)
    first, second = (aabb[:3] - origins) * inverse, (aabb[3:] - origins) * inverse
    near = torch.minimum(first, second).amax(-1, keepdim=True)
    far = torch.maximum(first, second).amin(-1, keepdim=True)
    miss = far < near
    near, far = torch.where(miss, MISS, near), torch.where(miss, MISS, far)
    return near.clamp(min=min_near), far


def sample_distances(
    near: Tensor, far: Tensor, num_samples: int, jitter: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Bin centres and bin lengths (rays, samples) between near and far (rays, 1).

    Args:
        jitter: (rays, samples + 1) or (rays, 1) uniform numbers in [0, 1); every bin edge moves between the mid-points
            to its neighbours (one column: all edges of a ray alike). None: uniform bins.
    """
    steps = torch.linspace(0, 1, num_samples + 1, dtype=near.dtype, device=near.device)
    edges = near + (far - near) * steps
    if jitter is not None:
        middle = (edges[:, 1:] + edges[:, :-1]) / 2
        lower = torch.cat([edges[:, :1], middle], -1)
        upper = torch.cat([middle, edges[:, -1:]], -1)
        edges = lower + (upper - lower) * jitter
    return (edges[:, 1:] + edges[:, :-1]) / 2, edges[:, 1:] - edges[:, :-1]


def composite(density: Tensor, rgb: Tensor, deltas: Tensor, background: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Colours (rays, 3), opacity (rays, 1) and weights (rays, samples) along rays.

    alpha = 1 - exp(-density * delta), transmittance = exp(-exclusive cumulative sum of density * delta).

    Args:
        density, deltas: (rays, samples). rgb: (rays, samples, 3). background: grey level behind everything.
    """
    thickness = density * deltas
    before = thickness.cumsum(-1) - thickness
    weights = (1 - torch.exp(-thickness)) * torch.exp(-before)
    opacity = weights.sum(-1, keepdim=True)
    return (weights.unsqueeze(-1) * rgb).sum(-2) + (1 - opacity) * background, opacity, weights


def render_rays(
    field: Callable[[Tensor], tuple[Tensor, Tensor]],
    origins: Tensor,
    directions: Tensor,
    aabb: Tensor,
    num_samples: int,
    *,
    jitter: Tensor | None = None,
    min_near: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Volume-render rays (rays, 3) on white.

    Args:
        field: maps points (points, 3) to densities (points,) and colours (points, 3).
        directions: unit directions.
        jitter: see `sample_distances`.

    Returns:
        Colours (rays, 3) and opacities (rays, 1). Rays that miss the box are white.
    """
    near, far = ray_box(origins, directions, aabb, min_near)
    hit = near < MISS
    if not hit.any():
        return torch.ones_like(origins), torch.zeros_like(near)
    # Missing rays borrow a range from the others, so that their points are finite; their density counts as zero.
    near = torch.where(hit, near, near[hit].min())
    far = torch.where(hit, far, far[hit].max())
    distances, deltas = sample_distances(near, far, num_samples, jitter)
    points = origins[:, None] + directions[:, None] * distances[..., None]
    density, rgb = field(points.view(-1, 3))
    density = density.view(distances.shape) * hit
    colour, opacity, _ = composite(density, rgb.view(*distances.shape, 3), deltas)
    return colour, opacity
