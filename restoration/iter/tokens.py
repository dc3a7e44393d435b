"""The three token networks of ITER: the distortion-removal encoder, the evaluation net and the refinement net.

ITER (arXiv 2312.05616), stages 2 and 3. The encoder E_l classifies codes from a low-quality picture. The evaluation
net phi_e (two logits per token: wrong, right) and the refinement net phi_r (one logit per code) have the same build:
two token maps are embedded by the same matrix, joined, and sent through a body. The published body is window
attention (`SwinModel`); the authors' code also has a transformer and a U-Net, which their options never use.

The published nets take one-hot maps and a 1x1 convolution; looking the matrix up is the same and saves both.

Shapes: b batch, h x w token grid, n codes, c channels. Masks are (b, 1, h, w) with 1 = visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.iter.swin import SwinConfig, SwinLayers
from restoration.iter.vqgan import Down, HeadAttention, ResBlock, Up

GRID = (32, 32)
"""Token grid that the published nets were made for."""


@dataclass(frozen=True)
class LQEncoderConfig(SwinConfig):
    """Sizes of the distortion-removal encoder; the defaults are the published ones."""

    channels: int = 64
    """Channels at full size; each halving doubles them. From the first halving on they must be multiples of 32."""
    width: int = 128
    """Channels at the token grid."""
    swin_channels: int = 128
    """Channels inside the window attention."""
    swin_groups: int = field(default=2, kw_only=True)
    """Groups of window-attention blocks."""


@dataclass(frozen=True)
class TokenNetConfig(SwinConfig):
    """Sizes of the evaluation and of the refinement net; the defaults are the published ones."""

    body: str = "swin"
    """swin, transformer or unet."""
    channels: int = 256
    """Width."""
    swin_groups: int = field(default=4, kw_only=True)
    """swin: groups of window-attention blocks."""
    num_layers: int = 8
    """transformer: layers."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """unet: channels per level as multiples of `channels`."""
    num_res_blocks: int = 1
    """unet: residual blocks per level."""

    def __post_init__(self) -> None:
        if self.body not in ("swin", "transformer", "unet"):
            raise ValueError(f"body must be swin, transformer or unet, got {self.body}.")


class _Norm(nn.Module):
    """Group norm under the name that checkpoints use."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class EncoderResBlock(nn.Module):
    """x + two times norm, leaky rectifier, convolution; channels are a multiple of 32."""

    def __init__(self, channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [_Norm(channels), nn.LeakyReLU(0.2), nn.Conv2d(channels, channels, 3, padding=1)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class LQEncoder(nn.Module):
    """Distortion-removal encoder E_l: low-quality picture -> logits of codes.

    Args:
        config: sizes.
        num_codes: size of the codebook.
        depth: halvings between picture and token grid: log2(token_pixels / scale).
    """

    def __init__(self, config: LQEncoderConfig, num_codes: int, depth: int):
        super().__init__()
        channels = config.channels
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
        for _ in range(depth):
            down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
            channels *= 2
            layers.append(nn.Sequential(down, EncoderResBlock(channels), EncoderResBlock(channels)))
        layers.append(nn.Conv2d(channels, config.width, 1))
        layers.append(SwinLayers(config.width, config.swin_channels, config, GRID))
        layers.append(nn.Conv2d(config.width, num_codes, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Picture (b, 3, H, W) in [0, 1] -> logits (b, n, h, w)."""
        return self.model(image)


class TokenNet(nn.Module):
    """Two token maps, embedded alike and joined, through a body to logits; bodies are subclasses.

    Args:
        config: sizes.
        num_codes: tokens that can be embedded.
        out_channels: logits per token.
        flag: whether the embedding has one more row, added where a map is flagged.
    """

    def __init__(self, config: TokenNetConfig, num_codes: int, out_channels: int, flag: bool = False):
        super().__init__()
        channels = config.channels
        self.num_codes = num_codes
        self.code_emb = nn.Conv2d(num_codes + flag, channels, 1, bias=False)
        self.combine = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.conv_out = nn.Sequential(
            nn.GroupNorm(32, channels, eps=1e-6), nn.SiLU(), nn.Conv2d(channels, out_channels, 1)
        )

    def body(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> same."""
        raise NotImplementedError("A token net needs a body; use SwinModel, TransformerModel or UNetModel.")

    def embed(self, tokens: Tensor, weight: Tensor | None = None, flag: Tensor | None = None) -> Tensor:
        """Embedding (b, c, h, w) of tokens (b, 1, h, w) times `weight`, plus the flag's row times `flag`."""
        table = self.code_emb.weight[:, :, 0, 0].t()
        x = F.embedding(tokens[:, 0], table[: self.num_codes]).permute(0, 3, 1, 2)
        if weight is not None:
            x = x * weight
        if flag is not None:
            x = x + table[self.num_codes][:, None, None] * flag
        return x

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        *,
        first_flag: Tensor | None = None,
        second_weight: Tensor | None = None,
        second_flag: Tensor | None = None,
    ) -> Tensor:
        """Token maps (b, 1, h, w) int64 -> logits (b, out, h, w); the order of the two matters.

        Args:
            first_flag: (b, 1, h, w), 1 where the first map is flagged as not trusted.
            second_weight: (b, 1, h, w), 0 where the second map is hidden.
            second_flag: (b, 1, h, w), 1 where the second map is hidden.
        """
        maps = [self.embed(first, None, first_flag), self.embed(second, second_weight, second_flag)]
        return self.conv_out(self.body(self.combine(torch.cat(maps, dim=1))))

    def evaluate(self, tokens: Tensor, first_tokens: Tensor) -> Tensor:
        """phi_e: logits (b, 2, h, w) that `tokens` are wrong (0) or right (1), beside E_l's tokens."""
        return self(tokens, first_tokens)

    def refine(self, first_tokens: Tensor, trusted: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
        """phi_r: logits (b, n, h, w) of every token.

        Args:
            first_tokens: of E_l, all of them visible.
            trusted: which of them the evaluation net accepted at the start.
            tokens: the current ones.
            visible: which of those the net may see.
        """
        return self(first_tokens, tokens, first_flag=1 - trusted, second_weight=visible, second_flag=1 - visible)


class SwinModel(TokenNet):
    """The published body: groups of window attention."""

    def __init__(self, config: TokenNetConfig, num_codes: int, out_channels: int, flag: bool = False):
        super().__init__(config, num_codes, out_channels, flag)
        self.swin_layers = SwinLayers(config.channels, config.channels, config, GRID)

    def body(self, x: Tensor) -> Tensor:
        return self.swin_layers(x)


class _RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-5)).to(x) * self.weight


class _TransformerLayer(nn.Module):
    """Rotary attention and a gated perceptron, each after a norm and with a skip."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        hidden = 256 * math.ceil(int(8 * channels / 3) / 256)
        self.num_heads = num_heads
        self.attention = nn.Module()
        for name in ("wq", "wk", "wv", "wo"):
            setattr(self.attention, name, nn.Linear(channels, channels, bias=False))
        self.feed_forward = nn.Module()
        self.feed_forward.w1 = nn.Linear(channels, hidden, bias=False)
        self.feed_forward.w2 = nn.Linear(hidden, channels, bias=False)
        self.feed_forward.w3 = nn.Linear(channels, hidden, bias=False)
        self.attention_norm = _RMSNorm(channels)
        self.ffn_norm = _RMSNorm(channels)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """(b, l, c) -> same; the rotation is (l, head_dim / 2)."""
        y = self.attention_norm(x)
        q, k, v = (
            layer(y).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.attention.wq, self.attention.wk, self.attention.wv)
        )
        y = F.scaled_dot_product_attention(_rotate(q, cosine, sine), _rotate(k, cosine, sine), v)
        x = x + self.attention.wo(y.transpose(1, 2).flatten(2))
        y = self.ffn_norm(x)
        return x + self.feed_forward.w2(F.silu(self.feed_forward.w1(y)) * self.feed_forward.w3(y))


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding of (b, heads, l, d): neighbouring pairs of channels are turned."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)


class TransformerModel(TokenNet):
    """Alternative body: a transformer over the flattened grid; its last norm exists but is not applied."""

    def __init__(self, config: TokenNetConfig, num_codes: int, out_channels: int, flag: bool = False):
        super().__init__(config, num_codes, out_channels, flag)
        channels, num_heads = config.channels, config.num_heads
        self.head_dim = channels // num_heads
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([_TransformerLayer(channels, num_heads) for _ in range(config.num_layers)])
        self.model.norm = _RMSNorm(channels)  # kept for checkpoint compatibility

    def body(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        exponents = torch.arange(0, self.head_dim, 2, device=x.device).float() / self.head_dim
        angles = torch.arange(height * width, device=x.device).float()[:, None] / 10000.0**exponents
        cosine, sine = angles.cos().to(x), angles.sin().to(x)
        y = x.flatten(2).transpose(1, 2)
        for layer in self.model.layers:
            y = layer(y, cosine, sine)
        return y.transpose(1, 2).unflatten(2, (height, width))


class UNetModel(TokenNet):
    """Alternative body: a U-Net; its middle pair of blocks runs twice with the same weights, its `conv_in` never."""

    def __init__(self, config: TokenNetConfig, num_codes: int, out_channels: int, flag: bool = False):
        super().__init__(config, num_codes, out_channels, flag)
        channels, num_res_blocks = config.channels, config.num_res_blocks
        self.conv_in = nn.Conv2d(num_codes + flag, channels, 3, padding=1)  # kept for checkpoint compatibility
        widths = [channels * m for m in config.multipliers]
        inputs = [channels, *widths[:-1]]
        self.enc_blocks = nn.ModuleList()
        for level, (inner, outer) in enumerate(zip(inputs, widths, strict=True)):
            blocks = _res_blocks(inner, outer, num_res_blocks)
            self.enc_blocks.append(nn.ModuleList([*blocks, Down(outer)] if level < len(widths) - 1 else blocks))
        self.mid_block = nn.ModuleList([ResBlock(widths[-1], widths[-1]), HeadAttention(widths[-1])])
        self.dec_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            blocks = _res_blocks(widths[level] + inputs[level], inputs[level], num_res_blocks)
            self.dec_blocks.append(nn.ModuleList([*blocks, Up(inputs[level])] if level else blocks))

    def body(self, x: Tensor) -> Tensor:
        skips = []
        for level in self.enc_blocks:
            skips.append(x)
            for block in level:
                x = block(x)
        for _ in range(2):
            for block in self.mid_block:
                x = block(x)
        for level in self.dec_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            for block in level:
                x = block(x)
        return x


def _res_blocks(channels: int, out_channels: int, count: int) -> list[nn.Module]:
    return [ResBlock(channels if i == 0 else out_channels, out_channels) for i in range(count)]


def make_token_net(config: TokenNetConfig, num_codes: int, out_channels: int, flag: bool = False) -> TokenNet:
    """The token net with the body that `config` names."""
    bodies = {"swin": SwinModel, "transformer": TransformerModel, "unet": UNetModel}
    return bodies[config.body](config, num_codes, out_channels, flag)
