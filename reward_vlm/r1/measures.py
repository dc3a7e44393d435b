"""How well pairs were judged: the measures of an honest protocol.

The published code shows the better answer first in every row, so that a judge that always says "1" scores 100 %. Here
each pair is judged in both orders; reported are the accuracy in a random order (drawn from a seed), the share that is
right in both, the share of "1" (0.5 for a judge without position bias), the accuracy of K votes, and 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reward_vlm.data import Preference
from reward_vlm.judges import Query, Vote
from reward_vlm.parse import majority, well_formed
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Options
from vision.report import wilson


@dataclass(frozen=True)
class Judgement:
    """How one pair was judged."""

    pair: Preference
    """The answers, and which is better."""
    votes: tuple[Vote, ...]
    """Of the order as stored first, then of the other; as many of each."""
    random_order: int
    """0: the order as stored counts as the random one, 1: the other."""

    def in_order(self, order: int) -> tuple[Vote, ...]:
        """The votes of one order (0 as stored, 1 swapped)."""
        half = len(self.votes) // 2
        return self.votes[:half] if order == 0 else self.votes[half:]

    def right(self, order: int, votes: int | None = None) -> bool:
        """Whether the majority of the first votes in this order chose the better answer; unreadable is wrong."""
        cast = self.in_order(order)[:votes]
        winner = majority([vote.winner for vote in cast], [vote.reply.log_prob for vote in cast])
        return winner == self.pair.better - 1


def random_orders(count: int, seed: int) -> np.ndarray:
    """(count,) 0 or 1: the order that counts of each of so many pairs."""
    return np.random.default_rng(seed).integers(0, 2, count)


def judge_pairs(
    judge: R1Judge,
    pairs: Sequence[Preference],
    options: R1Options | None = None,
    *,
    chunk: int = 64,
    flips: np.ndarray | None = None,
) -> list[Judgement]:
    """Judge pairs in both orders; the pictures of `chunk` pairs are in memory at a time.

    Args:
        flips: (pairs,) what `random_orders` drew for them; None: they are drawn here.
    """
    options = replace(options or R1Options(batch_size=chunk), orders="both")
    flips = random_orders(len(pairs), options.seed) if flips is None else flips
    outcomes = []
    for start in range(0, len(pairs), chunk):
        part = pairs[start : start + chunk]
        queries = [Query(pair.question, pair.read_answers(), tuple(pair.media(judge.config.frames))) for pair in part]
        judged = judge.batch(queries, replace(options, seed=options.seed + start * 2 * options.votes))
        outcomes += [
            Judgement(pair, found.votes, int(flip))
            for pair, found, flip in zip(part, judged, flips[start : start + chunk], strict=True)
        ]
    return outcomes


def counts(outcomes: Iterable[Judgement]) -> dict[str, float]:
    """Sums over pairs that `summary` divides; sums of parts of a benchmark add up."""
    total: dict[str, float] = {}
    for outcome in outcomes:
        first = [outcome.right(0), outcome.right(1)]
        single = outcome.votes[0], outcome.in_order(1)[0]
        row = {
            "pairs": 1,
            "right": first[outcome.random_order],
            "right_in_both": all(first),
            "right_first": first[outcome.pair.better - 1],
            "right_second": first[2 - outcome.pair.better],
            "said_1": sum(vote.winner == vote.pair[0] for vote in single),
            "readable": sum(vote.winner is not None for vote in single),
            "well_formed": sum(well_formed(vote.reply.text) for vote in single),
            "tokens": sum(vote.reply.tokens for vote in single),
        }
        for votes in range(1, len(outcome.in_order(0)) + 1, 2):
            row[f"right_of_{votes}"] = outcome.right(outcome.random_order, votes)
        for name, value in row.items():
            total[name] = total.get(name, 0.0) + float(value)
    return total


def summary(sums: Mapping[str, float]) -> dict[str, float]:
    """Shares from `counts`, with the 95 % interval (Wilson) of the accuracy in random order."""
    pairs = max(sums["pairs"], 1.0)
    low, high = wilson(sums["right"], pairs)
    row = {
        "pairs": int(sums["pairs"]),
        "accuracy": sums["right"] / pairs,
        "accuracy_low": low,
        "accuracy_high": high,
        "both_orders": sums["right_in_both"] / pairs,
        "better_first": sums["right_first"] / pairs,
        "better_second": sums["right_second"] / pairs,
        "says_1": sums["said_1"] / max(sums["readable"], 1.0),
        "readable": sums["readable"] / (2 * pairs),
        "format": sums["well_formed"] / (2 * pairs),
        "tokens": sums["tokens"] / (2 * pairs),
    }
    voted = {name: value / pairs for name, value in sums.items() if name.startswith("right_of_")}
    return row | ({name.replace("right_of", "vote"): value for name, value in voted.items()} if len(voted) > 1 else {})


def by_category(outcomes: Sequence[Judgement]) -> list[dict[str, Any]]:
    """One row for all pairs, one per category, and the mean of the categories."""
    categories = sorted({outcome.pair.category for outcome in outcomes} - {""})
    rows = [{"category": "all", **summary(counts(outcomes))}]
    parts = [
        {"category": name, **summary(counts(outcome for outcome in outcomes if outcome.pair.category == name))}
        for name in categories
    ]
    if len(parts) > 1:
        macro = {key: sum(row[key] for row in parts) / len(parts) for key in ("accuracy", "both_orders")}
        rows.append({"category": "mean of categories", **macro})
    return rows + parts


def acc_plus(outcomes: Sequence[Judgement]) -> float:
    """Share of questions (by id) all of whose pairs are right in random order, the Acc+ of the MM-RLHF bench."""
    questions: dict[str, bool] = {}
    for outcome in outcomes:
        right = outcome.right(outcome.random_order)
        questions[outcome.pair.id] = questions.get(outcome.pair.id, True) and right
    return sum(questions.values()) / max(len(questions), 1)
