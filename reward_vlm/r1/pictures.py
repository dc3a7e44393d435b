"""A judge of restorations: which of two versions of a picture is less degraded.

Windows of the size that the judge was trained on are compared in both orders; a picture's score is the share of votes.
The windows with most structure decide: flat ones look the same in every restoration.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from reward_vlm.audit import Watched, told
from reward_vlm.judges import Judge, Judged, Query, higher, rated, tally
from reward_vlm.photo_pairs import QUESTION
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Options
from vision.faults import SIDE
from vision.images import ImageLike, to_pil, to_tensor
from vision.job import Job


class PictureJudge:
    """Compares restorations of the same picture."""

    def __init__(self, judge: Judge, windows: int = 16, batch_size: int = 32):
        """`windows`: how many are compared, at most."""
        if windows < 1:
            raise ValueError(f"windows must be at least 1, got {windows}.")
        self.judge, self.windows, self.batch_size = judge, windows, batch_size

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        windows: int = 16,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> PictureJudge:
        """A judge of pictures from a source, see `R1Judge.from_pretrained`; None takes the embedded one."""
        variant = "restoration" if source is None else None
        judge = R1Judge.from_pretrained(source, revision=revision, device=device, dtype=dtype, variant=variant)
        return cls(judge, windows)

    def __call__(
        self, pictures: Sequence[ImageLike], options: R1Options | None = None, *, question: str = QUESTION
    ) -> Judged:
        """What the votes (or mean ratings) of windows of two or more pictures of the same size come to.

        Args:
            pictures: see `vision.images.ImageLike`.
            options: see `R1Options`.
            question: which picture is wanted; small judges know the default alone.

        Raises:
            ValueError: the pictures have different sizes, or are smaller than a window.
        """
        tensors = [to_tensor(picture).cpu() for picture in pictures]
        for tensor in tensors[1:]:
            if tensor.shape != tensors[0].shape:
                (height, width), (other_height, other_width) = tensors[0].shape[-2:], tensor.shape[-2:]
                raise ValueError(
                    f"Pictures to be compared must have one size, got {width} x {height} and "
                    f"{other_width} x {other_height}."
                )
        shared = torch.stack(tensors).sum(0)
        windows = zip(*(self._cut(tensor, shared) for tensor in tensors), strict=True)
        queries = [Query(question, tuple(map(to_pil, window))) for window in windows]
        found = self.judge.batch(queries, options or R1Options(batch_size=self.batch_size))
        if found[0].ratings is not None:
            return rated(torch.stack([judged.ratings for judged in found]).mean(0).tolist(), higher)
        return tally(len(tensors), [vote for judged in found for vote in judged.votes])

    def batch(self, queries: Sequence[Query], options: R1Options | None = None) -> list[Judged]:
        """What it thinks of pictures as answers; see `reward_vlm.judges.Judge`.

        Raises:
            ValueError: answers are texts, or as in a call.
        """
        if any(isinstance(answer, str) for query in queries for answer in query.answers):
            raise ValueError("A judge of pictures compares pictures; answers that are texts need another one.")
        return [self(query.answers, options, question=query.question) for query in queries]

    def preference(self, first: ImageLike, second: ImageLike) -> float:
        """Share of the votes, in [0, 1], for the first of two pictures of the same size; 0.5 when none can be read.

        Raises:
            ValueError: the pictures have different sizes, or are smaller than a window.
        """
        return float(self([first, second]).scores[0])

    def prefers(self, first: ImageLike, second: ImageLike) -> bool:
        """Whether the first picture gets more than half of the votes."""
        return self.preference(first, second) > 0.5

    def told(self, job: Job) -> dict[str, Any]:
        """What run.json says of it: empty unless its judge is `Watched`."""
        return told(self.judge, job) if isinstance(self.judge, Watched) else {}

    def _cut(self, picture: torch.Tensor, shared: torch.Tensor) -> list[torch.Tensor]:
        """Windows (1, 3, SIDE, SIDE) of `picture` where `shared`, the sum of the pictures, has most structure."""
        height, width = picture.shape[-2:]
        if min(height, width) < SIDE:
            raise ValueError(f"Pictures to be compared need at least {SIDE} pixels per side, got {width} x {height}.")
        grey = shared.mean(1, keepdim=True)
        detail = (grey[..., 1:, :-1] - grey[..., :-1, :-1]).abs() + (grey[..., :-1, 1:] - grey[..., :-1, :-1]).abs()
        places = F.avg_pool2d(F.pad(detail, (0, 1, 0, 1)), SIDE, SIDE)[0, 0]
        best = places.flatten().argsort(descending=True, stable=True)[: self.windows].tolist()
        corners = [(place // places.shape[1] * SIDE, place % places.shape[1] * SIDE) for place in best]
        return [picture[..., y : y + SIDE, x : x + SIDE] for y, x in corners]
