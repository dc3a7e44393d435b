"""What judges of answers are asked, what they say, and the protocol that they share.

A judge is asked about answers to a question. What it says is a share for every answer, whether it compares them in
votes (`reward_vlm.r1.judge`), rates each alone, or gives numbers from a scalar head. Rules for ties of votes, in this
order: votes that cannot be parsed are dropped; the answer with more votes wins; then the one whose votes are together
more probable under the model; then the one with the earliest vote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from reward_vlm.dialogue import Part, Video, as_part
from reward_vlm.parse import majority, reasoning
from reward_vlm.r1.options import R1Options
from reward_vlm.vlm import Reply
from vision.images import ImageLike


@dataclass(frozen=True)
class Query:
    """A question about pictures (or a film) with at least two answers, which are texts or pictures."""

    question: str
    """What was asked."""
    answers: tuple[Part, ...]
    """Two or more texts or pictures."""
    media: tuple[Part, ...] = ()
    """Pictures and films that the question is about."""

    def __post_init__(self) -> None:
        if len(self.answers) < 2:
            raise ValueError(f"A judgement needs at least two answers, got {len(self.answers)}.")


@dataclass(frozen=True)
class Vote:
    """One reply to one comparison."""

    pair: tuple[int, int]
    """Indices of the answers shown as response 1 and response 2."""
    winner: int | None
    """Index of the chosen answer; None when the reply could not be read."""
    reply: Reply
    """With its log-probability and length."""


@dataclass(frozen=True)
class Judged:
    """What the judge thinks of the answers to one question."""

    scores: Tensor
    """(num_answers,) float32 in [0, 1]: share of an answer's readable votes that it won; 0.5 where it has none. Of a
    judge that rates each answer alone: the mean chance that it beats another one."""
    choice: int | None
    """Index, from 0, of the best answer; None when no reply could be read."""
    reasoning: str
    """Of the first vote for the choice (of the first vote at all when there is none)."""
    votes: tuple[Vote, ...] = ()
    """Every reply to a comparison."""
    ratings: Tensor | None = None
    """(num_answers,) float32: what a judge that rates each answer alone gave them, NaN where it could not be read."""

    @property
    def tied(self) -> bool:
        """Whether another answer scores as much as the best one."""
        return int((self.scores == self.scores.max()).sum()) > 1

    @property
    def doubt(self) -> str | None:
        """A sentence where nothing follows from what the judge said."""
        if self.choice is None:
            return "No reply of the judge could be read, so that nothing is known about these answers."
        if not self.tied:
            return None
        if not self.votes:
            return "The judge rates the best answers alike; the one that is marked is the first of them."
        return "The judge contradicts itself: as many votes for the best answers as against them. The mark is a guess."


class Judge(Protocol):
    """Says which of several answers to a question is best: an `R1Judge`, or one of another kind."""

    def batch(self, queries: Sequence[Query], options: R1Options | None = None) -> list[Judged]:
        """What it thinks of the answers to each question.

        Raises:
            ValueError: an option means nothing for this kind of judge.
        """
        ...


def as_query(
    image: ImageLike | Video | Sequence[ImageLike | Video] | None, question: str, answers: Sequence[str | ImageLike]
) -> Query:
    """A question with its answers.

    Args:
        image: a picture (path, PIL, array, tensor), a film, several of them, or None. A string is a path here.
        question: what was asked.
        answers: two or more: texts (strings), or pictures (paths as `pathlib.Path`, PIL, arrays, tensors).
    """
    media = () if image is None else (image if isinstance(image, (list, tuple)) else (image,))
    shown = tuple(as_part(Path(each) if isinstance(each, str) else each) for each in media)
    return Query(question, tuple(map(as_part, answers)), shown)


def winner_of(votes: Sequence[Vote]) -> int | None:
    """Index of the answer that votes choose, by the rules at the top of this file; None where none can be read."""
    return majority([vote.winner for vote in votes], [vote.reply.log_prob for vote in votes])


def tally(answers: int, votes: Sequence[Vote], champion: int | None = None) -> Judged:
    """What votes on so many answers come to; `champion`: index of the winner of a tournament, which is the choice."""
    scores = torch.full((answers,), 0.5)
    for index in range(answers):
        about = [vote.winner == index for vote in votes if index in vote.pair and vote.winner is not None]
        if about:
            scores[index] = sum(about) / len(about)
    best = champion
    if best is None and any(vote.winner is not None for vote in votes):
        top = [index for index, score in enumerate(scores.tolist()) if score == float(scores.max())]
        best = top[0] if len(top) == 1 else winner_of([vote for vote in votes if vote.winner in top])
    told = next((vote for vote in votes if vote.winner == best and best is not None), votes[0])
    return Judged(scores, best, reasoning(told.reply.text), tuple(votes))


def rated(ratings: Sequence[float], beats: Callable[[float, float], float], reasoning: str = "") -> Judged:
    """What ratings of each answer alone come to.

    Args:
        ratings: one per answer, higher is better; NaN where none could be read.
        beats: the chance, in [0, 1], that an answer of the first rating is better than one of the second.
        reasoning: of the best one.
    """
    known = [index for index, rating in enumerate(ratings) if not math.isnan(rating)]
    scores = torch.full((len(ratings),), 0.5)
    for index in known:
        others = [beats(ratings[index], ratings[other]) for other in known if other != index]
        if others:
            scores[index] = sum(others) / len(others)
    choice = max(known, key=lambda index: ratings[index], default=None)
    return Judged(scores, choice, reasoning, (), torch.tensor(ratings, dtype=torch.float32))


def higher(one: float, other: float) -> float:
    """1 for the higher rating, 0 for the lower, 0.5 for equal ones."""
    return 0.5 if one == other else float(one > other)
