"""Restore pictures with a pixel-aware latent diffusion model (PASD, arXiv 2308.14469).

Differences from the published code: the start level means what it says (`start_reading`), tiles fade into each other,
the tiled VAE shares its statistics, colours are rounded once, and every picture has a random generator of its own. The
published behaviour can be chosen where results depend on it: `PUBLISHED` holds these options.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from restoration.bands import RunRestorer, scaled
from restoration.pasd.components import PASDComponents
from restoration.pasd.memory import free_bytes, largest_tile, largest_vae_tile
from restoration.pasd.options import PASDOptions
from restoration.pasd.predictor import BatchPredictor, NoisePredictor
from restoration.pasd.prompts import Describer, full_prompt
from restoration.pasd.sizes import Sized, Sizes, as_gray, finish, plan, prepare, thicken, transfer_chroma
from restoration.pasd.unet import is_trained
from restoration.restorer import Facts
from vision.diffusion.backbone import Text
from vision.diffusion.denoise import At, Denoising, denoise_steps, set_steps
from vision.diffusion.latents import (
    VAE_OVERLAP,
    add_noise,
    decode_latents,
    encode_image,
    factor,
    unet_tiles,
    vae_tiles,
)
from vision.diffusion.tiling import GaussianTiles
from vision.images import pad_to, to_pil
from vision.refine import Step, item_generators
from vision.refine.step import Stop
from vision.tiles import Tiles

PUBLISHED = {"start_reading": "published", "tiling": "published", "tile": 320, "tile_overlap": 8, "eight_bit": True}
"""Options that make results those of the published code."""

Draw = Callable[[tuple[int, ...]], Tensor]
"""Standard normal numbers of a shape (1, c, h, w)."""


@dataclass(frozen=True)
class Run(Sized):
    """One batch of pictures, ready to be denoised."""

    options: PASDOptions
    """Without None, apart from tiles that are chosen by the free memory."""
    latents: Tensor
    """(b, 4, h, w) to start from."""
    predictor: BatchPredictor
    """The guided networks, as a function of latents and timestep."""
    scheduler: Any
    """Its own copy, set to the steps of this run."""
    generators: Sequence[torch.Generator]
    """One per picture."""


class PASDRestorer(RunRestorer[PASDOptions], PASDComponents):
    """Restores, colourizes and stylizes pictures; see `PASDComponents` for its parts."""

    Options = PASDOptions

    def facts(self, options: PASDOptions | None = None) -> Facts:
        """What a caller must know of this restorer with these options; the scale is 1 where they give a size."""
        options = (options or PASDOptions()).resolved(self.config)
        scale = 1.0 if self.config.task == "colorize" or options.scale is None else options.scale
        grey = self.keeps_grey(options)
        return Facts("PASD", scale, tiling=options.tile != 0, seed=True, steps=True, keeps_grey=grey)

    def output_size(self, height: int, width: int, options: PASDOptions | None = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        options = (options or PASDOptions()).resolved(self.config)
        if self.config.task == "colorize":
            return height, width
        if options.size is not None:
            return options.size[1], options.size[0]
        return scaled(height, width, options.scale)

    def keeps_grey(self, options: PASDOptions) -> bool:
        """Whether grey pictures get back to grey: not when they are to get colours, nor in the published 8 bits."""
        return self.config.task != "colorize" and not options.eight_bit

    def run_steps(
        self,
        run: Run,
        *,
        stop: Stop[Denoising, At] | None = None,
        resume: Step[Denoising, At] | None = None,
        drop_finished: bool = False,
    ) -> Iterator[Step[Denoising, At]]:
        """Iterate over the denoising of a run that `start` made; its rules are those of `refine_steps`."""
        return denoise_steps(
            run.latents,
            run.predictor,
            run.scheduler,
            generators=run.generators,
            network=run.predictor,
            stop=stop,
            resume=resume,
            drop_finished=drop_finished,
        )

    @torch.no_grad()
    def start(
        self,
        image: Tensor,
        options: PASDOptions | None = None,
        *,
        prompts: Sequence[str] | None = None,
        text: tuple[Text, Text | None] | None = None,
        noise: Draw | None = None,
        latents: Tensor | None = None,
        fg_mask: Tensor | None = None,
        prepared: bool = False,
    ) -> Run:
        """Everything before the first step.

        Args:
            image: (b, 3, h, w) RGB in [0, 1].
            options: None for the defaults.
            prompts: one per picture, instead of the option.
            text: encoded (positive, negative) prompts, instead of all options about prompts.
            noise: source of standard normal numbers (b, ...), instead of generators made from the seed.
            latents: (b, 4, h, w) standard normal to start from, instead of drawn ones; for a start from noise.
            fg_mask: (b or 1, 1, any, any); the picture counts 1.5 where it is not zero and 0.6 elsewhere.
            prepared: the picture is resized already, to sides that the VAE's factor divides.
        """
        options = (options or PASDOptions()).resolved(self.config)
        height, width = self.output_size(*image.shape[-2:], options)
        unit = factor(self.vae)
        colorize = self.config.task == "colorize"
        original, own, output = image, (image.shape[-1], image.shape[-2]), (width, height)
        if not colorize and not prepared:
            own, output = thicken(*own, output, options.process_size)
            image = pad_to(image, own[1], own[0])
        sizes = plan(
            *own,
            output,
            options.process_size,
            unit,
            2 * options.process_size if colorize else None,
        )
        if prepared:
            sizes = Sizes(*([(image.shape[-1], image.shape[-2])] * 4))
            height, width = image.shape[-2:]
        image = as_gray(image) if colorize else image
        seen = image if prepared else prepare(image, sizes)
        positive, negative = self._texts(image, options, prompts) if text is None else text
        seen = seen.to(self.device)
        generators = item_generators(options.seed, len(image))
        draw = noise or (lambda shape: torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generators]))
        scheduler = set_steps(self.scheduler, options.steps, self.device)
        guided = options.guidance_scale > 1 and negative is not None

        def predictor(rows: list[int]) -> NoisePredictor:
            return NoisePredictor(
                self.unet,
                self.controlnet,
                seen[rows].to(self.dtype),
                positive[rows],
                negative[rows] if guided else None,
                guidance_scale=options.guidance_scale,
                conditioning_scale=options.conditioning_scale,
                guess_mode=options.guess_mode,
                fg_mask=fg_mask if fg_mask is None or len(fg_mask) == 1 else fg_mask[rows],
                tiles=tiles,
                guidance_every=options.guidance_every,
                control_every=options.control_every,
            )

        tiles = self._tiles(seen, options, 2 if guided else 1)
        # A CPU gains nothing from batches, and alone every picture gets the very same numbers.
        alone = self.device.type == "cpu" and len(seen) > 1
        chosen = BatchPredictor(predictor, len(seen), alone)
        begin = self._begin(seen, options, scheduler, draw, latents)
        return Run(original, seen, (height, width), sizes, options, begin, chosen, scheduler, generators)

    def decode(self, state: Denoising, options: PASDOptions | None = None) -> Tensor:
        """The picture (b, 3, H, W) in [0, 1], on the networks' device, of a state."""
        tiles = vae_tiles(self._vae_tile(options or PASDOptions(), *state.latents.shape[-2:]), VAE_OVERLAP)
        return torch.cat([decode_latents(self.vae, latents, tiles) for latents in state.latents.split(1)])

    def finish(self, run: Run, decoded: Tensor) -> Tensor:
        """The decoded picture (b, 3, H, W) with its colours and size, float32 on the CPU."""
        decoded, seen, options = decoded.float().cpu(), run.image.float().cpu(), run.options
        if self.config.task == "colorize":
            return transfer_chroma(decoded, run.original.float().cpu(), options.eight_bit)
        found = finish(decoded, seen, run.sizes.output, options.color, options.eight_bit)
        return found[..., : run.size[0], : run.size[1]]

    def _begin(self, image: Tensor, options: PASDOptions, scheduler: Any, draw: Draw, latents: Tensor | None) -> Tensor:
        """Latents to start from (PASD, section 3.4: adjustable noise schedule)."""
        channels, unit = self.unet.config.in_channels, factor(self.vae)
        shape = (len(image), channels, *(side // unit for side in image.shape[-2:]))
        if options.start == "noise":
            latents = draw(shape) if latents is None else latents
        else:
            if latents is not None:
                raise ValueError("Given latents belong to a start from noise; choose start noise or leave them out.")
            tiles = vae_tiles(self._vae_tile(options, *shape[-2:]) * unit, VAE_OVERLAP * unit, unit)
            pairs = zip(image.split(1), draw(shape).to(image).split(1), strict=True)
            latents = torch.cat([encode_image(self.vae, item, noise, tiles) for item, noise in pairs]).float()
            first = int(scheduler.timesteps[0])
            for level in (first, options.start_level):
                noise = draw(shape).to(latents)
                latents = add_noise(scheduler, latents, noise, level, options.start_reading)
        return (latents.to(self.device) * scheduler.init_noise_sigma).to(self.dtype)

    def _tiles(self, image: Tensor, options: PASDOptions, halves: int) -> Tiles | GaussianTiles | None:
        unit, size = factor(self.vae), options.tile
        height, width = (side // unit for side in image.shape[-2:])
        if options.tiling == "published":
            return (
                GaussianTiles(self.config.tile if size is None else size, options.tile_overlap) if size != 0 else None
            )
        if size is None:
            size = largest_tile(self.unet, halves * options.tile_batch, free_bytes(self.device), self.config.tile)
        return unet_tiles(self.unet, size, options.tile_overlap, height, width, options.tile_batch)

    def _vae_tile(self, options: PASDOptions, height: int, width: int) -> int:
        if options.vae_tile is not None:
            return options.vae_tile
        return largest_vae_tile(self.vae, free_bytes(self.device), height, width)

    def _texts(self, image: Tensor, options: PASDOptions, prompts: Sequence[str] | None) -> tuple[Text, Text | None]:
        prompts = [options.prompt] * len(image) if prompts is None else list(prompts)
        if len(prompts) != len(image):
            raise ValueError(f"There are {len(prompts)} prompts for {len(image)} pictures; give one for each.")
        describer = self.describer or Describer(options.describe, device=self.device)
        colorize = self.config.task == "colorize"
        wanted = [
            full_prompt(describer(to_pil(picture), prompt), options.added_prompt, colorize)
            for picture, prompt in zip(image, prompts, strict=True)
        ]
        negative = [options.negative_prompt] * len(image)
        return self._encoded(wanted), self._encoded(negative) if options.guidance_scale > 1 else None

    def _encoded(self, prompts: Sequence[str]) -> Text:
        """Every prompt alone, so that its numbers do not depend on the others."""
        found = {prompt: self.text([prompt]) for prompt in prompts}
        pooled = [found[prompt].pooled for prompt in prompts]
        embeds = torch.cat([found[prompt].embeds for prompt in prompts])
        return Text(embeds, None if pooled[0] is None else torch.cat(pooled))


def base_alone(restorer: PASDRestorer) -> PASDRestorer:
    """The same restorer with its base UNet alone, without pixel attention and ControlNet: what PASD must improve on."""
    with torch.device("meta"):
        plain = UNet2DConditionModel.from_config(restorer.unet.config)
    tensors = {name: value for name, value in restorer.unet.state_dict().items() if not is_trained(name)}
    plain.load_state_dict(tensors, assign=True)

    def drop_residuals(module: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {name: value for name, value in named.items() if not name.endswith(_RESIDUALS)}

    plain.register_forward_pre_hook(drop_residuals, with_kwargs=True)
    found = copy.copy(restorer)
    found.unet = plain.eval()
    return found


_RESIDUALS = ("block_additional_residual", "block_additional_residuals")
