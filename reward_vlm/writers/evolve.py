"""Learn from own answers, own feedback and own refinements, without any label.

Source: "SELF: Self-Evolution with Language Feedback" (arXiv 2310.00533), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vision.refine import refine


@dataclass(frozen=True)
class Own:
    """What a model made of a prompt by itself."""

    prompt: Any
    """Given without a label."""
    answer: Any
    """The first one."""
    feedback: Any
    """What the model says of it."""
    refined: Any
    """The second one."""
    round: int
    """In which round."""


@dataclass(frozen=True)
class Evolved:
    """All rounds so far: the state of the run."""

    kept: tuple[Own, ...] = ()
    """What was learnt from."""
    dropped: tuple[Own, ...] = ()
    """What did not pass the model's own check."""


def self_evolve(
    prompts: Sequence[Any],
    ask: Callable[[Sequence[Any]], Sequence[Any]],
    feedback: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]],
    refined: Callable[[Sequence[Any], Sequence[Any], Sequence[Any]], Sequence[Any]],
    keep: Callable[[Own], bool],
    train: Callable[[Sequence[Own], int], object],
    rounds: int = 1,
) -> Evolved:
    """Rounds of answering, feedback, refinement, and training on the refinements that pass.

    Args:
        prompts: without labels.
        ask: answers to prompts, by the model as it is.
        feedback: its words about answers.
        refined: its second answers, from prompts, answers and words.
        keep: whether the model's own feedback on a second answer is good enough to learn from it.
        train: learns from everything that was kept in all rounds so far; gets the number of the round.
        rounds: how many.
    """

    def one_round(state: Evolved, number: int) -> Evolved:
        first = ask(prompts)
        words = feedback(prompts, first)
        second = refined(prompts, first, words)
        made = [Own(*parts, number) for parts in zip(prompts, first, words, second, strict=True)]
        marks = [bool(keep(own)) for own in made]
        kept = tuple(own for own, good in zip(made, marks, strict=True) if good)
        dropped = tuple(own for own, good in zip(made, marks, strict=True) if not good)
        state = Evolved(state.kept + kept, state.dropped + dropped)
        if state.kept:
            train(state.kept, number)
        return state

    return refine(Evolved(), one_round, range(rounds)).state
