"""The best of several seeds of one restoration, by an evaluator: behind `restore --best-of` and `--until-sure`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from restoration.judge import EMBEDDED, RestorationJudge
from vision.job import Job
from vision.refine import Verdict
from vision.strategies import Candidate, Choice, Evaluator, evaluator
from vision.strategies.best import best_of, best_of_n
from vision.strategies.interleave import gains_little, interleave
from vision.strategies.values import best

JUDGE = "judge"
"""Name of the judge of restorations among the evaluators; JUDGE:FOLDER is one of one's own."""
LITTLE = 0.03
"""Score of the judge that one more seed must be expected to add; chosen on photographs that no training saw."""


def named(name: str, input_of: Callable[[str], Any] | None) -> Evaluator:
    """The evaluator of a name, with the judge of restorations among them.

    Raises:
        ValueError: there is no such evaluator, or it cannot be loaded.
    """
    return evaluator(name, input_of, {JUDGE: lambda source: _judge(source).evaluator(input_of)})


def best_seed(make: Callable[[int], Candidate], seeds: Sequence[int], score: Evaluator) -> Choice:
    """The candidate with the highest score among those of all seeds."""
    return best_of_n(make, score, seeds)


def until_sure(make: Callable[[int], Candidate], seeds: Sequence[int], name: str, image: Any) -> Choice:
    """Candidates of one seed after the other, until one more is expected to be too little better than the best.

    After SPOC (arXiv 2506.06923), which proposes and verifies in turns and ends with the first solution that it is
    satisfied with.

    Args:
        make: a candidate from a seed; its value is a picture.
        seeds: at most so many.
        name: of the judge of restorations; what a gain is worth is known of its scores alone.
        image: the input.

    Raises:
        ValueError: it is another evaluator.
    """
    if name.partition(":")[0] != JUDGE:
        raise ValueError(f"until_sure knows what a gain of the judge's score is worth, not of {name}; leave judge out.")
    score = named(name, lambda task: image)

    def propose(_: Any, turn: int) -> Candidate:
        return make(seeds[turn])

    def why(made: int, ended: bool) -> str:
        return f"{made} seeds made, since one more is expected to add too little" if ended else f"all {made} seeds made"

    return interleave(propose, score, len(seeds), enough=gains_little(LITTLE), otherwise=best, why=why)


def best_pairwise(
    make: Callable[[int], Candidate], seeds: Sequence[int], prefers: Callable[[Any, Any], bool]
) -> Choice:
    """The candidate that wins against the best before it, by a judge of two values; its score is 1, the others' 0."""
    made: list[Candidate] = []

    def kept(seed: int) -> Candidate:
        made.append(make(seed))
        return made[-1]

    winner = best_of(kept, lambda new, old: prefers(new.value, old.value), seeds)
    verdicts = tuple(Verdict(float(candidate is winner)) for candidate in made)
    return Choice(winner.task, tuple(made), verdicts, made.index(winner), f"best of {len(made)}, two at a time")


def doubt(name: str) -> str | None:
    """A sentence about an evaluator that is not known to beat chance between two seeds; None: it does."""
    rows = json.loads((EMBEDDED / "agreement.json").read_text())
    known = {row["evaluator"]: (row["two seeds"], row["pairs of two seeds"]) for row in rows}
    if name not in known:
        return f"How often {name} is right about two seeds was not measured; see burnish evaluate judge."
    share, pairs = known[name]
    if share - 1.64 * math.sqrt(0.25 / pairs) > 0.5:
        return None
    return f"{name} was right about two seeds in {share:.2f} of {pairs} pairs, no better than chance."


class Picking:
    """Picks among seeds for one run of restorations.

    Args:
        name: of an evaluator, or r1 or r1:SOURCE.
        sure: make no more candidates than needed, see `until_sure`.
        load_votes: makes the judge r1 from a source.
        job: gets a sentence when the evaluator is not known to beat chance.
    """

    def __init__(self, name: str, sure: bool, load_votes: Callable[[str | None], Any] | None, job: Job):
        self.name, self.sure, self.load_votes, self.job = name, sure, load_votes, job
        self.votes: Any = None
        self.score: Evaluator | None = None
        self.image: torch.Tensor | None = None
        if (sentence := doubt(name)) is not None:
            job.note(sentence)

    def __call__(self, make: Callable[[int], Candidate], seeds: Sequence[int], image: torch.Tensor) -> Choice:
        """The choice among the candidates of seeds for an input (1, 3, h, w)."""
        kind, _, source = self.name.partition(":")
        if kind == "r1":
            self.votes = self.votes or self.job.needs(self.load_votes, source or None)
            return best_pairwise(make, seeds, self.votes.prefers)
        if self.sure:
            return until_sure(make, seeds, self.name, image)
        self.image = image
        self.score = self.score or self.job.needs(named, self.name, lambda task: self.image)
        return best_seed(make, seeds, self.score)

    def told(self) -> dict[str, Any]:
        """What run.json says of the judge."""
        return {"judge": {"name": self.name} if self.votes is None else self.votes.told(self.job)}


def _judge(source: str) -> RestorationJudge:
    return RestorationJudge.from_pretrained(source or None)
