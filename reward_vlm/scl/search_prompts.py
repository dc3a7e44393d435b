"""Search for the request to review that leaves the most answers right.

    burnish prompts scl --out runs/review                               (rendered scenes, the model that ships)
    burnish prompts scl --rows questions.jsonl --source org/name --out runs/review
    burnish answer --rows questions.jsonl --out answers.jsonl @runs/review/options.txt

A task is a question; it is solved when the answer after the review is right. The reviews of the paper are the start,
and their sentences what mutations are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from reward_vlm.data import question, read_rows
from reward_vlm.job import Dtype, place
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.pairs import record_of
from reward_vlm.scl.prompts import REVIEWS
from reward_vlm.scl.scene_questions import TEST_SEED, scene_questions
from reward_vlm.scl.talk import Answer
from vision.checkpoints import one_at_a_time
from vision.config import UNNAMED
from vision.job import Job, Outcome, Show, silent
from vision.prompt_search import PromptSearch, search


@dataclass(frozen=True)
class ReviewSearch(PromptSearch):
    """Search for a request to review."""

    rows: Path | None = None
    """JSON lines of questions with answers; None: rendered scenes."""
    limit: int = 60
    """So many questions, half of which are searched on."""
    source: str | None = None
    """Weights; None: those that come with the project."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Dtype = "float32"
    """Numbers that the model computes with."""
    options: Annotated[SCLOptions, UNNAMED] = field(default_factory=lambda: SCLOptions(batch_size=32))
    """How the model is asked."""


@one_at_a_time
def prompts(options: ReviewSearch, show: Show = silent) -> Outcome:
    """Search, and show the table.

    Raises:
        ValueError: rows, weights or the folder cannot be used, or the options answer without reviews.
    """
    if options.options.deliberates:
        raise ValueError("verify, turns, effort and strategy answer without reviews; leave them out to search for one.")
    job = Job(options.out, options, show=show)
    questions = read_rows(options.rows, question)[0] if options.rows else scene_questions(TEST_SEED, options.limit)
    questions = questions[: options.limit]
    corrector = SCLCorrector.from_pretrained(options.source, **place(options.device, options.dtype))
    own = tuple(REVIEWS[review] if isinstance(review, int) else review for review in corrector.config.reviews)

    asked: list[Answer] | None = None
    if options.options.temperature == 0:  # then first answers are the same before every review
        asked = [talk.first for talk in corrector.batch(questions, replace(options.options, reviews=()))]

    def solves(prompt: str, numbers: Sequence[int]) -> list[bool]:
        chosen, some = replace(options.options, reviews=(prompt,)), [questions[n] for n in numbers]
        talks = corrector.batch(some, chosen, drafts=None if asked is None else [asked[n] for n in numbers])
        return [record_of(talk).type in (1, 2) for talk in talks]

    starts = tuple(dict.fromkeys((*own, *REVIEWS)))
    return search(job, options, starts, (), len(questions), solves, option="--reviews", separator=None)
