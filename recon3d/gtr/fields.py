"""Density and colour from triplane features.

Planes in the order xy, xz, yz; the first coordinate runs along the width of a plane, the second along its
height. Bilinear look-up with border padding, pixel centres not aligned with the box corners. MLP inputs are
channel-major (index = channel * 3 + plane). Parameter names are those of the published checkpoint.

s: scenes, n: points, c: channels per plane, h, w: plane size; MLPs map features (s, n, 3 * c) to (s, n, outputs)
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

COLOR_MARGIN = 0.001
"""Colours reach this far beyond [0, 1], so that pure black and white need no infinite logits."""


def sample_triplane(code: Tensor, points: Tensor) -> Tensor:
    """(s, n, 3c) features of points (s, n, 3) in [-1, 1]^3 from triplanes (s, 3, c, h, w)."""
    s, _, c, h, w = code.shape
    n = points.shape[1]
    planes = torch.stack([points[..., [0, 1]], points[..., [0, 2]], points[..., [1, 2]]], dim=1)  # s 3 n 2
    sampled = nn.functional.grid_sample(
        code.reshape(s * 3, c, h, w), planes.view(s * 3, 1, n, 2), padding_mode="border", align_corners=False
    )  # 3s c 1 n
    return sampled.view(s, 3, c, n).permute(0, 3, 2, 1).reshape(s, n, 3 * c)


class MLP(nn.Module):
    """Linear layers with GELU between them."""

    def __init__(self, in_features: int, out_features: int, width: int, num_layers: int) -> None:
        super().__init__()
        sizes = [in_features] + [width] * (num_layers - 1) + [out_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        for layer in self.layers[:-1]:
            x = nn.functional.gelu(layer(x))
        return self.layers[-1](x)


class PointDecoder(nn.Module):
    """Two MLPs, one for density and one for colour, so that colour can be refined alone."""

    def __init__(self, channels: int, width: int, sigma_layers: int, color_layers: int) -> None:
        super().__init__()
        self.mlp_sigma = MLP(3 * channels, 1, width, sigma_layers)
        self.mlp_color = MLP(3 * channels, 3, width, color_layers)


class TriplaneField(nn.Module):
    """The GTR field: density >= 0 and colour in about [0, 1] from a triplane and points.

    Args:
        channels: channels per plane.
        width: hidden width of both MLPs.
        sigma_layers, color_layers: linear layers of the density and the colour MLP.
    """

    def __init__(self, channels: int = 40, width: int = 32, sigma_layers: int = 3, color_layers: int = 4) -> None:
        super().__init__()
        self.register_buffer("aabb", torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]))
        self.decoder = nn.ModuleDict({"field": PointDecoder(channels, width, sigma_layers, color_layers)})

    @property
    def mlp_sigma(self) -> MLP:
        """The density MLP."""
        return self.decoder["field"].mlp_sigma

    @property
    def mlp_color(self) -> MLP:
        """The colour MLP."""
        return self.decoder["field"].mlp_color

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Xavier-uniform weights and zero biases, as published; `generator` draws on its own device."""
        where = "cpu" if generator is None else generator.device
        for module in self.modules():
            if isinstance(module, nn.Linear):
                drawn = torch.empty_like(module.weight, device=where)
                nn.init.xavier_uniform_(drawn, generator=generator)
                with torch.no_grad():
                    module.weight.copy_(drawn)
                nn.init.zeros_(module.bias)

    def decode_density(self, features: Tensor) -> Tensor:
        """Density (..., 1) from point features (..., 3c)."""
        return nn.functional.softplus(self.mlp_sigma(features))

    def decode_color(self, features: Tensor) -> Tensor:
        """RGB (..., 3) from point features (..., 3c)."""
        return torch.sigmoid(self.mlp_color(features)) * (1 + 2 * COLOR_MARGIN) - COLOR_MARGIN

    def density(self, code: Tensor, points: Tensor) -> Tensor:
        """(n,) density of one scene: code (3, c, h, w), points (n, 3)."""
        return self.decode_density(sample_triplane(code[None], points[None])).flatten()

    def color(self, code: Tensor, points: Tensor) -> Tensor:
        """(n, 3) colour of one scene: code (3, c, h, w), points (n, 3)."""
        return self.decode_color(sample_triplane(code[None], points[None]))[0]

    def forward(self, code: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density (s, n, 1) and colour (s, n, 3) of points (s, n, 3) in triplanes (s, 3, c, h, w)."""
        features = sample_triplane(code, points)
        return self.decode_density(features), self.decode_color(features)


@torch.no_grad()
def grid_density(field: TriplaneField, code: Tensor, resolution: int, slab_points: int = 1 << 16) -> Tensor:
    """(n, n, n) density of one scene (3, c, h, w) on the grid points of [-1, 1]^3, index order x, y, z, no gradient.

    On a grid the features of a plane depend on two coordinates only, so the planes are sampled and sent through
    the first layer as n x n maps; their sum over the grid equals `density` up to rounding, at a fraction of the work.
    """
    first, *rest = field.mlp_sigma.layers
    axis = torch.linspace(-1, 1, resolution, device=code.device, dtype=code.dtype)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    where = torch.stack([u, v], -1).expand(3, -1, -1, -1)
    maps = nn.functional.grid_sample(code, where, padding_mode="border", align_corners=False)  # 3 c n(v) n(u)
    weight = first.weight.view(first.out_features, -1, 3)  # width c 3
    xy, xz, yz = torch.einsum("pcvu,wcp->puvw", maps, weight)  # n(u) n(v) width
    slices = []
    for start in range(0, resolution, max(1, slab_points // resolution**2)):
        part = slice(start, start + max(1, slab_points // resolution**2))
        x = xy[part, :, None] + xz[part, None] + (yz + first.bias)
        for layer in rest:
            x = layer(nn.functional.gelu(x))
        slices.append(nn.functional.softplus(x[..., 0]))
    return torch.cat(slices)
