"""Let a model verify its own samples, and find out whether its word is worth anything.

Source: "Is PRM Necessary? Problem-Solving RL Implicitly Induces PRM Capability in LLMs" (arXiv 2505.11227), section 5:
among samples that the model itself judges right the majority decides. F1 as in ProcessBench (arXiv 2412.06559).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verified:
    """The answer, and what it rests on."""

    answer: Hashable
    """The one that was kept."""
    accepted: tuple[bool, ...]
    """Which samples were judged right."""
    fell_back: bool
    """Nothing was judged right, so the majority of all samples decided."""


def self_verify(samples: Sequence[Hashable], verify: Callable[[Hashable], bool]) -> Verified:
    """The most frequent answer among those that are judged right; of all when none is. Of equal ones the first.

    Args:
        samples: answers to one question.
        verify: whether the model judges a sample right.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("There are no samples to verify; draw at least one.")
    accepted = tuple(bool(verify(sample)) for sample in samples)
    kept = [sample for sample, ok in zip(samples, accepted, strict=True) if ok]
    return Verified(Counter(kept or samples).most_common(1)[0][0], accepted, not kept)


@dataclass(frozen=True)
class Rates:
    """How often a verifier is right, on one kind of question; a rate of nothing is None."""

    count: int
    """Verdicts."""
    precision: float | None
    """Right answers among those that it calls right."""
    recall: float | None
    """Of the right answers, those that it calls right."""
    specificity: float | None
    """Of the wrong answers, those that it calls wrong."""

    @property
    def balanced(self) -> float | None:
        """Mean of recall and specificity: 0.5 for a verifier that always says the same."""
        if self.recall is None or self.specificity is None:
            return None
        return (self.recall + self.specificity) / 2


@dataclass(frozen=True)
class VerifierReport:
    """Whether a verifier is worth asking."""

    all: Rates
    """On everything."""
    by_difficulty: tuple[tuple[Any, Rates], ...]
    """On the questions of each difficulty, in its order."""
    says_right: float
    """Share of its verdicts that say right."""

    @property
    def warning(self) -> str | None:
        """A sentence where its word should not decide anything."""
        if self.says_right in (0.0, 1.0):
            return f"The verifier always says {'right' if self.says_right else 'wrong'}; its word decides nothing."
        balanced = self.all.balanced
        if balanced is not None and balanced <= 0.5 + self.error:
            return f"The verifier is at chance ({balanced:.2f} of right and wrong answers told apart)."
        return None

    @property
    def error(self) -> float:
        """One standard error of the balanced accuracy at chance."""
        return 0.5 / max(self.all.count, 1) ** 0.5


def verifier_report(
    said: Sequence[bool], truth: Sequence[bool], difficulty: Sequence[Any] | None = None
) -> VerifierReport:
    """Rates of a verifier.

    Args:
        said: whether it called each answer right.
        truth: whether each answer is right.
        difficulty: of each question; None: all alike.

    Raises:
        ValueError: there are no verdicts.
    """
    if not said:
        raise ValueError("A report needs at least one verdict.")
    rows = list(zip(said, truth, difficulty or [None] * len(said), strict=True))
    kinds = [] if difficulty is None else sorted(set(difficulty))
    parts = tuple((kind, _rates([(a, b) for a, b, of in rows if of == kind])) for kind in kinds)
    return VerifierReport(_rates([(a, b) for a, b, _ in rows]), parts, sum(map(bool, said)) / len(said))


def process_f1(found: Sequence[int | None], truth: Sequence[int | None]) -> float:
    """ProcessBench's F1: harmonic mean of the accuracy on wrong chains (first wrong step named exactly) and on right
    ones (no step named); 0 where a kind is missing.

    Args:
        found: index of the first wrong step that the verifier names; None: it says that there is none.
        truth: the real one.
    """
    wrong = [a == b for a, b in zip(found, truth, strict=True) if b is not None]
    right = [a is None for a, b in zip(found, truth, strict=True) if b is None]
    if not any(wrong) or not any(right):
        return 0.0
    first, second = sum(wrong) / len(wrong), sum(right) / len(right)
    return 2 * first * second / (first + second)


def _rates(pairs: Sequence[tuple[bool, bool]]) -> Rates:
    def share(marks: list[bool]) -> float | None:
        return sum(map(bool, marks)) / len(marks) if marks else None

    return Rates(
        len(pairs),
        share([truth for said, truth in pairs if said]),
        share([said for said, truth in pairs if truth]),
        share([not said for said, truth in pairs if not truth]),
    )
