"""Is a model's word about its own answers worth anything? What `burnish evaluate verifier` runs.

    burnish evaluate verifier --out runs/verifier                        (rendered scenes, embedded model)
    burnish evaluate verifier --rows questions.jsonl --source org/name --verify 8 --out runs/own

Every question is answered several times and every answer verified by a review (`answer --verify`). Told are the
verifier's precision, recall and specificity, by difficulty (how many of the samples are wrong), a sentence where its
word should not decide anything, and the accuracy of the first answer, of the majority, and of the majority of the
verified, which took twice the replies. Writes samples.jsonl (the same command goes on with it), verifier.csv and .json,
and run.json. Source: arXiv 2505.11227, section 5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from reward_vlm.data import Question, question, read_rows
from reward_vlm.job import RowJob, place
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.deliberate import decided, samples
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.scene_questions import TEST_SEED, scene_questions
from reward_vlm.verifier import VerifierReport, verifier_report
from vision.config import UNNAMED, Dtype, to_dict
from vision.files import digest
from vision.job import Event, Outcome, Show, silent
from vision.report import text_table, wilson, write_table


@dataclass(frozen=True)
class VerifierEvaluation:
    """Measure how a model verifies its own answers."""

    out: Path
    """Folder for the results."""
    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    rows: Path | None = None
    """JSON lines of questions with their answers; None: rendered scenes."""
    limit: int = 200
    """Questions, at most."""
    scenes: int = TEST_SEED
    """Seed of the rendered scenes; those that come with the project were not trained on 98 and more."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Dtype = "float32"
    """Numbers that the model computes with; bfloat16 halves the memory of large ones."""
    skip_bad: bool = False
    """Leave out rows that cannot be used; they are reported by number."""
    options: Annotated[SCLOptions, UNNAMED] = field(default_factory=lambda: SCLOptions(verify=8, batch_size=64))
    """How the model is asked; --verify says how many samples a question has."""

    def __post_init__(self) -> None:
        if self.options.verify < 2:
            raise ValueError(f"A verifier is measured on 2 or more samples (--verify), got {self.options.verify}.")
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}.")


def evaluate(options: VerifierEvaluation, show: Show = silent) -> Outcome:
    """Measure what is not measured yet, and show the tables.

    Raises:
        ValueError: rows, weights or the folder cannot be used.
    """
    questions, problems = _questions(options)
    if not questions:
        raise ValueError("There are no questions to measure a verifier with.")
    facts = {**to_dict(options), "rows": None if options.rows is None else digest(options.rows)}
    job = RowJob(options.out / "samples.jsonl", options, facts, show)
    job.leave_out(problems)
    waiting = job.waiting(len(questions))
    corrector = (
        SCLCorrector.from_pretrained(options.source, **place(options.device, options.dtype)) if waiting else None
    )

    def measured(part: Sequence[int]) -> list[dict[str, Any]]:
        assert corrector is not None
        model, asked = corrector.asking(options.options), [questions[number] for number in part]
        pools = samples(model, asked, options.options.verify, [options.options.seed + number for number in part])
        return [
            {
                "id": one.id, "answer": one.answer, "choices": [sample.talk.final.choice for sample in pool],
                "verified": [sample.verified for sample in pool], "decided": decided(pool).final.choice,
            }
            for one, pool in zip(asked, pools, strict=True)
        ]  # fmt: skip

    names = [f"question {number + 1} ({each.id})" for number, each in enumerate(questions)]
    rows = job.grow("verifying", names, options.options.batch_size, measured)
    found = report(rows)
    table, answers = _verifier_rows(found), answer_rows(rows)
    show(Event("result", "\n".join([text_table(table, digits=3), text_table(answers, digits=3)]), path=options.out))
    if found.warning:
        job.note(found.warning)
    write_table([*table, *answers], options.out / "verifier.json", options.out / "verifier.csv")
    job.conclude(
        "questions", len(rows), job.earlier, source=options.source, warning=found.warning, says_right=found.says_right
    )
    return Outcome(options.out, {row["answers"]: row for row in answers}, job.problems)


def report(rows: Sequence[Mapping[str, Any]]) -> VerifierReport:
    """The verifier's rates, by the number of wrong samples of a question; samples without an option are left out."""
    said, truth, difficulty = [], [], []
    for row in rows:
        wrong = sum(choice != row["answer"] for choice in row["choices"])
        for choice, verified in zip(row["choices"], row["verified"], strict=True):
            if choice is not None:
                said.append(verified)
                truth.append(choice == row["answer"])
                difficulty.append(wrong)
    return verifier_report(said, truth, difficulty)


def answer_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy, with its 95 % interval (Wilson), of three ways to answer, and the replies that each takes."""
    count = len(rows[0]["choices"])
    ways = {
        "first": (1, [row["choices"][0] for row in rows]),
        "majority": (count, [_majority(row["choices"]) for row in rows]),
        "majority of the verified": (2 * count, [row["decided"] for row in rows]),
    }
    found = []
    for name, (replies, chosen) in ways.items():
        right = sum(choice == row["answer"] for choice, row in zip(chosen, rows, strict=True))
        low, high = wilson(right, len(rows))
        found.append({"answers": name, "replies": replies, "right": right / len(rows), "low": low, "high": high})
    return found


def _majority(choices: Sequence[str | None]) -> str | None:
    told = Counter(choice for choice in choices if choice is not None)
    return told.most_common(1)[0][0] if told else None


def _verifier_rows(found: VerifierReport) -> list[dict[str, Any]]:
    rows = [{"wrong samples": "any", **asdict(found.all), "balanced": found.all.balanced}]
    return rows + [{"wrong samples": str(kind), **asdict(rates)} for kind, rates in found.by_difficulty]


def _questions(options: VerifierEvaluation) -> tuple[list[Question], list[str]]:
    if options.rows is None:
        return scene_questions(options.scenes, options.limit), []
    rows, problems = read_rows(options.rows, question, skip_bad=options.skip_bad)
    return rows[: options.limit], problems
