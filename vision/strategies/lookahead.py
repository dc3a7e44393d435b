"""Look ahead before a step is judged, and find the first wrong step with few looks.

Source: "ReARTeR: Retrieval-Augmented Reasoning with Trustworthy Process Rewarding" (arXiv 2501.07861) and its published
code; the search and its terms Q and U are OmegaPRM's (arXiv 2406.06592).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def td_lookahead(values: Sequence[float], alpha: float = 0.5, epsilon: float = 0.05) -> float:
    """The value of a step, corrected by what its look-ahead leads to.

    The look-ahead ends after the first step that gains less than `epsilon`. From there back to the first, every value
    moves by `alpha` towards the one after it, which has moved already.

    Args:
        values: of the step itself, then of each step of the look-ahead; logits.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("A look-ahead needs at least the value of the step itself.")
    end = next((t + 1 for t in range(len(values) - 1) if values[t + 1] - values[t] < epsilon), len(values) - 1)
    value = values[end]
    for t in reversed(range(end)):
        value = values[t] + alpha * (value - values[t])
    return value


def step_score(value: float) -> float:
    """The logistic function of a logit: the score of a step, in (0, 1)."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


@dataclass(frozen=True)
class FirstError:
    """What a search for the first wrong step found."""

    step: int | None
    """Its index; None: a prefix always succeeded, so that the search ended."""
    looked_at: tuple[int, ...]
    """Lengths of the prefixes that were tried, in order."""
    scores: tuple[float, ...]
    """Their shares of successful continuations."""

    @property
    def expandable(self) -> tuple[int, ...]:
        """Lengths of prefixes that sometimes succeed: places to search on from."""
        return tuple(n for n, score in zip(self.looked_at, self.scores, strict=True) if 0 < score < 1)

    @property
    def leaves(self) -> tuple[int, ...]:
        """Lengths of prefixes that never succeed."""
        return tuple(n for n, score in zip(self.looked_at, self.scores, strict=True) if score == 0)


def find_first_error(score: Callable[[int], float], length: int) -> FirstError:
    """The first wrong step of a chain that ends wrong, by halving: at most ceil(log2(length)) + 1 looks.

    Args:
        score: share of successful continuations of the prefix of so many steps, in [0, 1]; a batch of rollouts.
        length: steps of the chain.

    Raises:
        ValueError: the chain has no steps.
    """
    if length < 1:
        raise ValueError(f"A chain has at least 1 step, got {length}.")
    low, high, looked_at, scores = 0, length, [], []
    while high - low > 1:
        middle = (low + high) // 2
        looked_at.append(middle)
        scores.append(score(middle))
        if scores[-1] == 1:
            return FirstError(None, tuple(looked_at), tuple(scores))
        low, high = (middle, high) if scores[-1] > 0 else (low, middle)
    return FirstError(low, tuple(looked_at), tuple(scores))


def exploitation(length: int, score: float, alpha: float = 0.5, beta: float = 0.9, unit: float = 6.0) -> float:
    """Q = alpha^(1 - score) beta^(length / unit): prefixes that nearly always succeed, and are short, first."""
    return alpha ** (1 - score) * beta ** (length / unit)


def exploration(visits: Sequence[int], place: int, weight: float = 0.125) -> float:
    """U = weight sqrt(all visits) / (1 + visits of this prefix)."""
    return weight * math.sqrt(sum(visits)) / (1 + visits[place])
