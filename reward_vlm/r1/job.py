"""Judge answers to one question, or to a file of them: what `burnish judge` runs, and any other caller can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

from reward_vlm.data import answer_of, check_fields, open_picture, pictures_of, read_rows, read_video, text_of, video_of
from reward_vlm.dialogue import Video
from reward_vlm.job import AskOptions, RowJob, note_unknown_words, place
from reward_vlm.r1.judge import Judged, Query, R1Judge
from reward_vlm.r1.options import R1Options
from reward_vlm.r1.pictures import PictureJudge
from vision.config import UNNAMED, to_dict
from vision.files import digest
from vision.job import Job, Outcome, Show, silent


@dataclass(frozen=True)
class JudgeOptions(AskOptions):
    """Judge one question, or a file of them."""

    answers: tuple[str, ...] = ()
    """Two or more answers."""
    pictures: tuple[Path, ...] = ()
    """Two or more pictures as answers, instead of texts."""
    windows: int | None = None
    """Compare --pictures of one size in so many windows of 56 pixels at most; 0 shows them whole, scaled to what the
    weights want. None: 16 for the variant restoration, else 0."""
    variant: Literal["scenes", "restoration"] | None = None
    """Which of the weights that come with the project."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model."""
    options: Annotated[R1Options, UNNAMED] = field(default_factory=R1Options)
    """How the judge is asked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.windows is not None and (self.windows < 0 or not self.pictures):
            raise ValueError("Windows, 0 or more, are cut from pictures that are compared: give --pictures too.")
        given = sorted((len(self.answers), len(self.pictures)))
        if self.question is not None and (given[0] > 0 or given[1] < 2):
            raise ValueError("A question needs two or more --answers, or two or more --pictures.")
        if self.source is not None and self.variant is not None:
            raise ValueError("--variant chooses among the weights that come with the project; leave out --source.")

    def asked_with(self) -> tuple[str, ...]:
        """Names of the fields that belong to one question, besides its pictures."""
        return "answers", "pictures"


def judge_question(options: JudgeOptions, show: Show = silent) -> Judged:
    """Judge the answers to the one question that the options hold.

    Raises:
        ValueError: the weights or a picture cannot be used.
    """
    question, judge = options.question or "", _load(options)
    if options.source is None:
        note_unknown_words(judge, " ".join((question, *options.answers)), Job(Path(), options, show=show))
    windows = (16 if options.variant == "restoration" else 0) if options.windows is None else options.windows
    if options.pictures and windows:
        return PictureJudge(judge, windows)(options.pictures, options.options, question=question)
    return judge(list(options.image), question, options.answers or options.pictures, options.options)


def judge_rows(options: JudgeOptions, show: Show = silent) -> Outcome:
    """Judge the rows that have no result yet; the items of the outcome are all results.

    Raises:
        ValueError: the weights, the rows or the output file are unusable.
    """
    assert options.rows is not None and options.out is not None
    rows, problems = read_rows(options.rows, query_row, skip_bad=options.skip_bad)
    job = RowJob(options.out, options, {**to_dict(options), "rows": digest(options.rows)}, show)
    job.leave_out(problems)
    first = [0, *accumulate(options.options.comparisons(len(row.answers)) for row in rows)]
    if job.waiting(len(rows)):
        judge = _load(options)

    def results(part: Sequence[int]) -> list[dict[str, Any]]:
        chosen = replace(options.options, seed=options.options.seed + first[part[0]])
        judged = judge.batch([rows[number].query() for number in part], chosen)
        return [{"id": rows[number].id, **record(found)} for number, found in zip(part, judged, strict=True)]

    names = [f"{options.rows} question {number + 1}" for number in range(len(rows))]
    job.grow("judging", names, options.options.batch_size, results)
    return job.finish("questions", source=options.source, seed=options.options.seed)


def record(found: Judged) -> dict[str, Any]:
    """A result as JSON: choice (index from 0, null when nothing could be read), scores, reasoning, votes."""
    votes = [
        {"shown": list(vote.pair), "winner": vote.winner, "log_prob": vote.reply.log_prob, "text": vote.reply.text}
        for vote in found.votes
    ]
    scores = [round(score, 6) for score in found.scores.tolist()]
    return {"choice": found.choice, "scores": scores, "reasoning": found.reasoning, "votes": votes}


@dataclass(frozen=True)
class QueryRow:
    """A question of a file; its pictures are read when they are needed."""

    id: str
    """As the file names it; may be empty."""
    question: str
    """What was asked."""
    answers: tuple[Any, ...]
    """Texts, pictures or their paths."""
    images: tuple[Any, ...] = ()
    """Pictures, or their paths, that the question is about."""
    video: Path | None = None
    """Folder of a film's frames."""

    def query(self) -> Query:
        """The question with its pictures read."""
        shown = tuple(answer if isinstance(answer, str) else open_picture(answer) for answer in self.answers)
        film: list[Video] = [] if self.video is None else [read_video(self.video)]
        return Query(self.question, shown, (*map(open_picture, self.images), *film))


def query_row(data: Mapping[str, Any], folder: Path) -> QueryRow:
    """A row {question, answers: [two or more texts, or {"image": path}], image? | images? | video?, id?}."""
    check_fields(data, ("id", "question", "answers", "image", "images", "video"), ("question", "answers"))
    if not isinstance(data["answers"], list) or len(data["answers"]) < 2:
        raise ValueError(f"answers must be a list of two or more, got {data['answers']!r}.")
    answers = tuple(answer_of(answer, folder) for answer in data["answers"])
    images, video = tuple(pictures_of(data, folder)), video_of(data, folder)
    return QueryRow(str(data.get("id", "")), text_of(data, "question"), answers, images, video)


def _load(options: JudgeOptions) -> R1Judge:
    where = place(options.device, options.dtype)
    return R1Judge.from_pretrained(options.source, variant=options.variant, engine=options.engine, **where)
