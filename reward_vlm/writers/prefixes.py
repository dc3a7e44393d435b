"""Labels of the steps of a solution, by whether it can still be finished from there.

Source: "GLoRe: When, Where, and How to Improve LLM Reasoning via Global and Local Refinements" (arXiv 2402.10963),
section 4.1 (stepwise outcome reward model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Continuation:
    """One try to finish a prefix."""

    right: bool
    """Whether it reaches the right answer."""
    text: str = ""
    """What it says."""


def label_prefixes(
    continuations: Sequence[Sequence[Continuation]], results: Sequence[Sequence[str]] | None = None
) -> list[bool]:
    """Whether the solution can still be finished after each step: some continuation is right. A step before such a one
    is good as well.

    Args:
        continuations: of the prefix that ends with each step.
        results: intermediate results of each step; a right continuation counts only if it uses all results of its
            prefix, or it may have started anew. None: all count.

    Raises:
        ValueError: there are results of other steps.
    """
    if results is not None and len(results) != len(continuations):
        raise ValueError(f"{len(continuations)} steps need as many lists of results, got {len(results)}.")
    good = []
    for step, tries in enumerate(continuations):
        needed = [] if results is None else [result for part in results[: step + 1] for result in part]
        good.append(any(one.right and all(result in one.text for result in needed) for one in tries))
    last = max((step for step, fine in enumerate(good) if fine), default=-1)
    return [step <= last for step in range(len(good))]


def balanced(labels: Sequence[Sequence[bool]], seed: int = 0) -> list[tuple[int, int]]:
    """Places (solution, step) of as many good as bad labels for each number of steps, drawn at random.

    Args:
        labels: of each solution, see `label_prefixes`.
        seed: of the draw.
    """
    draws, kept = np.random.default_rng(seed), []
    for step in range(max(map(len, labels), default=0)):
        sides: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for place, row in enumerate(labels):
            if step < len(row):
                sides[bool(row[step])].append((place, step))
        count = min(map(len, sides.values()))
        for side in sides.values():
            kept += [side[i] for i in draws.permutation(len(side))[:count]]
    return sorted(kept)
