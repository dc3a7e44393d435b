"""Rank requests to review by the improvement that they cause: what `evaluate scl --rank-reviews` runs.

Every review is asked alone, about the same first answers. Every other question ranks them by their net gain (corrected
less spoiled); the other half tells whether the choice holds. Ties go to the review that changes fewer answers. Source:
ReARTeR, arXiv 2501.07861, which labels explanations by whether they raised the score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reward_vlm.data import Question
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.pairs import Record, answer_all, count
from reward_vlm.scl.prompts import REVIEWS
from reward_vlm.scl.talk import Answer

Told = Callable[[str, int], object]
"""Hears the review that is asked, and how many questions it was asked about."""


def ranked_reviews(
    corrector: SCLCorrector,
    questions: Sequence[Question],
    folder: Path,
    options: SCLOptions,
    *,
    model: str = "",
    drafts: Sequence[Answer] | None = None,
    told: Told = lambda review, done: None,
) -> list[dict[str, Any]]:
    """A row per review, the best first: its gains on both halves, and what it changed.

    Args:
        folder: review-N/records.jsonl of each is kept here; the same call goes on with them.
        options: its reviews are ranked, one by one; None: the four of the paper. `votes` and `accept` gate them.
        drafts: the first answers, as for `SCLCorrector.batch`; None: its own.

    Raises:
        ValueError: there are fewer than 2 questions, or the options answer without reviews.
    """
    if options.deliberates:
        raise ValueError("verify, turns, effort and strategy answer without reviews; leave them out to rank reviews.")
    if len(questions) < 2:
        raise ValueError(f"Reviews are ranked on half of 2 or more questions, got {len(questions)}.")
    reviews = tuple(range(len(REVIEWS))) if options.reviews is None else options.reviews
    found = {}
    for number, review in enumerate(reviews):
        found[review] = answer_all(
            corrector, questions, folder / f"review-{number}", replace(options, reviews=(review,)), model=model,
            drafts=drafts, told=lambda done, pairs, review=review: told(str(review), done),
        )  # fmt: skip
    return rank_reviews(found)


def rank_reviews(records: Mapping[int | str, Sequence[Record]]) -> list[dict[str, Any]]:
    """A row per review, the best first, from what became of the same questions under each."""
    rows = []
    for review, found in records.items():
        ranking, held_out = count(found[::2]), count(found[1::2])
        rows.append(
            {
                "review": review,
                "net_gain": _gain(ranking),
                "held_out": _gain(held_out),
                "corrected": (ranking.wrong_right + held_out.wrong_right) / len(found),
                "spoiled": (ranking.right_wrong + held_out.right_wrong) / len(found),
                "first": count(found).first_accuracy,
            }
        )
    return sorted(rows, key=lambda row: (-row["net_gain"], row["corrected"] + row["spoiled"]))


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence about the best review, and whether the questions that did not rank it agree."""
    best, held = rows[0], max(row["held_out"] for row in rows)
    gains = f"net gain {best['net_gain']:+.3f}, on the other questions {best['held_out']:+.3f}"
    told = f"Review {best['review']!r} is chosen: {gains}"
    if best["held_out"] < 0 or best["net_gain"] < 0:
        return f"{told}; no review at all is better."
    return f"{told}, {'the best there too' if best['held_out'] == held else f'where another has {held:+.3f}'}."


def _gain(found: Any) -> float:
    return (found.wrong_right - found.right_wrong) / max(found.total, 1)
