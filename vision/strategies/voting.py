"""Solutions with rewards: weighted votes, and how sure they leave one of an answer.

Source: "MAgICoRe: Multi-Agent, Iterative, Coarse-to-Fine Refinement for Reasoning" (arXiv 2409.12147), section 3.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from vision.refine import Verdict
from vision.strategies.values import Candidate, score_of


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


def _sums(solutions: Sequence[Solution], value: Callable[[Solution], float]) -> dict[Hashable, float]:
    sums: dict[Hashable, float] = {}
    for solution in solutions:
        sums[solution.answer] = sums.get(solution.answer, 0.0) + value(solution)
    return sums
