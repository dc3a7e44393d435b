"""Hard negatives: results that a judge likes although they are worse, as pairs to learn from.

Source: "Iterative Self-Training for Code Generation via Reinforced Re-Ranking" (arXiv 2504.09643), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vision.strategies.values import Candidate, Choice


@dataclass(frozen=True)
class Pair:
    """Two results of one task."""

    chosen: Candidate
    """The better one by the truth."""
    rejected: Candidate
    """The worse one."""


def mine_hard_negatives(
    choices: Iterable[Choice],
    scorer: Callable[[Candidate], float],
    truth: Callable[[Candidate], float],
    margin: float = 0.0,
    least: float = 0.0,
) -> list[Pair]:
    """Pairs that the scorer gets wrong, or nearly so: the truly best candidate, and each that is truly worse and that
    the scorer ranks no more than `margin` below it.

    Args:
        choices: their candidates are what was made for a task.
        scorer: the judge that is to learn.
        truth: what is right: passed tests, or PSNR to the original; higher is better.
        margin: see above; 0 mines only what the scorer gets wrong.
        least: how much worse, by the truth, a negative is at least.
    """
    pairs = []
    for choice in choices:
        real = [truth(candidate) for candidate in choice.candidates]
        liked = [scorer(candidate) for candidate in choice.candidates]
        top = max(range(len(real)), key=lambda place: (real[place], -place))
        pairs += [
            Pair(choice.candidates[top], candidate)
            for place, candidate in enumerate(choice.candidates)
            if real[top] - real[place] > least and liked[place] >= liked[top] - margin
        ]
    return pairs
