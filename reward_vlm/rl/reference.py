"""When the policy that divergence is measured from is taken anew.

Source: "ProRL: Prolonged Reinforcement Learning Expands Reasoning Boundaries in Large Language Models" (arXiv
2505.24864), section 2.3: where validation stalls, the reference becomes a copy of the policy and the optimiser forgets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ReferenceReset:
    """A rule on the validation values of a run."""

    patience: int = 2
    """Values in a row without a gain."""
    min_delta: float = 0.0
    """A gain is more than this above the best since the last reset."""

    def __post_init__(self) -> None:
        if self.patience < 1 or not 0 <= self.min_delta < math.inf:
            raise ValueError(
                f"patience must be at least 1 and min_delta at least 0, got {self.patience} and {self.min_delta}."
            )

    def places(self, values: Sequence[float]) -> list[int]:
        """Places of the values after which the reference is taken anew; the first value is the start's.

        After a reset the count begins again, from the value at the reset.
        """
        resets, best, waited = [], -math.inf, 0
        for place, value in enumerate(values):
            if value > best + self.min_delta:
                best, waited = value, 0
                continue
            waited += 1
            if waited == self.patience:
                resets.append(place)
                best, waited = value, 0
        return resets

    def due(self, values: Sequence[float]) -> bool:
        """Whether the reference is taken anew after the last of the values."""
        return bool(values) and self.places(values)[-1:] == [len(values) - 1]
