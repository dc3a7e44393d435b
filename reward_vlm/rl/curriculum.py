"""What is learnt next: rows from easy to hard, measured again as the policy grows, and help where every try fails.

Source: "Learning Like Humans: Advancing LLM Reasoning Capabilities via Adaptive Difficulty Curriculum Learning and
Expert-Guided Self-Reformulation" (arXiv 2505.08364), sections 3.2 (ADCL) and 3.3 (EGSR).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

Row = TypeVar("Row")
Sample = TypeVar("Sample")


class AdaptiveCurriculum(Generic[Row]):
    """Rows in batches from easy to hard; before each batch but the first its rows are measured and sorted anew.

    Only the next batch is measured again, not everything: that is what makes it affordable.

    Args:
        rows: what is to be learnt.
        solve_rate: share of successes, in [0, 1], of the policy as it is on each of some rows.
        batches: in how many parts; the first ones get a row more where they cannot be equal.
    """

    def __init__(self, rows: Sequence[Row], solve_rate: Callable[[Sequence[Row]], Sequence[float]], batches: int):
        if not 1 <= batches <= len(rows):
            raise ValueError(f"{len(rows)} rows can be cut into 1 to {len(rows)} batches, not into {batches}.")
        self.rows, self.solve_rate, self.batches = rows, solve_rate, batches
        self.shifts: list[float] = []

    def __iter__(self):
        """The batches in order; draw the next one when the policy has learnt from the one before.

        Yields:
            The rows of a batch, the easiest first. `shifts` gets the `difficulty_shift` of each batch measured again.
        """
        rates = self.solve_rate(self.rows)
        for number, part in enumerate(np.array_split(_easiest_first(rates), self.batches)):
            batch = [self.rows[place] for place in part]
            if number:
                now = self.solve_rate(batch)
                self.shifts.append(difficulty_shift([rates[place] for place in part], now))
                batch = [batch[place] for place in _easiest_first(now)]
            yield batch


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


def _easiest_first(rates: Sequence[float]) -> np.ndarray:
    return np.argsort(-np.asarray(rates, dtype=float), kind="stable")


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0, equal values with the mean of theirs."""
    array = np.asarray(values, dtype=float)
    _, places, counts = np.unique(array, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[places]
