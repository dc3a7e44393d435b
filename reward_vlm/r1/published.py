"""The published numbers of benchmarks, counted as the authors' scripts do.

Rows hold the scores of the better answer and of the other one; a tie is wrong. `reward_vlm.r1.measures` counts in both
orders of the answers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reward_vlm.benchmarks import mm_rlhf_category, vl_category

Prediction = Mapping[str, Any]
"""A row of a published prediction file: id, rewards [of the better answer, of the other], and what names its class."""


def _right(row: Prediction) -> bool:
    return row["rewards"][0] > row["rewards"][1]  # ties are wrong


def published_vl_rewardbench(rows: Sequence[Prediction], rule: str = "published") -> dict[str, Any]:
    """Accuracy per class, over all rows, and the mean of the classes; `rule` as in `vl_category`."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        found.setdefault(vl_category(row["id"], rule), []).append(_right(row))
    categories = {name: {"samples": len(marks), "accuracy": sum(marks) / len(marks)} for name, marks in found.items()}
    return {
        "categories": categories,
        "overall": sum(map(_right, rows)) / len(rows),
        "macro": sum(part["accuracy"] for part in categories.values()) / len(categories),
    }


def published_mm_rlhf_rewardbench(rows: Sequence[Prediction], category: Callable[[Prediction], str]) -> dict[str, Any]:
    """Acc (pairs), Acc+ (questions with all pairs right) and the number of pairs, per class and over all."""

    def measure(part: Sequence[Prediction]) -> dict[str, Any]:
        questions: dict[str, bool] = {}
        for row in part:
            questions[row["id"]] = questions.get(row["id"], True) and _right(row)
        plus = sum(questions.values()) / len(questions)
        return {"accuracy": sum(map(_right, part)) / len(part), "acc_plus": plus, "total": len(part)}

    groups: dict[str, list[Prediction]] = {}
    for row in rows:
        groups.setdefault(category(row), []).append(row)
    return {"categories": {name: measure(part) for name, part in groups.items()}, "overall": measure(rows)}


def published_multimodal_rewardbench(rows: Sequence[Prediction]) -> dict[str, tuple[int, int]]:
    """(right, rows) of "all" and of each class; safety and reasoning are split by the beginning of the ID."""
    found: dict[str, list[bool]] = {"all": [_right(row) for row in rows]}
    for row in rows:
        name = multimodal_category(row["Category"], row["ID"])
        found.setdefault(name, []).append(_right(row))
    return {name: (sum(marks), len(marks)) for name, marks in found.items()}


def multimodal_category(category: str, id: str) -> str:
    """The class of a row of Multimodal RewardBench."""
    if category.lower() == "safety":
        return "safety/bias" if id.lower().startswith("pairs") else "safety/toxicity"
    if category.lower() == "reasoning":
        return "reasoning/math" if id.lower().startswith("math") else "reasoning/coding"
    return category


def published_table(benchmark: str, rows: Sequence[Prediction], rule: str = "benchmark") -> list[dict[str, Any]]:
    """The published metrics of a benchmark as a table, one row for all and one per class.

    Args:
        benchmark: mm_rlhf_rewardbench, multimodal_rewardbench, or anything else for VL-RewardBench.
        rows: see `Prediction`.
        rule: of the classes of VL-RewardBench, see `vl_category`.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("There are no rows to count.")
    if benchmark == "mm_rlhf_rewardbench":
        found = published_mm_rlhf_rewardbench(
            rows, lambda row: mm_rlhf_category(str(row.get("image") or row.get("video") or ""))
        )
        parts = {"all": found["overall"], **found["categories"]}
        return [{"category": name, **row} for name, row in parts.items()]
    if benchmark == "multimodal_rewardbench":
        counted = published_multimodal_rewardbench(rows)
        return [{"category": name, "accuracy": right / all, "samples": all} for name, (right, all) in counted.items()]
    found = published_vl_rewardbench(rows, rule)
    means = [{"category": "all", "accuracy": found["overall"], "samples": len(rows)}]
    means += [{"category": "mean of categories", "accuracy": found["macro"]}]
    return means + [{"category": name, **row} for name, row in found["categories"].items()]
