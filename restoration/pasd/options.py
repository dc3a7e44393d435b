"""What PASD's weights were made for, and what one call may change."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from restoration.pasd.prompts import Describe
from restoration.pasd.sizes import Color
from vision.diffusion.latents import Reading

Task = Literal["restore", "colorize"]
Preset = Literal["faithful", "balanced", "creative", "fast"]


@dataclass(frozen=True)
class PASDConfig:
    """What the weights were made with and tuned for; the defaults suit the published Stable Diffusion 1.5 weights."""

    task: Task = "restore"
    """restore, or colorize grey pictures."""
    scale: float = 1.0
    """Output pixels per input pixel."""
    process_size: int = 768
    """Short side, in pixels, that the networks see at least; smaller pictures are enlarged and shrunk again."""
    steps: int = 20
    """Denoising steps."""
    guidance_scale: float = 9.0
    """Weight of the prompt against the negative prompt; 1 switches guidance off."""
    conditioning_scale: float = 1.0
    """Weight of the degraded picture."""
    start: Literal["image", "noise"] = "image"
    """Start from the noised picture, or from noise alone."""
    start_level: int = 900
    """Noise level, of a thousand, of a start from the picture."""
    added_prompt: str = "clean, high-resolution, 8k"
    """Appended to every prompt."""
    negative_prompt: str = "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed"
    """What to move away from."""
    tile: int = 320
    """Largest side of a tile, in latents."""
    tile_overlap: int = 16
    """Latents of context on each inner side of a tile."""

    def __post_init__(self) -> None:
        if self.task not in ("restore", "colorize"):
            raise ValueError(f"task must be restore or colorize, got {self.task!r}.")


SDXL = PASDConfig(
    scale=2.0, process_size=1280, steps=25, guidance_scale=7.0, conditioning_scale=0.8, start="noise", tile=180,
    added_prompt="photorealistic, clean, high-resolution, 8k",
    negative_prompt="blurry, dirty, messy, frames, deformed, dotted, noise, raster lines, unclear, lowres, "
    "over-smoothed, painting, ai generated",
)  # fmt: skip
"""For the published SDXL weights."""

COLORIZE = PASDConfig(task="colorize", added_prompt="", negative_prompt="b&w, color bleeding")
"""For the published colourization weights."""


@dataclass(frozen=True)
class PASDOptions:
    """What one call may change. None stands for the preset's value, else for what the weights were tuned for."""

    preset: Preset | None = None
    """faithful keeps closest to the picture, creative leaves it most, fast saves steps at some loss; see PRESETS."""
    scale: float | None = None
    """Output pixels per input pixel."""
    size: tuple[int, int] | None = None
    """Width and height of the result, instead of a scale."""
    steps: int | None = None
    """Denoising steps."""
    guidance_scale: float | None = None
    """Weight of the prompt against the negative prompt; 1 switches guidance off and halves the time."""
    conditioning_scale: float | None = None
    """Weight of the degraded picture; below 1 for stylization."""
    start: Literal["image", "noise"] | None = None
    """Start from the noised picture, or from noise alone."""
    start_level: int | None = None
    """Noise level, in [0, 999], of a start from the picture: lower is smoother, higher more detailed."""
    start_reading: Reading = "exact"
    """exact uses this level; published lets the scheduler replace levels outside its schedule, as published."""
    prompt: str = ""
    """What the picture shows."""
    added_prompt: str | None = None
    """Appended to every prompt."""
    negative_prompt: str | None = None
    """What to move away from."""
    describe: Describe = "none"
    """Add what a recogniser sees to the prompt: its caption, classes or objects."""
    seed: int = 0
    """Of the noise; picture i of a batch uses seed + i."""
    process_size: int | None = None
    """Short side, in pixels, that the networks see at least."""
    tile: int | None = None
    """Largest side of a tile, in latents; None chooses by the free memory, 0 takes every picture whole."""
    tile_overlap: int | None = None
    """Latents of context on each inner side of a tile; with the published tiling, latents that neighbours share."""
    tiling: Literal["blended", "published"] = "blended"
    """blended fades tiles into each other; published weights them by a gaussian, as published."""
    tile_batch: int = 1
    """Tiles per call of the networks."""
    vae_tile: int | None = None
    """Largest side of the VAE's tiles, in latents; None chooses by the free memory, 0 takes every picture whole."""
    color: Color = "wavelet"
    """How the result gets the colours of the picture."""
    guess_mode: bool = False
    """Apply the ControlNet to the positive prompt alone, and weaker in early layers."""
    guidance_every: int | None = None
    """Steps for which one difference between prompt and negative prompt is reused; 1 is exact."""
    control_every: int | None = None
    """Steps for which one result of the ControlNet is reused; 1 is exact."""
    eight_bit: bool = False
    """Round and cut colours to 8 bits where the published code does."""

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        if self.scale is not None and not 0 < self.scale <= 32:
            raise ValueError(f"scale must lie in (0, 32], got {self.scale}.")
        if self.size is not None and (self.scale is not None or min(self.size) < 1):
            raise ValueError(f"size must be two sides of at least 1 pixel, without a scale, got {self.size}.")
        self._at_least(1, "steps", "process_size", "tile_batch", "guidance_every", "control_every")
        self._at_least(0, "tile", "tile_overlap", "vae_tile", "conditioning_scale")
        if self.guidance_scale is not None and not 1 <= self.guidance_scale <= 100:
            raise ValueError(f"guidance_scale must lie in [1, 100], got {self.guidance_scale}; 1 switches it off.")
        if self.start_level is not None and not 0 <= self.start_level <= 999:
            raise ValueError(f"start_level must lie in [0, 999], got {self.start_level}.")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                said = ", ".join(str(value) for value in allowed if value is not None)
                raise ValueError(f"{name} must be one of {said}, got {getattr(self, name)!r}.")

    def resolved(self, config: PASDConfig) -> PASDOptions:
        """These options with the values of the preset and the config where they are None."""
        preset = PRESETS.get(self.preset, {})
        values: dict[str, Any] = {}
        for field in fields(self):
            if getattr(self, field.name) is None and field.name not in ("tile", "vae_tile", "preset"):
                values[field.name] = preset.get(field.name, getattr(config, field.name, None))
        if self.guidance_scale is None:  # a preset lowers the guidance that the weights were tuned for
            values["guidance_scale"] = min(values["guidance_scale"], config.guidance_scale)
        if self.conditioning_scale is None:
            values["conditioning_scale"] = config.conditioning_scale * preset.get("conditioning_scale", 1.0)
        if self.size is not None:
            values["scale"] = None
        if self.negative_prompt and values.get("guidance_scale", math.inf) <= 1:
            raise ValueError("These weights take no negative prompt unless a guidance_scale above 1 is given as well.")
        values["guidance_every"] = self.guidance_every or preset.get("guidance_every", 1)
        values["control_every"] = self.control_every or preset.get("control_every", 1)
        return replace(self, preset=None, **values)

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")


@dataclass(frozen=True)
class PASDCommand(PASDOptions):
    """The options with what the command line says about loading."""

    pasd: str | None = None
    """Folder of PASD's own unet and controlnet (a published checkpoint-N); --source then names the base model."""
    style: str | None = None
    """Another base model of the same family (folder or .safetensors file), or a LoRA file."""
    style_weight: float = 1.0
    """Share of that base, or factor of the LoRA."""
    scheduler: str | None = None
    """Another scheduler of diffusers, e.g. LCMScheduler with an LCM-LoRA as style, 4 steps and guidance 1."""
    compile: bool = False
    """Compile the networks: the first picture of a size takes minutes more, and the weights need twice the memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.style is None and self.style_weight != PASDCommand.style_weight:
            raise ValueError(f"style_weight is about a style; name one, or leave style_weight {self.style_weight} out.")


PRESETS: dict[str | None, dict[str, Any]] = {
    "faithful": {"guidance_scale": 3.0, "conditioning_scale": 1.1, "start_level": 600},
    "balanced": {"guidance_scale": 6.0, "start_level": 800},
    "creative": {"guidance_scale": 9.0, "conditioning_scale": 0.8, "start_level": 960},
    "fast": {"guidance_scale": 6.0, "start_level": 800, "guidance_every": 5, "control_every": 5},
}
"""Guidance is at most that of the weights, conditioning a factor on theirs.

faithful: a weak prompt and a start near the picture, for text, faces and mildly degraded photographs.
balanced: in between. creative: the published guidance, held less by the picture. fast: as balanced, with guidance
and ControlNet computed in every fifth step and reused in the others, about half the time."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "start": (None, "image", "noise"),
    "start_reading": ("exact", "published"),
    "describe": ("none", "caption", "classes", "objects"),
    "tiling": ("blended", "published"),
    "color": ("wavelet", "adain", "none"),
}
