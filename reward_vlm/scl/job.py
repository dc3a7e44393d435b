"""Answer one multiple-choice question, or a file of them, and review the answers: what `burnish answer` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from reward_vlm.audit import Watched, told
from reward_vlm.data import open_question
from reward_vlm.job import AskOptions, RowJob, note_unknown_words, place, read_asked
from reward_vlm.r1.judge import R1Judge
from reward_vlm.scl.corrector import Answer, SCLCorrector, Talk, multiple_choice
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.ways import AnswerStrategy, strategy_file
from vision.config import UNNAMED, to_dict
from vision.files import digest
from vision.job import Job, Outcome, Show, silent


@dataclass(frozen=True)
class AnswerOptions(AskOptions):
    """Answer one question, or a file of them."""

    choices: tuple[str, ...] = ()
    """Answers to choose from; leave them out when the question's text holds them."""
    judge: str | None = None
    """Weights of the judge that --accept better asks; None takes those that come with the project."""
    options: Annotated[SCLOptions, UNNAMED] = field(default_factory=SCLOptions)
    """How the model is asked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge is not None and self.options.accept != "better":
            raise ValueError("--judge is asked with --accept better alone; give that too, or leave the judge out.")
        if any(isinstance(review, str) and not review.strip() for review in self.options.reviews or ()):
            raise ValueError("A review is an empty text; leave it out, or say what the model is to look at.")
        if self.question is not None:
            multiple_choice(None, self.question, self.choices)  # its own checks

    def asked_with(self) -> tuple[str, ...]:
        """Names of the fields that belong to one question, besides its pictures."""
        return ("choices",)


def answer_question(options: AnswerOptions, show: Show = silent) -> Talk:
    """Answer the one question that the options hold, and review the answer.

    Raises:
        ValueError: the weights or a picture cannot be used.
    """
    question, (corrector, judge) = options.question or "", _load(options)
    job = Job(Path(), options, show=show)
    if options.source is None:
        note_unknown_words(corrector, " ".join((question, *options.choices)), job)
    talk = corrector(list(options.image), question, options.choices, options.options)
    if judge is not None and (warning := judge.warning()):
        job.note(warning)
    return talk


def answer_rows(options: AnswerOptions, show: Show = silent) -> Outcome:
    """Answer the rows that have no result yet; the items of the outcome are all results.

    Raises:
        ValueError: the weights, the rows or the output file are unusable.
    """
    assert options.rows is not None and options.out is not None
    rows, problems = read_asked(options, open_question)
    alone = replace(options, options=replace(options.options, batch_size=1))  # replies do not depend on it
    made_with = {**to_dict(alone), "rows": digest(options.rows)}
    if (folder := options.options.strategy) is not None:
        AnswerStrategy.from_pretrained(folder)  # refuses it early
        made_with["strategy"] = digest(strategy_file(folder))
    job = RowJob(options.out, options, made_with, show)
    job.leave_out(problems)
    if job.waiting(len(rows)):
        corrector, judge = _load(options)
    else:
        judge = None

    def results(part: Sequence[int]) -> list[dict[str, Any]]:
        asked = replace(options.options, seed=options.options.seed + part[0])
        return [
            {"id": talk.question.id, **record(talk)} for talk in corrector.batch(rows[part[0] : part[-1] + 1], asked)
        ]

    names = [f"{options.rows} question {number + 1}" for number in range(len(rows))]
    made = job.grow("answering", names, options.options.batch_size, results)
    known = [row for row in made if "answer" in row]
    right = [sum(row[name]["choice"] == row["answer"] for row in known) for name in ("first", "final")]
    if known:
        job.note(f"{right[0]} first and {right[1]} final answers of {len(known)} are right.")
    facts = {} if judge is None else {"judge": told(judge, job)}
    return job.finish("questions", source=options.source, seed=options.options.seed, **facts)


def record(talk: Talk) -> dict[str, Any]:
    """A result as JSON: first and final answer, all that were tried, the right one if it is known, and the turns."""

    def said(answer: Answer) -> dict[str, Any]:
        log_prob = None if answer.reply is None else answer.reply.log_prob  # of a draft
        return {"choice": answer.choice, "text": answer.text, "log_prob": log_prob}

    answers = {"first": said(talk.first), "final": said(talk.final), "tried": [said(answer) for answer in talk.tried]}
    known = {} if talk.question.answer is None else {"answer": talk.question.answer}
    return answers | known | {"turns": talk.dialogue.texts()}


def _load(options: AnswerOptions) -> tuple[SCLCorrector, Watched | None]:
    """The corrector, and the judge that decides about its reviews."""
    where = place(options.device, options.dtype)
    asked = options.options.accept == "better"
    judge = Watched(R1Judge.from_pretrained(options.judge, **where)) if asked else None
    return SCLCorrector.from_pretrained(options.source, **where, judge=judge), judge
