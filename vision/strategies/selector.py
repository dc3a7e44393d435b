"""Which strategy to try first: a linear choice among named strategies, learnt from what earlier attempts showed.

Source: "SMART: Self-learning Meta-strategy Agent for Reasoning Tasks" (arXiv 2410.16128): when a later attempt
succeeds, its strategy becomes the target of the first attempt, so that the choice is right without trying. The policy
of the paper is the language model itself; here it is a multinomial regression on numbers of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vision.refine import Verdict
from vision.regression import regression
from vision.strategies.values import Choice, best


@dataclass(frozen=True)
class Lesson:
    """What an earlier task teaches about the first attempt."""

    task: str
    """Name of the task."""
    facts: Mapping[str, float]
    """Numbers about the task."""
    strategy: str
    """What should have been tried first."""
    weight: float = 1.0
    """How much it counts."""


def relabel_first_attempt(choices: Iterable[Choice], passes: Callable[[Verdict], bool] | None = None) -> list[Lesson]:
    """The lessons of earlier tasks: the first attempt that passed becomes the target of the first attempt.

    Args:
        choices: their candidates are the attempts in order; origins name the strategies.
        passes: whether an attempt succeeded; None: the best of its task did.

    Returns:
        A lesson for every task that any attempt solved, in order.
    """
    lessons = []
    for choice in choices:
        if passes is None:
            place = best(choice.verdicts)
        else:
            place = next((i for i, verdict in enumerate(choice.verdicts) if passes(verdict)), None)
        if place is not None:
            lessons.append(Lesson(choice.task, choice.facts, choice.candidates[place].origin))
    return lessons


def regret_lessons(choices: Iterable[Choice]) -> list[Lesson]:
    """The lessons of earlier tasks: every attempt teaches, weighted by how much better it was than the task's worst.

    A linear choice that maximises this weight loses least, and an attempt that is nearly as good is no mistake. A task
    whose attempts are all as good teaches nothing.
    """
    lessons = []
    for choice in choices:
        scores = [float(verdict.score) for verdict in choice.verdicts]
        pairs = zip(choice.candidates, (score - min(scores) for score in scores), strict=True)
        lessons += [Lesson(choice.task, choice.facts, c.origin, weight) for c, weight in pairs if weight > 0]
    return lessons


@dataclass(frozen=True)
class StrategySelector:
    """Multinomial regression from numbers of a task to the strategy to try first; saved as JSON."""

    strategies: tuple[str, ...]
    """Names of what can be picked."""
    features: tuple[str, ...]
    """Names of the numbers that are looked at."""
    means: tuple[float, ...]
    """Of the features in training."""
    deviations: tuple[float, ...]
    """Of the features in training; 1 where a feature never changed."""
    weights: tuple[tuple[float, ...], ...]
    """Per strategy: the weight of each normalised feature, then the offset."""

    def __post_init__(self) -> None:
        columns = len(self.features)
        if len(self.means) != columns or len(self.deviations) != columns:
            raise ValueError(f"A selector of {columns} features needs as many means and deviations.")
        if len(self.weights) != len(self.strategies) or any(len(row) != columns + 1 for row in self.weights):
            raise ValueError(
                f"A selector of {len(self.strategies)} strategies and {columns} features needs weights "
                f"of {len(self.strategies)} x {columns + 1}."
            )

    @classmethod
    def fit(cls, lessons: Sequence[Lesson], *, decay: float = 0.1) -> StrategySelector:
        """The selector that fits lessons best.

        Args:
            lessons: all with the same facts, see `relabel_first_attempt`.
            decay: weight of the squared weights, per lesson; offsets are free.

        Raises:
            ValueError: there are no lessons, or they do not have the same finite facts.
        """
        if not lessons:
            raise ValueError("A selector needs at least one solved task to learn from.")
        features = tuple(sorted(lessons[0].facts))
        strategies = tuple(sorted({lesson.strategy for lesson in lessons}))
        rows = torch.stack([_row(lesson.facts, features, lesson.task) for lesson in lessons])
        means, deviations = rows.mean(0), rows.std(0, correction=0)
        deviations = torch.where(deviations > 1e-9 * means.abs().clamp(min=1), deviations, 1.0)
        inputs = _with_offset((rows - means) / deviations)
        targets = torch.tensor([strategies.index(lesson.strategy) for lesson in lessons])
        counts = torch.tensor([lesson.weight for lesson in lessons], dtype=torch.float64)
        weights = regression(inputs, targets, counts / counts.sum(), len(strategies), decay / len(lessons))
        rounded = tuple(tuple(row) for row in weights.tolist())
        return cls(strategies, features, tuple(means.tolist()), tuple(deviations.tolist()), rounded)

    def chances(self, facts: Mapping[str, float]) -> dict[str, float]:
        """Probability of every strategy to be the right first attempt; they sum to 1.

        Raises:
            ValueError: a feature is missing or not finite.
        """
        row = _row(facts, self.features, "the task")
        normal = (row - torch.tensor(self.means, dtype=row.dtype)) / torch.tensor(self.deviations, dtype=row.dtype)
        scores = torch.tensor(self.weights, dtype=row.dtype) @ _with_offset(normal[None])[0]
        return dict(zip(self.strategies, scores.softmax(0).tolist(), strict=True))

    def pick(self, facts: Mapping[str, float], allowed: Iterable[str] | None = None) -> str:
        """The likeliest strategy.

        Args:
            facts: numbers about the task.
            allowed: names to choose among, a registry; None: all that were learnt.

        Raises:
            ValueError: none that was learnt is allowed.
        """
        chances = self.chances(facts)
        names = [name for name in self.strategies if allowed is None or name in set(allowed)]
        if not names:
            raise ValueError(f"None of the strategies {', '.join(self.strategies)} is there to be picked.")
        return max(names, key=chances.__getitem__)


def _row(facts: Mapping[str, float], features: Sequence[str], task: str) -> Tensor:
    wrong = [name for name in features if name not in facts or not abs(float(facts[name])) < float("inf")]
    if wrong:
        raise ValueError(f"The selector looks at {', '.join(wrong)}, which {task} lacks or has no finite number for.")
    return torch.tensor([float(facts[name]) for name in features], dtype=torch.float64)


def _with_offset(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
