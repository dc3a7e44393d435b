"""Progressive image editing (PIE, arXiv 2309.11745): simulate how a condition progresses, picture by picture.

PIE simulates severity. It does not predict a patient's future.

Differences from the published code: batches are handled properly; every picture has a random generator of its own;
masks of another size are resized; the mask's factor is the VAE's, not always eight; a strength of 0 is refused. The
paper's text describes DDIM inversion, the published code adds fresh noise: both are modes here. Everything beyond the
published code (schedules over the frames, chaining, pasting, colours, stopping) is off by default.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision.diffusion.backbone import TextEncoders
from vision.diffusion.denoise import At, Denoising
from vision.diffusion.latents import decode_latents, factor, posterior
from vision.edit import folders
from vision.edit.confidence import Confidence
from vision.edit.editor import Facts, Progress, ProgressiveEditor, Prompt, prompt_entries, scored_by
from vision.edit.given import as_batch
from vision.edit.masks import to_latents
from vision.edit.one_edit import (
    Beginning,
    Moments,
    Predictor,
    denoise,
    inverted,
    is_guided,
    noised,
    prepare,
    pull_back,
    scaled,
)
from vision.edit.options import PIEConfig, PIEOptions, at_frame, several
from vision.edit.pictures import floor_sides, hold_colors, resize_and_cut
from vision.edit.progression import Frame, Run, Score
from vision.images import ImageLike, composite, to_uint8
from vision.refine import Step, clone_items, item_generators

NOTE = "PIE simulates severity; it does not predict a patient's future."


@dataclass(frozen=True)
class Edit:
    """One edit and what it went through."""

    beginning: Beginning
    """Where the loop started."""
    denoised: Tensor
    """(b, c, h, w) result of the loop."""
    latents: Tensor
    """(b, c, h, w) after it was pulled to the original."""
    images: Tensor
    """(b, 3, H, W) in [0, 1], decoded."""


@dataclass(frozen=True)
class PIERun(Run):
    """One batch of pictures, ready to be edited."""

    moments: Moments
    """Of the original."""
    texts: tuple[Tensor, ...]
    """(b, tokens, width) of every entry of the prompt."""
    negative: Tensor
    """(b, tokens, width)."""
    source: Tensor
    """(b, tokens, width) what the pictures show, for inversion."""


class PIEEditor(ProgressiveEditor[PIEOptions]):
    """Edits pictures progressively.

    Args:
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL.
        text: tokenizer and text encoder.
        scheduler: any scheduler of diffusers; may be replaced at any time.
        config: what the weights were tuned for.
        classifier: how sure it is of the condition is told with every frame; may be None.
    """

    Options = PIEOptions

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        text: TextEncoders,
        scheduler: Any,
        config: PIEConfig,
        classifier: Confidence | None = None,
    ):
        self.unet, self.vae, self.text, self.scheduler = unet, vae, text, scheduler
        self.config, self.classifier = config, classifier

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        unet: str | Path | None = None,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> PIEEditor:
        """Load an editor.

        Args:
            source: a Stable Diffusion folder in diffusers' layout (one that `save_pretrained` wrote also holds what
                it was tuned for, and a classifier), `org/name` on the model hub, `builtin:tiny`, or None for the
                embedded `pie-brain-mini`.
            unet: folder of a fine-tuned UNet to take instead.
            revision: of a hub source.
            device, dtype: where and in what numbers to compute.

        Raises:
            FileNotFoundError: the folder, or a component in it, is missing.
            ValueError: a component does not load or is of another family.
        """
        return cls(**folders.load(source, unet=unet, revision=revision, dtype=dtype)).to(device, dtype)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a whole Stable Diffusion folder, floating weights as `dtype` when it is given."""
        parts = ("unet", "vae", "text", "scheduler", "config", "classifier")
        folders.save(Path(folder), dtype=dtype, **{name: getattr(self, name) for name in parts})

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All but the classifier's, the UNet first."""
        return (self.unet, self.vae, *self.text.encoders)

    def facts(self, options: PIEOptions | None = None) -> Facts:
        """What a caller must know of this editor with these options."""
        options = (options or PIEOptions()).resolved(self.config)
        return Facts(
            "PIE",
            options.frames,
            square=options.resolution,
            own_size=options.size == "own",
            prompt=self.config.prompt,
            source_prompt=options.source_prompt,
            differences=True,
            note=NOTE,
        )

    @torch.no_grad()
    def start(
        self,
        image: ImageLike | Sequence[ImageLike],
        prompt: Prompt | None = None,
        mask: ImageLike | Sequence[ImageLike] | None = None,
        options: PIEOptions | None = None,
        *,
        score: Score | None = None,
        embeds: Tensor | None = None,
        negative_embeds: Tensor | None = None,
    ) -> PIERun:
        """Everything before the first edit.

        Args:
            image, prompt, mask, options: as in `__call__`.
            score: judges the frames; None takes the editor's classifier, if there is one.
            embeds: (b, tokens, width), or b = 1, encoded prompt, instead of `prompt`.
            negative_embeds: (b, tokens, width), instead of the option.

        Raises:
            ValueError: pictures have different sizes, the mask is empty, a prompt is missing, or means nothing to a
                text encoder of few words; or so small a strength leaves no step.
        """
        options = (options or PIEOptions()).resolved(self.config)
        for strength in several(options.strength):
            prepare(self.scheduler, options.steps, strength, self.device)
        score = scored_by(options, score or self.classifier)
        if options.eta and "eta" not in inspect.signature(self.scheduler.step).parameters:
            raise ValueError(f"{type(self.scheduler).__name__} takes no eta; use DDIM, or leave eta at 0.")
        resize = partial(resize_and_cut, resolution=options.resolution) if options.resolution else None
        original, region = as_batch(image, mask, resize, factor(self.vae))
        batch = len(original)
        if embeds is None:
            texts = tuple(
                self._encode(entry, batch) for entry in prompt_entries(prompt, self.config.prompt, options.frames)
            )
        elif prompt is not None:
            raise ValueError("Give a prompt or its embeddings, not both.")
        else:
            texts = (embeds.to(self.device).expand(batch, -1, -1),)
        negative = self._encode(options.negative_prompt, batch) if negative_embeds is None else negative_embeds
        latent, wide = None, None
        if region is not None:
            unit, channels = factor(self.vae), self.vae.config.latent_channels
            latent = torch.cat([to_latents(part, unit, channels) for part in region]).to(self.device)
            if not latent.flatten(1).any(dim=1).all():
                raise ValueError(
                    f"The mask is so small that the networks do not see it: they see {original.shape[-1]} x "
                    f"{original.shape[-2]} pixels in blocks of {unit}. Paint a larger region."
                )
            latent = latent.expand(batch, -1, -1, -1)
            wide = torch.cat([floor_sides(part, unit) for part in region]).amax(dim=1, keepdim=True)
            wide = wide.to(self.device).expand(batch, -1, -1, -1)
        original = original.to(self.device)
        return PIERun(
            original,
            latent,
            wide,
            options,
            score,
            self.moments(original),
            texts,
            negative.to(self.device).expand(batch, -1, -1),
            self._encode(options.source_prompt, batch) if options.mode == "inversion" else negative,
        )

    def first(self, run: PIERun) -> Frame:
        """Frame 0: the original."""
        latents = scaled(self.vae, run.moments.mean).float()
        batch = len(latents)
        generators = item_generators(run.options.seed, batch)
        nothing = torch.zeros(batch, device=latents.device)
        return Frame(run.original, latents, nothing, torch.arange(batch), generators, torch.zeros_like(run.original))

    def next(self, run: PIERun, frame: Frame, number: int, progress: Progress | None = None) -> Frame:
        """Frame `number` (from 1) of a run, from the one before it; `progress` gets its finished share in [0, 1]."""
        generators, observers = clone_items(frame.generators), []
        if progress is not None:
            kept = run.options.steps * at_frame(several(run.options.strength), number, run.options.frames)
            observers.append(lambda step: progress(min(1.0, (step.index + 1) / kept)))
        edit = self.edit(run, frame, number, generators, observers)
        items, options = frame.items.to(self.device), run.options
        images, original = edit.images, run.original[items]
        region = None if run.region is None else run.region[items]
        if options.color_lock:
            images = hold_colors(images, original, region)
        if options.chain == "pixels8":
            images = to_uint8(images).float() / 255
        if options.paste_outside and region is not None:
            images = composite(region, images, original)
            images = to_uint8(images).float() / 255 if options.chain == "pixels8" else images
        moved = (edit.latents - frame.latents).square()
        weight = torch.ones_like(moved) if run.mask is None else run.mask[items]
        change = ((moved * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))).sqrt()
        difference = torch.zeros_like(images)
        if options.size == "own":
            plain = decode_latents(self.vae, edit.beginning.anchor).float()
            difference = (hold_colors(edit.images, plain, region) if options.color_lock else edit.images) - plain
        kept = frame.generators if options.fixed_noise else generators
        return Frame(images, edit.latents, change, frame.items, kept, difference)

    @torch.no_grad()
    def edit(
        self,
        run: PIERun,
        frame: Frame,
        number: int,
        generators: Sequence[torch.Generator],
        observers: Iterable[Callable[[Step[Denoising, At]], object]] = (),
    ) -> Edit:
        """One edit: noise (or invert), denoise towards the text, pull back to the original, decode.

        Args:
            run: what `start` made.
            frame: to start from.
            number: of the new frame, from 1.
            generators: one per picture; they are advanced.
            observers: called with every denoising step.
        """
        options, items = run.options, frame.items.to(self.device)
        strength, scale, beta_1, beta_2 = (
            at_frame(several(getattr(options, name)), number, options.frames)
            for name in ("strength", "guidance_scale", "beta_1", "beta_2")
        )
        original = Moments(run.moments.mean[items], run.moments.std[items])
        if options.chain == "latents" and number > 1:
            mean = frame.latents / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0.0)
            current = Moments(mean, torch.zeros_like(mean))
        else:
            current = original if number == 1 else self.moments(frame.images)
        mask = None if run.mask is None else run.mask[items]
        text = at_frame(run.texts, number, options.frames)[items]
        negative = run.negative[items] if is_guided(scale) else None
        predict = Predictor(self.unet, text, negative, scale)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.cat([torch.randn((1, *shape[1:]), generator=generator) for generator in generators])

        if options.mode == "inversion":
            scheduler, begin = prepare(self.ddim(), options.steps, strength, self.device)
            source = Predictor(self.unet, torch.cat([run.source[items]] * 2))
            beginning = inverted(self.vae, scheduler, begin, current, original, source)
        else:
            scheduler, begin = prepare(self.scheduler, options.steps, strength, self.device)
            beginning = noised(self.vae, scheduler, begin, current, original, draw)
        # Some schedulers add noise otherwise once they have begun to step.
        running = copy.deepcopy(scheduler)
        denoised = denoise(
            beginning, predict, running, begin, mask, generators=generators, eta=options.eta, observers=observers
        )
        latents = pull_back(denoised, beginning.anchor, mask, beta_1, beta_2)
        images = decode_latents(self.vae, latents).float()
        return Edit(beginning, denoised, latents, images)

    def moments(self, images: Tensor) -> Moments:
        """Where the VAE places pictures (b, 3, H, W) in [0, 1]."""
        mean, logvar = posterior(self.vae, images)
        return Moments(mean.float(), (0.5 * logvar.float()).exp())

    def ddim(self) -> Any:
        """DDIM with the noise schedule of the weights."""
        from diffusers import DDIMScheduler

        kept = {name: self.scheduler.config[name] for name in _NOISES if name in self.scheduler.config}
        return DDIMScheduler(**kept, clip_sample=False, set_alpha_to_one=False, steps_offset=1)

    def _encode(self, prompt: str | Sequence[str], batch: int) -> Tensor:
        """(b, tokens, width) float32."""
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        if len(texts) not in (1, batch):
            raise ValueError(f"There are {len(texts)} prompts for {batch} pictures; give one, or one for each.")
        for text in texts:
            folders.refuse_unknown_words(self.text.tokenizers[0], text)
        return self.text(texts, truncate=True).embeds.float().expand(batch, -1, -1)


_NOISES = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
"""What makes a noise schedule, in the configs of diffusers' schedulers."""
