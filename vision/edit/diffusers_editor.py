"""Any pipeline of diffusers that takes a picture, as an editor: image-to-image, inpainting, editing by instruction.

The pipeline sees the whole picture at its own size. What it changes is enlarged and added to the picture inside the
mask, frame by frame or in one go, as PIE's changes are; where the mask is black every pixel stays as it was.

Pictures go through the pipeline one by one, each with a generator of its own: no pipeline's batches decide a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from vision import libraries
from vision.diffusion.pipelines import (
    called,
    default_of,
    load_pipeline,
    networks,
    own_resolution,
    save_pipeline,
    sibling,
    takes,
    unit,
)
from vision.edit import folders
from vision.edit.editor import Facts, Progress, ProgressiveEditor, Prompt, prompt_entries, scored_by
from vision.edit.given import as_batch
from vision.edit.options import ProgressionOptions, Scheduled, at_frame, check_schedule, check_strength, several
from vision.edit.pictures import floor_sides, hold_colors, to_area
from vision.edit.progression import Frame, Run, Score
from vision.images import ImageLike, composite, to_pil, to_uint8
from vision.refine import clone_items, item_generators


@dataclass(frozen=True)
class DiffusersOptions(ProgressionOptions):
    """What one call may change. None stands for the pipeline's own value.

    Strength and guidance may be one number, or several that are spread evenly over the frames.
    """

    frames: int | None = None
    """Edits, each of the result before it; None: one. The first frame of the result is the picture itself."""
    guidance_scale: Scheduled | None = None
    """Weight of the prompt, as the pipeline calls it (Qwen-Image calls it true_cfg_scale)."""
    true_cfg_scale: float | None = None
    """Weight of the prompt against the negative prompt, of pipelines whose guidance_scale is something else (FLUX)."""
    resolution: int | None = None
    """Pixels per side of a square of the area that the networks see; pictures keep their shape. 0 keeps their size."""
    around: float = 0.0
    """Sides of what the pipeline sees around the mask, in multiples of the mask's, so that a small region of a large
    picture gets all its pixels; at least 1, or 0: it sees the whole picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.around and not 1 <= self.around < float("inf"):
            raise ValueError(f"around must be at least 1 (or 0, for the whole picture), got {self.around:g}.")
        if self.true_cfg_scale is not None and not 1 <= self.true_cfg_scale < float("inf"):
            raise ValueError(f"true_cfg_scale must be at least 1, got {self.true_cfg_scale:g}; 1 switches it off.")


@dataclass(frozen=True)
class PipelineRun(Run):
    """One batch of pictures, ready to be edited."""

    texts: tuple[tuple[str, ...], ...]
    """For every entry of the prompt a text for each picture."""


class DiffusersEditor(ProgressiveEditor[DiffusersOptions]):
    """Edits pictures with a pipeline of diffusers.

    Args:
        pipeline: takes a picture, or has a sibling that does (see `vision.diffusion.pipelines`).
        classifier: how sure it is of what was asked for is told with every frame; may be None.

    Raises:
        ValueError: neither edits.
    """

    Options = DiffusersOptions
    unshipped = "No pipeline comes with the project; name the folder of one, or org/name on the model hub."

    def __init__(self, pipeline: Any, classifier: Score | None = None):
        if called(type(pipeline), "image") is None:
            raise ValueError(
                f"A {type(pipeline).__name__} does not edit, and diffusers has no sibling of it that does."
            )
        self.pipeline, self.classifier = pipeline, classifier

    @classmethod
    def from_folder(cls, folder: Path, dtype: torch.dtype) -> Self:
        """A pipeline's folder; no code in it is run, and no pickled weights are read."""
        if not folder.is_dir():
            raise ValueError(f"{folder} is a single file; name the whole folder of a pipeline.")
        return cls(load_pipeline(folder, dtype=dtype))

    @classmethod
    def builtin(cls, name: str) -> Self:
        """`builtin:tiny`: seeded random weights, for tests."""
        return cls(_builtin(name))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the pipeline's folder, floating weights as `dtype` when it is given."""
        save_pipeline(self.pipeline, folder, dtype)

    @property
    def networks(self) -> list[nn.Module]:
        """All of the pipeline's."""
        return networks(self.pipeline)

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return self.pipeline.dtype

    def facts(self, options: DiffusersOptions | None = None) -> Facts:
        """What a caller must know of this editor with these options."""
        options = options or DiffusersOptions()
        return Facts(called(type(self.pipeline), "image").__name__, options.frames or 1, around=options.around)

    @torch.no_grad()
    def start(
        self,
        image: ImageLike | Sequence[ImageLike],
        prompt: Prompt | None = None,
        mask: ImageLike | Sequence[ImageLike] | None = None,
        options: DiffusersOptions | None = None,
        *,
        score: Score | None = None,
    ) -> PipelineRun:
        """Everything before the first edit.

        Args:
            image, prompt, mask, options: as in `__call__`.
            score: judges the frames; None takes the editor's classifier, if there is one.

        Raises:
            ValueError: pictures have different sizes, the mask is empty, a prompt is missing, or the pipeline does not
                know an option.
        """
        options = options or DiffusersOptions()
        options = replace(options, frames=options.frames or 1, fixed_noise=bool(options.fixed_noise))
        self._check(options, mask is not None)
        side = own_resolution(self.pipeline) if options.resolution is None else options.resolution
        factor = unit(self.pipeline)
        resize = partial(to_area, side=side, unit=factor) if side else None
        original, regions = as_batch(image, mask, resize, factor)
        original, batch, region = original.to(self.device), len(original), None
        if regions is not None:
            region = torch.cat([floor_sides(part, factor) for part in regions]).amax(dim=1, keepdim=True)
            region = region.to(self.device).expand(batch, -1, -1, -1)
            if not region.flatten(1).any(dim=1).all():
                size = f"{original.shape[-1]} x {original.shape[-2]}"
                raise ValueError(
                    f"The mask is so small that nothing is left of it at {size} pixels; paint a larger one."
                )
        entries = prompt_entries(prompt, "", options.frames)
        texts = tuple(_texts(entry, batch) for entry in entries)
        return PipelineRun(original, None, region, options, scored_by(options, score or self.classifier), texts)

    def first(self, run: PipelineRun) -> Frame:
        """Frame 0: the original."""
        images, batch = run.original, len(run.original)
        generators, nothing = item_generators(run.options.seed, batch), torch.zeros(batch, device=images.device)
        return Frame(images, None, nothing, torch.arange(batch), generators, torch.zeros_like(images))

    @torch.no_grad()
    def next(self, run: PipelineRun, frame: Frame, number: int, progress: Progress | None = None) -> Frame:
        """Frame `number` (from 1) of a run, from the one before it; `progress` gets its finished share in [0, 1]."""
        options, items = run.options, frame.items.to(self.device)
        generators = clone_items(frame.generators)
        texts = at_frame(run.texts, number, options.frames)
        original, region = run.original[items], None if run.region is None else run.region[items]
        made = []
        for place, item in enumerate(items.tolist()):

            def tell(share: float, place: int = place) -> None:
                if progress is not None:
                    progress((place + share) / len(items))

            part = None if region is None else region[place]
            made.append(self._edited(frame.images[place], part, texts[item], options, number, generators[place], tell))
        images = torch.cat(made)
        if options.color_lock:
            images = hold_colors(images, original, region)
        difference = images - original
        if region is not None:
            images = composite(region, images, original)
        images = to_uint8(images).float() / 255  # pipelines take pictures of 8 bit
        weight = torch.ones_like(images[:, :1]) if region is None else region
        moved = (images - frame.images).square().mean(dim=1, keepdim=True) * weight
        change = (moved.sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))).sqrt()
        kept = frame.generators if options.fixed_noise else generators
        return Frame(images, None, change, frame.items, kept, difference)

    def _edited(
        self,
        image: Tensor,
        region: Tensor | None,
        text: str,
        options: DiffusersOptions,
        number: int,
        generator: torch.Generator,
        progress: Progress,
    ) -> Tensor:
        """(1, 3, h, w) float32 in [0, 1]: what the pipeline makes of (3, h, w); `region` is (1, h, w)."""
        pipeline = sibling(self.pipeline, "image" if region is None else "inpaint")
        height, width = image.shape[-2:]
        scales = {name: at_frame(several(getattr(options, name)), number, options.frames) for name in _given(options)}
        given = {"prompt": text, "image": to_pil(image), "generator": generator, "output_type": "pt"}
        given |= _renamed(type(pipeline), scales)
        given |= {"height": height, "width": width, "max_area": height * width, "_auto_resize": False}
        given["num_inference_steps"] = options.steps
        given["callback_on_step_end"] = _telling(progress)
        given["negative_prompt"] = _negative(type(pipeline), options, given.get("true_cfg_scale"))
        if takes(type(pipeline), "mask_image"):
            given["mask_image"] = _whole_blocks(region, image, pipeline.vae_scale_factor)
        known = {name: value for name, value in given.items() if value is not None and takes(type(pipeline), name)}
        name = type(pipeline).__name__
        with libraries.library_errors(f"{name} cannot edit this picture"):
            result = pipeline(**known)
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            raise ValueError(f"The safety checker of this {name} refused its result; try another prompt or seed.")
        found = getattr(result, "images", None)
        if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[:2] != (1, 3) or not _similar(found, image):
            raise ValueError(f"A {name} does not make one picture of the shape of the given one, so it is no editor.")
        if not found.isfinite().all():
            raise ValueError(f"{name} gave numbers that are not finite in {self.dtype}; choose float32 or bfloat16.")
        found = found.float().to(image.device)
        if found.shape[-2:] != (height, width):  # a few choose the size themselves
            found = F.interpolate(found, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        return found

    def _check(self, options: DiffusersOptions, masked: bool) -> None:
        """
        Raises:
            ValueError: the pipeline does not know an option that was given, or no step is left of a strength.
        """
        cls = called(type(self.pipeline), "inpaint" if masked else "image")
        for name in ("strength", "guidance_scale"):
            check_schedule(name, several(getattr(options, name)) or (None,), options.frames)
        given = dict.fromkeys(_given(options)) | ({"negative_prompt": None} if options.negative_prompt else {})
        unknown = [name for name in _renamed(cls, given) if not takes(cls, name)]
        if unknown:
            raise ValueError(f"A {cls.__name__} has no {unknown[0]}; leave it out.")
        steps = options.steps or default_of(cls, "num_inference_steps")
        for strength in several(default_of(cls, "strength") if options.strength is None else options.strength):
            check_strength(strength, steps)


def _given(options: DiffusersOptions) -> list[str]:
    """Names of the numbers that were given."""
    return [name for name in ("strength", "guidance_scale", "true_cfg_scale") if getattr(options, name) is not None]


def _renamed(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """Values by the names of a pipeline: where guidance_scale is None unless it is asked for, true_cfg_scale guides."""
    if takes(cls, "true_cfg_scale") and default_of(cls, "guidance_scale") is None and "guidance_scale" in values:
        values = {"true_cfg_scale": values["guidance_scale"]} | values
        return {name: value for name, value in values.items() if name != "guidance_scale"}
    return values


def _negative(cls: type, options: DiffusersOptions, scale: float | None) -> str | None:
    """What to move away from. Pipelines with true_cfg_scale guide only when they get one, be it empty."""
    scale = default_of(cls, "true_cfg_scale") if scale is None else scale
    return options.negative_prompt or (" " if scale is not None and scale > 1 else None)


def _texts(entry: str | Sequence[str], batch: int) -> tuple[str, ...]:
    texts = (entry,) if isinstance(entry, str) else tuple(entry)
    if len(texts) not in (1, batch):
        raise ValueError(f"There are {len(texts)} prompts for {batch} pictures; give one, or one for each.")
    return texts * (batch // len(texts))


def _telling(progress: Progress) -> Callable[..., dict[str, Any]]:
    """What a pipeline calls after every step."""

    def tell(pipeline: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        progress(min(1.0, (step + 1) / pipeline.num_timesteps))
        return kept

    return tell


def _similar(first: Tensor, second: Tensor) -> bool:
    """Whether pictures (..., h, w) are nearly as wide for their height as each other."""
    wide, wanted = (picture.shape[-1] / picture.shape[-2] for picture in (first, second))
    return 0.9 * wanted < wide < 1.1 * wanted


def _whole_blocks(region: Tensor | None, image: Tensor, block: int) -> PIL.Image.Image:
    """(mode L) a mask (1, h, w) of whole latents, none of whose pixels is lost when it is shrunk to them; white without
    a region."""
    if region is None:
        return PIL.Image.new("L", (image.shape[-1], image.shape[-2]), 255)
    blocks = F.max_pool2d((region > 0).float()[None], block)
    return to_pil(F.interpolate(blocks, scale_factor=block, mode="nearest"))


def _builtin(name: str) -> Any:
    """PIE's networks of `builtin:tiny` as a pipeline for image-to-image, for tests."""
    from diffusers import StableDiffusionImg2ImgPipeline

    parts = folders.builtin(name)
    pipeline = StableDiffusionImg2ImgPipeline(
        parts["vae"], parts["text"].encoders[0], parts["text"].tokenizers[0], parts["unet"], parts["scheduler"],
        None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
