"""How well a model answers, before and after reviewing its answers.

The paper finds that reviewing alone mostly hurts: more right answers are spoiled than wrong ones corrected. So both
rates are reported, and the net gain whatever its sign. Source: arXiv 2410.04055, sections 3 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reward_vlm.data import Question
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.pairs import Record, count, record_of
from vision.report import wilson


def measure(corrector: SCLCorrector, questions: Sequence[Question], options: SCLOptions | None = None) -> list[Record]:
    """What becomes of every question.

    Raises:
        ValueError: a question has no known answer.
    """
    return [record_of(talk) for talk in corrector.batch(questions, options)]


def summary(records: Iterable[Record]) -> dict[str, float]:
    """Accuracies and rates, all as shares of the questions.

    Returns:
        questions; first and refined accuracy, the first with its 95 % interval (Wilson); wrong_to_right and
        right_to_wrong, the shares that the review corrected and spoiled; net_gain, their difference, which is
        refined - first.

    Raises:
        ValueError: there are no records.
    """
    found = count(records)
    if not found.total:
        raise ValueError("There are no questions to count.")
    low, high = wilson(found.right_right + found.right_wrong, found.total)
    return {
        "questions": found.total,
        "first": found.first_accuracy,
        "first_low": low,
        "first_high": high,
        "refined": found.final_accuracy,
        "wrong_to_right": found.wrong_right / found.total,
        "right_to_wrong": found.right_wrong / found.total,
        "net_gain": (found.wrong_right - found.right_wrong) / found.total,
    }


def by_source(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row of `summary` per benchmark (`Record.source`), and one for all questions when there are several."""
    sources = sorted({record.source for record in records})
    rows = [
        {"benchmark": name or "questions", **summary(record for record in records if record.source == name)}
        for name in sources
    ]
    return rows if len(rows) == 1 else [{"benchmark": "all", **summary(records)}, *rows]


def mean_ranks(accuracies: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean over benchmarks of a method's rank among the methods, 1 is best; ties share the mean of their ranks.

    Args:
        accuracies: method -> benchmark -> accuracy.

    Raises:
        ValueError: methods were measured on different benchmarks.
    """
    benchmarks = {name for row in accuracies.values() for name in row}
    for method, row in accuracies.items():
        missing = sorted(benchmarks - row.keys())
        if missing:
            raise ValueError(f"{method} was not measured on {', '.join(missing)}, so that it cannot be ranked.")

    def rank(method: str, benchmark: str) -> float:
        own = accuracies[method][benchmark]
        others = [row[benchmark] for name, row in accuracies.items() if name != method]
        return 1 + sum(other > own for other in others) + sum(other == own for other in others) / 2

    return {method: sum(rank(method, name) for name in benchmarks) / max(len(benchmarks), 1) for method in accuracies}
