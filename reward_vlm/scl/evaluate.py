"""Measure answers before and after review; what `burnish evaluate scl` runs.

    burnish evaluate scl --out runs/scenes                                (rendered scenes, embedded model)
    burnish evaluate scl --rows questions.jsonl --sources base=org/name learnt=runs/scl/weights --out runs/own
    burnish evaluate scl --rank-reviews --out runs/reviews                (which request to review helps)
    burnish evaluate scl --drafts org/name --sources learnt=runs/scl/weights --out runs/reviewers
    burnish evaluate scl --benchmarks MMStar RealWorldQA=data.parquet --sources org/name --out runs/published

Of every model and benchmark: accuracy of the first and of the refined answers, the shares of the questions that the
review corrected (wrong_to_right) and spoiled (right_to_wrong), the net gain whatever its sign; of several models, the
mean rank over benchmarks. With `--drafts` all models review the first answers of one, so that their reviews can be
compared: otherwise the better a model answers, the less is left to correct, and the more to spoil. Writes
benchmarks.csv, .json and .png, harm.csv and .json for `benchmark harm`, ranks.csv and .json, run.json, and all answers
(MODEL/records.jsonl, drafts/records.jsonl; the same command goes on with them).

The paper finds that reviewing alone mostly hurts: more right answers are spoiled than wrong ones corrected. So both
rates are reported. Source: arXiv 2410.04055, sections 3 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from reward_vlm.data import Question, question, read_rows
from reward_vlm.job import place
from reward_vlm.scl.corrector import SCLCorrector, check_drafts
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.pairs import Record, answer_all, count, record_of
from reward_vlm.scl.rank_reviews import ranked_reviews, verdict
from reward_vlm.scl.scene_questions import TEST_SEED, scene_questions
from reward_vlm.scl.sources import BENCHMARKS, read_benchmark
from reward_vlm.scl.talk import Answer
from vision.checkpoints import one_at_a_time
from vision.config import UNNAMED, Dtype
from vision.harm import harm_rows, write_harm
from vision.job import Event, Job, Outcome, Show, silent
from vision.report import plot_bars, text_table, wilson, write_table

VALUES = ("first", "refined", "net_gain")
DRAFTS = "drafts"
"""Folder of the drafts' records."""


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
    dtype: Dtype = "float32"
    """Numbers that the models compute with; bfloat16 halves the memory of large ones."""
    rank_reviews: bool = False
    """Ask every review alone, rank them on half of the questions, and hold the best one to the other half."""
    drafts: str | None = None
    """A source whose first answers all models review in the place of their own."""
    skip_bad: bool = False
    """Leave out rows that cannot be used; they are reported by number."""
    options: Annotated[SCLOptions, UNNAMED] = field(default_factory=lambda: SCLOptions(batch_size=32))
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
        if self.drafts is not None and DRAFTS in names:
            raise ValueError(f"The drafts are kept as {DRAFTS}; give the model another name (NAME=SOURCE).")
        if self.drafts is not None:
            check_drafts(self.options)


@one_at_a_time
def evaluate(options: SCLEvaluation, show: Show = silent) -> Outcome:
    """Measure what is not measured yet, and show the tables.

    Raises:
        ValueError: rows, weights or the folder cannot be used.
    """
    job = Job(options.out, options, show=show)
    questions, problems = _questions(options)
    job.leave_out(problems)
    drafts = _drafts(options, questions, job)
    if options.rank_reviews:
        return _ranked(options, questions, drafts, job)
    rows: list[dict[str, Any]] = []
    harm: list[dict[str, Any]] = []
    for name, source in map(_named, options.sources) if options.sources else [("embedded", None)]:
        corrector = SCLCorrector.from_pretrained(source, **place(options.device, options.dtype))
        records = answer_all(
            corrector, questions, options.out / name, options.options, model=str(source), drafts=drafts,
            told=lambda done, pairs, name=name: job.progress(f"asking {name}", done, len(questions)),
        )  # fmt: skip
        rows += [{"model": name, **row} for row in by_source(records)]
        harm += harm_rows(f"reviews of {name}", _by_review(records), "right answers", 0)
    write_harm(options.out, harm)
    show(Event("result", text_table(rows, digits=3), path=options.out))
    write_table(rows, options.out / "benchmarks.json", options.out / "benchmarks.csv")
    bars = [{"bar": f"{row['model']} {row['benchmark']}", **row} for row in rows]
    plot_bars(options.out / "benchmarks.png", bars, "bar", VALUES)
    if ranks := _ranks(rows):
        show(Event("result", text_table(ranks, digits=2), path=options.out))
        write_table(ranks, options.out / "ranks.json", options.out / "ranks.csv")
    job.conclude("questions", len(questions), 0, **_facts(options))
    return Outcome(options.out, {f"{row['model']} {row['benchmark']}": row for row in rows}, job.problems)


def _drafts(options: SCLEvaluation, questions: Sequence[Question], job: Job) -> list[Answer] | None:
    """First answers of the model that drafts, without any review; None: every model makes its own."""
    if options.drafts is None:
        return None
    corrector = SCLCorrector.from_pretrained(options.drafts, **place(options.device, options.dtype))
    asking = replace(options.options, reviews=(), votes=0, accept="last")
    records = answer_all(
        corrector, questions, options.out / DRAFTS, asking, model=options.drafts,
        told=lambda done, pairs: job.progress("drafting", done, len(questions)),
    )  # fmt: skip
    return [Answer(record.replies[0], record.choices[0], None) for record in records]


def _ranked(
    options: SCLEvaluation, questions: Sequence[Question], drafts: Sequence[Answer] | None, job: Job
) -> Outcome:
    """The reviews of every model, ranked; writes reviews.csv and .json."""
    rows: list[dict[str, Any]] = []
    for name, source in map(_named, options.sources) if options.sources else [("embedded", None)]:
        corrector = SCLCorrector.from_pretrained(source, **place(options.device, options.dtype))
        found = ranked_reviews(
            corrector, questions, options.out / name, options.options, model=str(source), drafts=drafts,
            told=lambda review, done: job.progress(f"asking review {review}", done, len(questions)),
        )  # fmt: skip
        job.note(f"{name}: {verdict(found)}")
        rows += [{"model": name, **row} for row in found]
    job.show(Event("result", text_table(rows, digits=3), path=options.out))
    write_table(rows, options.out / "reviews.json", options.out / "reviews.csv")
    job.conclude("reviews", len(rows), 0, **_facts(options))
    return Outcome(options.out, {f"{row['model']} review {row['review']}": row for row in rows}, job.problems)


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


def _by_review(records: Iterable[Record]) -> dict[str, list[tuple[float, float]]]:
    """Benchmark -> whether the first and the refined answer to every question are right, 0 or 1."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        first, final = (float(choice == record.gold) for choice in record.choices)
        found.setdefault(record.source or "questions", []).append((first, final))
    return found


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


def _facts(options: SCLEvaluation) -> dict[str, Any]:
    """Of run.json."""
    return {"sources": list(options.sources), "drafts": options.drafts, "seed": options.options.seed}


def _named(text: str) -> tuple[str, str]:
    """NAME=SOURCE; a source alone is named by its last part."""
    name, equals, source = text.partition("=")
    return (name, source) if equals else (text.rstrip("/").split("/")[-1].replace(":", "-"), text)
