"""What the weights of a one-step restorer were made with, and what one call may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from restoration.pasd.sizes import Color

Says = Literal["noise", "change"]


@dataclass(frozen=True)
class OneStepConfig:
    """What the weights were made with; the defaults are OSEDiff's."""

    level: int = 999
    """Timestep, of a thousand, that the UNet is told."""
    says: Says = "noise"
    """noise: the UNet says what the scheduler's prediction type asks for at this level; change: what to subtract from
    the latents."""
    scale: float = 4.0
    """Output pixels per input pixel."""
    process_size: int = 512
    """Short side, in pixels, that the networks see at least; smaller pictures are enlarged and shrunk again."""
    prompt: str = ""
    """What pictures show."""
    color: Color = "adain"
    """How the result gets the colours of the picture."""
    tile: int = 96
    """Largest side of a tile, in latents."""

    def __post_init__(self) -> None:
        if self.says not in ("noise", "change"):
            raise ValueError(f"says must be noise or change, got {self.says!r}.")
        if not 0 <= self.level <= 999:
            raise ValueError(f"level must lie in [0, 999], got {self.level}.")


@dataclass(frozen=True)
class OneStepOptions:
    """What one call may change. None stands for what the weights were made for."""

    scale: float | None = None
    """Output pixels per input pixel."""
    prompt: str | None = None
    """What the picture shows: words, with commas between them."""
    process_size: int | None = None
    """Short side, in pixels, that the networks see at least."""
    tile: int | None = None
    """Largest side of a tile, in latents; 0 takes every picture whole."""
    tile_overlap: int = 16
    """Latents of context on each inner side of a tile."""
    vae_tile: int | None = None
    """Largest side of the VAE's tiles, in latents; None chooses by the free memory, 0 takes every picture whole."""
    color: Color | None = None
    """How the result gets the colours of the picture."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale <= 32:
            raise ValueError(f"scale must lie in (0, 32], got {self.scale}.")
        if self.process_size is not None and self.process_size < 1:
            raise ValueError(f"process_size must be at least 1, got {self.process_size}.")
        for name in ("tile", "tile_overlap", "vae_tile"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}.")
        if self.color not in (None, "wavelet", "adain", "none"):
            raise ValueError(f"color must be one of wavelet, adain, none, got {self.color!r}.")
