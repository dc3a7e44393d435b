"""Swin-VQGAN: pictures to codes and back, and the discriminator that it is trained with.

ITER (arXiv 2312.05616), stage 1: 8 times smaller, a codebook without projections, one group of window attention in
the middle of the encoder and of the decoder. The published code differs from the usual VQGAN in three ways that are
kept: no activation before the last convolution of either half, no tanh, and the "legacy" weighting of the codebook
loss.

Shapes: b batch, H x W picture, h x w grid of codes, n codes, d code dimensions; blocks take and give
(b, channels, rows, columns). Pictures are RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from restoration.iter.swin import SwinConfig, SwinLayers


@dataclass(frozen=True)
class VQGANConfig(SwinConfig):
    """Sizes of the Swin-VQGAN; the defaults are the published ones."""

    num_codes: int = 512
    """Entries of the codebook."""
    code_dim: int = 128
    """Dimensions of an entry."""
    in_channels: int = 3
    """Colour channels."""
    resolution: tuple[int, int] = (256, 256)
    """Picture (height, width) that the window attention was made for; larger ones work."""
    channels: int = 128
    """Channels at full size; each level multiplies them."""
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    """One per level; each level but the last halves the sides."""
    num_res_blocks: int = 2
    """Residual blocks per level."""
    global_blocks: str = "swin"
    """What sits between the middle residual blocks: swin or mhsa."""
    swin_channels: int = 256
    """Channels inside the window attention."""

    def __post_init__(self) -> None:
        if self.global_blocks not in ("swin", "mhsa"):
            raise ValueError(f"global_blocks must be swin or mhsa, got {self.global_blocks}.")
        if not self.channel_multipliers:
            raise ValueError("channel_multipliers must name at least one level.")
        if any(side % self.stride for side in self.resolution):
            raise ValueError(f"resolution must be a multiple of {self.stride} on both sides, got {self.resolution}.")
        if self.swin_channels % self.num_heads:
            raise ValueError(f"swin_channels {self.swin_channels} must be a multiple of num_heads {self.num_heads}.")

    @property
    def stride(self) -> int:
        """Pixels per side of a code."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Codes (height, width) of a picture of `resolution`."""
        return self.resolution[0] // self.stride, self.resolution[1] // self.stride


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm in 32 groups, or in groups of four channels where there are fewer than 32 channels."""
    return nn.GroupNorm(32 if channels >= 32 else channels // 4, channels, eps=1e-6)


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 convolution on the skip when the channels change."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.conv_out is None else self.conv_out(x))


class Down(nn.Module):
    """Half the sides: zeros on the right and below, then a convolution of stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Twice the sides: nearest neighbour, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class HeadAttention(nn.Module):
    """Attention across the heads of one position, never across positions: kept as the published code computes it."""

    def __init__(self, channels: int, num_heads: int = 8, head_dim: int = 64):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(4, channels, eps=1e-6)
        self.qkv = nn.Conv2d(channels, 3 * num_heads * head_dim, 1)
        self.proj_out = nn.Conv2d(num_heads * head_dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> same."""
        height, width = x.shape[-2:]
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (b, h * w, 3 * heads * head_dim)
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).unbind(2)  # (b, h * w, heads, head_dim)
        y = F.scaled_dot_product_attention(q, k, v).flatten(2)
        return x + self.proj_out(y.transpose(1, 2).unflatten(2, (height, width)))


def _middle(channels: int, config: VQGANConfig) -> list[nn.Module]:
    """The blocks at the smallest size."""
    if config.global_blocks == "mhsa":
        return [
            ResBlock(channels, channels),
            HeadAttention(channels),
            ResBlock(channels, channels),
            HeadAttention(channels),
        ]
    swin = SwinLayers(channels, config.swin_channels, config, config.grid)
    return [ResBlock(channels, channels), swin, ResBlock(channels, channels)]


class Chain(nn.Module):
    """One block after the other; (b, c, h, w) -> (b, c', h', w')."""

    def __init__(self, blocks: list[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Encoder(Chain):
    """Picture (b, 3, H, W) in [-1, 1] -> (b, d, h, w)."""

    def __init__(self, config: VQGANConfig):
        widths = [config.channels * m for m in config.channel_multipliers]
        blocks: list[nn.Module] = [nn.Conv2d(config.in_channels, config.channels, 3, padding=1)]
        channels = config.channels
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                blocks.append(ResBlock(channels, width))
                channels = width
            if level < len(widths) - 1:
                blocks.append(Down(channels))
        blocks += _middle(channels, config)
        blocks += [group_norm(channels), nn.Conv2d(channels, config.code_dim, 3, padding=1)]
        super().__init__(blocks)


class Decoder(Chain):
    """Codes (b, d, h, w) -> picture (b, 3, H, W), about [-1, 1]."""

    def __init__(self, config: VQGANConfig):
        widths = [config.channels * m for m in config.channel_multipliers]
        channels = widths[-1]
        blocks: list[nn.Module] = [nn.Conv2d(config.code_dim, channels, 3, padding=1)]
        blocks += _middle(channels, config)
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.num_res_blocks):
                blocks.append(ResBlock(channels, width))
                channels = width
            if level > 0:
                blocks.append(Up(channels))
        blocks += [group_norm(channels), nn.Conv2d(channels, config.in_channels, 3, padding=1)]
        super().__init__(blocks)


def quantiser_loss(z: Tensor, quantised: Tensor, beta: float = 0.25, legacy: bool = True) -> Tensor:
    """Scalar loss that draws features (b, d, h, w) and codebook entries together.

    Args:
        z: features of the encoder.
        quantised: the codebook entries nearest to them, with a gradient to the codebook.
        beta: weight of one of the two terms.
        legacy: True weighs the codebook term by beta, as the published code (and the first VQGAN) does; False weighs
        the
            commitment term, as VQ-VAE (van den Oord et al. 2017, eq. 3) means it.
    """
    commitment = F.mse_loss(z, quantised.detach())
    codebook = F.mse_loss(quantised, z.detach())
    return commitment + beta * codebook if legacy else codebook + beta * commitment


class Quantiser(nn.Module):
    """A codebook with nearest-neighbour look-up and straight-through gradients."""

    def __init__(self, num_codes: int, code_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(num_codes, code_dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / num_codes, 1.0 / num_codes)

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances (b * h * w, n) of features (b, d, h, w) to every code, rows in (b, h, w) order."""
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        codes = self.embedding.weight
        return flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.t()

    def nearest(self, z: Tensor) -> Tensor:
        """Codes (b, h, w) int64 nearest to features (b, d, h, w); the first one on ties."""
        return self.distances(z).argmin(1).view(z.shape[0], *z.shape[2:])

    def look_up(self, codes: Tensor) -> Tensor:
        """Entries (b, d, h, w) of codes (b, h, w) int64."""
        return F.embedding(codes, self.embedding.weight).permute(0, 3, 1, 2)

    def forward(self, z: Tensor, beta: float = 0.25, legacy: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Features (b, d, h, w) -> quantised features with straight-through gradients, codes (b, h, w), loss."""
        codes = self.nearest(z)
        quantised = self.look_up(codes)
        loss = quantiser_loss(z, quantised, beta, legacy)
        return z + (quantised - z).detach(), codes, loss


class SwinVQGAN(nn.Module):
    """Encoder, codebook and decoder."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantiser(config.num_codes, config.code_dim)

    def features(self, image: Tensor) -> Tensor:
        """Picture (b, 3, H, W), clamped to [0, 1] -> features (b, d, h, w) before quantisation."""
        return self.encoder(image.clamp(0, 1) * 2 - 1)

    def encode(self, image: Tensor, beta: float = 0.25, legacy: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Picture (b, 3, H, W) in [0, 1] -> quantised features (b, d, h, w), codes (b, h, w), the quantiser's loss."""
        return self.quantize(self.features(image), beta, legacy)

    def decode(self, quantised: Tensor) -> Tensor:
        """Quantised features (b, d, h, w) -> picture (b, 3, H, W) in [0, 1]; saturated pixels pass no gradient."""
        return ((self.decoder(quantised) + 1) / 2).clamp(0, 1)

    def decode_indices(self, codes: Tensor) -> Tensor:
        """Codes (b, 1, h, w) int64 -> picture (b, 3, H, W) in [0, 1]."""
        return self.decode(self.quantize.look_up(codes[:, 0]))

    def decode_onehot(self, onehot: Tensor) -> Tensor:
        """Weights of codes (b, n, h, w) -> picture; gradients reach the weights, not the codebook."""
        return self.decode(torch.einsum("bnhw,nd->bdhw", onehot, self.quantize.embedding.weight.detach()))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Picture -> its reconstruction (b, 3, H, W), codes (b, h, w) and the quantiser's loss."""
        quantised, codes, loss = self.encode(image)
        return self.decode(quantised), codes, loss


class UNetDiscriminatorSN(nn.Module):
    """Real or generated, per pixel: a U-Net with spectral norm (Wang et al. 2021, Real-ESRGAN)."""

    def __init__(self, in_channels: int = 3, channels: int = 64, skip: bool = True):
        super().__init__()
        c = channels
        self.skip = skip
        self.conv0 = nn.Conv2d(in_channels, c, 3, padding=1)
        for number, (inner, outer) in enumerate([(c, 2 * c), (2 * c, 4 * c), (4 * c, 8 * c)], start=1):
            setattr(self, f"conv{number}", spectral_norm(nn.Conv2d(inner, outer, 4, stride=2, padding=1, bias=False)))
        ups = [(8 * c, 4 * c), (4 * c, 2 * c), (2 * c, c), (c, c), (c, c)]
        for number, (inner, outer) in enumerate(ups, start=4):
            setattr(self, f"conv{number}", spectral_norm(nn.Conv2d(inner, outer, 3, padding=1, bias=False)))
        self.conv9 = nn.Conv2d(c, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, H, W), sides multiples of 8 -> logits (b, 1, H, W)."""
        down = [F.leaky_relu(self.conv0(image), 0.2)]
        for conv in (self.conv1, self.conv2, self.conv3):
            down.append(F.leaky_relu(conv(down[-1]), 0.2))
        x = down.pop()
        for conv in (self.conv4, self.conv5, self.conv6):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(conv(x), 0.2)
            across = down.pop()
            if self.skip:
                x = x + across
        x = F.leaky_relu(self.conv7(x), 0.2)
        x = F.leaky_relu(self.conv8(x), 0.2)
        return self.conv9(x)
