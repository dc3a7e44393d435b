"""What makes a class an editor, and the loop over the frames that all of them share.

An editor says its facts and makes one frame after another (`start`, `first`, `next`). Everything around it is the same
whatever the networks are: pictures of any size and depth, masks, stop rules, scores, resuming, trajectories. PIE is an
editor (`vision.edit.pie`), and so is every pipeline of diffusers that takes a picture (`vision.edit.pipelines`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import PIL.Image
import torch
from torch import Tensor
from typing_extensions import Self

from vision.edit.confidence import Confidence
from vision.edit.given import as_canvases
from vision.edit.look_ahead import best_next
from vision.edit.options import ProgressionOptions, check_schedule
from vision.edit.progression import COLUMNS, Frame, Progression, Run, Score
from vision.edit.repair import mended
from vision.hub import OfNetworks
from vision.images import ImageLike
from vision.refine import Step, Verdict, any_of, drain, observed, reaches, refine_steps

PROGRESS = 0.01
"""Smallest rise of the classifier's probability, as a share of it, that another frame is made for under progress."""
SHOWN = 0.5
"""Probability from which the classifier says that the condition is there; under progress nothing ends below it."""
Prompt = str | Sequence[str | Sequence[str]]
"""A text for all; or a list that is spread evenly over the frames, whose entries may be a list, one per picture."""
Frames = list[PIL.Image.Image] | list[list[PIL.Image.Image]] | Tensor
"""Of one picture, of several, or (frames + 1, b, 3, h, w) in [0, 1]."""
Observer = Callable[[Step[Frame, int]], object]
Progress = Callable[[float], object]
"""Called with how many frames are made, the finished share of the one in work included."""
Options = TypeVar("Options", bound=ProgressionOptions)


@dataclass(frozen=True)
class Facts:
    """What a caller must know of an editor that gets certain options."""

    name: str
    """What to call it."""
    frames: int
    """Edits that it makes."""
    square: int = 0
    """Side, in pixels, of the square window that it sees of every picture; 0: see `around`."""
    around: float = 0.0
    """Sides of what it sees around a mask, in multiples of the mask's; 0: it sees whole pictures."""
    own_size: bool = True
    """Whether frames are the picture itself with the networks' change, at its own size; else what the networks made."""
    prompt: str = ""
    """What calls without a prompt ask for; "": they must give one."""
    source_prompt: str = ""
    """What the pictures show now, as far as it knows."""
    differences: bool = False
    """Whether it can tell where its predictions for two prompts differ."""
    note: str = ""
    """What a user must be told about results."""


class ProgressiveEditor(OfNetworks, Generic[Options]):
    """The loop over the frames; editors define `Options`, `facts`, `start`, `first` and `next`."""

    Options: type
    """A frozen dataclass: what one call may change."""
    classifier: Score | None = None
    """How sure it is of the condition is told with every frame; None: nothing is."""

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the networks; returns this editor. A classifier of this project stays in float32."""
        if isinstance(self.classifier, Confidence):
            self.classifier.network.to(device=device)
        return super().to(device, dtype)

    def facts(self, options: Options | None = None) -> Facts:
        """What a caller must know of this editor with these options; None stands for the defaults."""
        raise NotImplementedError

    def start(
        self,
        image: ImageLike | Sequence[ImageLike],
        prompt: Prompt | None = None,
        mask: ImageLike | Sequence[ImageLike] | None = None,
        options: Options | None = None,
    ) -> Run:
        """Everything before the first edit.

        Args:
            image, prompt, mask, options: as in `__call__`.
        """
        raise NotImplementedError

    def first(self, run: Run) -> Frame:
        """Frame 0: the original."""
        raise NotImplementedError

    def next(self, run: Run, frame: Frame, number: int, progress: Progress | None = None) -> Frame:
        """Frame `number` (from 1) of a run, from the one before it; `progress` gets its finished share in [0, 1]."""
        raise NotImplementedError

    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        prompt: Prompt | None = None,
        mask: ImageLike | Sequence[ImageLike] | None = None,
        options: Options | None = None,
        *,
        observers: Iterable[Observer] = (),
    ) -> Frames:
        """Edit a picture, or several, frame by frame.

        Args:
            image: path, PIL image, (h, w, 3) uint8 array, or tensor (b, 3, h, w) RGB in [0, 1]; or a list of pictures.
            prompt: what the result looks like; None takes the one that the weights were tuned for.
            mask: where pictures may change (white), one for all or one for each.
            options: None for the defaults.
            observers: called with every frame's step.

        Returns:
            The frames, the original first: a list of PIL images, a list of lists for a list of pictures, or a tensor
            (frames + 1, b, 3, h, w) in [0, 1] for a tensor. PIL images have the picture's own size, bits, greyness and
            transparency unless the options ask for the published size.
        """
        facts, many = self.facts(options), isinstance(image, (list, tuple))
        if isinstance(image, Tensor):
            found = self.simulate(self._unscored(image, prompt, mask, options), observers=observers)
            return found.images if image.ndim == 4 else found.images[:, 0]
        if not facts.own_size:
            found = self.simulate(self._unscored(image, prompt, mask, options), observers=observers)
            frames = [found.pictures(item) for item in range(found.images.shape[1])]
        else:
            canvases = as_canvases(image if many else [image], mask)
            boxes = [canvas.window(facts.square, facts.around) for canvas in canvases]
            seen = [canvas.seen(box) for canvas, box in zip(canvases, boxes, strict=True)]
            regions = [canvas.seen_region(box) for canvas, box in zip(canvases, boxes, strict=True)]
            run = self._unscored(seen, prompt, None if mask is None else regions, options)
            found = self.simulate(run, observers=observers)
            frames = [
                [canvas.picture(canvas.with_change(change, box)) for change in found.differences[:, i]]
                for i, (canvas, box) in enumerate(zip(canvases, boxes, strict=True))
            ]
        return frames if many else frames[0]

    def simulate(
        self,
        run: Run,
        *,
        observers: Iterable[Observer] = (),
        resume: Step[Frame, int] | None = None,
        earlier: Sequence[Frame] = (),
        progress: Progress | None = None,
    ) -> Progression:
        """Go through a run that `start` made, to everything that is known of its frames.

        Args:
            run: the pictures.
            observers: called with every frame's step.
            resume: go on after this step of an earlier run.
            earlier: its frames, the original included, which are not made again.
            progress: told within frames too.
        """
        frames = list(earlier) or [self.first(run)]
        scores = [] if run.score is None else [run.score(frame.images) for frame in frames]

        def keep(step: Step[Frame, int]) -> None:
            frames.append(step.state)
            if run.score is not None:
                scores.append(step.score)

        drain(self.run_steps(run, resume, progress), [keep, *observers])
        latents = [frame.latents for frame in frames if frame.latents is not None]
        return Progression(
            torch.stack([frame.images for frame in frames]).cpu(),
            torch.stack(latents).cpu() if latents else None,
            torch.stack(scores).cpu() if scores else None,
            None if run.mask is None else run.mask.cpu(),
            None if run.region is None else run.region.cpu(),
            torch.stack([frame.difference for frame in frames]).cpu(),
        )

    def trajectories(
        self,
        image: ImageLike,
        prompt: Prompt | None = None,
        mask: ImageLike | None = None,
        options: Options | None = None,
        *,
        count: int,
        batch_size: int = 8,
    ) -> Progression:
        """`count` progressions of one picture with seeds that follow each other, as one batch.

        Args:
            image, prompt, mask, options: as in `__call__`. Rules to stop are refused: trajectories have one length.
            count: of the progressions.
            batch_size: computed at once.
        """
        options = options or self.Options()
        if options.stop_score is not None or options.tolerance is not None or options.stop == "progress":
            raise ValueError("Trajectories are compared frame by frame; leave stop_score, tolerance and stop out.")
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}.")
        parts = []
        for first in range(0, count, batch_size):
            some, seeded = min(batch_size, count - first), replace(options, seed=options.seed + first)
            parts.append(self.simulate(self.start([image] * some, prompt, mask, seeded)))

        def joined(name: str, dim: int) -> Tensor | None:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors, dim=dim)

        return Progression(*(joined(name, dim) for name, dim in COLUMNS))

    def steps(
        self,
        image: ImageLike | Sequence[ImageLike],
        prompt: Prompt | None = None,
        mask: ImageLike | Sequence[ImageLike] | None = None,
        options: Options | None = None,
        *,
        observers: Iterable[Observer] = (),
        resume: Step[Frame, int] | None = None,
    ) -> Iterator[Step[Frame, int]]:
        """Iterate over the frames; `step.state.images` is (b, 3, H, W) in [0, 1].

        Args:
            image, prompt, mask, options, observers: as in `__call__`.
            resume: go on after this step of an earlier run.
        """
        yield from observed(self.run_steps(self.start(image, prompt, mask, options), resume), observers)

    def run_steps(
        self, run: Run, resume: Step[Frame, int] | None = None, progress: Progress | None = None
    ) -> Iterator[Step[Frame, int]]:
        """Iterate over the frames of a run that `start` made; `step.at` counts from 1."""

        def propose(frame: Frame, number: int) -> Frame:
            inside = None if progress is None else lambda share: progress(number - 1 + share)
            if options.look_ahead:
                made = best_next(run, frame, number, self.next)
            else:
                made = self.next(run, frame, number, inside)
            return mended(run, frame, made, number, self.next) if options.repair else made

        options, rules = run.options, []
        if options.stop_score is not None:
            rules.append(reaches(options.stop_score))
        if options.stop == "progress":
            rules.append(by_progress)
        if options.tolerance is not None:
            rules.append(lambda step: step.state.change < options.tolerance)
        return refine_steps(
            self.first(run),
            propose,
            range(1, options.frames + 1),
            evaluate=None if run.score is None else lambda frame, number: Verdict(run.score(frame.images)),
            stop=any_of(*rules) if rules else None,
            resume=resume,
            drop_finished=bool(rules),
        )

    def _unscored(self, image: Any, prompt: Prompt | None, mask: Any, options: Options | None) -> Run:
        """A run without the classifier, which nobody is told of, unless a rule to stop asks it."""
        run = self.start(image, prompt, mask, options)
        return run if run.options.asks_classifier else replace(run, score=None)


def by_progress(step: Step[Frame, int]) -> bool | Tensor:
    """Whether a frame ends a progression that stops by progress, (b,) bool: no frame can gain `PROGRESS` any more, or
    this one shows the condition and raised the classifier's probability by less than that share of what it was.

    Before the condition is there a rest is no end: the probability begins with small steps, or falls first.
    """
    sure = step.score >= 1 - PROGRESS
    if step.gain is None:
        return sure
    return sure | ((step.score >= SHOWN) & (step.gain < PROGRESS * (step.score - step.gain)))


def scored_by(options: ProgressionOptions, score: Score | None) -> Score | None:
    """What judges frames.

    Raises:
        ValueError: the options ask for it, and there is none.
    """
    if score is None and (asked := options.asks_classifier):
        raise ValueError(f"{asked} needs a classifier, and these weights come without one; give one as score.")
    return score


def prompt_entries(prompt: Prompt | None, tuned: str, frames: int) -> Sequence[str | Sequence[str]]:
    """The entries of a prompt, which are spread evenly over the frames.

    Raises:
        ValueError: there is no prompt, neither given nor `tuned` for, one is empty, or there are more than frames.
    """
    prompt = prompt if prompt is not None else tuned
    if not prompt:
        raise ValueError("A prompt is needed: say what the result looks like in such a picture.")
    entries = [prompt] if isinstance(prompt, str) else list(prompt)
    for text in (text for entry in entries for text in ([entry] if isinstance(entry, str) else entry)):
        if not text.strip():
            raise ValueError(f"A prompt says what the result looks like, got the empty {text!r}.")
    check_schedule("The prompt", entries, frames)
    return entries
