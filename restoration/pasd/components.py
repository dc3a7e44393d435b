"""The networks of PASD: loading, checking, saving and moving them, and putting other styles under them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from restoration.pasd import builtin
from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.options import COLORIZE, SDXL, PASDConfig
from restoration.pasd.prompts import Describer
from restoration.pasd.style import apply_style
from restoration.pasd.unet import PASDUNet
from vision import hub
from vision.config import load_config, save_config
from vision.diffusion.backbone import (
    TextEncoders,
    add_concept,
    load_backbone,
    load_scheduler,
    load_text,
    load_vae,
    make_scheduler,
    save_backbone,
)
from vision.diffusion.compiling import frozen_forward

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "pasd-mini"
"""The embedded default; see its README.md."""


class PASDComponents(hub.OfNetworks):
    """What a restorer consists of.

    Args:
        unet: the denoiser.
        controlnet: the conditioning branch.
        vae: diffusers' AutoencoderKL.
        text: tokenizers and text encoders.
        scheduler: any scheduler of diffusers; may be replaced at any time.
        config: what the weights were tuned for.
        describer: makes prompts from pictures; None builds the one that the options ask for.
    """

    def __init__(
        self,
        unet: PASDUNet,
        controlnet: PASDControlNet,
        vae: nn.Module,
        text: TextEncoders,
        scheduler: Any,
        config: PASDConfig,
        describer: Describer | None = None,
    ):
        self.unet, self.controlnet, self.vae, self.text = unet, controlnet, vae, text
        self.scheduler, self.config, self.describer = scheduler, config, describer

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        pasd: str | Path | None = None,
        style: str | Path | None = None,
        style_weight: float = 1.0,
        scheduler: str | None = None,
        compile: bool = False,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a restorer.

        Args:
            source: a folder that `save_pretrained` wrote, or `builtin:tiny`; with `pasd` a whole Stable Diffusion
                folder in diffusers' layout; None takes the small weights that come with the project.
            pasd: folder with PASD's own `unet` and `controlnet` (a published checkpoint-N).
            style: another base model or a LoRA to put under it; see `restyle`.
            style_weight: its share, or the LoRA's factor.
            scheduler: name of another scheduler of diffusers, such as LCMScheduler for few steps with an LCM-LoRA.
            compile: see `compile`.
            revision: of a hub source.
            device, dtype: where and in what numbers to compute.

        Raises:
            FileNotFoundError: a folder, or a component in it, is missing.
            ValueError: components do not fit each other.
        """
        if source is None and pasd is not None:
            raise ValueError("PASD's own weights need their base: name a Stable Diffusion folder as source too.")
        needed = _FETCHED if pasd is not None else None
        found = hub.find(source, default=PRETRAINED, revision=revision, components=needed)
        if found.kind == "builtin":
            restorer = cls(**builtin.build(found.name), config=_tiny(found.name))
        elif not found.path.is_dir():
            raise ValueError(f"{found.path} is a single file; name a folder as source, and the file as style.")
        elif pasd is None:
            restorer = cls._saved(found.path, dtype)
        else:
            own = hub.find(pasd, default=None, components=("unet", "controlnet", "scheduler"))
            restorer = cls._published(found.path, own.path, dtype)
        if style is not None:
            restorer.restyle(style, style_weight)
        if scheduler is not None:
            restorer.scheduler = make_scheduler(scheduler, restorer.scheduler.config)
        restorer.to(device, dtype)
        return restorer.compile() if compile else restorer

    @classmethod
    def _saved(cls, folder: Path, dtype: torch.dtype) -> Self:
        if not (folder / hub.INDEX).exists():
            raise FileNotFoundError(f"{folder} has no {hub.INDEX}; name PASD's own weights with pasd=... as well.")
        index = hub.read_index(folder, cls.__name__)
        missing = [name for name in ("unet", "controlnet", "vae", "scheduler") if name not in index]
        if missing:
            raise ValueError(f"{folder} lacks {', '.join(missing)}.")
        return cls(
            PASDUNet.from_pretrained(folder / "unet", dtype=dtype),
            PASDControlNet.from_pretrained(folder / "controlnet", dtype=dtype),
            load_vae(folder, dtype=dtype),
            load_text(folder, dtype=dtype),
            load_scheduler(folder / "scheduler"),
            load_config(PASDConfig, folder / "config.json"),
        )

    @classmethod
    def _published(cls, base: Path, own: Path, dtype: torch.dtype) -> Self:
        missing = [name for name in ("unet", "controlnet") if not (own / name).is_dir()]
        if missing:
            raise FileNotFoundError(f"The PASD folder {own} lacks {', '.join(missing)}; name a checkpoint-N folder.")
        backbone = load_backbone(base, dtype=dtype)
        unet = PASDUNet.from_pretrained(own / "unet", dtype=dtype)
        controlnet = PASDControlNet.from_pretrained(own / "controlnet", dtype=dtype)
        large = unet.config.addition_embed_type == "text_time"
        colorize = (own.parent / "scheduler").is_dir()
        schedule = next(
            path for path in (own / "scheduler", own.parent / "scheduler", base / "scheduler") if path.is_dir()
        )
        default = None if large and schedule.parent != base else "UniPCMultistepScheduler"
        scheduler = load_scheduler(schedule, default)
        config = SDXL if large else COLORIZE if colorize else PASDConfig()
        restorer = cls(unet, controlnet, backbone.vae, backbone.text, scheduler, config)
        restorer.check()
        return restorer

    def check(self) -> None:
        """Raise a ValueError when the components do not belong together."""
        unet, control, width = self.unet.config, self.controlnet.config, sum(_width(e) for e in self.text.encoders)
        if width != unet.cross_attention_dim:
            family = "SDXL" if unet.addition_embed_type == "text_time" else "Stable Diffusion 1.x"
            raise ValueError(
                f"The base's text encoder gives {width} numbers per token, but PASD's UNet wants "
                f"{unet.cross_attention_dim}; these PASD weights need a {family} base."
            )
        if tuple(control.block_out_channels) != tuple(unet.block_out_channels):
            raise ValueError(
                f"The ControlNet's widths {tuple(control.block_out_channels)} are not the UNet's "
                f"{tuple(unet.block_out_channels)}; take both from the same checkpoint."
            )
        if self.vae.config.latent_channels != unet.in_channels:
            raise ValueError(
                f"The VAE has {self.vae.config.latent_channels} latent channels, the UNet {unet.in_channels}; "
                "the base is of another family."
            )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write all components, floating weights as `dtype` when it is given, to `folder`."""
        modules = {"unet": self.unet, "controlnet": self.controlnet, "vae": self.vae}
        save_config(self.config, Path(folder) / "config.json")
        save_backbone(Path(folder), type(self).__name__, modules, self.text, self.scheduler, dtype)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All of them, the UNet first."""
        return (self.unet, self.controlnet, self.vae, *self.text.encoders)

    def compile(self) -> Self:
        """Compile both networks, with their weights taken as constants; returns this restorer.

        The first picture of every size takes minutes longer, and the weights are held twice. Move and restyle the
        restorer before.
        """
        for module in (self.unet, self.controlnet):
            module.forward = frozen_forward(module)
        return self

    def restyle(self, source: str | Path, weight: float = 1.0) -> Self:
        """Put another base model, or a LoRA, under the trained parts; returns this restorer.

        Args:
            source: folder, or single safetensors file, of a base of the same family; or a LoRA file.
            weight: share of the new base's denoiser, or factor of the LoRA.
        """
        apply_style(self, source, weight=weight)
        return self

    def add_concept(self, path: str | Path, token: str | None = None) -> str:
        """Teach a textual inversion; returns the word to use in prompts. See `vision.diffusion.backbone`."""
        return add_concept(self.text, path, token)


_FETCHED = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


def _width(encoder: nn.Module) -> int:
    return encoder.config.hidden_size


def _tiny(name: str) -> PASDConfig:
    base = SDXL if name == "tiny-sdxl" else PASDConfig()
    return replace(base, process_size=32, steps=2, tile=64)
