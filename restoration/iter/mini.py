"""The small x4 network that ships with the project: ITER's sampler and roles on a decoder that also sees the picture.

Differences from the paper (arXiv 2312.05616), all of them because a decoder that is fed by tokens alone stays below
bicubic interpolation after hours of training on a CPU:

- A plain super-resolution network (`base`) makes a deterministic picture first. Tokens describe what that picture
  lacks, and the decoder adds it as a residual: a wrong token costs little, a right one brings texture.
- One token stands for one low-resolution pixel (4 x 4 output pixels), not for 8 x 8 output pixels.
- The token nets are small convolutional nets that see the base's features beside the tokens; nothing is global, so
  tiles that overlap by the receptive field equal the whole.
- The deterministic picture keeps the mean colours of what it enlarges (`tone_pixels`): its details are added less their
  own mean around each place.
- Sampled texture is added where there is texture: a small learned map (`Activity`) says how far the truth may lie from
  the deterministic picture at each place, and the tokens' residual is scaled down to that. `strength` multiplies it: 0
  is the deterministic picture.

The roles are the paper's: `first_tokens` is the distortion-removal encoder E_l (a classifier of codes), `critic` the
evaluation net phi_e, `refiner` the refinement net phi_r; the sampling loop in `sampling.py` is the same for both
networks.

Shapes: b batch, h x w low-resolution pixels = tokens, c channels, n codes, d code dimensions; blocks take and
give (b, c, h, w), pictures are RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.iter.model import Observed
from vision.config import added


@dataclass(frozen=True)
class MiniConfig:
    """Sizes of the small network."""

    scale: int = 4
    """Output pixels per input pixel."""
    channels: int = 48
    """Width of the base and of the decoder."""
    base_blocks: int = 10
    """Residual blocks of the base."""
    decoder_blocks: int = 4
    """Residual blocks of the decoder."""
    num_codes: int = 256
    """Size of the codebook."""
    code_dim: int = 16
    """Dimensions of a code."""
    token_channels: int = 64
    """Width of the three token nets."""
    encoder_blocks: int = 4
    """Blocks of the net that predicts the first tokens."""
    refiner_blocks: int = 6
    """Blocks of the refiner."""
    critic_blocks: int = 4
    """Blocks of the critic."""
    step_channels: int = added(0)
    """Channels after the first of the x2 steps that enlarge, halved by each; 0: one pixel shuffle by the scale."""
    activity_channels: int = added(0)
    """Width of the map that limits sampled texture to places that have some; 0: no map, texture everywhere."""
    tone_pixels: int = added(0)
    """Side, odd, of the boxes of input pixels whose mean colours the deterministic picture keeps; 0: it may tint."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("step_channels", "activity_channels", "tone_pixels") else 1
            most = 65536 if name == "num_codes" else 1024  # a damaged file must not ask for a giant
            if not least <= value <= most:
                raise ValueError(f"{name} must lie in [{least}, {most}], got {value}.")
        if self.tone_pixels and self.tone_pixels % 2 == 0:
            raise ValueError(f"tone_pixels must be odd, or 0, got {self.tone_pixels}.")
        steps = (self.scale - 1).bit_length()
        if self.step_channels and (self.scale != 2**steps or self.step_channels % 2 ** max(steps - 1, 0)):
            raise ValueError(
                f"step_channels needs a scale that is a power of two and must be divisible by half of it, got "
                f"{self.step_channels} for scale {self.scale}."
            )


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(x))), without normalisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class TokenBlock(nn.Module):
    """x + a depthwise 5 x 5 convolution and a two-layer perceptron over channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)
        with torch.no_grad():
            self.project.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.silu(self.expand(self.mix(x))))


class Enlarge(nn.Sequential):
    """Features (b, c, h, w) -> RGB (b, 3, scale h, scale w) in x2 steps with a convolution after each.

    One shuffle by 4 lets each of its 16 output phases go its own way, which shows as a grid of dots.
    """

    def __init__(self, config: MiniConfig):
        steps, inputs, channels = (config.scale - 1).bit_length(), config.channels, config.step_channels
        layers: list[nn.Module] = []
        for _ in range(steps):
            layers += [nn.Conv2d(inputs, 4 * channels, 3, padding=1), nn.PixelShuffle(2), nn.SiLU()]
            inputs, channels = channels, channels // 2
        super().__init__(*layers, nn.Conv2d(inputs, 3, 3, padding=1))


class Shuffle(nn.Conv2d):
    """Features (b, c, h, w) -> RGB (b, 3, scale h, scale w) in one pixel shuffle."""

    def __init__(self, config: MiniConfig):
        super().__init__(config.channels, 3 * config.scale**2, 3, padding=1)
        self.scale = config.scale

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(super().forward(x), self.scale)


def _tail(config: MiniConfig, factor: float) -> nn.Module:
    """From features to RGB of the large size; the last layer starts at `factor` times its usual weights."""
    tail = Enlarge(config) if config.step_channels else Shuffle(config)
    last = tail[-1] if isinstance(tail, Enlarge) else tail
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.mul_(factor)
    return tail


class Base(nn.Module):
    """Deterministic super-resolution: residual blocks at the input's size, then the enlargement onto bicubic."""

    def __init__(self, config: MiniConfig):
        super().__init__()
        c = config.channels
        self.scale = config.scale
        self.head = nn.Conv2d(3, c, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualBlock(c) for _ in range(config.base_blocks)])
        self.fuse = nn.Conv2d(c, c, 3, padding=1)
        self.tail, self.tone_pixels = _tail(config, 0.1), config.tone_pixels

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 3, h, w) -> features (b, c, h, w) and picture (b, 3, scale h, scale w), not clamped."""
        first = self.head(image - 0.5)
        features = first + self.fuse(self.blocks(first))
        large = F.interpolate(image, scale_factor=self.scale, mode="bicubic", align_corners=False)
        detail = self.tail(features)
        return features, large + (detail - self.tint(detail) if self.tone_pixels else detail)

    def tint(self, detail: Tensor) -> Tensor:
        """What (b, 3, H, W) adds to the colour around each place, (b, 3, H, W): flat colours would drift by it."""
        side = self.tone_pixels
        around = F.avg_pool2d(F.avg_pool2d(detail, self.scale), side, 1, side // 2, count_include_pad=False)
        return F.interpolate(around, scale_factor=self.scale, mode="bilinear", align_corners=False)


class Decoder(nn.Module):
    """Residual of the picture from token embeddings and the base's features."""

    def __init__(self, config: MiniConfig):
        super().__init__()
        c = config.channels
        self.scale = config.scale
        self.codes = nn.Conv2d(config.code_dim, c, 3, padding=1)
        self.features = nn.Conv2d(c, c, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualBlock(c) for _ in range(config.decoder_blocks)])
        self.tail = _tail(config, 0.0)

    def forward(self, embedding: Tensor, features: Tensor) -> Tensor:
        """(b, d, h, w) and (b, c, h, w) -> (b, 3, scale h, scale w)."""
        x = self.codes(embedding) + self.features(features)
        return self.tail(self.blocks(x))


class Activity(nn.Module):
    """How far the truth lies from the deterministic picture at each place, from the base's features."""

    def __init__(self, config: MiniConfig):
        super().__init__()
        c = config.activity_channels
        self.layers = nn.Sequential(
            nn.Conv2d(config.channels, c, 3, padding=1), nn.SiLU(), nn.Conv2d(c, 1, 3, padding=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(b, c, h, w) -> expected mean absolute difference (b, 1, h, w) of each low-resolution pixel, above 0."""
        return 0.1 * F.softplus(self.layers(features))


class TokenNet(nn.Module):
    """Token logits from the base's features and any number of code maps with their flags."""

    def __init__(self, config: MiniConfig, maps: int, flags: int, blocks: int, out: int):
        super().__init__()
        c = config.token_channels
        self.embed = nn.Embedding(config.num_codes, config.code_dim) if maps else None
        self.join = nn.Conv2d(config.channels + maps * config.code_dim + flags, c, 1)
        self.blocks = nn.Sequential(*[TokenBlock(c) for _ in range(blocks)])
        self.head = nn.Conv2d(c, out, 1)

    def forward(self, features: Tensor, tokens: list[Tensor], visible: list[Tensor]) -> Tensor:
        """Features (b, c, h, w), token maps (b, 1, h, w) int64, a visibility map (b, 1, h, w) per token map or none."""
        maps = [self.embed(t[:, 0]).permute(0, 3, 1, 2) for t in tokens] if self.embed is not None else []
        return self.head(self.blocks(self.join(torch.cat([features, *maps, *visible], dim=1))))


class MiniITER(nn.Module):
    """Base, codebook, decoder and the three token nets, behind the protocol `restoration.iter.model.ITERModel`."""

    def __init__(self, config: MiniConfig):
        super().__init__()
        self.config = config
        self.scale = self.token_pixels = config.scale
        self.unit = 1
        self.base = Base(config)
        self.codebook = nn.Parameter(torch.randn(config.num_codes, config.code_dim) * 0.3)
        self.decoder = Decoder(config)
        self.first_tokens = TokenNet(config, 0, 0, config.encoder_blocks, config.num_codes)
        self.critic = TokenNet(config, 2, 0, config.critic_blocks, 2)
        self.refiner = TokenNet(config, 2, 2, config.refiner_blocks, config.num_codes)
        self.activity = Activity(config) if config.activity_channels else None

    @property
    def receptive_field(self) -> int:
        """Input pixels on each side of a pixel that its deterministic picture depends on."""
        toned = self.config.tone_pixels // 2 + 1 if self.config.tone_pixels else 0
        return 2 * self.config.base_blocks + (4 if self.config.step_channels else 3) + toned

    def observe(self, image: Tensor) -> Observed:
        """(b, 3, h, w) -> first tokens (b, 1, h, w) and the context: features and the deterministic picture."""
        features, picture = self.base(image)
        first = self.first_tokens(features, [], []).argmax(1, keepdim=True)
        return Observed(first, {"features": features, "picture": picture})

    def confidence(self, observed: Observed, tokens: Tensor) -> Tensor:
        """Logits (b, 2, h, w); class 1 says that a token is right."""
        return self.critic(observed.context["features"], [tokens, observed.first], [])

    def token_logits(self, observed: Observed, trusted: Tensor, tokens: Tensor, kept: Tensor) -> Tensor:
        """Logits (b, n, h, w) of every token given the kept ones; masks (b, 1, h, w), 1 = visible."""
        hidden = torch.where(kept.bool(), tokens, torch.zeros_like(tokens))
        return self.refiner(observed.context["features"], [observed.first, hidden], [1 - trusted, 1 - kept])

    def decode(self, observed: Observed, tokens: Tensor, strength: float = 1.0) -> Tensor:
        """Picture (b, 3, scale * h, scale * w) in [0, 1] plus `strength` times the residual of the tokens."""
        embedding = F.embedding(tokens[:, 0], self.codebook).permute(0, 3, 1, 2)
        residual = self.decoder(embedding, observed.context["features"])
        if self.activity is not None:
            residual = residual * self.texture_share(residual, observed.context["features"])
        return (observed.context["picture"] + strength * residual).clamp(0, 1)

    def texture_share(self, residual: Tensor, features: Tensor) -> Tensor:
        """What may stay of a residual (b, 3, H, W) at each place: (b, 1, H, W) in [0, 1].

        Where the truth is expected within e of the deterministic picture, a residual whose mean magnitude r around
        there is larger is scaled by e / r: smooth places stay smooth.
        """
        expected = self.activity(features)
        found = F.avg_pool2d(residual.abs().mean(1, keepdim=True), self.scale)
        found = F.avg_pool2d(F.pad(found, (1, 1, 1, 1), mode="replicate"), 3, 1)
        share = (expected / found.clamp(min=1e-4)).clamp(max=1)
        return F.interpolate(share, scale_factor=self.scale, mode="bilinear", align_corners=False)

    def restore_base(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) -> the deterministic picture (b, 3, scale h, scale w) in [0, 1]."""
        return self.base(image)[1].clamp(0, 1)
