"""What ITER's weights were made with, what one call may change, and small configurations for tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from restoration.iter.mini import MiniConfig
from restoration.iter.published import PublishedConfig
from restoration.iter.sampling import mask_schedule
from restoration.iter.tokens import LQEncoderConfig, TokenNetConfig
from restoration.iter.vqgan import VQGANConfig
from vision.config import renamed, reworded

Variant = Literal["photo", "clean"]
"""Which embedded weights."""


@dataclass(frozen=True)
class ITERConfig:
    """What the weights were made with, and the sampling that they were tuned for."""

    architecture: Literal["published", "mini"] = "published"
    """Which of the two networks."""
    published: PublishedConfig | None = None
    """Sizes of the published network; None for the other one."""
    mini: MiniConfig | None = None
    """Sizes of the small network; None for the other one."""
    steps: int = 8
    """Steps of the sampling schedule."""
    schedule: str = "linear"
    """Mask schedule."""
    threshold: float = 0.7
    """Probability from which first tokens are trusted."""
    padding: Literal["published", "minimal"] = reworded({"official": "published"}, "published")
    """published mirrors at least one unit more than needed, as the published code does; minimal fills the last unit."""
    texture: float = renamed("fidelity", 1.0)
    """Share of the sampled texture, in [0, 1], that a call takes when it names no fidelity."""
    tile: int = 128
    """Side of the tiles that large pictures are cut into, in input pixels."""
    tile_overlap: int = 16
    """Context on each inner side of a tile, in input pixels."""

    def __post_init__(self) -> None:
        if self.architecture not in ("published", "mini"):
            raise ValueError(f"architecture must be published or mini, got {self.architecture}.")
        for name in ("published", "mini"):
            if (getattr(self, name) is not None) != (name == self.architecture):
                raise ValueError(f"An ITERConfig of architecture {self.architecture} needs its sizes, and those alone.")


@dataclass(frozen=True)
class ITEROptions:
    """What one call may change. None stands for what the weights were tuned for."""

    scale: float | None = None
    """Output pixels per input pixel; other values than the model's resize its result."""
    fidelity: float | None = None
    """How much to keep to what the input determines. 1: the deterministic picture, without sampling; 0: all sampled
    texture, where there is texture; between: a share of it (small network only). None: what the weights were tuned for
    (1 for the photo weights)."""
    blend: float = 1.0
    """Share of the restoration in the result, in [0, 1]; the rest is plain enlargement. Below 1 the result is softer,
    and nearer to the truth where the restoration is not sure."""
    steps: int | None = None
    """Steps of the sampling schedule; more are slower and finer."""
    schedule: str | None = None
    """Mask schedule: linear, cosine, powP or expE with a number, such as pow2 or exp10."""
    threshold: float | None = None
    """Probability from which first tokens are trusted; above 1 trusts none, 0 all."""
    temperature_tokens: float = 1.0
    """Above 1 tokens vary more, below 1 less."""
    temperature_mask: float = 1.0
    """Above 1 the choice of visible positions is more random, below 1 less."""
    adaptive: bool = True
    """Start from the trusted first tokens; otherwise from nothing."""
    stop: Literal["end", "progress"] = "end"
    """progress ends sampling with the step after which the evaluation net trusts its tokens no more than before."""
    batch_counts: bool = False
    """Count tokens over the whole batch, as the published code does."""
    padding: Literal["published", "minimal"] | None = None
    """published mirrors at least one unit more than needed, as the published code does; minimal fills the last unit."""
    tile: int | None = None
    """Side of the tiles that larger pictures are cut into, in input pixels; 0 takes every picture whole."""
    tile_overlap: int | None = None
    """Context on each inner side of a tile, in input pixels."""
    tiling: Literal["blended", "published"] = "blended"
    """blended fades tiles into each other; published pastes 256-pixel tiles from 720 x 720 pixels on, as published."""
    self_ensemble: bool = False
    """Average the deterministic results of the eight flips and turns: a little more exact, at eight times the cost."""
    seed: int = 0
    """Of the sampling; picture i of a batch uses seed + i."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale <= 32:
            raise ValueError(f"scale must lie in (0, 32], got {self.scale}.")
        if self.fidelity is not None and not 0 <= self.fidelity <= 1:
            raise ValueError(f"fidelity must lie in [0, 1], got {self.fidelity}.")
        if not 0 <= self.blend <= 1:
            raise ValueError(f"blend must lie in [0, 1], got {self.blend}.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}.")
        if self.schedule is not None:
            mask_schedule(self.schedule, torch.zeros(1))
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {self.threshold}.")
        for name in ("temperature_tokens", "temperature_mask"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.stop not in ("end", "progress"):
            raise ValueError(f"stop must be end or progress, got {self.stop}.")
        if self.padding not in (None, "published", "minimal"):
            raise ValueError(f"padding must be published or minimal, got {self.padding}.")
        if self.tile is not None and self.tile < 0:
            raise ValueError(f"tile must be at least 0, got {self.tile}.")
        if self.tile_overlap is not None and self.tile_overlap < 0:
            raise ValueError(f"tile_overlap must be at least 0, got {self.tile_overlap}.")
        if self.tiling not in ("blended", "published"):
            raise ValueError(f"tiling must be blended or published, got {self.tiling}.")


@dataclass(frozen=True)
class ITERCommand(ITEROptions):
    """The options with what the command line says about loading."""

    variant: Variant | None = None
    """Which of the weights that come with the project: photo (also when None) for photographs with real faults, clean
    for sharp pictures that are only small."""


TINY_MINI = MiniConfig(
    channels=8, base_blocks=1, decoder_blocks=1, num_codes=16, code_dim=4, token_channels=8, encoder_blocks=1,
    refiner_blocks=1, critic_blocks=1,
)  # fmt: skip
BUILTIN = {
    "tiny": ITERConfig(
        "published",
        PublishedConfig(
            4,
            VQGANConfig(
                num_codes=32,
                code_dim=16,
                resolution=(128, 128),
                channels=8,
                swin_channels=16,
                swin_depth=2,
                num_heads=4,
            ),
            LQEncoderConfig(channels=16, width=16, swin_channels=16, swin_groups=1, swin_depth=2, num_heads=4),
            TokenNetConfig(channels=32, swin_groups=1, swin_depth=2, num_heads=4),
        ),
        tile=64,
    ),
    "tiny-mini": ITERConfig(
        "mini",
        mini=TINY_MINI,
        padding="minimal",
        tile=64,
        tile_overlap=8,
    ),
}
"""Small configurations with random weights, for tests."""
