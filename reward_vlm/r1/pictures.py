"""A judge of restorations: which of two versions of a picture is less degraded.

Windows of the size that the judge was trained on are compared in both orders; a picture's score is the share of votes.
The windows with most structure decide: flat ones look the same in every restoration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from reward_vlm.photo_pairs import QUESTION, SIDE
from reward_vlm.r1.judge import Query, R1Judge, R1Options
from vision.images import ImageLike, to_pil, to_tensor


class PictureJudge:
    """Compares restorations of the same picture."""

    def __init__(self, judge: R1Judge, windows: int = 16, batch_size: int = 32):
        """`windows`: how many are compared, at most."""
        if windows < 1:
            raise ValueError(f"windows must be at least 1, got {windows}.")
        self.judge, self.windows, self.batch_size = judge, windows, batch_size

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, *, windows: int = 16, **options: Any) -> PictureJudge:
        """A judge of pictures from a source, see `R1Judge.from_pretrained`; None takes the embedded one."""
        variant = "restoration" if source is None else None
        return cls(R1Judge.from_pretrained(source, variant=variant, **options), windows)

    def preference(self, first: ImageLike, second: ImageLike) -> float:
        """Share of the votes, in [0, 1], for the first of two pictures of the same size; 0.5 when none can be read.

        Raises:
            ValueError: the pictures have different sizes.
        """
        a, b = to_tensor(first), to_tensor(second)
        if a.shape != b.shape:
            raise ValueError(
                f"Pictures to be compared must have one size, got {a.shape[3]} x {a.shape[2]} and "
                f"{b.shape[3]} x {b.shape[2]}."
            )
        queries = [
            Query(QUESTION, (to_pil(x), to_pil(y)))
            for x, y in zip(self._cut(a, a + b), self._cut(b, a + b), strict=True)
        ]
        found = self.judge.batch(queries, R1Options(batch_size=self.batch_size))
        winners = [vote.winner for judged in found for vote in judged.votes if vote.winner is not None]
        return winners.count(0) / len(winners) if winners else 0.5

    def prefers(self, first: ImageLike, second: ImageLike) -> bool:
        """Whether the first picture gets more than half of the votes."""
        return self.preference(first, second) > 0.5

    def _cut(self, picture: torch.Tensor, shared: torch.Tensor) -> list[torch.Tensor]:
        """Windows (1, 3, SIDE, SIDE) of `picture` where `shared`, the sum of both pictures, has most structure."""
        height, width = picture.shape[-2:]
        if min(height, width) < SIDE:
            raise ValueError(f"Pictures to be compared need at least {SIDE} pixels per side, got {width} x {height}.")
        grey = shared.mean(1, keepdim=True)
        detail = (grey[..., 1:, :-1] - grey[..., :-1, :-1]).abs() + (grey[..., :-1, 1:] - grey[..., :-1, :-1]).abs()
        places = F.avg_pool2d(F.pad(detail, (0, 1, 0, 1)), SIDE, SIDE)[0, 0]
        best = places.flatten().argsort(descending=True, stable=True)[: self.windows].tolist()
        corners = [(place // places.shape[1] * SIDE, place % places.shape[1] * SIDE) for place in best]
        return [picture[..., y : y + SIDE, x : x + SIDE] for y, x in corners]
