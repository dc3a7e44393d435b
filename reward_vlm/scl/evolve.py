r"""Learn from own answers, own reviews and own second thoughts, without any label.

    burnish train scl --recipe self --unlabelled questions.jsonl --start org/name --folder runs/self
    burnish train scl --recipe self ... --keep all                (control: the same compute without the filter)

The model answers every question; its feedback on an answer is a review of it, and what it says when the options stand
in other orders. The option that most of these name is the refined answer. It is learnt where the model's own tries
agree on it (`--agree`): every dialogue that led to it, as it was asked. Right answers that the file may hold are not
read. A round trains the start on what was kept in all rounds so far; its questions are answered by the weights of the
round before. Source: SELF, arXiv 2310.00533, section 3.2 (`reward_vlm.writers.evolve`).

Differences from the paper: the feedback that decides is agreement, not words, for multiple-choice answers have no more
than an option to be wrong about; no stronger model teaches to give feedback first.

`tries.jsonl` of a round holds the tries at each question in the order of the file, each its option and its dialogue:
with hidden labels at hand it tells how precise the filter was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from reward_vlm.data import Question, open_question, told_rows
from reward_vlm.job import place
from reward_vlm.options import TRLTraining
from reward_vlm.results import Results
from reward_vlm.scl import lessons
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.deliberate import Model, answers, reordered
from reward_vlm.scl.lessons import Lesson, LessonTraining, write_lessons
from reward_vlm.scl.options import SCLOptions, Updates
from reward_vlm.scl.talk import Talk
from reward_vlm.scl.train import kept_corrector
from reward_vlm.writers.evolve import Own, self_evolve
from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.config import to_dict


@dataclass(frozen=True)
class SelfTraining(TRLTraining):
    """Learn from what the model agrees with itself about."""

    unlabelled: Path
    """JSON lines of multiple-choice questions; right answers in them are not read."""
    folder: Path = field(default=Path("runs/self"), kw_only=True)
    """Gets the rounds and the finished `weights`; a run that finds its own state goes on from it."""
    rounds: int = 1
    """Rounds of answering, feedback and training."""
    orders: int = 3
    """Other orders of the options in which every question is asked."""
    agree: float = 0.75
    """Share of the tries that must name the refined answer for it to be learnt."""
    keep: Literal["agreed", "all"] = "agreed"
    """all: as many dialogues are learnt, drawn from all of them whatever they say; a control."""
    asking: SCLOptions = field(default_factory=lambda: SCLOptions(batch_size=32))
    """How the model is asked; answers are reviewed with the first of its reviews."""
    updates: Updates = field(default_factory=Updates)
    """The recipe of the training."""
    device: str = "auto"
    """Where the model answers: cpu, cuda, ...; auto takes a GPU when there is one, as the training does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.orders < 1:
            raise ValueError(f"rounds and orders must be at least 1, got {self.rounds} and {self.orders}.")
        if not 0 < self.agree <= 1:
            raise ValueError(f"agree must lie in (0, 1], got {self.agree}.")


class Try(NamedTuple):
    """A dialogue about a question, and the option of the question that it ends with."""

    choice: str | None
    """The option; None when the reply gives none."""
    turns: list[dict[str, str]]
    """{role, content} of the dialogue."""


@dataclass(frozen=True)
class Refined:
    """The answer that the tries at a question come to."""

    choice: str | None
    """The option that most of them name."""
    agreed: float
    """Share of the tries that name it."""
    tries: tuple[Try, ...]
    """All of them, the plain answer first."""


@one_at_a_time
def train(options: SelfTraining, *, log: Log | None = None) -> Path:
    """Run the rounds and return the folder of the last weights.

    Raises:
        ValueError: rows cannot be used (they are named by number), there are none, or the model agrees with itself
            about none of them.
    """
    begin_run(options.folder, options, data=("unlabelled", "start", "trl"))
    say, weights = log or (lambda line: None), options.folder / "weights"
    if weights.exists():
        return weights
    rows = told_rows(options.unlabelled, open_question, say, skip_bad=options.skip_bad, needed="questions")
    run = _Evolution(options, say, [kept_corrector(options.start, options.folder, options.dtype)])
    questions = [replace(row, answer=None) for row in rows]
    self_evolve(questions, run.ask, run.feedback, run.refined, run.keep, run.learn, options.rounds)
    if len(run.weights) == 1:
        raise ValueError("The model agrees with itself about none of the questions; lower --agree, or ask more.")
    last = run.weights[-1]
    return publish(weights, lambda part: SCLCorrector.from_pretrained(last).save_pretrained(part))


@dataclass
class _Evolution:
    options: SelfTraining
    say: Log
    weights: list[Path]
    """The start, and those of every round."""
    tries: list[list[Try]] = field(default_factory=list)
    """At every question, by the weights of the last round."""
    made: list[Own] = field(default_factory=list)
    """In all rounds, kept or not."""

    def ask(self, questions: Sequence[Question]) -> list[Try]:
        """The first answers; their feedback is asked for at once, batch by batch."""
        options, number = self.options, len(self.weights)
        corrector = SCLCorrector.from_pretrained(self.weights[-1], **place(options.device, options.dtype))
        model = corrector.asking(options.asking)
        facts = {"made_by": to_dict(corrector.config), "asking": to_dict(options.asking), "orders": options.orders}
        results = Results(options.folder / f"round-{number}" / "tries.jsonl", facts)
        with results.alone():
            for start in range(len(results.rows), len(questions), model.batch_size):
                part = questions[start : start + model.batch_size]
                seeds = [options.asking.seed + place for place in range(start, start + len(part))]
                results.add(*({"tries": row} for row in all_tries(model, part, options.orders, seeds)))
                self.say(f"{len(results.rows)}/{len(questions)} questions")
        self.tries = [[Try(*one) for one in row["tries"]] for row in results.rows]
        return [row[0] for row in self.tries]

    def feedback(self, questions: Sequence[Question], first: Sequence[Try]) -> list[list[Try]]:
        """What the review of each answer says, and the question in other orders."""
        return [row[1:] for row in self.tries]

    def refined(
        self, questions: Sequence[Question], first: Sequence[Try], words: Sequence[Sequence[Try]]
    ) -> list[Refined]:
        """What answers and feedback come to."""
        return [refined_answer([one, *more]) for one, more in zip(first, words, strict=True)]

    def keep(self, own: Own) -> bool:
        """Whether the tries agree enough."""
        self.made.append(own)
        return own.refined.choice is not None and own.refined.agreed >= self.options.agree

    def learn(self, kept: Sequence[Own], number: int) -> None:
        """Weights that have learnt what was kept in all rounds."""
        options, folder = self.options, self.options.folder / f"round-{number + 1}"
        made = learnt(kept)
        if options.keep == "all":
            rng = np.random.default_rng((options.seed, number))
            every = [_lesson(own.prompt, one) for own in self.made for one in own.refined.tries]
            made = [every[place] for place in rng.permutation(len(every))[: len(made)]]
        self.say(f"round {number + 1}: {len(kept)} answers that the tries agree on, {len(made)} dialogues to learn")
        path = write_lessons(made, folder / "lessons.jsonl")
        training = LessonTraining(
            path, updates=options.updates, folder=folder / "training", start=str(self.weights[0]),
            save_every=options.save_every, seed=options.seed + number, dtype=options.dtype, trl=options.trl,
        )  # fmt: skip
        self.weights.append(lessons.train(training, log=self.say))


def all_tries(model: Model, questions: Sequence[Question], orders: int, seeds: Sequence[int]) -> list[list[Try]]:
    """The plain answer to each question, what its review says, and the answers in other orders of the options."""
    first = answers(model, [Talk(question) for question in questions], [None] * len(questions), model.sampling, seeds)
    again = answers(model, first, [model.review] * len(first), model.sampling, seeds)
    others = reordered(model, questions, orders, seeds)
    return [
        [Try(talk.final.choice, talk.dialogue.texts()) for talk in (one, review, *more)]
        for one, review, more in zip(first, again, others, strict=True)
    ]


def refined_answer(tries: Sequence[Try]) -> Refined:
    """The option that most tries name; of equal ones the first."""
    named = Counter(one.choice for one in tries if one.choice is not None)
    choice, count = named.most_common(1)[0] if named else (None, 0)
    return Refined(choice, count / len(tries), tuple(tries))


def learnt(kept: Sequence[Own]) -> list[Lesson]:
    """The dialogues that led to the refined answers, as they were asked."""
    return [_lesson(own.prompt, one) for own in kept for one in own.refined.tries if one.choice == own.refined.choice]


def _lesson(question: Question, one: Try) -> Lesson:
    return Lesson(question.id, tuple(one.turns), question.images)
