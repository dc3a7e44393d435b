"""The refinement loop: propose, evaluate, accept, stop, over a schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from vision.refine.items import put_items, take_items, where_items

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
    """Position in the schedule, from 0; a resumed run continues the count."""
    at: At
    """The schedule's element."""
    state: State
    """In an accept rule the state before this step; afterwards what the run goes on with."""
    candidate: State
    """What was proposed; only the `items` when finished ones are dropped."""
    verdict: Verdict | None = None
    """Of the candidate; only the `items` when finished ones are dropped."""
    items: Tensor | None = None
    """Indices of the items that were proposed for; None means all."""
    score: Tensor | float | None = None
    """Latest score of every item; finished items keep theirs."""
    best: Any = None
    """`keep_best` of the best-scored candidate so far, per item when scores are."""
    best_score: Tensor | float | None = None
    """The score that `best` got."""
    steps_since_best: Tensor | int = 0
    """Steps since the best score rose, per item when scores are."""
    active: Tensor | None = None
    """(batch,) bool: items that are not finished; None while all are active."""
    seconds: float = 0.0
    """Run time so far, earlier sessions included."""


@dataclass(frozen=True)
class Refined(Generic[State]):
    """The outcome of a run."""

    state: State
    score: Tensor | float | None
    steps: int
    seconds: float
    last: Step[State, Any] | None
    """None when the schedule was empty."""


Propose = Callable[[State, At], State]
Evaluate = Callable[[State, At], Verdict]
Accept = Callable[[Step[State, At]], State]
Stop = Callable[[Step[State, At]], "bool | Tensor"]


def refine_steps(
    state: State,
    propose: Propose[State, At],
    schedule: Iterable[At],
    *,
    evaluate: Evaluate[State, At] | None = None,
    accept: Accept[State, At] | None = None,
    stop: Stop[State, At] | None = None,
    keep_best: Callable[[State], Any] | None = None,
    resume: Step[State, At] | None = None,
    drop_finished: bool = False,
) -> Iterator[Step[State, At]]:
    """Fold a move over a schedule and yield every step; nothing runs until it is iterated.

    Args:
        state: what the run starts from; ignored when a run is resumed.
        propose: one move.
        schedule: what the run steps through: timesteps, keep counts, prompts, seeds, rounds.
        evaluate: judges the candidate.
        accept: returns the next state; None takes the candidate.
        stop: True ends the run after this step; a (batch,) bool tensor finishes these items, whose state then stays
            as it is.
        keep_best: a function that copies a state; with it `Step.best` is the best-scored candidate. Moves that write
            in place need a real copy.
        resume: continue after this step of an earlier run.
        drop_finished: give only unfinished items to `propose`, `evaluate` and `accept`; everything that belongs to an
            item must then be in the state.
    """
    memory = resume
    start = 0
    if resume is not None:
        state, start = resume.state, resume.index + 1
        if stop is not None and _ends(stop(resume), resume.active)[0]:
            return
    began = time.perf_counter() - (resume.seconds if resume else 0.0)
    for index, at in enumerate(islice(schedule, start, None), start):
        active = memory.active if memory else None
        items = active.nonzero()[:, 0] if drop_finished and active is not None else None
        before = state if items is None else take_items(state, items)
        candidate = propose(before, at)
        verdict = evaluate(candidate, at) if evaluate else None
        step = Step(index, at, before, candidate, verdict, items, active=active)
        if verdict is not None and verdict.score is not None:
            step = _judge(step, memory, verdict.score, keep_best)
        elif memory is not None:
            step = replace(
                step,
                score=memory.score,
                best=memory.best,
                best_score=memory.best_score,
                steps_since_best=memory.steps_since_best,
            )
        after = accept(step if items is None else _only(step, items)) if accept else candidate
        if items is not None:
            state = put_items(state, items, after)
        elif active is not None:
            state = where_items(active, after, state)
        else:
            state = after
        memory = replace(step, state=state, seconds=time.perf_counter() - began)
        ended = False
        if stop is not None:
            ended, active = _ends(stop(memory), active)
            if active is not memory.active:
                memory = replace(memory, active=active)
        yield memory
        if ended:
            return


def refine(
    state: State,
    propose: Propose[State, At],
    schedule: Iterable[At],
    *,
    observers: Iterable[Callable[[Step[State, At]], object]] = (),
    result: Literal["last", "best"] = "last",
    progress: str | None = None,
    **rules: Any,
) -> Refined[State]:
    """Run `refine_steps` to its end, show every step to the observers and return the outcome.

    Args:
        observers: called with every step; they see and change nothing. One that has a `close` method is closed at the
            end, also after an error.
        result: "best" returns the best-scored state (needs `evaluate` and `keep_best`), "last" the final one.
        progress: label of a progress bar; None shows none.
        rules: the keyword arguments of `refine_steps`.
    """
    if result not in ("last", "best"):
        raise ValueError(f'result must be "last" or "best", got {result!r}.')
    if result == "best" and (rules.get("evaluate") is None or rules.get("keep_best") is None):
        raise ValueError('result="best" needs evaluate (to score) and keep_best (to copy the state that scored best).')
    observers = list(observers)
    if progress is not None:
        from vision.refine.observe import ProgressBar

        observers.append(ProgressBar(progress, len(schedule) if hasattr(schedule, "__len__") else None))
    last = rules.get("resume")
    try:
        for last in refine_steps(state, propose, schedule, **rules):
            for observe in observers:
                observe(last)
    finally:
        for observe in observers:
            if hasattr(observe, "close"):
                observe.close()
    if last is None:
        return Refined(state, None, 0, 0.0, None)
    if result == "best":
        return Refined(last.best, last.best_score, last.index + 1, last.seconds, last)
    return Refined(last.state, last.score, last.index + 1, last.seconds, last)


def _judge(step: Step, memory: Step | None, score: Tensor | float, keep_best: Callable[[Any], Any] | None) -> Step:
    """Add score, best, best score and its age to a step, per item when the score is (batch,)."""
    old_best = memory.best_score if memory else None
    per_item = isinstance(score, Tensor) and score.dim() > 0
    if not per_item:
        # NaN never wins and is never kept as the best when a number comes.
        better = old_best is None or bool(score > old_best) or bool(old_best != old_best)
        if not better:
            return replace(
                step, score=score, best=memory.best, best_score=old_best, steps_since_best=memory.steps_since_best + 1
            )
        best = keep_best(step.candidate) if keep_best else None
        return replace(step, score=score, best=best, best_score=score, steps_since_best=0)

    best = keep_best(step.candidate) if keep_best else None
    if old_best is None:
        return replace(step, score=score, best=best, best_score=score, steps_since_best=torch.zeros_like(score).long())
    old_since, items = memory.steps_since_best, step.items
    if items is not None:
        old_best, old_since = old_best[items], old_since[items]
    better = (score > old_best) | old_best.isnan()
    live = step.active if items is None else None
    if live is not None:
        better = better & live
    since = torch.where(better, 0, old_since + (1 if live is None else live.long()))
    new_score = score if live is None else torch.where(live, score, memory.score)
    new_best = torch.where(better, score, old_best)
    if items is None:
        if keep_best:
            best = where_items(better, best, memory.best)
        return replace(step, score=new_score, best=best, best_score=new_best, steps_since_best=since)
    if keep_best:
        best = put_items(memory.best, items, where_items(better, best, take_items(memory.best, items)))
    return replace(
        step,
        score=put_items(memory.score, items, new_score),
        best=best,
        best_score=put_items(memory.best_score, items, new_best),
        steps_since_best=put_items(memory.steps_since_best, items, since),
    )


def _only(step: Step, items: Tensor) -> Step:
    """The step restricted to the items that were proposed for, as an accept rule sees it."""
    full = {"score": step.score, "best": step.best, "best_score": step.best_score, "since": step.steps_since_best}
    if not isinstance(step.score, Tensor) or step.score.dim() == 0:
        return step
    part = take_items(full, items)
    return replace(
        step, score=part["score"], best=part["best"], best_score=part["best_score"], steps_since_best=part["since"]
    )


def _ends(stop: bool | Tensor, active: Tensor | None) -> tuple[bool, Tensor | None]:
    """Whether the run is over, and who goes on."""
    if not isinstance(stop, Tensor) or stop.dim() == 0:
        return bool(stop), active
    active = ~stop if active is None else active & ~stop.to(active.device)
    return not bool(active.any()), active
