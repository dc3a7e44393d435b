"""Pairs of spoiled photographs (`vision.faults`) as preferences, and what a judge says of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from reward_vlm.data import Preference
from vision.faults import GAP, KINDS, SpoiledPairs

QUESTION = "which picture is less degraded ?"
LEVELS = ("none", "low", "middle", "high")


class PhotoPairs(SpoiledPairs):
    """Pairs of spoiled photographs as preferences, with what a judge says of them."""

    def __call__(self, index: int) -> Preference:
        """The pair with this number; half of the better pictures come first."""
        pair = super().__call__(index)
        return Preference(
            id=f"photo-{self.seed}-{index}",
            question=QUESTION,
            answers=pair.pictures,
            better=pair.better,
            category=pair.kinds[0] if pair.kinds[0] == pair.kinds[1] else "mixed",
            rationale=describe(pair.kinds, pair.strengths, pair.better),
        )


def level(strength: float) -> str:
    """A strength in words; strengths that differ by `GAP` have different ones."""
    return LEVELS[min(int((strength + 0.2) / GAP), len(LEVELS) - 1)]


def describe(kinds: tuple[str, str], strengths: tuple[float, float], better: int) -> str:
    """What a judge says of a pair: both pictures in words, and which is better."""
    said = [f"image {n} : {kind} {level(s)} ." for n, (kind, s) in enumerate(zip(kinds, strengths, strict=True), 1)]
    return " ".join([*said, f"response {better} is better ."])


def photo_corpus() -> Iterator[str]:
    """Every sentence of the task, for a tokenizer."""
    for kind, strength, better in product(KINDS, (0.0, 0.3, 0.6, 0.9), (1, 2)):
        told = describe((kind, kind), (strength, strength), better)
        yield f"{QUESTION} response 1 : image 1 . response 2 : image 2 . {told} {better}"
