"""What a step of a run is, and the functions that a run is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

State = TypeVar("State")
At = TypeVar("At")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an evaluator says of a candidate."""

    score: Tensor | float | None = None
    """Higher is better; (batch,) or one number."""
    detail: Any = None
    """Evidence for the accept rule: token confidence, a parsed answer, feedback."""


@dataclass(frozen=True, slots=True)
class Step(Generic[State, At]):
    """One step of a run, and the loop's whole memory: rules are functions of it and a run can go on from it."""

    index: int
    """Position in the schedule, from 0; a resumed run continues the count. -1: the start was judged, nothing moved."""
    at: At | None
    """The schedule's element; None where the start was judged."""
    state: State
    """In an accept rule the state before this step; afterwards what the run goes on with."""
    candidate: State
    """What was proposed; only the `items` when finished ones are dropped."""
    verdict: Verdict | None = None
    """Of the candidate; only the `items` when finished ones are dropped."""
    items: Tensor | None = None
    """Indices of the items that were proposed for; None means all."""
    score: Tensor | float | None = None
    """Latest score of every item; finished items keep theirs, and items that were never judged have NaN."""
    best: Any = None
    """`keep_best` of the best-scored candidate so far, per item when scores are."""
    best_score: Tensor | float | None = None
    """The score that `best` got."""
    start_score: Tensor | float | None = None
    """Of the start, where it was judged."""
    gain: Tensor | float | None = None
    """What the latest score lies above the one before it, per item when scores are; None, or NaN, at the first."""
    steps_since_best: Tensor | int = 0
    """Steps since the best score rose, per item when scores are."""
    active: Tensor | None = None
    """(batch,) bool: items that are not finished, begun or not; None while all are active."""
    seconds: float = 0.0
    """Run time so far, earlier sessions included."""


@dataclass(frozen=True)
class Refined(Generic[State]):
    """The outcome of a run."""

    state: State
    """The final one, or the best."""
    score: Tensor | float | None
    """Of that state; None without an evaluator."""
    steps: int
    """Moves that were made, earlier sessions included."""
    seconds: float
    """Run time, earlier sessions included."""
    last: Step[State, Any] | None
    """None when the schedule was empty and the start was not judged."""


Propose = Callable[[State, At], State]
Evaluate = Callable[[State, "At | None"], Verdict]
Accept = Callable[[Step[State, At]], State]
Stop = Callable[[Step[State, At]], "bool | Tensor"]
Observer = Callable[[Step[State, At]], object]
Observers = Iterable[Observer[State, At]]
