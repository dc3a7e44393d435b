"""Restorers of one denoising step on Stable Diffusion (OSEDiff, arXiv 2406.08177; PiSA-SR, arXiv 2412.03017).

The degraded picture's own latents take the place of noise: the UNet, tuned with a LoRA, is told one fixed timestep, and
what it says of the latents gives the clean ones. The run is a schedule of length one on the core. `convert` in
`restoration.one_step.convert` makes folders of the published files.

Differences from the published codes: the VAE's mean is taken instead of a draw, so that no seed matters; tiles fade
into each other, the tiled VAE shares its statistics, and colours are rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from typing_extensions import Self

from restoration.bands import RunRestorer, scaled
from restoration.one_step.options import OneStepConfig, OneStepOptions
from restoration.pasd.builtin import UNET, tiny_text
from restoration.pasd.memory import free_bytes, largest_vae_tile
from restoration.pasd.sizes import Sized, finish, plan, prepare, thicken
from restoration.restorer import Facts
from vision import hub, weights
from vision.config import load_config, save_config
from vision.diffusion.backbone import TextEncoders, load_backbone, save_backbone
from vision.diffusion.build import SCHEDULE, emptied, small_vae
from vision.diffusion.denoise import At, Denoising
from vision.diffusion.latents import (
    VAE_OVERLAP,
    clean_latents,
    decode_latents,
    encode_image,
    factor,
    unet_tiles,
    vae_tiles,
)
from vision.images import pad_to
from vision.refine import Step, refine_steps


@dataclass(frozen=True)
class Run(Sized):
    """One batch of pictures, ready for the step."""

    options: OneStepOptions
    """As they were given."""
    latents: Tensor
    """(b, c, h, w) float32, scaled: of the degraded pictures."""
    text: Tensor
    """(1, tokens, width) the encoded prompt."""


class OneStepRestorer(RunRestorer[OneStepOptions], hub.OfNetworks):
    """Restores pictures in one step.

    Args:
        unet: diffusers' UNet2DConditionModel, with the LoRA merged into its weights.
        vae: diffusers' AutoencoderKL, likewise.
        text: tokenizer and text encoder.
        scheduler: its noise schedule and prediction type say what the UNet's answer means.
        config: what the weights were made with.
    """

    Options = OneStepOptions
    unshipped = "No one-step weights come with the project; convert published ones and name their folder."

    def __init__(self, unet: nn.Module, vae: nn.Module, text: TextEncoders, scheduler: Any, config: OneStepConfig):
        self.unet, self.vae, self.text, self.scheduler, self.config = unet, vae, text, scheduler, config

    @classmethod
    def from_folder(cls, folder: Path, dtype: torch.dtype) -> Self:
        """What `save_pretrained` or `burnish convert one-step` wrote."""
        if not (folder / hub.INDEX).is_file():
            raise FileNotFoundError(
                f"{folder} has no {hub.INDEX}; name a folder that `burnish convert one-step` wrote."
            )
        hub.read_index(folder, cls.__name__)
        base, config = load_backbone(folder, dtype=dtype), load_config(OneStepConfig, folder / "config.json")
        unet = weights.load_pretrained(UNet2DConditionModel, folder / "unet", dtype=dtype)
        return cls(unet, base.vae, base.text, base.scheduler, config)

    @classmethod
    def builtin(cls, name: str) -> Self:
        """`builtin:tiny`: seeded random weights, for tests."""
        from diffusers import DDIMScheduler

        if name != "tiny":
            raise ValueError(f"There is no builtin:{name} of one step; there is builtin:tiny.")
        with torch.device("meta"):
            unet, vae = UNet2DConditionModel(**UNET), small_vae((4, 8, 8, 8), 4, sample_size=64)
        config = OneStepConfig(scale=2.0, process_size=32, tile=64)
        scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False)
        return cls(emptied(unet, 0), emptied(vae, 2), tiny_text(), scheduler, config)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write all components, floating weights as `dtype` when it is given, to `folder`."""
        modules = {"unet": self.unet, "vae": self.vae}
        save_config(self.config, Path(folder) / "config.json")
        save_backbone(Path(folder), type(self).__name__, modules, self.text, self.scheduler, dtype)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All of them, the UNet first."""
        return (self.unet, self.vae, *self.text.encoders)

    def facts(self, options: OneStepOptions | None = None) -> Facts:
        """What a caller must know of this restorer with these options."""
        options = options or OneStepOptions()
        scale = self.config.scale if options.scale is None else options.scale
        return Facts("one step", scale, tiling=options.tile != 0, steps=True, keeps_grey=True)

    def output_size(self, height: int, width: int, options: OneStepOptions | None = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        return scaled(height, width, self.facts(options).scale)

    @torch.no_grad()
    def start(self, image: Tensor, options: OneStepOptions | None = None) -> Run:
        """Everything before the step, of pictures (b, 3, h, w) RGB in [0, 1]."""
        options = options or OneStepOptions()
        height, width = self.output_size(*image.shape[-2:], options)
        process = options.process_size or self.config.process_size
        own, output = thicken(image.shape[-1], image.shape[-2], (width, height), process)
        sizes = plan(*own, output, process, factor(self.vae))
        seen = prepare(pad_to(image, own[1], own[0]), sizes)
        side = self._vae_tile(options, *(side // factor(self.vae) for side in seen.shape[-2:])) * factor(self.vae)
        tiles = vae_tiles(side, VAE_OVERLAP * factor(self.vae), factor(self.vae))
        latents = torch.cat([encode_image(self.vae, item.to(self.device), None, tiles) for item in seen.split(1)])
        prompt = self.config.prompt if options.prompt is None else options.prompt
        text = self.text([prompt], truncate=True).embeds
        return Run(image, seen, (height, width), sizes, options, latents.float(), text)

    def run_steps(self, run: Run, *, resume: Step[Denoising, At] | None = None) -> Iterator[Step[Denoising, At]]:
        """The one step of a run that `start` made."""
        at = At(0, torch.tensor(self.config.level, device=self.device))
        return refine_steps(Denoising(run.latents), lambda state, at: self._step(run, state, at), [at], resume=resume)

    @torch.no_grad()
    def _step(self, run: Run, state: Denoising, at: At) -> Denoising:
        tile = self.config.tile if run.options.tile is None else run.options.tile

        def predict(latents: Tensor) -> Tensor:
            text = run.text.to(self.dtype).expand(len(latents), -1, -1)
            return self.unet(latents.to(self.dtype), at.timestep, text, return_dict=False)[0].float()

        tiles = unet_tiles(self.unet, tile, run.options.tile_overlap, *state.latents.shape[-2:])
        parts = state.latents.split(1)  # alone every picture gets the very same numbers
        said = torch.cat([predict(part) if tiles is None else tiles.run(predict, part) for part in parts])
        if self.config.says == "change":
            return Denoising(state.latents - said, said)
        return Denoising(clean_latents(self.scheduler, said, state.latents, self.config.level), said)

    def decode(self, state: Denoising, options: OneStepOptions | None = None) -> Tensor:
        """The picture (b, 3, H, W) in [0, 1], on the networks' device, of a state."""
        side = self._vae_tile(options or OneStepOptions(), *state.latents.shape[-2:])
        tiles = vae_tiles(side, VAE_OVERLAP)
        return torch.cat([decode_latents(self.vae, latents, tiles) for latents in state.latents.split(1)])

    def finish(self, run: Run, decoded: Tensor) -> Tensor:
        """The decoded picture (b, 3, H, W) with its colours and size, float32 on the CPU."""
        color = run.options.color or self.config.color
        found = finish(decoded.float().cpu(), run.image, run.sizes.output, color)
        return found[..., : run.size[0], : run.size[1]]

    def _vae_tile(self, options: OneStepOptions, height: int, width: int) -> int:
        if options.vae_tile is not None:
            return options.vae_tile
        return largest_vae_tile(self.vae, free_bytes(self.device), height, width)
