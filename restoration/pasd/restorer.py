"""Restore pictures with a pixel-aware latent diffusion model (PASD, arXiv 2308.14469).

Differences from the released code: the start level means what it says (`start_reading`), tiles fade into each other,
the tiled VAE shares its statistics, colours are rounded once, and every picture has a random generator of its own. The
released behaviour can be chosen where results depend on it: `PUBLISHED` holds these options.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from restoration.pasd import builtin
from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.memory import free_bytes, largest_tile, largest_vae_tile
from restoration.pasd.options import COLORIZE, SDXL, PASDConfig, PASDOptions
from restoration.pasd.predictor import NoisePredictor
from restoration.pasd.prompts import Describer, full_prompt
from restoration.pasd.sizes import Sizes, as_gray, finish, plan, prepare, transfer_chroma
from restoration.pasd.style import apply_style
from restoration.pasd.unet import PASDUNet, is_trained
from vision import hub
from vision.config import load_config, save_config
from vision.diffusion.backbone import (
    Text,
    TextEncoders,
    add_concept,
    load_backbone,
    load_scheduler,
    load_text,
    make_scheduler,
)
from vision.diffusion.denoise import At, Denoising, denoise_steps, set_steps
from vision.diffusion.latents import add_noise, decode_latents, encode_image, factor, vae_tiles
from vision.diffusion.tiling import GaussianTiles
from vision.images import ImageLike, as_loaded, to_pil, to_tensor, to_uint8
from vision.refine import Step, item_generators
from vision.tiles import Tiles

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "pasd-mini"
"""The embedded default; see its README.md."""
PUBLISHED = {"start_reading": "as_diffusers", "tiling": "published", "tile": 320, "tile_overlap": 8, "eight_bit": True}
"""Options that make results those of the released code."""
VAE_OVERLAP = 12
"""Latents of context on each inner side of the VAE's tiles; its convolutions after the middle see no further."""

Draw = Callable[[tuple[int, ...]], Tensor]
"""Standard normal numbers of a shape (1, c, h, w)."""
Observer = Callable[[Step[Denoising, At]], object]


@dataclass(frozen=True)
class Run:
    """One batch of pictures, ready to be denoised."""

    image: Tensor
    """(b, 3, H, W) float32, what the networks see, RGB in [0, 1]."""
    sizes: Sizes
    options: PASDOptions
    """Without None, apart from tiles that are chosen by the free memory."""
    latents: Tensor
    """(b, 4, h, w) to start from."""
    predictor: NoisePredictor
    scheduler: Any
    generators: Sequence[torch.Generator]


class PASDRestorer:
    """Restores, colourizes and stylizes pictures.

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
    ) -> PASDRestorer:
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
    def _saved(cls, folder: Path, dtype: torch.dtype) -> PASDRestorer:
        from diffusers import AutoencoderKL

        if not (folder / hub.INDEX).exists():
            raise FileNotFoundError(f"{folder} has no {hub.INDEX}; name PASD's own weights with pasd=... as well.")
        index = hub.read_index(folder, cls.__name__)
        missing = [name for name in ("unet", "controlnet", "vae", "scheduler") if name not in index]
        if missing:
            raise ValueError(f"{folder} lacks {', '.join(missing)}.")
        return cls(
            PASDUNet.from_pretrained(folder / "unet", dtype=dtype),
            PASDControlNet.from_pretrained(folder / "controlnet", dtype=dtype),
            AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype, local_files_only=True).eval(),
            load_text(folder, dtype=dtype),
            load_scheduler(folder / "scheduler"),
            load_config(PASDConfig, folder / "config.json"),
        )

    @classmethod
    def _published(cls, base: Path, own: Path, dtype: torch.dtype) -> PASDRestorer:
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
        folder, components = Path(folder), {}
        modules = {"unet": self.unet, "controlnet": self.controlnet, "vae": self.vae}
        for i, (encoder, tokenizer) in enumerate(zip(self.text.encoders, self.text.tokenizers, strict=True)):
            suffix = f"_{i + 1}" if i else ""
            modules[f"text_encoder{suffix}"] = encoder
            tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
            components[f"tokenizer{suffix}"] = ("transformers", type(tokenizer).__name__)
        for name, module in modules.items():
            stored = module if dtype is None else nn.Module.to(copy.deepcopy(module), dtype)
            stored.save_pretrained(folder / name)
            place = type(module).__module__
            place = place if place.startswith("restoration.") else place.split(".")[0]
            components[name] = (place, type(module).__name__)
        self.scheduler.save_pretrained(folder / "scheduler")
        components["scheduler"] = ("diffusers", type(self.scheduler).__name__)
        save_config(self.config, folder / "config.json")
        hub.write_index(folder, type(self).__name__, components)

    def push_to_hub(self, name: str, folder: str | Path, **arguments: Any) -> str:
        """Save to `folder` and upload it to the model hub as `org/name`; returns its address."""
        self.save_pretrained(folder)
        return hub.push_to_hub(folder, name, **arguments)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> PASDRestorer:
        """Move the networks; returns this restorer."""
        for module in (self.unet, self.controlnet, self.vae, *self.text.encoders):
            nn.Module.to(module, device=device, dtype=dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return self.unet.dtype

    def compile(self) -> PASDRestorer:
        """Compile both networks, with their weights taken as constants; returns this restorer.

        The first picture of every size takes minutes longer. Move and restyle the restorer before. Meant for GPUs: on
        one CPU core, guided steps at 512 x 512 took the same time.
        """
        for module in (self.unet, self.controlnet):
            module.compile(options={"freezing": True})
        return self

    def restyle(self, source: str | Path, weight: float = 1.0) -> PASDRestorer:
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

    def output_size(self, height: int, width: int, options: PASDOptions | None = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        options = (options or PASDOptions()).resolved(self.config)
        if self.config.task == "colorize":
            return height, width
        if options.size is not None:
            return options.size[1], options.size[0]
        return max(1, round(height * options.scale)), max(1, round(width * options.scale))

    def __call__(
        self,
        image: ImageLike,
        options: PASDOptions | None = None,
        *,
        prompts: Sequence[str] | None = None,
        observers: Iterable[Observer] = (),
        progress: Callable[[float], object] | None = None,
        **more: Any,
    ) -> Any:
        """Restore a picture or a batch.

        Args:
            image: path, PIL image, (h, w, 3) uint8 array, or tensor (b, 3, h, w) or (3, h, w) RGB in [0, 1].
            options: None for the defaults.
            prompts: one per picture of the batch, instead of the option.
            observers: called with every step.
            progress: called with the finished share in [0, 1].
            more: further arguments of `start`.

        Returns:
            What was given: PIL image (for paths too; transparency is enlarged beside), array, or float32 tensor.
        """
        loaded = None if isinstance(image, (Tensor, np.ndarray)) else as_loaded(image)
        pixels = to_tensor(image if loaded is None else loaded)
        found = self.restore(pixels, options, prompts=prompts, observers=observers, progress=progress, **more)
        if isinstance(image, Tensor):
            return found if image.ndim == 4 else found[0]
        if loaded is None:
            return to_uint8(found)[0].permute(1, 2, 0).contiguous().numpy()
        return loaded.with_colours(to_pil(found))

    def bands(
        self,
        image: Tensor,
        options: PASDOptions | None = None,
        *,
        finish: Callable[[Tensor], Tensor] | None = None,
        observers: Iterable[Observer] = (),
        progress: Callable[[float], object] | None = None,
    ) -> Iterator[Tensor]:
        """The result of (b, 3, h, w) as one finished band (b, 3, H, W), as scripts write it; see `restore`."""
        found = self.restore(image, options, observers=observers, progress=progress)
        yield found if finish is None else finish(found)

    def restore(
        self,
        image: Tensor,
        options: PASDOptions | None = None,
        *,
        observers: Iterable[Observer] = (),
        progress: Callable[[float], object] | None = None,
        **more: Any,
    ) -> Tensor:
        """(b, 3, h, w) RGB in [0, 1] -> (b, 3, H, W) float32 on the CPU; arguments as in `__call__`."""
        run, observers = self.start(image, options, **more), list(observers)
        state = Denoising(run.latents)
        for step in self.run_steps(run):
            state = step.state
            for observe in observers:
                observe(step)
            if progress is not None:
                progress((step.index + 1) / (run.options.steps + 1))
        result = self.finish(run, self.decode(state, run.options), image)
        if progress is not None:
            progress(1.0)
        return result

    def steps(
        self, image: ImageLike, options: PASDOptions | None = None, *, rules: dict[str, Any] | None = None, **more: Any
    ) -> Iterator[Step[Denoising, At]]:
        """Iterate over the denoising of a picture or batch; `decode(step.state)` shows where it is.

        Args:
            image, options: as in `__call__`.
            rules: keyword arguments of `vision.refine.refine_steps`.
            more: further arguments of `start`.
        """
        yield from self.run_steps(self.start(to_tensor(image), options, **more), **(rules or {}))

    def run_steps(self, run: Run, **rules: Any) -> Iterator[Step[Denoising, At]]:
        """Iterate over the denoising of a run that `start` made."""
        predict, scheduler = run.predictor, run.scheduler
        yield from denoise_steps(run.latents, predict, scheduler, generators=run.generators, **rules)

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
        sizes = plan(
            *reversed(image.shape[-2:]),
            (width, height),
            options.process_size,
            unit,
            2 * options.process_size if colorize else None,
        )
        if prepared:
            sizes = Sizes(*([(image.shape[-1], image.shape[-2])] * 4))
        image = as_gray(image) if colorize else image
        seen = image if prepared else prepare(image, sizes)
        positive, negative = self._texts(image, options, prompts) if text is None else text
        seen = seen.to(self.device)
        generators = item_generators(options.seed, len(image))
        draw = noise or (lambda shape: torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generators]))
        scheduler = set_steps(self.scheduler, options.steps, self.device)
        guided = options.guidance_scale > 1 and negative is not None
        predictor = NoisePredictor(
            self.unet,
            self.controlnet,
            seen.to(self.dtype),
            positive,
            negative if guided else None,
            guidance_scale=options.guidance_scale,
            conditioning_scale=options.conditioning_scale,
            guess_mode=options.guess_mode,
            fg_mask=fg_mask,
            tiles=self._tiles(seen, options, 2 if guided else 1),
            guidance_every=options.guidance_every,
            control_every=options.control_every,
        )
        begin = self._begin(seen, options, scheduler, draw, latents)
        return Run(seen, sizes, options, begin, predictor, scheduler, generators)

    def decode(self, state: Denoising, options: PASDOptions | None = None) -> Tensor:
        """The picture (b, 3, H, W) in [0, 1], on the networks' device, of a state."""
        tiles = vae_tiles(self._vae_tile(options or PASDOptions()), VAE_OVERLAP)
        return torch.cat([decode_latents(self.vae, latents, tiles) for latents in state.latents.split(1)])

    def finish(self, run: Run, decoded: Tensor, original: Tensor) -> Tensor:
        """The decoded picture with its colours and size, float32 on the CPU; `original` is what `start` was given."""
        decoded, seen, options = decoded.float().cpu(), run.image.float().cpu(), run.options
        if self.config.task == "colorize":
            return transfer_chroma(decoded, original.float().cpu(), options.eight_bit)
        return finish(decoded, seen, run.sizes.output, options.color, options.eight_bit)

    def _begin(self, image: Tensor, options: PASDOptions, scheduler: Any, draw: Draw, latents: Tensor | None) -> Tensor:
        """Latents to start from (PASD, section 3.4: adjustable noise schedule)."""
        channels, unit = self.unet.config.in_channels, factor(self.vae)
        shape = (len(image), channels, *(side // unit for side in image.shape[-2:]))
        if options.start == "noise":
            latents = draw(shape) if latents is None else latents
        else:
            if latents is not None:
                raise ValueError("Given latents belong to a start from noise; choose start noise or leave them out.")
            tiles = vae_tiles(self._vae_tile(options) * unit, VAE_OVERLAP * unit, unit)
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
        if size == 0 or max(height, width) <= size:
            return None
        step = 2 ** (len(self.unet.config.block_out_channels) - 1)
        overlap = math.ceil(options.tile_overlap / step) * step
        size = max(size // step * step, 2 * overlap + step)
        return Tiles(size, overlap, 1, batch=options.tile_batch)

    def _vae_tile(self, options: PASDOptions) -> int:
        return largest_vae_tile(self.vae, free_bytes(self.device)) if options.vae_tile is None else options.vae_tile

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
        return self.text(wanted), self.text(negative) if options.guidance_scale > 1 else None


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
_FETCHED = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


def _width(encoder: nn.Module) -> int:
    return encoder.config.hidden_size


def _tiny(name: str) -> PASDConfig:
    base = SDXL if name == "tiny-sdxl" else PASDConfig()
    return replace(base, process_size=32, steps=2, tile=64)
