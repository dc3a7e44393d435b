"""Measure a judge of answers; what `burnish evaluate r1` runs.

    burnish evaluate r1 --out runs/judge                                   (rendered scenes, embedded judge)
    burnish evaluate r1 --benchmark vl_rewardbench --rows data.jsonl --source org/name --out runs/vl
    burnish evaluate r1 --benchmark vl_rewardbench --predictions predictions.jsonl --out runs/vl

Every pair is judged in both orders (`reward_vlm.r1.measures`); `--published` judges once, with the better answer first
and the authors' parser, as the published numbers were made. `--predictions` counts a file of published scores. Writes
judged.jsonl (every pair; the same command goes on with it), categories.csv, .json and .png, run.json, and for
benchmarks that lmms-eval has too its JSON (`reward_vlm.r1.lmms_eval`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from reward_vlm.benchmarks import BENCHMARKS, benchmark_row, vl_category
from reward_vlm.data import Preference, preference, read_rows
from reward_vlm.job import RowJob, place
from reward_vlm.judges import Query, Vote
from reward_vlm.parse import PUBLISHED_PARSERS
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.lmms_eval import METRICS, write_lmms_eval
from reward_vlm.r1.measures import Judgement, acc_plus, by_category
from reward_vlm.r1.options import R1Options
from reward_vlm.r1.published import published_table
from reward_vlm.scenes import scene_pairs
from reward_vlm.vlm import Reply
from vision.checkpoints import one_at_a_time
from vision.config import UNNAMED, Dtype, to_dict
from vision.files import digest
from vision.job import Event, Job, Outcome, Show, silent
from vision.report import plot_bars, text_table, write_table

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
    """JSON lines of published scores, to be counted as the authors do; nothing is judged."""
    published: bool = False
    """Judge once, the better answer first, and parse as the authors do."""
    rule: Literal["benchmark", "published"] = "benchmark"
    """Classes of VL-RewardBench: the benchmark's own, or those of the authors' script."""
    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    variant: Literal["scenes", "restoration"] | None = None
    """Which of the weights that come with the project."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Dtype = "float32"
    """Numbers that the model computes with; bfloat16 halves the memory of large ones."""
    skip_bad: bool = False
    """Leave out rows that cannot be used; they are reported by number."""
    options: Annotated[R1Options, UNNAMED] = field(default_factory=lambda: R1Options(batch_size=32))
    """How the judge is asked; orders are always both."""

    def __post_init__(self) -> None:
        if self.rows is None and self.predictions is None and self.benchmark != "pairs":
            raise ValueError(f"The benchmark {self.benchmark} needs its file of --rows, or --predictions.")
        if self.rows is not None and self.predictions is not None:
            raise ValueError("Give --rows to judge them, or --predictions to count them, not both.")


@one_at_a_time
def evaluate(options: R1Evaluation, show: Show = silent) -> Outcome:
    """Measure what is not measured yet, and show the table.

    Raises:
        ValueError: rows, weights or the folder cannot be used.
    """
    if options.predictions is not None:
        rows, problems = read_rows(options.predictions, lambda data, _: dict(data), skip_bad=options.skip_bad)
        job, earlier = Job(options.out, options, show=show), 0
        job.leave_out(problems)
    else:
        pairs, problems = _pairs(options)
        facts = {**to_dict(options), "rows": None if options.rows is None else digest(options.rows)}
        job = growing = RowJob(options.out / "judged.jsonl", options, facts, show)
        job.leave_out(problems)
        rows, earlier = _judged(options, pairs, growing), growing.earlier
    as_published = options.published or options.predictions is not None
    table = published_table(options.benchmark, rows, options.rule) if as_published else _table(options, rows)
    show(Event("result", text_table(table, digits=3), path=options.out))
    write_table(table, options.out / "categories.json", options.out / "categories.csv")
    values = [name for name in ("accuracy", "both_orders", "says_1", "acc_plus") if name in table[0]]
    plot_bars(options.out / "categories.png", table, "category", values)
    if not as_published and options.benchmark in METRICS:
        asked, seconds = to_dict(options.options), round(time.monotonic() - job.started, 3)
        model = options.source or f"r1-mini/{options.variant or 'scenes'}"
        write_lmms_eval(options.out, options.benchmark, pairs, rows, model=model, options=asked, seconds=seconds)
    job.conclude("pairs", len(rows), earlier, source=options.source, seed=options.options.seed)
    return Outcome(options.out, {row["category"]: row for row in table}, job.problems)


def _pairs(options: R1Evaluation) -> tuple[list[Preference], list[str]]:
    if options.rows is None:
        return scene_pairs(SCENES_SEED, 200), []
    make = preference if options.benchmark == "pairs" else benchmark_row(BENCHMARKS[options.benchmark])
    pairs, problems = read_rows(options.rows, make, skip_bad=options.skip_bad)
    if options.benchmark == "vl_rewardbench":
        pairs = [replace(pair, category=vl_category(pair.id, options.rule)) for pair in pairs]
    return pairs, problems


def _judged(options: R1Evaluation, pairs: Sequence[Preference], job: RowJob) -> list[dict[str, Any]]:
    """A record of every pair, keyed by its row's number (ids of benchmarks are not unique)."""
    if job.waiting(len(pairs)):
        judge = R1Judge.from_pretrained(
            options.source, **place(options.device, options.dtype), variant=options.variant, engine=options.engine
        )
    chosen = replace(options.options, orders="given" if options.published else "both")
    # as published, the better answer is shown first
    shown = [pair.better == 2 and options.published for pair in pairs]

    def judged(part: Sequence[int]) -> list[dict[str, Any]]:
        queries = []
        for number in part:
            answers = pairs[number].read_answers()[:: -1 if shown[number] else 1]
            queries.append(Query(pairs[number].question, answers, tuple(pairs[number].media(judge.config.frames))))
        seed = options.options.seed + part[0] * 2 * options.options.votes
        found = judge.batch(queries, replace(chosen, seed=seed))
        parser = PARSERS[options.benchmark]
        return [_record(pairs[number], each.votes, parser) for number, each in zip(part, found, strict=True)]

    names = [f"pair {number + 1} ({pair.id})" for number, pair in enumerate(pairs)]
    return job.grow("judging", names, options.options.batch_size, judged)


def _record(pair: Preference, votes: Sequence[Vote], parser: str) -> dict[str, Any]:
    media = str(pair.video or (pair.images[0] if pair.images and isinstance(pair.images[0], Path) else ""))
    return {
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


def _table(options: R1Evaluation, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for all pairs and one per category, with Acc+ where the benchmark has it."""
    if not rows:
        raise ValueError("There are no pairs to count.")
    generator = torch.Generator().manual_seed(options.options.seed)
    flips = torch.randint(2, (max(row["row"] for row in rows) + 1,), generator=generator).tolist()
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
        outcomes.append(Judgement(pair, votes, flips[row["row"]]))
    found = by_category(outcomes)
    if options.benchmark == "mm_rlhf_rewardbench":
        found[0]["acc_plus"] = acc_plus(outcomes)
    return found
