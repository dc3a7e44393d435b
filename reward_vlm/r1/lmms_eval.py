"""What a judge reached on reward benchmarks that lmms-eval measures too, in that tool's JSON.

    lmms_eval/MODEL/DATE_results.json              results by task, "METRIC,none", beside versions and configurations
    lmms_eval/MODEL/DATE_samples_TASK.jsonl        every pair: what was asked, what was wanted, what came, its score

Metrics carry the names and the aggregation of lmms-eval's tasks: VL-RewardBench is the mean over its three groups,
Multimodal RewardBench that over all pairs. lmms-eval judges each pair in one order; here a pair's score is the mean
over both, which is what one order gives on average. A reply without a choice is wrong here, and a coin there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from reward_vlm.data import Preference
from vision.config import version
from vision.files import atomic_path

METRICS = {"vl_rewardbench": "vlreward_score", "multimodal_rewardbench": "multimodal_rewardbench_accuracy"}
"""Benchmark (and lmms-eval's task of the same name) -> its metric."""


def write_lmms_eval(
    folder: Path,
    task: str,
    pairs: Sequence[Preference],
    rows: Sequence[Mapping[str, Any]],
    *,
    model: str,
    options: Mapping[str, Any],
    seconds: float,
) -> Path:
    """Write the results and samples of a benchmark; returns the file of results.

    Args:
        folder: of the evaluation.
        task: one of `METRICS`.
        pairs: of the benchmark.
        rows: what was judged, with the pair's number in `row`, and `votes`.
        model: what to call it: source of the weights.
        options: how it was asked, as JSON values.
        seconds: that it took.

    Raises:
        ValueError: nothing was judged, or the files cannot be written.
    """
    if not rows:
        raise ValueError("There are no pairs to count.")
    metric, now, name = METRICS[task], datetime.now(), re.sub(r"[^\w.-]+", "__", model)
    samples = [_sample(pairs[row["row"]], row, metric) for row in rows]
    count = {"original": len(pairs), "effective": len(samples)}
    order = "both; the score of a pair is the mean over its orders"
    content = {
        "results": {task: {"alias": task, f"{metric},none": _aggregate(task, samples), f"{metric}_stderr,none": "N/A"}},
        "group_subtasks": {task: []},
        "configs": {task: {"task": task, "output_type": "generate_until", "order": order, **options}},
        "versions": {task: 0.0},
        "n-shot": {task: 0},
        "higher_is_better": {task: {metric: True}},
        "n-samples": {task: count},
        "config": {"model": "burnish", "model_args": f"pretrained={model}", "burnish_version": version()},
        "date": now.strftime("%Y%m%d_%H%M%S"),
        "task_hashes": {task: _digest("".join(f"sample_{i}{each['doc_hash']}" for i, each in enumerate(samples)))},
        "model_source": "burnish",
        "model_name": model,
        "model_name_sanitized": name,
        "total_evaluation_time_seconds": str(seconds),
    }
    place = folder / "lmms_eval" / name
    with atomic_path(place / f"{content['date']}_samples_{task}.jsonl") as part:
        part.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in samples), encoding="utf-8")
    with atomic_path(found := place / f"{content['date']}_results.json") as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return found


def _sample(pair: Preference, row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A pair as lmms-eval logs it."""
    score = fmean(float(vote["winner"] == pair.better - 1) for vote in row["votes"])
    replies = [vote["text"] for vote in row["votes"]]
    return {
        "doc_id": row["row"],
        "target": str(pair.better),
        "filtered_resps": replies,
        "doc_hash": _digest(json.dumps([pair.id, pair.question, *map(str, pair.answers), pair.better])),
        metric: {"question_id": pair.id, "category": pair.category, "score": score},
        "input": pair.question,
    }


def _aggregate(task: str, samples: Sequence[Mapping[str, Any]]) -> float:
    found = [sample[METRICS[task]] for sample in samples]
    if task != "vl_rewardbench":
        return fmean(each["score"] for each in found)
    groups = defaultdict(list)
    for each in found:
        groups[each["category"]].append(each["score"])
    return fmean(map(fmean, groups.values()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
