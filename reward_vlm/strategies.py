"""Ways to spend more computation on a better result, on the refinement core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from vision.refine import Step, refine

T = TypeVar("T")


def best_of(make: Callable[[int], T], better: Callable[[T, T], bool], seeds: Iterable[int]) -> T:
    """The best of the results that `make` gives for the seeds; each is compared with the best so far.

    Args:
        make: a result from a seed.
        better: whether its first argument is better than its second.
        seeds: at least one.

    Raises:
        ValueError: there are no seeds.
    """
    schedule = list(seeds)
    if not schedule:
        raise ValueError("The best of no seeds does not exist; give at least one.")

    def accept(step: Step[Any, int]) -> T:
        return step.candidate if better(step.candidate, step.state) else step.state

    return refine(make(schedule[0]), lambda _, seed: make(seed), schedule[1:], accept=accept).state
