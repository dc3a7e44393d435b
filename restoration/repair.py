"""Windows of a restoration that a judge finds faulty, made anew: behind `restore --repair`.

The judge of restorations compares every window of the draft with plain enlargement. Where enlargement is surely
better, the restorer invented or destroyed something; these windows are made again, by another seed or another way, and
the best of all is put in their place. Draft, repaired picture and plain enlargement are then ranked by the same judge,
so that the result is never below the draft by it. After GLoRe (arXiv 2402.10963): an outcome score says when, scores of
steps say where, and the outcome score ranks draft, local and global refinement.

h, w: pixels of the input, H, W: of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from restoration.bands import Finish
from restoration.judge import RestorationJudge
from restoration.restorer import Facts, Restorer
from vision.images import blur, composite
from vision.refine import Verdict
from vision.resize import imresize
from vision.strategies import Candidate, Choice
from vision.strategies.repair import refine_and_rerank

FAULTY = 1.0
"""Lead of plain enlargement over the draft from which a window is faulty: odds of e to 1; chosen on training
photographs."""
CONTEXT = 8
"""Input pixels around a window that is made anew."""
FADE = 4
"""Output pixels over which a window fades into its surroundings."""
DRAFT, PLAIN = "draft", "plain enlargement"
"""Origins of what the restorer made, and of the input enlarged."""

Again = Callable[[Tensor, int], Tensor]
"""Another result (1, 3, H, W) of a part (1, 3, h, w) of the input; the number tells windows apart."""


@dataclass(frozen=True)
class Repair:
    """What was done about a draft."""

    choice: Choice
    """Draft, repaired picture and plain enlargement, as far as they were made; values are (1, 3, H, W)."""
    windows: int
    """All windows."""
    faulty: int
    """Those that were made anew."""

    @property
    def numbers(self) -> dict[str, float]:
        """For the trace of choices."""
        return {"windows": self.windows, "windows_repaired": self.faulty}

    def __str__(self) -> str:
        """For people, without the full stop."""
        return f"{self.faulty} of {self.windows} windows faulty; {self.choice.why}"


class RepairingRestorer:
    """Another restorer, whose faulty windows are made anew. A picture is held whole.

    Args:
        restorer: makes the draft.
        judge: scores windows.
        others: further ways, by name, to make a window; the restorer's other seeds and plain enlargement are tried
            in any case.
    """

    def __init__(self, restorer: Restorer, judge: RestorationJudge, others: Mapping[str, Again] | None = None):
        self.restorer, self.judge, self.others = restorer, judge, dict(others or {})
        self.Options = restorer.Options
        self.last: Repair | None = None

    @classmethod
    def judged(cls, restorer: Restorer) -> RepairingRestorer:
        """With the judge that comes with the project."""
        return cls(restorer, RestorationJudge.from_pretrained())

    def facts(self, options: Any = None) -> Facts:
        """What a caller must know."""
        return replace(self.restorer.facts(options), tiling=False)

    def output_size(self, height: int, width: int, options: Any = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        return self.restorer.output_size(height, width, options)

    def bands(
        self,
        image: Tensor,
        options: Any = None,
        *,
        finish: Finish | None = None,
        observers: Iterable[Callable[[Any], object]] = (),
        progress: Callable[[float], object] | None = None,
    ) -> Iterator[Tensor]:
        """The result of (1, 3, h, w) RGB in [0, 1] as one band (1, 3, H, W)."""
        options = self.restorer.Options() if options is None else options
        made = joined(self.restorer.bands(image, options, observers=observers, progress=progress)).float()
        self.last = self.repair(made, image, options)
        kept = self.last.choice.kept.value
        yield kept if finish is None else finish(kept)

    def repair(self, draft: Tensor, image: Tensor, options: Any) -> Repair:
        """What becomes of a draft (1, 3, H, W) of an input (1, 3, h, w)."""
        size = tuple(draft.shape[-2:])
        plain = imresize(image, size=size).clamp(0, 1)
        scores = {DRAFT: self.judge.windows(draft, image), PLAIN: self.judge.windows(plain, image)}
        faulty = scores[PLAIN] - scores[DRAFT] > FAULTY
        ways = self._ways(options, size[-1] / image.shape[-1])

        def local(first: Candidate) -> Candidate | None:
            if not faulty.any():
                return None
            mended = self._mended(first.value, image, faulty, ways)
            return Candidate("picture", mended, "repaired")

        def whole(first: Candidate) -> Candidate | None:
            return Candidate("picture", plain, PLAIN) if faulty.any() else None

        def score(candidate: Candidate) -> Verdict:
            known = scores.get(candidate.origin)
            return Verdict(float((self.judge.windows(candidate.value, image) if known is None else known).mean()))

        choice = refine_and_rerank(Candidate("picture", draft, DRAFT), [local, whole], score)
        return Repair(choice, faulty.numel(), int(faulty.sum()))

    def _ways(self, options: Any, scale: float) -> dict[str, Again]:
        """Every way to make a part anew, by name."""

        def plainly(part: Tensor, number: int) -> Tensor:
            return imresize(part, size=tuple(round(side * scale) for side in part.shape[-2:])).clamp(0, 1)

        def reseeded(part: Tensor, number: int) -> Tensor:
            return joined(self.restorer.bands(part, replace(options, seed=options.seed + 1 + number))).float()

        seeded = {"another seed": reseeded} if self.restorer.facts(options).seed else {}
        return {PLAIN: plainly, **seeded, **self.others}

    def _mended(self, draft: Tensor, image: Tensor, faulty: Tensor, ways: Mapping[str, Again]) -> Tensor:
        """The draft with the best of all ways in every faulty window."""
        side, mended, mask = self.judge.config.side, draft.clone(), torch.zeros_like(draft[:, :1])
        for number, (row, column) in enumerate(faulty.nonzero().tolist()):
            top, left = row * side, column * side
            bottom, right = min(top + side, draft.shape[-2]), min(left + side, draft.shape[-1])
            found = [draft[..., top:bottom, left:right]]
            part, shift = _part(image, draft, (top, left, bottom, right))
            for make in ways.values():
                made = make(part, number)
                found.append(made[..., shift[0] : shift[0] + bottom - top, shift[1] : shift[1] + right - left])
            given = _part(image, draft, (top, left, bottom, right), context=0)[0]
            scores = [float(self.judge.windows(window, given).mean()) for window in found]
            mended[..., top:bottom, left:right] = found[max(range(len(found)), key=scores.__getitem__)]
            mask[..., top:bottom, left:right] = 1
        return composite(blur(mask, FADE) * mask, mended, draft)


def joined(bands: Iterable[Tensor]) -> Tensor:
    """(1, 3, H, W) of bands (1, 3, rows, W)."""
    return torch.cat(list(bands), dim=2)


def _part(
    image: Tensor, draft: Tensor, box: tuple[int, int, int, int], context: int = CONTEXT
) -> tuple[Tensor, tuple[int, int]]:
    """The part of the input under a box (top, left, bottom, right) of the result with `context` around it, and where in
    its enlargement the box begins (row, column)."""
    scales = [draft.shape[axis] / image.shape[axis] for axis in (-2, -1)]
    starts = [max(math.floor(box[axis] / scales[axis]) - context, 0) for axis in (0, 1)]
    ends = [math.ceil(box[axis + 2] / scales[axis]) + context for axis in (0, 1)]
    shift = tuple(round(box[axis] - starts[axis] * scales[axis]) for axis in (0, 1))
    return image[..., starts[0] : ends[0], starts[1] : ends[1]], shift
