"""Balance exploration and exploitation in learning from own answers: a score, and settings that maximise it.

Source: "B-STaR: Monitoring and Balancing Exploration and Exploitation in Self-Taught Reasoners" (arXiv 2412.17256),
section 3 and equation 3, and its published code.

Differences from the paper: the tuner counts a question of which nothing is kept as 0. The published mean leaves it out,
so that a threshold which drops the hard questions costs nothing, and what the rounds could learn from is lost. Of equal
settings it takes the highest threshold: what it drops was not among the few tried answers, and is mostly wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Answer:
    """A sampled answer to a question."""

    text: str
    """What it says; of equal ones one is kept."""
    right: bool
    """Whether it reaches the known answer."""
    score: float
    """By which it is kept: 1 for a right answer, plus its smallest step reward / 5, in the paper."""


def balance_score(right: int, kept: int, n_star: int = 8) -> float:
    """min(right / n_star, 1) * right / kept of one question; 0 where nothing is kept.

    Args:
        right: kept answers that are right.
        kept: kept answers.
        n_star: how many right ones are enough.

    Raises:
        ValueError: more are right than kept, or n_star is below 1.
    """
    if not 0 <= right <= kept or n_star < 1:
        raise ValueError(f"balance_score needs 0 <= right <= kept and n_star >= 1, got {right}, {kept} and {n_star}.")
    return min(right / n_star, 1) * right / kept if kept else 0.0


def select(answers: Sequence[Answer], threshold: float, cap: int | None = None) -> list[Answer]:
    """The `cap` answers with the highest scores above the threshold, the highest first, each text once."""
    good = [answer for answer in sorted(answers, key=lambda answer: -answer.score) if answer.score > threshold]
    first: dict[str, Answer] = {}
    for answer in good[:cap]:
        first.setdefault(answer.text, answer)
    return list(first.values())


def mean_balance(selected: Sequence[Sequence[Answer]], n_star: int = 8, *, all_questions: bool = False) -> float:
    """Mean balance score over the questions of which something is kept, as published, or over all; 0 without any."""
    counted = [answers for answers in selected if answers or all_questions]
    scores = [balance_score(sum(answer.right for answer in answers), len(answers), n_star) for answers in counted]
    return sum(scores) / len(scores) if scores else 0.0


def select_to_size(
    pools: Sequence[Sequence[Answer]], threshold: float, size: int, most: int = 64
) -> list[list[Answer]]:
    """The selection with the smallest cap per question that reaches `size` answers in all; with the cap `most` if none
    does."""
    for cap in range(1, most + 1):
        selected = [select(answers, threshold, cap) for answers in pools]
        if sum(map(len, selected)) >= size:
            break
    return selected


@dataclass(frozen=True)
class Setting:
    """What a round samples and keeps with."""

    temperature: float
    """Of the samples."""
    threshold: float
    """Of the scores that are kept."""
    balance: float
    """Mean balance score that it got, over all questions."""


@dataclass(frozen=True)
class Tuner:
    """Looks for the temperature and threshold with the highest balance on a few questions, before every round."""

    temperatures: tuple[float, ...]
    """To try; each is sampled once."""
    thresholds: tuple[float, ...]
    """To try with the samples of every temperature."""
    n_star: int = 8
    """See `balance_score`."""
    cap: int | None = None
    """Answers kept per question."""

    def __post_init__(self) -> None:
        if not self.temperatures or not self.thresholds:
            raise ValueError("A tuner needs at least one temperature and one threshold.")

    def tune(self, sample: Callable[[float], Sequence[Sequence[Answer]]]) -> Setting:
        """The best setting; of equal ones that with the highest threshold, of these the first.

        Args:
            sample: answers to each of some questions, at a temperature.
        """
        pools = {temperature: sample(temperature) for temperature in self.temperatures}

        def setting(temperature: float, threshold: float) -> Setting:
            selected = [select(answers, threshold, self.cap) for answers in pools[temperature]]
            return Setting(temperature, threshold, mean_balance(selected, self.n_star, all_questions=True))

        settings = [setting(*pair) for pair in product(self.temperatures, self.thresholds)]
        return max(settings, key=lambda each: (each.balance, each.threshold))
