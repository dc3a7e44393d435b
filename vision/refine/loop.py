"""The refinement loop: propose, evaluate, accept, stop, over a schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from vision.refine.items import put_items, take_items, where_items
from vision.refine.step import Accept, At, Evaluate, Observers, Propose, Refined, State, Step, Stop


def refine_steps(
    state: State,
    propose: Propose[State, At],
    schedule: Sequence[At],
    *,
    evaluate: Evaluate[State, At] | None = None,
    accept: Accept[State, At] | None = None,
    stop: Stop[State, At] | None = None,
    keep_best: Callable[[State], Any] | None = None,
    resume: Step[State, At] | None = None,
    begins: Tensor | None = None,
    drop_finished: bool = False,
    evaluate_start: bool = False,
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
        resume: continue after this step of an earlier run, with the same schedule.
        begins: (batch,) int64 place in the schedule from which each item takes part; until then, and once it has
            finished, an item is not given to `propose`, as with `drop_finished`. None: all begin at once.
        drop_finished: give only unfinished items to `propose`, `evaluate` and `accept`; everything that belongs to an
            item must then be in the state.
        evaluate_start: judge the start before the first move, as a step with index -1 and without an `at`.

    Raises:
        ValueError: the step to resume lies behind the end of the schedule.
    """
    memory, start = resume, 0
    waits = None if begins is None else begins.cpu()
    began = time.perf_counter() - (resume.seconds if resume else 0.0)
    if resume is not None:
        state, start = resume.state, resume.index + 1
        if start > len(schedule):
            raise ValueError(f"The run to resume made {start} steps, but the schedule has only {len(schedule)}.")
        at = schedule[resume.index] if resume.index >= 0 else None
        if stop is not None and _ends(stop(replace(resume, at=at)), resume.active)[0]:
            return
    elif evaluate_start:
        if evaluate is None:
            raise ValueError("evaluate_start needs evaluate.")
        verdict = evaluate(state, None)
        memory = Step(-1, None, state, state, verdict)
        if verdict.score is not None:
            memory = _judged(memory, None, state, 0, verdict.score, keep_best)
            memory = replace(memory, start_score=memory.score)
        memory = replace(memory, seconds=time.perf_counter() - began)
        memory, ended = _stopped(memory, stop)
        yield memory
        if ended:
            return
    for index in range(start, len(schedule)):
        at = schedule[index]
        active, start_score = (memory.active, memory.start_score) if memory else (None, None)
        items = _taking_part(active if drop_finished or waits is not None else None, waits, index)
        if items is not None and len(items) == 0:
            before = candidate = after = state
            step = _carried(Step(index, at, state, state, None, items, active=active, start_score=start_score), memory)
        else:
            before = state if items is None else take_items(state, items)
            candidate = propose(before, at)
            verdict = evaluate(candidate, at) if evaluate else None
            step = Step(index, at, before, candidate, verdict, items, active=active, start_score=start_score)
            if verdict is not None and verdict.score is not None:
                batch = len(active) if active is not None else 0 if waits is None else len(waits)
                step = _judged(step, memory, state, batch, verdict.score, keep_best)
            else:
                step = _carried(step, memory)
            after = accept(step if items is None else _only(step, items)) if accept else candidate
            if items is not None:
                state = put_items(state, items, after)
            elif active is not None:
                state = where_items(active, after, state)
            else:
                state = after
        memory = replace(step, state=state, seconds=time.perf_counter() - began)
        memory, ended = _stopped(memory, stop)
        yield memory
        if ended:
            return


def observed(steps: Iterable[Step[State, At]], observers: Observers[State, At] = ()) -> Iterator[Step[State, At]]:
    """The same steps, each shown to the observers first."""
    observers = list(observers)
    for step in steps:
        for observe in observers:
            observe(step)
        yield step


def drain(steps: Iterable[Step[State, At]], observers: Observers[State, At] = ()) -> Step[State, At] | None:
    """Run to the end and show every step to the observers; the last step, or None when there was none."""
    observers, last = list(observers), None
    for last in steps:
        for observe in observers:
            observe(last)
    return last


def refine(
    state: State,
    propose: Propose[State, At],
    schedule: Sequence[At],
    *,
    observers: Observers[State, At] = (),
    result: Literal["last", "best"] = "last",
    evaluate: Evaluate[State, At] | None = None,
    accept: Accept[State, At] | None = None,
    stop: Stop[State, At] | None = None,
    keep_best: Callable[[State], Any] | None = None,
    resume: Step[State, At] | None = None,
    begins: Tensor | None = None,
    drop_finished: bool = False,
    evaluate_start: bool = False,
) -> Refined[State]:
    """Run `refine_steps` to its end, show every step to the observers and return the outcome.

    Args:
        observers: called with every step; they see and change nothing.
        result: "best" returns the best-scored state (needs `evaluate` and `keep_best`), "last" the final one.
        state, propose, schedule: as in `refine_steps`, and so are the rules; `begins` is (batch,) int64.
    """
    if result not in ("last", "best"):
        raise ValueError(f'result must be "last" or "best", got {result!r}.')
    if result == "best" and (evaluate is None or keep_best is None):
        raise ValueError('result="best" needs evaluate (to score) and keep_best (to copy the state that scored best).')
    steps = refine_steps(
        state,
        propose,
        schedule,
        evaluate=evaluate,
        accept=accept,
        stop=stop,
        keep_best=keep_best,
        resume=resume,
        begins=begins,
        drop_finished=drop_finished,
        evaluate_start=evaluate_start,
    )
    last = drain(steps, observers) or resume
    if last is None:
        return Refined(state, None, 0, 0.0, None)
    if result == "best":
        return Refined(last.best, last.best_score, last.index + 1, last.seconds, last)
    return Refined(last.state, last.score, last.index + 1, last.seconds, last)


def _taking_part(active: Tensor | None, waits: Tensor | None, index: int) -> Tensor | None:
    """Indices of the items that are active and have begun; None when these are all."""
    if waits is not None and bool((waits > index).any()):
        begun = waits <= index
        active = begun if active is None else active & begun.to(active.device)
    return None if active is None else active.nonzero()[:, 0]


def _carried(step: Step, memory: Step | None) -> Step:
    """A step without a score of its own keeps what the run knows."""
    if memory is None:
        return step
    return replace(
        step,
        score=memory.score,
        best=memory.best,
        best_score=memory.best_score,
        gain=memory.gain,
        steps_since_best=memory.steps_since_best,
    )


def _judged(
    step: Step,
    memory: Step | None,
    state: Any,
    batch: int,
    score: Tensor | float,
    keep_best: Callable[[Any], Any] | None,
) -> Step:
    """Add score, best, best score and its age to a step, per item when the score is (batch,).

    `state` is the whole one before the step: what an item that was never judged has as its best.
    """
    old_best = memory.best_score if memory else None
    if not isinstance(score, Tensor) or score.dim() == 0:
        # NaN never wins and is never kept as the best when a number comes.
        better = old_best is None or bool(score > old_best) or bool(old_best != old_best)
        step = replace(step, gain=None if old_best is None else score - memory.score)
        if not better:
            since = memory.steps_since_best + 1
            return replace(step, score=score, best=memory.best, best_score=old_best, steps_since_best=since)
        best = keep_best(step.candidate) if keep_best else None
        return replace(step, score=score, best=best, best_score=score, steps_since_best=0)

    score = score if score.is_floating_point() else score.float()
    best = keep_best(step.candidate) if keep_best else None
    items, live = step.items, step.active if step.items is None else None
    if old_best is None:
        since = torch.zeros_like(score, dtype=torch.long)
        if items is None and live is None:
            nothing = torch.full_like(score, torch.nan)
            return replace(step, score=score, best=best, best_score=score, gain=nothing, steps_since_best=since)
        memory = _never_judged(step, state, batch, score, keep_best)
        old_best = memory.best_score
    old_since, old_score = memory.steps_since_best, memory.score
    if items is not None:
        old_score = old_score[items]
        old_best, old_since = old_best[items], old_since[items]
    better = (score > old_best) | old_best.isnan()
    if live is not None:
        better = better & live
    since = torch.where(better, 0, old_since + (1 if live is None else live.long()))
    new_score = score if live is None else torch.where(live, score, memory.score)
    gain = score - old_score if live is None else torch.where(live, score - old_score, memory.gain)
    new_best = torch.where(better, score, old_best)
    if items is None:
        if keep_best:
            best = where_items(better, best, memory.best)
        return replace(step, score=new_score, best=best, best_score=new_best, gain=gain, steps_since_best=since)
    if keep_best:
        best = put_items(memory.best, items, where_items(better, best, take_items(memory.best, items)))
    return replace(
        step,
        score=put_items(memory.score, items, new_score),
        best=best,
        best_score=put_items(memory.best_score, items, new_best),
        gain=put_items(memory.gain, items, gain),
        steps_since_best=put_items(memory.steps_since_best, items, since),
    )


def _never_judged(step: Step, state: Any, batch: int, score: Tensor, keep_best: Callable[[Any], Any] | None) -> Step:
    """The memory of a batch of which no item was judged before, when now only some are."""
    nothing = torch.full((batch,), torch.nan, dtype=score.dtype, device=score.device)
    since = torch.zeros(batch, dtype=torch.long, device=score.device)
    best = keep_best(state) if keep_best else None
    return replace(step, score=nothing, best=best, best_score=nothing, gain=nothing, steps_since_best=since)


def _only(step: Step, items: Tensor) -> Step:
    """The step restricted to the items that were proposed for, as an accept rule sees it."""
    if not isinstance(step.score, Tensor) or step.score.dim() == 0:
        return step
    names = ("score", "best", "best_score", "gain", "start_score", "steps_since_best")
    return replace(step, **take_items({name: getattr(step, name) for name in names}, items))


def _ends(stop: bool | Tensor, active: Tensor | None) -> tuple[bool, Tensor | None]:
    """Whether the run is over, and who goes on."""
    if not isinstance(stop, Tensor) or stop.dim() == 0:
        return bool(stop), active
    active = ~stop if active is None else active & ~stop.to(active.device)
    return not bool(active.any()), active


def _stopped(step: Step, stop: Stop | None) -> tuple[Step, bool]:
    """The step with the items that go on, and whether the run is over."""
    if stop is None:
        return step, False
    ended, active = _ends(stop(step), step.active)
    return (step if active is step.active else replace(step, active=active)), ended
