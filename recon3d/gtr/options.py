"""What the weights of GTR were made with, and what one reconstruction may change."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

from recon3d.gtr.fields import TriplaneField
from recon3d.gtr.network import GeneratorConfig


@dataclass(frozen=True)
class GTRConfig:
    """Sizes of field and generator; the defaults fit one object on a CPU, without weights."""

    plane_channels: int = 16
    """Channels of a triplane."""
    plane_size: int = 64
    """Pixels per side of a triplane."""
    width: int = 32
    """Hidden width of the density and the colour MLP."""
    sigma_layers: int = 3
    """Linear layers of the density MLP."""
    color_layers: int = 4
    """Linear layers of the colour MLP."""
    level: float = 10.0
    """Density of the surface."""
    image_size: int = 512
    """Picture side that the generator reads."""
    generator: GeneratorConfig | None = None
    """The network that makes a triplane from pictures; None: every object is fitted from nothing."""

    def __post_init__(self) -> None:
        if min(self.plane_channels, self.plane_size, self.width, self.sigma_layers, self.color_layers) < 1:
            raise ValueError("All sizes of the field must be at least 1.")
        if self.level <= 0:
            raise ValueError(f"level must be positive, got {self.level}.")
        made = self.generator
        if made is not None:
            size = {side * made.upsample_factor for side in made.plane_resolution}
            if made.out_channels != self.plane_channels or size != {self.plane_size}:
                raise ValueError(
                    f"The generator makes planes of {made.out_channels} channels and sides {sorted(size)}, but the "
                    f"field expects {self.plane_channels} channels and side {self.plane_size}."
                )


PUBLISHED = GTRConfig(plane_channels=40, plane_size=256, generator=GeneratorConfig())
"""The published GTR."""


def _small(channels: int, tokens: int, factor: int, layers: int, heads: tuple[int, int], **more: int) -> GTRConfig:
    """A GTR with planes of `tokens` x `factor` pixels per side; `heads`: their number and their channels."""
    network = GeneratorConfig(
        plane_resolution=(tokens, tokens), out_channels=channels, patch_size=8, model_channels=heads[0] * heads[1],
        num_layers=layers, num_heads=heads[0], num_head_channels=heads[1], upsample_factor=factor,
    )  # fmt: skip
    return GTRConfig(channels, tokens * factor, generator=network, **more)


SMALL = _small(16, 16, 2, 4, (4, 32), image_size=64)
"""1.3 M parameters."""
TINY = _small(8, 8, 4, 1, (2, 16), image_size=32, width=16)
"""A generator with random weights for trying out the plumbing."""


def new_field(config: GTRConfig) -> TriplaneField:
    """A field of the sizes of a configuration, not yet initialised as published."""
    return TriplaneField(config.plane_channels, config.width, config.sigma_layers, config.color_layers)


@dataclass(frozen=True)
class GTROptions:
    """What one reconstruction may change."""

    refine: Literal["both", "geometry", "texture", "none"] = "both"
    """Which refinements are made after the first fit."""
    volume_steps: int | None = None
    """Steps of the volume fit; None: 250, or 0 when a generator makes the start."""
    geometry_steps: int = 60
    """Steps of the geometry refinement; when the surface is new, its vertices then make twice as many."""
    texture_steps: int = 50
    """Steps of the texture refinement."""
    volume_seconds: float | None = None
    """Time limit of the volume fit; None: no limit."""
    geometry_seconds: float | None = None
    """Time limit of the geometry refinement; None: no limit."""
    texture_seconds: float | None = None
    """Time limit of the texture refinement; None: no limit."""
    patience: int | None = None
    """End a stage after so many measurements without progress; None: make all steps."""
    stop: Literal["end", "progress"] = "end"
    """progress makes three quarters of the steps of every stage: the last ones gain least."""
    view_size: int = 128
    """The views are scaled down to this height for fitting and refining; new surfaces end at twice this."""
    rays: int = 768
    """Rays per step of the volume fit."""
    grid_size: int = 64
    """Grid points per side from which the surface is taken."""
    coarse_to_fine: bool = False
    """Refine the geometry on half the grid points first."""
    texture_mode: Literal["default", "published"] = "default"
    """"published" does exactly what the published code does."""
    keep_topology: bool = False
    """Refining a mesh: move its vertices and repaint it instead of making a new surface."""
    placement: Literal["auto", "unit"] = "auto"
    """Where the object is: "unit" trusts that it lies in [-1, 1]^3, "auto" finds it from cameras and silhouettes."""
    texture: Literal["uv", "vertex"] = "uv"
    """Colours of the result: a texture atlas, or vertex colours as published."""
    texture_size: int = 1024
    """Side of the atlas in pixels."""
    max_faces: int = 10_000
    """Faces of an unwrapped result (unwrapping larger meshes takes minutes)."""
    seed: int = 0
    """Of the start, the rays and the order of the views."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(GTROptions).items():
            allowed = typing.get_args(hint)
            if typing.get_origin(hint) is Literal and getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        for name in ("geometry_steps", "texture_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.volume_steps is not None and self.volume_steps < 0:
            raise ValueError(f"volume_steps must not be negative, got {self.volume_steps}.")
        for name in ("volume_seconds", "geometry_seconds", "texture_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}.")
        for name, low, high in (
            ("rays", 8, 1 << 20),
            ("view_size", 16, 4096),
            ("grid_size", 8, 512),
            ("texture_size", 16, 8192),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in [{low}, {high}], got {getattr(self, name)}.")
        if self.max_faces < 4:
            raise ValueError(f"max_faces must be at least 4, got {self.max_faces}.")

    @property
    def refines_geometry(self) -> bool:
        """Whether the geometry refinement is made."""
        return self.refine in ("both", "geometry") and self.geometry_steps > 0

    @property
    def refines_texture(self) -> bool:
        """Whether the texture refinement is made."""
        return self.refine in ("both", "texture") and self.texture_steps > 0
