"""The GTR generator: posed pictures to a triplane.

Patch embedding of ten channels (RGB, unit ray direction, Pluecker moment, mask), pure self-attention over
plane tokens and image tokens, 1x1 convolution and pixel shuffle. Parameter names are those of the published checkpoint,
odd ones included.

b: scenes, v: views, t: tokens, d: model channels, p: plane resolution, f: upsampling factor;
blocks take and give (b, t, d)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon3d.cameras import Cameras, moments


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of the generator; the defaults are the published ones."""

    in_channels: int = 10
    """RGB 3, direction 3, moment 3, and the mask 1 (left out with 9)."""
    plane_resolution: tuple[int, int] = (32, 32)
    """Plane tokens per column and row."""
    out_channels: int = 40
    """Channels of a finished plane."""
    patch_size: int = 16
    """Pixels per image token side."""
    model_channels: int = 1024
    """Token width."""
    num_layers: int = 24
    """Transformer blocks."""
    num_heads: int = 16
    """Attention heads."""
    num_head_channels: int = 64
    """Channels per head."""
    upsample_factor: int = 8
    """Pixels of a finished plane per plane token side."""
    gated: bool = True
    """GEGLU feed-forward; plain GELU otherwise."""
    norm_image_tokens: bool = True
    """LayerNorm after the patch embedding."""

    def __post_init__(self) -> None:
        if self.in_channels not in (9, 10):
            raise ValueError(f"in_channels must be 10, or 9 without the mask, got {self.in_channels}.")
        sizes = (*self.plane_resolution, self.out_channels, self.patch_size, self.model_channels, self.num_layers)
        if min(*sizes, self.num_heads, self.num_head_channels, self.upsample_factor) < 1:
            raise ValueError("All sizes of the generator must be at least 1.")


def condition(images: Tensor, masks: Tensor, cameras: Cameras) -> Tensor:
    """(v, 10, height, width) generator input from images (v, 3, height, width) on white and masks (v, 1, ...)."""
    origins, directions = cameras.rays()
    moment = moments(origins, directions)
    return torch.cat([images, directions.permute(0, 3, 1, 2), moment.permute(0, 3, 1, 2), masks], dim=1)


class Attention(nn.Module):
    """Multi-head self-attention; only the output projection has a bias."""

    def __init__(self, channels: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_channels
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(channels, inner, bias=False)
        self.to_v = nn.Linear(channels, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, channels), nn.Dropout(0.0)])  # names of the checkpoint

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        b, t, _ = x.shape
        q, k, v = (to(x).view(b, t, self.heads, -1).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](mixed.transpose(1, 2).reshape(b, t, -1))


class GatedGELU(nn.Module):
    """value * GELU(gate); the projection gives the value first."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * nn.functional.gelu(gate)


class FeedForward(nn.Module):
    """Four times wider hidden layer, gated or not."""

    def __init__(self, channels: int, gated: bool) -> None:
        super().__init__()
        inner = 4 * channels
        first = GatedGELU(channels, inner) if gated else nn.Sequential(nn.Linear(channels, inner), nn.GELU())
        self.net = nn.Sequential(first, nn.Dropout(0.0), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        d = config.model_channels
        self.self_attn = Attention(d, config.num_heads, config.num_head_channels)
        self.ff = FeedForward(d, config.gated)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x))
        return x + self.ff(self.norm2(x))


class Upsampler(nn.Module):
    """1x1 convolution and pixel shuffle."""

    def __init__(self, channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, out_channels * factor * factor, 1)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:  # (b, d, p, p) -> (b, out, p * f, p * f)
        return nn.functional.pixel_shuffle(self.proj(x), self.factor)


class Generator(nn.Module):
    """Triplanes (b, 3, out, p * f, p * f) from conditioned views (b, v, 10, height, width)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        d = config.model_channels
        self.planes = nn.Parameter(torch.randn(1, 3, d, *config.plane_resolution) * d**-0.5)
        self.conv_proj = nn.Conv2d(config.in_channels, d, config.patch_size, config.patch_size, bias=False)
        self.norm1 = nn.LayerNorm(d) if config.norm_image_tokens else nn.Identity()
        self.norm2 = nn.LayerNorm(d)
        self.attn_layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.out = Upsampler(d, config.out_channels, config.upsample_factor)
        self.gradient_checkpointing = False

    def image_tokens(self, conditioned: Tensor) -> Tensor:
        """(b, v * rows * columns, d) tokens, order view, row, column."""
        b, v = conditioned.shape[:2]
        patches = self.conv_proj(conditioned.flatten(0, 1))  # b*v d rows columns
        tokens = patches.view(b, v, patches.shape[1], -1).permute(0, 1, 3, 2).flatten(1, 2)
        return self.norm1(tokens)

    def forward(self, conditioned: Tensor) -> Tensor:
        b = conditioned.shape[0]
        planes = self.planes.permute(0, 1, 3, 4, 2).flatten(1, 3).expand(b, -1, -1)  # plane, row, column
        count = planes.shape[1]
        x = torch.cat([planes, self.image_tokens(conditioned)], dim=1)
        for block in self.attn_layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        x = self.norm2(x[:, :count])
        rows, columns = self.config.plane_resolution
        x = x.view(b * 3, rows, columns, -1).permute(0, 3, 1, 2)
        triplane = self.out(x)
        return triplane.view(b, 3, *triplane.shape[1:])
