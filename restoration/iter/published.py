"""The published ITER network: Swin-VQGAN, distortion-removal encoder, evaluation net and refinement net.

ITER (arXiv 2312.05616). Module names are those of the authors' checkpoints. `token_logits` conditions on the tokens
that were trusted at the start, as the published code does; the paper's figure updates that mask in every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from restoration.iter.model import Observed
from restoration.iter.tokens import LQEncoder, LQEncoderConfig, TokenNetConfig, make_token_net
from restoration.iter.vqgan import SwinVQGAN, VQGANConfig


@dataclass(frozen=True)
class PublishedConfig:
    """Sizes of the published network; the defaults are those of ITER x4."""

    scale: int = 4
    """Output pixels per input pixel: a power of two that divides the pixels of a token."""
    vqgan: VQGANConfig = field(default_factory=VQGANConfig)
    """Codes and pictures."""
    encoder: LQEncoderConfig = field(default_factory=LQEncoderConfig)
    """Distortion-removal encoder."""
    token_nets: TokenNetConfig = field(default_factory=TokenNetConfig)
    """Evaluation and refinement net."""

    def __post_init__(self) -> None:
        pixels = self.vqgan.stride
        if self.scale not in [2**i for i in range(int(math.log2(pixels)) + 1)]:
            raise ValueError(f"scale must be a power of two up to {pixels}, got {self.scale}.")

    @property
    def depth(self) -> int:
        """Halvings between the low-quality picture and the token grid."""
        return int(math.log2(self.vqgan.stride // self.scale))


class TokenRefineNet(nn.Module):
    """The evaluation and the refinement net under the names of the checkpoints."""

    def __init__(self, config: TokenNetConfig, num_codes: int):
        super().__init__()
        self.token_crit_net = make_token_net(config, num_codes, 2)
        self.token_refine_net = make_token_net(config, num_codes, num_codes, flag=True)


class PublishedITER(nn.Module):
    """All networks of ITER; implements the protocol `restoration.iter.model.ITERModel`."""

    def __init__(self, config: PublishedConfig):
        super().__init__()
        self.config = config
        self.vqgan = SwinVQGAN(config.vqgan)
        self.token_refine_net = TokenRefineNet(config.token_nets, config.vqgan.num_codes)
        self.lq_encoder = LQEncoder(config.encoder, config.vqgan.num_codes, config.depth)

    @property
    def scale(self) -> int:
        """Output pixels per input pixel."""
        return self.config.scale

    @property
    def token_pixels(self) -> int:
        """Output pixels per side of a token."""
        return self.config.vqgan.stride

    @property
    def unit(self) -> int:
        """Sides of the input must be multiples of it: whole attention windows, at least 8 tokens as the authors pad."""
        windows = [8, self.config.encoder.window]
        if self.config.vqgan.global_blocks == "swin":
            windows.append(self.config.vqgan.window)
        if self.config.token_nets.body == "swin":
            windows.append(self.config.token_nets.window)
        if self.config.token_nets.body == "unet":
            windows.append(2 ** (len(self.config.token_nets.multipliers) - 1))
        return math.lcm(*windows) * self.token_pixels // self.scale

    @property
    def critic(self) -> nn.Module:
        """The evaluation net phi_e."""
        return self.token_refine_net.token_crit_net

    @property
    def refiner(self) -> nn.Module:
        """The refinement net phi_r."""
        return self.token_refine_net.token_refine_net

    def observe(self, image: Tensor) -> Observed:
        """Picture (b, 3, h, w) in [0, 1], padded to `unit` -> first tokens (b, 1, th, tw); no further context."""
        return Observed(self.lq_encoder(image).argmax(1, keepdim=True), {})

    def confidence(self, observed: Observed, tokens: Tensor) -> Tensor:
        """Logits (b, 2, th, tw) of the evaluation net; class 1 says that a token is right."""
        return self.critic.evaluate(tokens, observed.first)

    def token_logits(self, observed: Observed, trusted: Tensor, tokens: Tensor, kept: Tensor) -> Tensor:
        """Logits (b, n, th, tw) of the refinement net; masks (b, 1, th, tw), 1 = visible."""
        return self.refiner.refine(observed.first, trusted, tokens, kept)

    def decode(self, observed: Observed, tokens: Tensor, strength: float = 1.0) -> Tensor:
        """Tokens (b, 1, th, tw) -> picture (b, 3, H, W) in [0, 1].

        Raises:
            ValueError: `strength` is not 1; tokens are all that this decoder sees.
        """
        if strength != 1:
            raise ValueError(f"The published decoder sees tokens alone, so strength must be 1, got {strength}.")
        return self.vqgan.decode_indices(tokens)

    def restore_base(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) -> the picture (b, 3, H, W) of the first tokens."""
        return self.vqgan.decode_indices(self.observe(image).first)

    @torch.no_grad()
    def target_tokens(self, image: Tensor) -> Tensor:
        """Codes (b, 1, th, tw) of a high-quality picture (b, 3, H, W) in [0, 1]: what the token nets learn."""
        return self.vqgan.quantize.nearest(self.vqgan.features(image))[:, None]
