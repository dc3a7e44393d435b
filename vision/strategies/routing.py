"""Spend the expensive way only where the cheap one is unsure: difficulty, rounds of refinement, weighted votes.

Source: "MAgICoRe: Multi-Agent, Iterative, Coarse-to-Fine Refinement for Reasoning" (arXiv 2409.12147) and its published
code. A task is hard when its majority answer earns less than the mean and its answers disagree by either reward.

Differences from the published code, which `published=True` reproduces: the improved set of a task is kept, where the
published code goes back to the first one as soon as a task has become easy (and finds it hard again a round later).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vision.refine import Observer, refine
from vision.strategies.values import Candidate, Choice, Evaluator
from vision.strategies.voting import Scale, Solution, Vote, is_hard, majority, reward_scale, weighted_vote


@dataclass(frozen=True)
class Routed:
    """All tasks after a round: the state of the run."""

    first: tuple[tuple[Solution, ...], ...]
    """The cheap solutions of each task."""
    current: tuple[tuple[Solution, ...], ...]
    """What the next round looks at."""
    voted: tuple[tuple[Solution, ...], ...]
    """What the vote after this round counts."""
    hard: tuple[bool, ...] = ()
    """Which tasks this round refined."""

    @property
    def votes(self) -> tuple[Vote, ...]:
        """The answer of each task."""
        return tuple(weighted_vote(solutions) for solutions in self.voted)

    def choices(self) -> list[Choice]:
        """The best solution of each task's answer among all that were voted on."""
        return [_choice(solutions, task in self.hard_once) for task, solutions in enumerate(self.voted)]

    @property
    def hard_once(self) -> frozenset[int]:
        """Tasks that have solutions which are not among the first."""
        return frozenset(i for i, (a, b) in enumerate(zip(self.first, self.voted, strict=True)) if {*b} - {*a})


def route(
    tasks: Sequence[Any],
    cheap: Callable[[Any], Sequence[Candidate]],
    expensive: Callable[[Any, Sequence[Solution]], Sequence[Candidate]],
    evaluate: Evaluator,
    *,
    rounds: int = 1,
    keep: int | None = None,
    majorities: Sequence[Hashable] | None = None,
    published: bool = False,
    observers: Iterable[Observer] = (),
) -> Routed:
    """Solve tasks the cheap way, and refine those that are hard, round by round.

    Args:
        tasks: questions, tiles, whatever the functions take.
        cheap: some solutions of a task.
        expensive: refined solutions of a task, from its current ones and what their verdicts tell.
        evaluate: the outcome reward of a solution, with `Evidence`.
        rounds: of refinement at most; each looks again at which tasks are hard.
        keep: best solutions that are kept of old and new together; None: as many as `cheap` made.
        majorities: the majority answer of each task, which stays the same in all rounds; None: it is counted.
        published: forget the improved set where a task has become easy, as the published code does.

    Raises:
        ValueError: a task got no solution.
    """
    first = tuple(_judged(cheap(task), evaluate) for task in tasks)
    if not all(first):
        raise ValueError("Every task needs at least one cheap solution; `cheap` gave none.")
    scale = reward_scale(first) if first else Scale(0.0, 1.0)
    answers = list(majorities) if majorities is not None else [majority(solutions) for solutions in first]

    def one_round(state: Routed, number: int) -> Routed:
        hard, current, voted = [], [], []
        for place, task in enumerate(tasks):
            old = state.current[place]
            hard.append(is_hard(old, scale, answers[place]))
            new = _judged(expensive(task, old), evaluate) if hard[-1] else ()
            best = tuple(sorted((*old, *new), key=lambda s: -s.reward)[: keep or len(first[place])])
            voted.append(best)
            current.append(best if not published else new or state.first[place])
        return Routed(state.first, tuple(current), tuple(voted), tuple(hard))

    return refine(Routed(first, first, first), one_round, range(rounds), observers=observers).state


def _judged(candidates: Sequence[Candidate], evaluate: Evaluator) -> tuple[Solution, ...]:
    return tuple(Solution(candidate, evaluate(candidate)) for candidate in candidates)


def _choice(solutions: Sequence[Solution], refined: bool) -> Choice:
    vote = weighted_vote(solutions)
    places = [i for i, solution in enumerate(solutions) if solution.answer == vote.answer]
    chosen = max(places, key=lambda place: solutions[place].reward)
    why = f"{'refined' if refined else 'cheap'}; answer {vote.answer} has weight {vote.weight:.3f}"
    candidates, verdicts = zip(*((s.candidate, s.verdict) for s in solutions), strict=True)
    return Choice(candidates[0].task, candidates, verdicts, chosen, why)
