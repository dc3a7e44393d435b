"""Answer multiple-choice questions about pictures, and let the model review its answers.

    burnish answer --image photo.jpg --question "what colour is the car ?" --choices red blue green
    burnish answer --image a.png --question "..." --choices yes no --reviews 0 2 --rounds 2 --accept better
    burnish answer --rows questions.jsonl --out answers.jsonl --source org/name

Rows are JSON objects {question, options: {"A": text, ...}, image? | images?, answer?, id?, source?}, one per line;
paths are relative to the file, and where the right answer is given, right ones are counted. Results are appended batch
by batch: the same command goes on after an interruption, unless the rows were edited in between. A row that cannot be
used is an error that names its number, or is reported and left out with --skip-bad.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("answer")
from reward_vlm.scl.corrector import Answer, SCLCorrector, Talk
from reward_vlm.scl.options import SCLOptions
from reward_vlm.vlm import device_of
from vision.config import cli, to_dict
from vision.job import Show


@dataclass(frozen=True)
class AnswerOptions:
    """Answer one question, or a file of them."""

    question: str | None = None
    """What is asked about the image."""
    choices: tuple[str, ...] = ()
    """Answers to choose from; leave them out when the question's text holds them."""
    image: tuple[Path, ...] = ()
    """Pictures that the question is about."""
    rows: Path | None = None
    """JSON lines of questions, instead of one."""
    out: Path | None = None
    """JSON lines of answers (with rows); a file that exists is continued."""
    skip_bad: bool = False
    """Leave out rows that cannot be used."""
    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    judge: str | None = None
    """Weights of the judge that --accept better asks; None takes those that come with the project."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Numbers that the models compute with."""
    options: Annotated[SCLOptions, tyro.conf.arg(name="")] = field(default_factory=SCLOptions)
    """How the model is asked."""

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.question is None):
            raise ValueError("Give either one --question with its --choices, or a file of --rows.")
        if self.rows is not None and self.out is None:
            raise ValueError("A file of --rows needs a file --out for the answers.")
        if self.rows is not None and (self.choices or self.image):
            raise ValueError("--choices and --image belong to one --question; rows hold their own.")
        if self.question is not None and self.out is not None:
            raise ValueError("--out belongs to --rows; the answer to one --question is printed.")
        if self.judge is not None and self.options.accept != "better":
            raise ValueError("--judge is asked with --accept better alone; give that too, or leave the judge out.")


def main(options: AnswerOptions) -> list[dict[str, Any]]:
    """Answer and return the results that were made now.

    Raises:
        ValueError: the weights, the rows or the output file are unusable.
    """
    if options.rows is None:
        corrector = _load(options)
        talk = corrector(list(options.image), options.question or "", options.choices, options.options)
        return [record(talk)]

    from reward_vlm.data import open_question, read_rows
    from reward_vlm.results import Results
    from vision.files import digest
    from vision.report import write_run

    assert options.out is not None
    started = time.monotonic()
    rows, problems = read_rows(options.rows, open_question, skip_bad=options.skip_bad)
    for sentence in problems:
        sys.stderr.write(f"Left out: {sentence}\n")
    if not rows:
        raise ValueError(f"{options.rows} holds no question that can be answered.")
    facts = {name: value for name, value in to_dict(options).items() if name not in ("out", "device")}
    facts["rows"] = digest(options.rows)
    del facts["options"]["batch_size"]  # replies do not depend on it
    results, made = Results(options.out, facts), []
    done, chunk, corrector = len(results.rows), options.options.batch_size, _load(options)
    for start in range(done, len(rows), chunk):
        asked = replace(options.options, seed=options.options.seed + start)
        talks = corrector.batch(rows[start : start + chunk], asked)
        made += (new := [{"row": start + n, "id": talk.question.id, **record(talk)} for n, talk in enumerate(talks)])
        results.add(*new)
    seconds = round(time.monotonic() - started, 3)
    write_run(options.out.parent, options=to_dict(options), answered=len(made), seconds=seconds, problems=problems)
    return made


def record(talk: Talk) -> dict[str, Any]:
    """A result as JSON: first and final answer, all that were tried, the right one if it is known, and the turns."""

    def said(answer: Answer) -> dict[str, Any]:
        return {"choice": answer.choice, "text": answer.text, "log_prob": answer.reply.log_prob}

    answers = {"first": said(talk.first), "final": said(talk.final), "tried": [said(answer) for answer in talk.tried]}
    known = {} if talk.question.answer is None else {"answer": talk.question.answer}
    return answers | known | {"turns": talk.dialogue.texts()}


def _load(options: AnswerOptions) -> SCLCorrector:
    place = {"device": device_of(options.device), "dtype": getattr(torch, options.dtype)}
    judge = None
    if options.options.accept == "better":
        from reward_vlm.r1.judge import R1Judge

        judge = R1Judge.from_pretrained(options.judge, **place)
    return SCLCorrector.from_pretrained(options.source, **place, judge=judge)


def parse(arguments: Sequence[str]) -> AnswerOptions:
    """Options from the command line."""
    return cli(AnswerOptions, prog="burnish answer", description=__doc__, args=arguments)


def call(arguments: Sequence[str], show: Show) -> None:
    """The command line."""
    options = parse(arguments)
    made = main(options)
    if options.rows is None:
        names = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", options.choices, strict=False))
        for name in ("first", "final"):
            choice = made[0][name]["choice"]
            shown = "no option could be read" if choice is None else f"{choice}. {names.get(choice, '')}".rstrip(". ")
            sys.stdout.write(f"{name}: {shown}\n  {made[0][name]['text'].strip()}\n")
        return
    assert options.out is not None
    known = [row for row in map(json.loads, options.out.read_bytes().splitlines()) if "answer" in row]
    right = [sum(row[name]["choice"] == row["answer"] for row in known) for name in ("first", "final")]
    told = f" {right[0]} first and {right[1]} final answers of {len(known)} are right." if known else ""
    sys.stdout.write(f"{len(made)} questions answered now; all results are in {options.out}.{told}\n")
