"""Ways to accept and to stop. Rules are functions of a `Step` and keep no memory of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vision.refine.items import clone_items, where_items
from vision.refine.step import Step, Stop


def go_on_from_best(step: Step) -> Any:
    """Greedy search: the next state is a copy of the best candidate so far (the run needs `keep_best`)."""
    if step.best is None:
        raise ValueError("go_on_from_best needs evaluate and keep_best; without them there is no best candidate.")
    return clone_items(step.best)


def roll_back_if_worse(tolerance: float = 0.0, restore: Callable[[Any], Any] = clone_items) -> Callable[[Step], Any]:
    """Take the candidate unless its score lies more than `tolerance` below the best; then go back to the best.

    `restore(best)` makes a state of what `keep_best` kept: a copy by default, loading weights for a module.
    """

    def accept(step: Step) -> Any:
        worse = step.score < step.best_score - tolerance
        if isinstance(worse, Tensor) and worse.dim() > 0:
            return where_items(worse, restore(step.best), step.candidate)
        return restore(step.best) if bool(worse) else step.candidate

    return accept


def composite_outside(mask: Tensor, outside: Callable[[Step], Tensor]) -> Callable[[Step], Tensor]:
    """The candidate (b, c, h, w) where the mask (broadcastable, [0, 1]) is 1 and `outside(step)` where it is 0."""

    def accept(step: Step) -> Tensor:
        base = outside(step)
        return base + mask.to(base) * (step.candidate - base)

    return accept


def max_seconds(seconds: float, sync_every: int | None = None) -> Stop:
    """Stop once the run has taken `seconds`; on an accelerator `sync_every=k` waits for queued work every k steps."""

    def stop(step: Step) -> bool:
        if sync_every and step.index % sync_every == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()
        return step.seconds >= seconds

    return stop


def no_progress(patience: int) -> Stop:
    """Stop items whose best score has not risen for `patience` steps."""
    if patience < 1:
        raise ValueError(f"patience must be at least 1 step, got {patience}.")
    return lambda step: step.steps_since_best >= patience


def reaches(score: float) -> Stop:
    """Stop items whose score is at least `score`."""
    return lambda step: False if step.score is None else step.score >= score


def any_of(*rules: Stop) -> Stop:
    """Stop when one of the rules says so."""

    def stop(step: Step) -> bool | Tensor:
        answer: bool | Tensor = False
        for rule in rules:
            said = rule(step)
            if isinstance(said, Tensor) and said.dim() > 0 and not isinstance(answer, Tensor):
                answer = torch.full_like(said, answer)
            answer = answer | said
        return answer

    return stop
