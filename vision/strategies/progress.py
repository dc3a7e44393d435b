"""Progress: what a step changed about the chance of success, for rewards, for search, and to stop when it ends.

Source: "Rewarding Progress: Scaling Automated Process Verifiers for LLM Reasoning" (arXiv 2410.08146), section 3:
A(s, a) = Q(s, a) - V(s) under a prover, which is not the policy itself; the best of K samples of the policy is a good
one, Q^K = 1 - (1 - Q)^K (section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vision.refine.step import Stop


def progress(values: Sequence[float]) -> list[float]:
    """What each step added; they sum to the last value minus the first.

    Args:
        values: chance of success, or quality, before the first step and after each.

    Raises:
        ValueError: the value before the first step is missing.
    """
    if not values:
        raise ValueError("Progress needs the value before the first step.")
    return [after - before for before, after in pairwise(values)]


@dataclass(frozen=True)
class BestOfKProver:
    """The policy that samples K times and keeps a success; K = 1 is the policy itself."""

    k: int = 4
    """Samples."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"A prover takes at least 1 sample, got {self.k}.")

    def __call__(self, chance: float) -> float:
        """Its chance of success where one sample has `chance`, in [0, 1]."""
        if not 0 <= chance <= 1:
            raise ValueError(f"A chance lies in [0, 1], got {chance}.")
        return 1 - (1 - chance) ** self.k


def effective(values: Sequence[float], prover: Callable[[float], float], alpha: float = 1.0) -> list[float]:
    """What search keeps beams by, for every step: Q + alpha A (equation 5).

    Args:
        values: the policy's chance of success before the first step and after each.
        prover: its chance from the policy's.
        alpha: weight of the progress.
    """
    gains = progress([prover(value) for value in values])
    return [value + alpha * gain for value, gain in zip(values[1:], gains, strict=True)]


def stalled(epsilon: float) -> Stop:
    """Stop items whose latest step gained less than `epsilon`; a step without a score before it goes on.

    Raises:
        ValueError: epsilon is negative or infinite.
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}.")
    return lambda step: False if step.gain is None else step.gain < epsilon
