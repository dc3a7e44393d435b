"""Spend the expensive way only where the cheap one is unsure: difficulty, rounds of refinement, weighted votes.

Source: "MAgICoRe: Multi-Agent, Iterative, Coarse-to-Fine Refinement for Reasoning" (arXiv 2409.12147) and its released
code. A task is hard when its majority answer earns less than the mean and its answers disagree by either reward.

Differences from the release, which `published=True` reproduces: the improved set of a task is kept, where the release
goes back to the first one as soon as a task has become easy (and finds it hard again a round later).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vision.refine import Observer, Verdict, refine
from vision.strategies.values import Candidate, Choice, Evaluator, score_of


@dataclass(frozen=True)
class Evidence:
    """What an evaluator tells about a solution in its verdict's detail; the verdict's score is the outcome reward."""

    answer: Hashable
    """What the solution says, as it is counted in votes; None: nothing that can be read."""
    steps: tuple[float, ...] = ()
    """Scores of its steps or windows, in [0, 1]; the process reward is their product; (0,) without an answer."""


@dataclass(frozen=True)
class Solution:
    """A candidate with its rewards."""

    candidate: Candidate
    """The solution itself."""
    verdict: Verdict
    """Its outcome reward, and `Evidence`."""

    @property
    def answer(self) -> Hashable:
        """None: it cannot be read, and has no vote."""
        return self.verdict.detail.answer

    @property
    def outcome(self) -> float:
        """The outcome reward."""
        return score_of(self.verdict)

    @property
    def process(self) -> float:
        """The product of the scores of the steps."""
        return math.prod(self.verdict.detail.steps)

    @property
    def reward(self) -> float:
        """Outcome and process together."""
        return self.outcome + self.process


@dataclass(frozen=True)
class Scale:
    """What rewards of these tasks look like."""

    mean: float
    """Of the first solutions' rewards."""
    deviation: float
    """Of the same, over all of them (not n - 1)."""


@dataclass(frozen=True)
class Vote:
    """The outcome of a weighted vote."""

    answer: Hashable
    """The one with the largest sum of rewards; None: nobody could be read."""
    weight: float
    """That sum."""


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


def reward_scale(pools: Iterable[Sequence[Solution]]) -> Scale:
    """Mean and deviation of the rewards of each task's first solution."""
    rewards = [solutions[0].reward for solutions in pools]
    mean = math.fsum(rewards) / len(rewards)
    return Scale(mean, math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards)))


def majority(solutions: Sequence[Solution]) -> Hashable:
    """The most frequent answer; of equally frequent ones the first."""
    return Counter(solution.answer for solution in solutions).most_common(1)[0][0]


def below_mean(solutions: Sequence[Solution], scale: Scale, answer: Hashable) -> bool:
    """Whether the solutions with this answer earn less than the mean; False where nobody gives it."""
    rewards = [solution.reward - scale.mean for solution in solutions if solution.answer == answer]
    return math.fsum(rewards) < 0


def confidence(weights: Iterable[float]) -> float:
    """2 (1 - sigmoid(H)) of the entropy H (natural logarithm) of weights; 1 when all lies on one, 0.5 at H = log 3.

    Weights that sum to 0 say nothing: 1, so that nothing is refined for it.
    """
    weights = list(weights)
    total = math.fsum(weights)
    if total <= 0:
        return 1.0
    entropy = -math.fsum(w / total * math.log(w / total) for w in weights if w > 0)
    return 2 * (1 - 1 / (1 + math.exp(-entropy)))


def is_hard(solutions: Sequence[Solution], scale: Scale, answer: Hashable) -> bool:
    """Whether a task deserves the expensive way: its majority answer earns less than the mean, and its answers disagree
    (confidence below 0.5) by outcome or by process."""
    sums = [_sums(solutions, value) for value in (lambda s: s.outcome, lambda s: s.process)]
    return below_mean(solutions, scale, answer) and any(confidence(by.values()) < 0.5 for by in sums)


def weighted_vote(solutions: Sequence[Solution]) -> Vote:
    """The answer with the largest sum of rewards; of equal ones the first."""
    sums = _sums([solution for solution in solutions if solution.answer is not None], lambda s: s.reward)
    answer = max(sums, key=sums.__getitem__, default=None)
    return Vote(answer, sums.get(answer, 0.0))


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
        published: forget the improved set where a task has become easy, as the release does.

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


def _sums(solutions: Sequence[Solution], value: Callable[[Solution], float]) -> dict[Hashable, float]:
    sums: dict[Hashable, float] = {}
    for solution in solutions:
        sums[solution.answer] = sums.get(solution.answer, 0.0) + value(solution)
    return sums


def _choice(solutions: Sequence[Solution], refined: bool) -> Choice:
    vote = weighted_vote(solutions)
    places = [i for i, solution in enumerate(solutions) if solution.answer == vote.answer]
    chosen = max(places, key=lambda place: solutions[place].reward)
    why = f"{'refined' if refined else 'cheap'}; answer {vote.answer} has weight {vote.weight:.3f}"
    candidates, verdicts = zip(*((s.candidate, s.verdict) for s in solutions), strict=True)
    return Choice(candidates[0].task, candidates, verdicts, chosen, why)
