"""Rows of the published benchmarks of judges, in the forms of their own files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_vlm.data import Preference
from reward_vlm.fields import (
    check_fields,
    existing,
    picture_of,
    text_of,
)
from reward_vlm.forms import preference_form


@dataclass(frozen=True)
class Benchmark:
    """How the rows of a published benchmark are read; the better answer is always stored first."""

    name: str
    """Of the benchmark, as options call it."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Names of id, question, image, video, category in its files."""


VL_REWARDBENCH = Benchmark("vl_rewardbench", {"id": "id", "question": "prompt", "image": "image"})
MM_RLHF_REWARDBENCH = Benchmark(
    "mm_rlhf_rewardbench", {"id": "id", "question": "prompt", "image": "image", "video": "video"}
)
MULTIMODAL_REWARDBENCH = Benchmark(
    "multimodal_rewardbench", {"id": "ID", "question": "Text", "image": "Image", "category": "Category"}
)
BENCHMARKS = {bench.name: bench for bench in (VL_REWARDBENCH, MM_RLHF_REWARDBENCH, MULTIMODAL_REWARDBENCH)}


def benchmark_row(benchmark: Benchmark) -> Callable[[Mapping[str, Any], Path], Preference]:
    """A reader, for `read_rows`, of the benchmark's file. Categories that a file does not hold follow its own rules."""

    def make(data: Mapping[str, Any], folder: Path) -> Preference:
        names = benchmark.fields
        if "human_ranking" in data:
            form = preference_form(data)
            data = {**data, names["question"]: form["question"]}
            data |= dict(zip(("chosen", "rejected"), form["answers"][:: 3 - 2 * form["better"]], strict=True))
        if "Better" in data:
            if data["Better"] not in ("Output1", "Output2"):
                raise ValueError(f'Better must be "Output1" or "Output2", got {data["Better"]!r}.')
            check_fields(data, data.keys(), ("Output1", "Output2"))
            answers = (text_of(data, "Output1"), text_of(data, "Output2"))
            answers = answers if data["Better"] == "Output1" else answers[::-1]
        else:
            check_fields(data, data.keys(), ("chosen", "rejected"))
            answers = (text_of(data, "chosen"), text_of(data, "rejected"))
        check_fields(data, data.keys(), (names["id"], names["question"]))
        id, media = str(data[names["id"]]), data.get(names["image"]) or data.get(names.get("video", "")) or ""
        if "category" in names:
            category = text_of(data, names["category"])
        else:
            category = mm_rlhf_category(str(media)) if "video" in names else vl_category(id)
        image, video = data.get(names["image"]), data.get(names.get("video", ""))
        return Preference(
            id=id,
            question=text_of(data, names["question"]),
            answers=answers,
            better=1,
            images=(picture_of(image, folder),) if image else (),
            video=None if not video else existing(folder, video, kind="folder"),
            category=category,
        )

    return make


def vl_category(id: str, rule: str = "benchmark") -> str:
    """The class of a row of VL-RewardBench.

    Args:
        rule: "benchmark": hallucination (POVID, RLAIF-V, RLHF-V), reasoning or general; "published": the script of
            R1-Reward, whose lower-case names send RLAIF-V and RLHF-V to general.
    """
    name = id.lower() if rule == "benchmark" else id
    if "mmmu" in name or "mathverse" in name:
        return "reasoning"
    return "hallucination" if any(word in name for word in ("hallucination", "rlhf", "rlaif")) else "general"


def mm_rlhf_category(media: str) -> str:
    """The class of a row of the MM-RLHF reward bench: the first of these words that its picture's path holds."""
    return next((word for word in ("mcq", "long", "short", "safety", "video") if word in media), "other")
