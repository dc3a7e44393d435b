r"""Learn to correct from one's own corrections: dialogues whose review led from a wrong answer to the right one.

    burnish train scl --recipe verified --questions train.jsonl --held-out test.jsonl --start org/name \
        --folder runs/verified
    burnish train scl --recipe verified ... --keep any           (control: as many dialogues, whatever they came to)

Every question is answered several times and each answer reviewed. The known option verifies: where the review corrected
the answer, the review's reply is learnt. As many reviews that left a right answer right are learnt beside, so that a
review does not change everything, and as many right first answers alone. Rounds are judged by the answers after the
review. Source: LeDex, arXiv 2405.18649, sections 3.1 and 3.2: what a model says of its faulty programs is learnt where
the program that follows passes the tests.

Differences from the paper: explanation and new answer are one reply, and nothing but the option verifies them; the
paper's dialogues were written by a stronger model first, these by the model that learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from reward_vlm.scl import lessons
from reward_vlm.scl.lessons import Lesson, LessonTraining, write_lessons
from reward_vlm.scl.loop import Rounds, RoundTraining, run_rounds
from reward_vlm.scl.options import Updates
from reward_vlm.scl.pairs import Record, answer_all, refuse_overlap
from vision.checkpoints import Log, one_at_a_time


@dataclass(frozen=True)
class VerifiedTraining(RoundTraining):
    """Learn from own reviews that the known option verifies."""

    attempts: int = 4
    """Times that a question is answered, and the answer reviewed."""
    keep: Literal["verified", "any"] = "verified"
    """any: as many dialogues and answers are learnt, drawn from all of them whatever they came to; a control."""
    updates: Updates = field(default_factory=Updates)
    """The recipe of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}.")
        if self.asking.reviews == ():
            raise ValueError("What is verified are reviews; name one (--asking.reviews 0).")


@one_at_a_time
def train(options: VerifiedTraining, *, log: Log | None = None) -> Path:
    """Run the rounds and return the folder of the best weights.

    Raises:
        ValueError: rows cannot be used (they are named by number), a question is in both files, or no review of the
            first round corrects an answer.
    """
    return run_rounds(VerifiedRounds, options, log)


class VerifiedRounds(Rounds):
    """Rounds that learn from verified reviews."""

    score: ClassVar[str] = "refined"

    def learn(self, name: str, number: int, folder: Path) -> Path | None:
        """Reviewed answers, the verified ones among them, and weights that have learnt these."""
        options, questions = self.options, self.select(number)
        refuse_overlap(questions, self.held_out)
        asked = [each for each in questions for _ in range(options.attempts)]
        records = answer_all(
            self.corrector(name), asked, folder / "attempts", self.asking(number), model=name,
            told=lambda done, pairs: self.say(f"{done}/{len(asked)} answers"),
        )  # fmt: skip
        made = verified(records, options.seed + number, everything=options.keep == "any")
        if not made:
            if number == 1:
                raise ValueError(
                    "No review corrects a wrong answer, so there is nothing to learn from; ask more questions or "
                    "attempts, or hotter (--asking.temperature), or begin with --recipe splice."
                )
            self.say(f"round {number}: no review corrects a wrong answer; there is nothing to learn from")
            return None
        self.say(f"round {number}: {len(made)} turns to learn from {len(records)} answers")
        path = write_lessons(made, folder / "lessons.jsonl")
        return lessons.train(
            LessonTraining(path, updates=options.updates, **self.common(name, number, folder)), log=self.say
        )


def verified(records: Sequence[Record], seed: int = 0, *, everything: bool = False) -> list[Lesson]:
    """The dialogues whose review corrects the answer; as many whose review leaves it right, and as many right first
    answers alone.

    Args:
        records: reviewed answers.
        seed: of what is drawn.
        everything: the same numbers are drawn from all dialogues and all first answers: a control.
    """
    rng = np.random.default_rng((seed, len(records)))
    corrected = [record for record in records if record.type == 2]
    kept = _drawn([record for record in records if record.type == 1], len(corrected), rng)
    alone = _drawn([record for record in records if record.type in (1, 3)], len(corrected), rng)
    dialogues = [*corrected, *kept]
    if everything:
        dialogues, alone = _drawn(records, len(dialogues), rng), _drawn(records, len(alone), rng)
    return [
        *(Lesson(record.id, record.turns, record.images) for record in dialogues),
        *(Lesson(record.id, _first(record), record.images) for record in alone),
    ]


def _drawn(records: Sequence[Record], count: int, rng: np.random.Generator) -> list[Record]:
    return [records[place] for place in rng.permutation(len(records))[:count]]


def _first(record: Record) -> tuple[dict[str, str], ...]:
    return (dict(record.turns[0]), {"role": "assistant", "content": record.replies[0]})
