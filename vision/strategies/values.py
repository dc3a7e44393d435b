"""The values that strategies pass around: a candidate, what it cost, and a choice among candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vision.refine import Step, Verdict


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took to make something; costs add up."""

    seconds: float = 0.0
    """Wall-clock time."""
    calls: int = 0
    """Calls of a model."""
    units: float = 0.0
    """Pixels, tokens or optimiser steps, as the job counts."""
    peak_bytes: int = 0
    """Largest memory of the accelerator; of a sum the larger one. 0: not measured."""

    def __add__(self, other: Cost) -> Cost:
        peak = max(self.peak_bytes, other.peak_bytes)
        return Cost(self.seconds + other.seconds, self.calls + other.calls, self.units + other.units, peak)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One result among several for a task."""

    task: str
    """Name of the task: a file, a row, a tile."""
    value: Any
    """The result: a picture, a text, a mesh, or the path of a file that holds it."""
    origin: str
    """Who made it: a restorer, a prompt, "draft"."""
    cost: Cost = Cost()
    """What it took."""
    seed: int | None = None
    """What its random numbers were drawn from; None: it depends on none."""


Evaluator = Callable[[Candidate], Verdict]
"""Judges a candidate; higher is better."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided about a task, and on what grounds."""

    task: str
    """Name of the task."""
    candidates: tuple[Candidate, ...]
    """In the order in which they were made."""
    verdicts: tuple[Verdict, ...]
    """Of the candidates, in the same order."""
    chosen: int
    """Place of the one that was kept."""
    why: str = ""
    """The reason in a sentence, for people."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers about the task that a later choice may look at."""

    def __post_init__(self) -> None:
        if len(self.candidates) != len(self.verdicts):
            raise ValueError(
                f"{self.task}: every candidate needs a verdict, got {len(self.candidates)} candidates and "
                f"{len(self.verdicts)} verdicts."
            )
        if not 0 <= self.chosen < len(self.candidates):
            raise ValueError(f"{self.task}: chosen must be below {len(self.candidates)}, got {self.chosen}.")

    @property
    def kept(self) -> Candidate:
        """The candidate that was kept."""
        return self.candidates[self.chosen]

    @property
    def cost(self) -> Cost:
        """Of all candidates together."""
        return sum((candidate.cost for candidate in self.candidates), Cost())


def score_of(verdict: Verdict) -> float:
    """The one number of a verdict; NaN, and no score at all, count as minus infinity, so that they never win."""
    score = float("-inf") if verdict.score is None else float(verdict.score)
    return float("-inf") if score != score else score


def best(verdicts: Sequence[Verdict]) -> int:
    """Place of the highest score; of equal ones the first.

    Raises:
        ValueError: there are no verdicts.
    """
    if not verdicts:
        raise ValueError("There is nothing to choose from; give at least one candidate.")
    return max(range(len(verdicts)), key=lambda place: (score_of(verdicts[place]), -place))


class CostMeter:
    """An observer of a run, and a block around other work, that adds up what it took.

    Args:
        units: pixels, tokens or steps of one step of the run.
        device: whose memory is looked at; None or a CPU: none.
    """

    def __init__(self, units: float = 0.0, device: torch.device | str | None = None):
        self.units, self.cost = units, Cost()
        self.cuda = device is not None and torch.device(device).type == "cuda"
        self.seen, self.place = 0.0, -1

    def __call__(self, step: Step) -> None:
        if step.index <= self.place or step.seconds < self.seen:  # another run, also one whose first step took longer
            self.seen = 0.0
        self.cost += Cost(step.seconds - self.seen, 1, self.units, self._peak())
        self.seen, self.place = step.seconds, step.index

    def __enter__(self) -> CostMeter:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.began = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        self.cost += Cost(time.perf_counter() - self.began, 1, self.units, self._peak())

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.cuda else 0
