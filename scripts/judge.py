"""Judge answers to questions about pictures, with the reasons.

    burnish judge --image photo.png --question "what is in the image ?" --answers "a red object" "a cat"
    burnish judge --variant restoration --question "which picture is less degraded ?" --pictures a.png b.png
    burnish judge --rows questions.jsonl --out judged.jsonl --source org/name --votes 5

Rows are JSON objects {question, answers: [texts, or {"image": path}], image? | images? | video?, id?}, one per line;
paths are relative to the file. Results are appended row by row: the same command goes on after an interruption, unless
the rows were edited in between. A row that cannot be used is an error that names its number, or is reported and left
out with --skip-bad.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("judge")
from reward_vlm.r1.judge import Judged, Query, R1Judge
from reward_vlm.r1.options import R1Options
from vision.config import cli, to_dict
from vision.job import Show


@dataclass(frozen=True)
class JudgeOptions:
    """Judge one question, or a file of them."""

    question: str | None = None
    """What was asked about the image."""
    answers: tuple[str, ...] = ()
    """Two or more answers."""
    pictures: tuple[Path, ...] = ()
    """Two or more pictures as answers, instead of texts."""
    windows: int | None = None
    """Compare --pictures of one size in so many windows of 56 pixels at most; 0 shows them whole, scaled to what the
    weights want. None: 16 for the variant restoration, else 0."""
    image: tuple[Path, ...] = ()
    """Pictures that the question is about."""
    rows: Path | None = None
    """JSON lines of questions, instead of one."""
    out: Path | None = None
    """JSON lines of results (with rows); a file that exists is continued."""
    skip_bad: bool = False
    """Leave out rows that cannot be used."""
    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    variant: Literal["scenes", "restoration"] | None = None
    """Which of the weights that come with the project."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Numbers that the model computes with."""
    options: Annotated[R1Options, tyro.conf.arg(name="")] = field(default_factory=R1Options)
    """How the judge is asked."""

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.question is None):
            raise ValueError("Give either one --question with its --answers, or a file of --rows.")
        if self.windows and not self.pictures:
            raise ValueError("Windows are cut from pictures that are compared: give --pictures, or no --windows.")
        if self.rows is not None and self.out is None:
            raise ValueError("A file of --rows needs a file --out for the results.")
        if self.question is not None and (len(self.answers) < 2) == (len(self.pictures) < 2):
            raise ValueError("A question needs two or more --answers, or two or more --pictures.")


def main(options: JudgeOptions) -> list[dict[str, Any]]:
    """Judge and return the results that were made now.

    Raises:
        ValueError: the weights, the rows or the output file are unusable.
    """
    from reward_vlm.vlm import device_of

    device = device_of(options.device)
    if options.rows is None:
        judge = _load(options, device)
        windows = (16 if options.variant == "restoration" else 0) if options.windows is None else options.windows
        if options.pictures and windows:
            from reward_vlm.r1.pictures import PictureJudge

            found = PictureJudge(judge, windows)(options.pictures, options.options, question=options.question or "")
            return [record(found)]
        images, answers = list(options.image), options.answers or options.pictures
        return [record(judge(images, options.question or "", answers, options.options))]

    from reward_vlm.data import read_rows
    from reward_vlm.results import Results
    from vision.files import digest
    from vision.report import write_run

    assert options.out is not None
    started = time.monotonic()
    rows, problems = read_rows(options.rows, query_row, skip_bad=options.skip_bad)
    for sentence in problems:
        sys.stderr.write(f"Left out: {sentence}\n")
    facts = {name: value for name, value in to_dict(options).items() if name not in ("out", "device")}
    facts["rows"] = digest(options.rows)
    results = Results(options.out, facts)
    done, made = {row["row"] for row in results.rows}, []
    judge, chunk = _load(options, device), max(1, options.options.batch_size)
    waiting = [number for number in range(len(rows)) if number not in done]
    for start in range(0, len(waiting), chunk):
        part = waiting[start : start + chunk]
        judged = judge.batch([rows[number][1]() for number in part], options.options)
        new = [{"row": n, "id": rows[n][0], **record(found)} for n, found in zip(part, judged, strict=True)]
        results.add(*new)
        made += new
    seconds = round(time.monotonic() - started, 3)
    write_run(options.out.parent, options=to_dict(options), judged=len(made), seconds=seconds, problems=problems)
    return made


def record(found: Judged) -> dict[str, Any]:
    """A result as JSON: choice (index from 0, null when nothing could be read), scores, reasoning, votes."""
    votes = [
        {"shown": list(vote.pair), "winner": vote.winner, "log_prob": vote.reply.log_prob, "text": vote.reply.text}
        for vote in found.votes
    ]
    scores = [round(score, 6) for score in found.scores.tolist()]
    return {"choice": found.choice, "scores": scores, "reasoning": found.reasoning, "votes": votes}


def query_row(data: Mapping[str, Any], folder: Path) -> tuple[str, Any]:
    """A row's id, and a function that reads its pictures and makes the query."""
    from reward_vlm.data import answer_of, check_fields, open_picture, pictures_of, read_video, text_of, video_of

    check_fields(data, ("id", "question", "answers", "image", "images", "video"), ("question", "answers"))
    if not isinstance(data["answers"], list) or len(data["answers"]) < 2:
        raise ValueError(f"answers must be a list of two or more, got {data['answers']!r}.")
    question, answers = text_of(data, "question"), [answer_of(answer, folder) for answer in data["answers"]]
    images, video = pictures_of(data, folder), video_of(data, folder)

    def query() -> Query:
        shown = tuple(answer if isinstance(answer, str) else open_picture(answer) for answer in answers)
        media = [open_picture(image) for image in images] + ([] if video is None else [read_video(video)])
        return Query(question, shown, tuple(media))

    return str(data.get("id", "")), query


def _load(options: JudgeOptions, device: str) -> R1Judge:
    import torch

    dtype = getattr(torch, options.dtype)
    return R1Judge.from_pretrained(
        options.source, device=device, dtype=dtype, variant=options.variant, engine=options.engine
    )


def parse(arguments: Sequence[str]) -> JudgeOptions:
    """Options from the command line."""
    return cli(JudgeOptions, prog="burnish judge", description=__doc__, args=arguments)


def call(arguments: Sequence[str], show: Show) -> None:
    """The command line."""
    options = parse(arguments)
    made = main(options)
    if options.rows is None:
        answers = options.answers or tuple(map(str, options.pictures))
        choice = made[0]["choice"]
        sys.stdout.write(f"{made[0]['reasoning']}\n")
        for number, (answer, score) in enumerate(zip(answers, made[0]["scores"], strict=True)):
            sys.stdout.write(f"{'*' if number == choice else ' '} {score:.2f}  {answer}\n")
    else:
        sys.stdout.write(f"{len(made)} rows judged; the results are in {options.out}.\n")
