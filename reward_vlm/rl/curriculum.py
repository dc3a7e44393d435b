"""What is learnt next: rows from easy to hard, measured again as the policy grows, and help where every try fails.

Source: "Learning Like Humans: Advancing LLM Reasoning Capabilities via Adaptive Difficulty Curriculum Learning and
Expert-Guided Self-Reformulation" (arXiv 2505.08364), sections 3.2 (ADCL) and 3.3 (EGSR).

Difference from the paper: rows are sorted among those of their kind, and kinds are mixed evenly. To a judge that
prefers a place, rows whose answer stands there are easy: sorted all together, the first batch would hold mostly such
rows, and teach it to say nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class AdaptiveCurriculum:
    """Rows in batches from easy to hard by a first measurement; before each batch but the first, its rows alone are
    measured and sorted anew.

    That only the next batch is measured again is what makes it affordable.
    """

    rates: tuple[float, ...]
    """Share of successes of the first policy on every row, in [0, 1]."""
    batches: int
    """In how many parts the rows are learnt; the first ones get a row more where they cannot be equal."""
    kinds: tuple[Hashable, ...] | None = None
    """What every row is answered with; all batches get the same mix of kinds. None: all are of one kind."""

    def __post_init__(self) -> None:
        if not 1 <= self.batches <= len(self.rates):
            raise ValueError(
                f"{len(self.rates)} rows can be cut into 1 to {len(self.rates)} batches, not into {self.batches}."
            )
        if self.kinds is not None and len(self.kinds) != len(self.rates):
            raise ValueError(f"kinds must name one for each of {len(self.rates)} rows, got {len(self.kinds)}.")

    def batch(
        self, number: int, solve_rate: Callable[[Sequence[int]], Sequence[float]]
    ) -> tuple[list[int], float | None]:
        """The places of the rows of a batch, the easiest for the policy as it is first; and how far its order has
        moved, see `difficulty_shift` (None for the first batch, which is not measured again).

        Args:
            number: of the batch, from 0.
            solve_rate: share of successes of the policy as it is on the rows at some places.
        """
        kinds = self.kinds or (None,) * len(self.rates)
        places = np.array_split(_easiest_first(self.rates, kinds), self.batches)[number].tolist()
        if number == 0:
            return places, None
        now = solve_rate(places)
        order = _easiest_first(now, [kinds[place] for place in places])
        return [places[i] for i in order], difficulty_shift([self.rates[i] for i in places], now)


def difficulty_shift(before: Sequence[float], now: Sequence[float]) -> float:
    """1 minus Spearman's rank correlation of two measurements of the same rows, in [0, 2]; 0 where either is constant,
    which orders nothing."""
    first, second = (_ranks(values) for values in (before, now))
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(1 - np.corrcoef(first, second)[0, 1])


def guided(
    rewards: Sequence[float],
    samples: Sequence[Sample],
    teacher: Callable[[int], Sequence[tuple[Sample, float]]],
    size: int,
    most: int = 1,
) -> tuple[list[Sample], list[float], list[int]]:
    """Rollouts in which groups that all fail got successes that were reached with help.

    The helped samples are trained as if they had been drawn from the plain prompt. They replace the last ones of their
    group, so that groups keep their size.

    Args:
        rewards: of the rollouts; those of one prompt stand next to each other. A rollout fails with a reward of 0 or
            less.
        samples: the rollouts.
        teacher: samples of the policy that was shown a solution, and their rewards, for the prompt of a group; asked
            for groups that all fail.
        size: rollouts per prompt.
        most: helped samples per group at most.

    Returns:
        Samples, rewards, and the places of the helped ones.

    Raises:
        ValueError: the rollouts are no whole groups, or `most` is not in [1, size].
    """
    if len(rewards) != len(samples) or size < 1 or len(rewards) % size:
        raise ValueError(f"{len(samples)} samples with {len(rewards)} rewards are no whole groups of {size}.")
    if not 1 <= most <= size:
        raise ValueError(f"most must lie in [1, {size}], got {most}.")
    samples, rewards, helped = list(samples), list(rewards), []
    for group in range(len(rewards) // size):
        places = range(group * size, (group + 1) * size)
        if max(rewards[place] for place in places) > 0:
            continue
        good = [(sample, reward) for sample, reward in teacher(group) if reward > 0][:most]
        for place, (sample, reward) in zip(reversed(places), good, strict=False):
            samples[place], rewards[place] = sample, reward
            helped.append(place)
    return samples, rewards, sorted(helped)


def _easiest_first(rates: Sequence[float], kinds: Sequence[Hashable]) -> np.ndarray:
    """Places from easy to hard: each row stands where it does among those of its kind, as a share of their number."""
    order = np.argsort(-np.asarray(rates, dtype=float), kind="stable")
    before, shares = Counter(), np.empty(len(order))
    total = Counter(kinds)
    for place in order.tolist():
        shares[place] = (before[kinds[place]] + 0.5) / total[kinds[place]]
        before[kinds[place]] += 1
    return order[np.argsort(shares[order], kind="stable")]


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0, equal values with the mean of theirs."""
    array = np.asarray(values, dtype=float)
    _, places, counts = np.unique(array, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[places]
