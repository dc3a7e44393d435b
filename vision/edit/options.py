"""What every editor's call may change, and what PIE's weights were made for and its calls may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import numpy as np

from vision.config import to_dict

T = TypeVar("T")
Mode = Literal["published", "inversion"]
Chain = Literal["pixels8", "pixels", "latents"]
Scheduled = float | tuple[float, ...]
SCHEDULES = ("strength", "guidance_scale", "beta_1", "beta_2")
"""Options that may change from frame to frame."""


@dataclass(frozen=True)
class PIEConfig:
    """What the weights were made with and tuned for; the defaults are the published code's."""

    resolution: int = 512
    """Pixels per side that pictures are resized and cut to."""
    prompt: str = ""
    """What a picture of the condition shows, for calls without a prompt."""
    source_prompt: str = ""
    """What a picture without it shows."""
    frames: int = 10
    """Edits of a progression."""
    steps: int = 50
    """Steps of the whole noise schedule; an edit makes `strength` of them."""
    strength: Scheduled = 0.5
    """How far a picture is noised before every edit (the paper's roll-back ratio)."""
    guidance_scale: Scheduled = 7.5
    """Weight of the prompt against the negative prompt."""
    beta_1: Scheduled = 0.01
    """Share of an edit that is kept outside the mask."""
    beta_2: Scheduled = 0.75
    """Share of an edit that is kept inside the mask."""
    fixed_noise: bool = False
    """Draw the same noise for every frame."""
    paste_outside: bool = False
    """Pixels where the mask is black stay exactly those of the picture."""


@dataclass(frozen=True)
class ProgressionOptions:
    """What one call of any editor may change. None stands for what the weights were tuned for.

    Strength and guidance may be one number, or several that are spread evenly over the frames.
    """

    frames: int | None = None
    """Edits, each of the result before it; the first frame of the result is the picture itself."""
    strength: Scheduled | None = None
    """How far a picture is noised before every edit, in (0, 1]: higher changes more and keeps less."""
    guidance_scale: Scheduled | None = None
    """Weight of the prompt against the negative prompt; up to 1 there is no guidance, which halves the time."""
    steps: int | None = None
    """Steps of the whole noise schedule; an edit makes `strength` of them."""
    negative_prompt: str = ""
    """What to move away from."""
    seed: int = 0
    """Of the noise; picture i of a batch uses seed + i."""
    fixed_noise: bool | None = None
    """Draw the same noise for every frame, so that the progression converges."""
    color_lock: bool = False
    """Brightness and contrast of every channel, outside the mask, stay those of the picture."""
    stop_score: float | None = None
    """End when the classifier is at least this sure."""
    tolerance: float | None = None
    """End when a frame changes less than this: root mean square of the latents' change (of the pixels' for pipelines of
    diffusers), in the mask if there is one."""
    stop: Literal["end", "progress"] = "end"
    """progress ends with the frame that makes the classifier hardly surer than the one before, or sure."""
    repair: bool = False
    """Make frames anew, with other noise, that make the classifier less sure than the one before; the better stays."""
    look_ahead: int = 0
    """Frames that every try of a frame is followed before the classifier picks one of them; 0: one try, no look."""
    tries: int = 3
    """Tries of a frame, with other noise each, where there is a look-ahead."""
    resolution: int | None = None
    """Pixels per side that the networks see; 0 keeps the picture's size."""

    def __post_init__(self) -> None:
        for name in ("frames", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for strength in several(self.strength):
            if not 0 < strength <= 1:
                raise ValueError(
                    f"strength must lie in (0, 1], got {strength:g}; the more, the more changes. At 0 nothing would."
                )
        for scale in several(self.guidance_scale):
            if not 0 <= scale < float("inf"):
                raise ValueError(f"guidance_scale must be a number of at least 0, got {scale:g}.")
        if self.look_ahead < 0 or self.tries < 1:
            raise ValueError(f"look_ahead must be at least 0, tries at least 1, got {self.look_ahead}, {self.tries}.")
        if not self.look_ahead and self.tries != ProgressionOptions.tries:
            raise ValueError(f"tries are made with a look-ahead; give look_ahead, or leave tries {self.tries} out.")
        if self.stop not in ("end", "progress"):
            raise ValueError(f"stop must be end or progress, got {self.stop!r}.")
        if self.stop_score is not None and not 0 < self.stop_score <= 1:
            raise ValueError(f"stop_score must lie in (0, 1], got {self.stop_score:g}.")
        if self.tolerance is not None and self.tolerance <= 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance:g}.")
        if self.resolution is not None and self.resolution < 0:
            raise ValueError(f"resolution must be positive, or 0 to keep the size, got {self.resolution}.")

    @property
    def asks_classifier(self) -> str | None:
        """The option for which the classifier must be asked, if there is one."""
        asked = {
            "stop_score": self.stop_score is not None,
            "stop progress": self.stop == "progress",
            "repair": self.repair,
            "look_ahead": self.look_ahead > 0,
        }
        return next((name for name, is_asked in asked.items() if is_asked), None)


@dataclass(frozen=True)
class PIEOptions(ProgressionOptions):
    """What one call may change. None stands for what the weights were tuned for.

    Strength, guidance and betas may be one number, or several that are spread evenly over the frames.
    """

    beta_1: Scheduled | None = None
    """Share of an edit that is kept outside the mask, in [0, 1]."""
    beta_2: Scheduled | None = None
    """Share of an edit that is kept inside the mask, in [0, 1]."""
    eta: float = 0.0
    """Noise that DDIM adds in every step, in [0, 1]."""
    mode: Mode = "published"
    """published adds fresh noise and denoises; inversion finds the noise of the picture, as the paper's text says."""
    chain: Chain = "pixels8"
    """What the next frame starts from: the frame in 8 bit (as published), unrounded, or its latents."""
    paste_outside: bool | None = None
    """Pixels where the mask is black stay exactly those of the picture."""
    resolution: int | None = None
    """Pixels per side that pictures are resized (shorter side) and cut to; 0 keeps their size."""
    size: Literal["own", "published"] = "own"
    """own adds the change to the picture at its own size; published gives the networks' frames, as the authors do."""
    source_prompt: str | None = None
    """What the pictures show now; for inversion, masks of a difference and CLIP measures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta_1", "beta_2"):
            for beta in several(getattr(self, name)):
                if not 0 <= beta <= 1:
                    raise ValueError(f"{name} must lie in [0, 1], got {beta:g}.")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta:g}.")
        if self.mode not in ("published", "inversion"):
            raise ValueError(f"mode must be published or inversion, got {self.mode!r}.")
        if self.chain not in ("pixels8", "pixels", "latents"):
            raise ValueError(f"chain must be pixels8, pixels or latents, got {self.chain!r}.")
        if self.size not in ("own", "published"):
            raise ValueError(f"size must be own or published, got {self.size!r}.")

    def resolved(self, config: PIEConfig) -> PIEOptions:
        """The same options, with the config's values in the place of None; its schedules are fitted to the frames.

        Raises:
            ValueError: a schedule that was given has more entries than there are frames.
        """
        known = to_dict(config)
        missing = {
            field.name: known[field.name]
            for field in fields(self)
            if getattr(self, field.name) is None and field.name in known
        }
        options = replace(self, **missing)
        if options.frames != config.frames:
            tuned = {name: missing[name] for name in SCHEDULES if len(several(missing.get(name))) > 1}
            fitted = {name: resampled(entries, config.frames, options.frames) for name, entries in tuned.items()}
            options = replace(options, **fitted)
        for name in SCHEDULES:
            check_schedule(name, several(getattr(options, name)), options.frames)
        return options


def several(value: Any) -> tuple[float, ...]:
    """The entries of a number or of several; none of None."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def check_schedule(name: str, entries: Sequence[Any], frames: int) -> None:
    """Raise a ValueError unless every entry gets a frame."""
    if not 1 <= len(entries) <= frames:
        raise ValueError(f"{name} has {len(entries)} entries for {frames} frames; give 1 to {frames}.")


def check_strength(strength: float, steps: int) -> None:
    """Raise a ValueError when so small a strength leaves no step."""
    if int(steps * strength) < 1:
        raise ValueError(
            f"A strength of {strength:g} leaves none of {steps} steps; raise it to {1 / steps:g} or more, or the steps."
        )


def at_frame(entries: Sequence[T], frame: int, frames: int) -> T:
    """The entry of frame 1..frames when the entries are spread evenly over the frames."""
    return entries[(frame - 1) * len(entries) // frames]


def resampled(entries: tuple[float, ...], frames: int, wanted: int) -> tuple[float, ...]:
    """A schedule of `frames` frames for another number of them: the same way from its first to its last value.

    Values between are interpolated linearly; a single frame gets the last one, so that it goes as far as all did.
    """
    values = [at_frame(entries, frame, frames) for frame in range(1, frames + 1)]
    places = np.linspace(0, frames - 1, wanted) if wanted > 1 else [frames - 1]
    return tuple(float(value) for value in np.interp(places, range(frames), values))
