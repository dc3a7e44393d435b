"""Rank systems by what they reach and what they cost.

After "Democratizing LLMs: An Exploration of Cost-Performance Trade-offs in Self-Refined Open-Source Models" (arXiv
2310.07611), whose score PeRFICS ranks models by refined performance and cost. The formula is this project's own:

    score = (w_b B + w_r R + w_e E) / C^g

with baseline B and external score E scaled to [0, 1], refinement R = refined - baseline, C = cost / smallest cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class Row:
    """One system."""

    name: str
    """Of the system."""
    baseline: float
    """What it reaches without refinement, in [0, 1]."""
    refined: float
    """What it reaches with it, in [0, 1]."""
    external: float
    """What another measure says of it, in [0, 1]."""
    cost: float
    """Seconds, calls, bytes; above 0, the same unit for all."""


@dataclass(frozen=True)
class Weights:
    """How much each part counts; they sum to 1."""

    baseline: float = 0.5
    """Of the baseline."""
    refinement: float = 0.5
    """Of what refinement adds."""
    external: float = 0.0
    """Of the external score."""

    def __post_init__(self) -> None:
        values = (self.baseline, self.refinement, self.external)
        if min(values) < 0 or not math.isclose(sum(values), 1.0):
            raise ValueError(f"Weights must be at least 0 and sum to 1, got {', '.join(f'{v:g}' for v in values)}.")

    def of(self, row: Row) -> float:
        """The numerator of a system's score."""
        gain = row.refined - row.baseline
        return self.baseline * row.baseline + self.refinement * gain + self.external * row.external


@dataclass(frozen=True)
class Flip:
    """Where two systems change places."""

    cheaper: str
    """Comes first for a larger g."""
    dearer: str
    """Comes first for a smaller g."""
    g: float
    """The cost sensitivity at which both score the same."""


@dataclass(frozen=True)
class Ranking:
    """Systems in order."""

    scores: tuple[tuple[str, float], ...]
    """Names and scores, the best first; of equal ones the first given."""
    flips: tuple[Flip, ...]
    """All g > 0 at which two systems change places, from the smallest."""


def rank(rows: Sequence[Row], weights: Weights | None = None, g: float = 0.5) -> Ranking:
    """Systems by score, and where the order would change.

    Args:
        g: cost sensitivity, at least 0; 0 leaves the cost out.

    Raises:
        ValueError: a cost is not above 0, or g is negative.
    """
    weights = weights or Weights()
    if g < 0 or not math.isfinite(g):
        raise ValueError(f"The cost sensitivity g must be at least 0, got {g}.")
    wrong = [row.name for row in rows if not 0 < row.cost < math.inf]
    if wrong:
        raise ValueError(f"Costs must be above 0, but that of {wrong[0]} is not.")
    cheapest = min((row.cost for row in rows), default=1.0)
    scores = [(row.name, weights.of(row) / (row.cost / cheapest) ** g) for row in rows]
    found = [flip for pair in combinations(rows, 2) if (flip := _flip(weights, *pair)) is not None]
    order = sorted(scores, key=lambda pair: -pair[1])
    return Ranking(tuple(order), tuple(sorted(found, key=lambda flip: flip.g)))


def _flip(weights: Weights, first: Row, second: Row) -> Flip | None:
    """g = log(numerators' ratio) / log(costs' ratio); None where one is ahead for every g."""
    cheaper, dearer = sorted((first, second), key=lambda row: row.cost)
    low, high = weights.of(cheaper), weights.of(dearer)
    if cheaper.cost == dearer.cost or low <= 0 or high <= low:
        return None
    return Flip(cheaper.name, dearer.name, math.log(high / low) / math.log(dearer.cost / cheaper.cost))
