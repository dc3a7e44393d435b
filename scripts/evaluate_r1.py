"""Measure a judge of answers; called by `burnish evaluate r1`.

    burnish evaluate r1 --out runs/judge                                   (rendered scenes, embedded judge)
    burnish evaluate r1 --benchmark vl_rewardbench --rows data.jsonl --source org/name --out runs/vl
    burnish evaluate r1 --benchmark vl_rewardbench --predictions predictions.jsonl --out runs/vl

Every pair is judged in both orders (`reward_vlm/r1/evaluate.py` states the protocol); `--release` judges once, with the
better answer first and the release's parser, as the published numbers were made. `--predictions` computes the
release's numbers from a file of its scores. Writes judged.jsonl (every pair; the same command goes on with it),
categories.csv, .json and .png, and run.json.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

from reward_vlm.data import BENCHMARKS, Preference, benchmark_row, mm_rlhf_category, preference, read_rows, vl_category
from reward_vlm.parse import PUBLISHED_PARSERS
from reward_vlm.r1 import evaluate
from reward_vlm.r1.judge import Query, R1Judge, Vote
from reward_vlm.r1.options import R1Options
from reward_vlm.results import Results
from reward_vlm.scenes import scene_pairs
from reward_vlm.vlm import Reply
from vision.config import to_dict
from vision.files import digest
from vision.report import plot_bars, table, write_run, write_table

Name = Literal["pairs", "vl_rewardbench", "mm_rlhf_rewardbench", "multimodal_rewardbench"]
PARSERS = {
    "pairs": "vl_reward_bench",
    "vl_rewardbench": "vl_reward_bench",
    "mm_rlhf_rewardbench": "mm_rlhf_reward_bench",
    "multimodal_rewardbench": "multimodal_reward_bench",
}
SCENES_SEED = 99
"""Of the rendered scenes that no training sees."""


@dataclass(frozen=True)
class R1Evaluation:
    """Measure a judge on pairs of answers."""

    out: Path
    """Folder for the results."""
    benchmark: Name = "pairs"
    """Whose file the rows are; pairs: JSON lines of preferences."""
    rows: Path | None = None
    """JSON lines; None: 200 rendered scenes."""
    predictions: Path | None = None
    """JSON lines of the release's scores, to be counted as the release does; nothing is judged."""
    release: bool = False
    """Judge once, the better answer first, and parse as the release does."""
    rule: Literal["benchmark", "release"] = "benchmark"
    """Classes of VL-RewardBench: the benchmark's own, or those of the release's script."""
    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    variant: Literal["scenes", "restoration"] | None = None
    """Which of the weights that come with the project."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model."""
    device: str = "cpu"
    """cpu, cuda, ..."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Numbers that the model computes with."""
    skip_bad: bool = False
    """Leave out rows that cannot be used; they are reported by number."""
    options: Annotated[R1Options, tyro.conf.arg(name="")] = field(default_factory=lambda: R1Options(batch_size=32))
    """How the judge is asked; orders are always both."""

    def __post_init__(self) -> None:
        if self.rows is None and self.predictions is None and self.benchmark != "pairs":
            raise ValueError(f"The benchmark {self.benchmark} needs its file of --rows, or --predictions.")
        if self.rows is not None and self.predictions is not None:
            raise ValueError("Give --rows to judge them, or --predictions to count them, not both.")


def main(options: R1Evaluation) -> int:
    """Measure; returns 0, or 2 when rows were left out.

    Raises:
        ValueError: rows, weights or the folder cannot be used.
    """
    started, console = time.monotonic(), Console(soft_wrap=True, highlight=False)
    problems: list[str] = []
    if options.predictions is not None:
        rows, problems = read_rows(options.predictions, lambda data, _: dict(data), skip_bad=options.skip_bad)
        found = release_numbers(options.benchmark, rows, options.rule)
    else:
        pairs, problems = _pairs(options)
        judged = _judge(options, pairs)
        found = (
            release_numbers(options.benchmark, judged, options.rule) if options.release else _honest(options, judged)
        )
    for sentence in problems:
        console.print(f"left out: {sentence}", markup=False)
    Console(width=max(console.width, 160)).print(table(found, digits=3))
    write_table(found, options.out / "categories.json", options.out / "categories.csv")
    values = [name for name in ("accuracy", "both_orders", "says_1", "acc_plus") if name in found[0]]
    plot_bars(options.out / "categories.png", found, "category", values)
    seconds = round(time.monotonic() - started, 2)
    write_run(options.out, options=to_dict(options), source=options.source, seconds=seconds, problems=problems)
    return 2 if problems else 0


def release_numbers(benchmark: Name, rows: Sequence[Mapping[str, Any]], rule: str) -> list[dict[str, Any]]:
    """The release's metrics of rows {id, rewards, ...} as a table."""
    if not rows:
        raise ValueError("There are no rows to count.")
    if benchmark == "mm_rlhf_rewardbench":
        found = evaluate.release_mm_rlhf_rewardbench(
            rows, lambda row: mm_rlhf_category(str(row.get("image") or row.get("video") or ""))
        )
        parts = {"all": found["overall"], **found["categories"]}
        return [{"category": name, **row} for name, row in parts.items()]
    if benchmark == "multimodal_rewardbench":
        counted = evaluate.release_multimodal_rewardbench(rows)
        return [{"category": name, "accuracy": right / all, "samples": all} for name, (right, all) in counted.items()]
    found = evaluate.release_vl_rewardbench(rows, rule)
    means = [{"category": "all", "accuracy": found["overall"], "samples": len(rows)}]
    means += [{"category": "mean of categories", "accuracy": found["macro"]}]
    return means + [{"category": name, **row} for name, row in found["categories"].items()]


def _pairs(options: R1Evaluation) -> tuple[list[Preference], list[str]]:
    if options.rows is None:
        return scene_pairs(SCENES_SEED, 200), []
    make = preference if options.benchmark == "pairs" else benchmark_row(BENCHMARKS[options.benchmark])
    pairs, problems = read_rows(options.rows, make, skip_bad=options.skip_bad)
    if options.benchmark == "vl_rewardbench":
        pairs = [replace(pair, category=vl_category(pair.id, options.rule)) for pair in pairs]
    return pairs, problems


def _judge(options: R1Evaluation, pairs: Sequence[Preference]) -> list[dict[str, Any]]:
    """A record of every pair, keyed by its row's number (ids of benchmarks are not unique)."""
    facts = {name: value for name, value in to_dict(options).items() if name not in ("out", "device")}
    facts["rows"] = None if options.rows is None else digest(options.rows)
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "judged.jsonl", facts)
    done = {row["row"] for row in results.rows}
    waiting = [number for number in range(len(pairs)) if number not in done]
    if waiting:
        judge = R1Judge.from_pretrained(
            options.source, device=options.device, dtype=getattr(torch, options.dtype), variant=options.variant,
            engine=options.engine,
        )  # fmt: skip
        order = "given" if options.release else "both"
        chosen, chunk = replace(options.options, orders=order), options.options.batch_size
        for start in range(0, len(waiting), chunk):
            part = waiting[start : start + chunk]
            # with the release's protocol the better answer is shown first
            first = [0 if not options.release else pairs[number].better - 1 for number in part]
            queries = []
            for number, lead in zip(part, first, strict=True):
                pair = pairs[number]
                answers = pair.read_answers()
                media = tuple(pair.media(judge.config.frames))
                queries.append(Query(pair.question, (answers[lead], answers[1 - lead]), media))
            seed = options.options.seed + part[0] * 2 * options.options.votes
            for number, found in zip(part, judge.batch(queries, replace(chosen, seed=seed)), strict=True):
                results.add(_record(number, pairs[number], found.votes, PARSERS[options.benchmark]))
    return sorted(results.rows, key=lambda row: row["row"])


def _record(number: int, pair: Preference, votes: Sequence[Vote], parser: str) -> dict[str, Any]:
    media = str(pair.video or (pair.images[0] if pair.images and isinstance(pair.images[0], Path) else ""))
    return {
        "row": number,
        "id": pair.id,
        "ID": pair.id,
        "image": media,
        "Category": pair.category,
        "better": pair.better,
        "rewards": list(PUBLISHED_PARSERS[parser](votes[0].reply.text)),
        "votes": [
            {"shown": list(vote.pair), "winner": vote.winner, "log_prob": vote.reply.log_prob, "text": vote.reply.text,
             "tokens": vote.reply.tokens, "finished": vote.reply.finished}
            for vote in votes
        ],
    }  # fmt: skip


def _honest(options: R1Evaluation, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    flips = torch.randint(
        2, (max(row["row"] for row in rows) + 1,), generator=_generator(options.options.seed)
    ).tolist()
    outcomes = []
    for row in rows:
        votes = tuple(
            Vote(
                (vote["shown"][0], vote["shown"][1]),
                vote["winner"],
                Reply(vote["text"], vote["log_prob"], vote["tokens"], vote["finished"]),
            )
            for vote in row["votes"]
        )
        pair = Preference(row["id"], "", ("1", "2"), row["better"], category=row["Category"])
        outcomes.append(evaluate.Outcome(pair, votes, flips[row["row"]]))
    found = evaluate.table(outcomes)
    if options.benchmark == "mm_rlhf_rewardbench":
        found[0]["acc_plus"] = evaluate.acc_plus(outcomes)
    return found


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
