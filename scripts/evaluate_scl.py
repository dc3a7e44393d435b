"""Measure answers before and after review; called by `burnish evaluate scl`.

    burnish evaluate scl --out runs/scenes                                (rendered scenes, embedded model)
    burnish evaluate scl --rows questions.jsonl --sources base=org/name learnt=runs/scl/weights --out runs/own
    burnish evaluate scl --benchmarks MMStar RealWorldQA=data.parquet --sources org/name --out runs/published

Of every model and benchmark: accuracy of the first and of the refined answers, the shares of the questions that the
review corrected (wrong_to_right) and spoiled (right_to_wrong), the net gain whatever its sign; of several models, the
mean rank over benchmarks. Writes benchmarks.csv, .json and .png, ranks.csv and .json, run.json, and all answers
(MODEL/records.jsonl; the same command goes on with them).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

from reward_vlm.data import Question, question, read_rows
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.evaluate import by_source, mean_ranks
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.pairs import answer_all
from reward_vlm.scl.scene_questions import TEST_SEED, scene_questions
from reward_vlm.scl.sources import BENCHMARKS, read_benchmark
from reward_vlm.vlm import device_of
from vision.config import to_dict
from vision.report import plot_bars, table, write_run, write_table

VALUES = ("first", "refined", "net_gain")


@dataclass(frozen=True)
class SCLEvaluation:
    """Measure models on multiple-choice questions."""

    out: Path
    """Folder for the results."""
    sources: tuple[str, ...] = ()
    """Weights, each a source (folder, org/name on the model hub, builtin:NAME) or NAME=SOURCE; none: those that come
    with the project."""
    rows: Path | None = None
    """JSON lines of questions; their field source names the benchmark."""
    benchmarks: tuple[str, ...] = ()
    """Published sets, each a name or NAME=SOURCE (a file, a folder or a name on the hub). Without rows and benchmarks:
    200 rendered scenes."""
    limit: int | None = None
    """Take so many rows of each benchmark."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Numbers that the models compute with."""
    skip_bad: bool = False
    """Leave out rows that cannot be used; they are reported by number."""
    options: Annotated[SCLOptions, tyro.conf.arg(name="")] = field(default_factory=lambda: SCLOptions(batch_size=32))
    """How the models are asked."""

    def __post_init__(self) -> None:
        if self.rows is not None and self.benchmarks:
            raise ValueError("Give --rows or --benchmarks, not both.")
        for name in map(_named, self.benchmarks):
            if name[0] not in BENCHMARKS:
                raise ValueError(f"There is no benchmark {name[0]!r}; known are {', '.join(BENCHMARKS)}.")
        names = [_named(source)[0] for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"Models need different names (NAME=SOURCE), got {', '.join(names)}.")


def main(options: SCLEvaluation) -> int:
    """Measure; returns 0, or 2 when rows were left out.

    Raises:
        ValueError: rows, weights or the folder cannot be used.
    """
    started, console = time.monotonic(), Console(soft_wrap=True, highlight=False)
    questions, problems = _questions(options)
    for sentence in problems:
        console.print(f"left out: {sentence}", markup=False)
    rows: list[dict[str, Any]] = []
    for name, source in map(_named, options.sources) if options.sources else [("embedded", None)]:
        device, dtype = device_of(options.device), getattr(torch, options.dtype)
        corrector = SCLCorrector.from_pretrained(source, device=device, dtype=dtype)
        records = answer_all(corrector, questions, options.out / name, options.options, model=str(source))
        rows += [{"model": name, **row} for row in by_source(records)]
    wide = Console(width=max(console.width, 160))
    wide.print(table(rows, digits=3))
    write_table(rows, options.out / "benchmarks.json", options.out / "benchmarks.csv")
    plot_bars(options.out / "benchmarks.png", [{"bar": _bar(row), **row} for row in rows], "bar", VALUES)
    ranks = _ranks(rows)
    if ranks:
        wide.print(table(ranks, digits=2))
        write_table(ranks, options.out / "ranks.json", options.out / "ranks.csv")
    seconds = round(time.monotonic() - started, 2)
    write_run(options.out, options=to_dict(options), sources=list(options.sources), seconds=seconds, problems=problems)
    return 2 if problems else 0


def _questions(options: SCLEvaluation) -> tuple[list[Question], list[str]]:
    if options.rows is not None:
        rows, problems = read_rows(options.rows, question, skip_bad=options.skip_bad)
        return rows[: options.limit], problems
    if not options.benchmarks:
        return scene_questions(TEST_SEED, options.limit or 200), []
    found: tuple[list[Question], list[str]] = ([], [])
    for name, source in map(_named, options.benchmarks):
        read = read_benchmark(
            name, None if source == name else source, pictures=options.out / "pictures", limit=options.limit,
            skip_bad=options.skip_bad,
        )  # fmt: skip
        for whole, part in zip(found, read, strict=True):
            whole += part
    return found


def _ranks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean rank of every model over the benchmarks, by first and by refined answers; nothing for one model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    if len(models) < 2:
        return []
    by: dict[str, dict[str, float]] = {}
    for value in ("first", "refined"):
        accuracies = {
            model: {row["benchmark"]: row[value] for row in rows if row["model"] == model and row["benchmark"] != "all"}
            for model in models
        }
        by[value] = mean_ranks(accuracies)
    return [{"model": model, **{f"rank_{value}": by[value][model] for value in by}} for model in models]


def _named(text: str) -> tuple[str, str]:
    """NAME=SOURCE; a source alone is named by its last part."""
    name, equals, source = text.partition("=")
    return (name, source) if equals else (text.rstrip("/").split("/")[-1].replace(":", "-"), text)


def _bar(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['benchmark']}"
