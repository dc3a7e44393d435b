"""Judge answers to one question, or to a file of them: what `burnish judge` runs, and any other caller can.

What a judge was not taught is refused in a sentence. run.json tells what the judge was worth in this very work (what
could be read, what depended on the order), and what an audit of its weights found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

from reward_vlm.audit import Watched, told
from reward_vlm.dialogue import Video
from reward_vlm.fields import answer_of, check_fields, id_of, open_picture, pictures_of, read_video, text_of, video_of
from reward_vlm.forms import preference_form
from reward_vlm.job import AskOptions, RowJob, place, read_asked
from reward_vlm.judges import Judge, Judged, Query, as_query
from reward_vlm.open_judge import open_judge
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Options
from reward_vlm.r1.pictures import PictureJudge
from reward_vlm.templates import Pair, Point
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
    template: Pair | Point | None = None
    """How weights of another family are asked and read; None: as their judge.json says, by
    their scalar head where they have one, else as R1-Reward."""
    audit: bool = False
    """Do not judge, but find out whether this judge is worth asking: the pairs of --rows (without: rendered scenes) in
    both orders, with black pictures, with other questions, the same answer twice."""
    options: Annotated[R1Options, UNNAMED] = field(default_factory=R1Options)
    """How the judge is asked."""

    def __post_init__(self) -> None:
        if self.audit:
            self._check_audit()
        else:
            super().__post_init__()
        if self.windows is not None and (self.windows < 0 or not self.pictures):
            raise ValueError("Windows, 0 or more, are cut from pictures that are compared: give --pictures too.")
        given = sorted((len(self.answers), len(self.pictures)))
        if self.question is not None and (given[0] > 0 or given[1] < 2):
            raise ValueError("A question needs two or more --answers, or two or more --pictures.")
        if self.source is not None and self.variant is not None:
            raise ValueError("--variant chooses among the weights that come with the project; leave out --source.")
        if self.template is not None and self.source is None:
            raise ValueError("--template says how other weights are asked; name them (--source).")

    def asked_with(self) -> tuple[str, ...]:
        """Names of the fields that belong to one question, besides its pictures."""
        return "answers", "pictures"

    def _check_audit(self) -> None:
        given = [name for name in ("question", "image", *self.asked_with()) if getattr(self, name)]
        if given:
            raise ValueError(f"An audit takes pairs from --rows, or rendered scenes; leave out --{given[0]}.")
        if self.out is None:
            raise ValueError("An audit needs a file --out for what the judge said.")
        if self.options.orders != "both":
            raise ValueError("An audit shows every pair in both orders; leave out --orders.")


def judge_question(options: JudgeOptions, show: Show = silent) -> Judged:
    """Judge the answers to the one question that the options hold.

    Raises:
        ValueError: the weights or a picture cannot be used.
    """
    question, judge = options.question or "", load_judge(options)
    query = as_query(list(options.image), question, options.answers or options.pictures)
    refuse_unknown(judge, [query])
    job = Job(Path(), options, show=show)
    windows = (16 if options.variant == "restoration" else 0) if options.windows is None else options.windows
    if options.pictures and windows:
        found = PictureJudge(judge, windows)(options.pictures, options.options, question=question)
    else:
        found = judge.batch([query], options.options)[0]
    if found.doubt:
        job.note(found.doubt)
    return found


def judge_rows(options: JudgeOptions, show: Show = silent) -> Outcome:
    """Judge the rows that have no result yet; the items of the outcome are all results.

    Raises:
        ValueError: the weights, the rows or the output file are unusable.
    """
    assert options.rows is not None and options.out is not None
    rows, problems = read_asked(options, query_row)
    job = RowJob(options.out, options, {**to_dict(options), "rows": digest(options.rows)}, show)
    job.leave_out(problems)
    first = [0, *accumulate(options.options.comparisons(len(row.answers)) for row in rows)]
    judge = load_judge(options) if job.waiting(len(rows)) else None
    watched = Watched(judge) if judge is not None else None

    def results(part: Sequence[int]) -> list[dict[str, Any]]:
        chosen = replace(options.options, seed=options.options.seed + first[part[0]])
        assert judge is not None and watched is not None
        queries = [rows[number].query() for number in part]
        refuse_unknown(judge, queries)
        judged = watched.batch(queries, chosen)
        return [{"id": rows[number].id, **record(found)} for number, found in zip(part, judged, strict=True)]

    names = [f"{options.rows} question {number + 1}" for number in range(len(rows))]
    job.grow("judging", names, options.options.batch_size, results)
    facts = {} if watched is None else {"judge": told(watched, job)}
    return job.finish("questions", source=options.source, seed=options.options.seed, **facts)


def refuse_unknown(judge: Judge, queries: Sequence[Query]) -> None:
    """
    Raises:
        ValueError: a question is outside of what the weights were taught.
    """
    for query in queries if isinstance(judge, R1Judge) else ():
        if sentence := judge.unknown(query):
            raise ValueError(sentence)


def record(found: Judged) -> dict[str, Any]:
    """A result as JSON: choice (index from 0), scores, reasoning, votes; choice and scores are null where nothing could
    be read. Where nothing follows from the votes, `doubt` says so."""
    votes = [
        {"shown": list(vote.pair), "winner": vote.winner, "log_prob": vote.reply.log_prob, "text": vote.reply.text}
        for vote in found.votes
    ]
    scores = [round(score, 6) for score in found.scores.tolist()]
    shown = {"choice": found.choice, "scores": None if found.choice is None else scores, "reasoning": found.reasoning}
    ratings = {} if found.ratings is None else {"ratings": [None if r != r else r for r in found.ratings.tolist()]}
    return shown | ratings | ({"doubt": found.doubt} if found.doubt else {}) | {"votes": votes}


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
    """A row {question, answers: [two or more texts, or {"image": path}], image? | images? | video?, id?}, or a row of
    preferences in any form (`reward_vlm.forms`), whose labels are passed over."""
    data = preference_form(data)
    known = ("id", "question", "answers", "image", "images", "video", "better", "rationale", "category", "difficulty")
    check_fields(data, known, ("question", "answers"))
    if not isinstance(data["answers"], list) or len(data["answers"]) < 2:
        raise ValueError(f"answers must be a list of two or more, got {data['answers']!r}.")
    answers = tuple(answer_of(answer, folder) for answer in data["answers"])
    images, video = tuple(pictures_of(data, folder)), video_of(data, folder)
    return QueryRow(id_of(data), text_of(data, "question"), answers, images, video)


def load_judge(options: JudgeOptions) -> Judge:
    """The judge that the options name."""
    where = place(options.device, options.dtype)
    if options.source is not None and options.engine == "transformers":
        return open_judge(options.source, options.template, **where)
    return R1Judge.from_pretrained(options.source, variant=options.variant, engine=options.engine, **where)
