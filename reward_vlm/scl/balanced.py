"""Rounds that learn from the model's own right answers, sampled and kept with settings that are tuned anew each round.

Before every round a few of its questions are answered at every temperature; the pair of a temperature and a threshold
with the highest balance of exploration (enough different right answers) and exploitation (few wrong ones among what is
kept) is taken for the rest (`reward_vlm.scl.balance`). A single temperature and threshold are the fixed settings to
compare with. Source: B-STaR, arXiv 2412.17256, section 3.

Differences from the paper: answers are different where their options are, and of those that name one option the
likeliest is kept: counted by their texts, hot samples explore most, with texts that are garbled. An answer's score is 1
where it is right, plus a fifth of the geometric mean of its tokens' probabilities (the paper adds a fifth of a process
reward). Rounds begin a new learning-rate schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from reward_vlm.data import Question
from reward_vlm.scl import lessons
from reward_vlm.scl.balance import Answer, Setting, Tuner, select
from reward_vlm.scl.lessons import Lesson, LessonTraining, write_lessons
from reward_vlm.scl.loop import Rounds
from reward_vlm.scl.options import Updates
from reward_vlm.scl.pairs import Record, answer_all, refuse_overlap
from reward_vlm.training import log_row
from vision.checkpoints import forget_after


@dataclass(frozen=True)
class Balance:
    """What is tuned, and how the kept answers are learnt."""

    temperatures: tuple[float, ...] = (0.5, 0.7, 0.9, 1.1)
    """To try before a round; one alone is fixed."""
    thresholds: tuple[float, ...] = (0.0, 0.15, 1.0, 1.1, 1.15)
    """Of the scores that are kept, to try before a round: from 1 on only right answers, the higher the surer."""
    tasks: int = 50
    """Questions of the round that are asked to tune."""
    samples: int = 8
    """Answers to each question."""
    updates: Updates = field(default_factory=Updates)
    """The recipe of the training."""

    def __post_init__(self) -> None:
        Tuner(self.temperatures, self.thresholds)  # its own check
        for name in ("tasks", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


class BalancedRounds(Rounds):
    """Rounds that learn from sampled answers; `settings.jsonl` of the run tells what each was made with."""

    def learn(self, name: str, number: int, folder: Path) -> Path | None:
        """A setting, answers that are kept with it, and weights that have learnt these."""
        balance, questions = self.options.balanced, self.select(number)
        refuse_overlap(questions, self.held_out)

        def sample(temperature: float, some: Sequence[Question], where: str) -> list[list[Record]]:
            asking = replace(self.asking(number), temperature=temperature, reviews=())
            records = answer_all(
                self.corrector(name), [each for each in some for _ in range(balance.samples)], folder / where, asking,
                model=name, told=lambda done, pairs: self.say(f"{done}/{len(some) * balance.samples} answers"),
            )  # fmt: skip
            return [records[at : at + balance.samples] for at in range(0, len(records), balance.samples)]

        setting = Setting(balance.temperatures[0], balance.thresholds[0], 0.0)
        if len(balance.temperatures) * len(balance.thresholds) > 1:
            few = questions[: balance.tasks]
            tuner = Tuner(balance.temperatures, balance.thresholds, n_star=1)  # one option is the right one
            setting = tuner.tune(lambda heat: [scored(records) for records in sample(heat, few, f"tune-{heat}")])
        pools = sample(setting.temperature, questions, "answers")
        kept = [kept_of(records, setting.threshold) for records in pools]
        self._tell(number, setting, kept)
        made = [Lesson(record.id, _turns(record), record.images) for pool in kept for record, _ in pool]
        if not made and number > 1:
            self.say(f"round {number}: no answer scores above {setting.threshold}; there is nothing to learn from")
            return None
        path = write_lessons(made, folder / "lessons.jsonl")
        training = LessonTraining(path, updates=balance.updates, **self.common(name, number, folder))
        return lessons.train(training, log=self.say)

    def _tell(self, number: int, setting: Setting, kept: Sequence[Sequence[tuple[Record, Answer]]]) -> None:
        """A line about a round's setting, and how much it explores and exploits."""
        said = [answer for pool in kept for _, answer in pool]
        right = sum(answer.right for answer in said)
        row = {
            "step": number, "temperature": setting.temperature, "threshold": setting.threshold,
            "balance": setting.balance, "kept": len(said), "right_per_question": right / max(len(kept), 1),
            "right_among_kept": right / max(len(said), 1),
        }  # fmt: skip
        path = self.options.folder / "settings.jsonl"
        forget_after(path, number - 1)
        log_row(path, row)
        self.say(
            f"round {number}: temperature {setting.temperature}, threshold {setting.threshold}, {len(said)} answers "
            f"kept, {row['right_among_kept']:.3f} of them right"
        )


def scored(records: Sequence[Record]) -> list[Answer]:
    """The samples of one question with their scores; what they say are their options."""
    return [
        Answer(record.choices[0] or "", right := record.choices[0] == record.gold, right + (record.confidence or 0) / 5)
        for record in records
    ]


def kept_of(records: Sequence[Record], threshold: float) -> list[tuple[Record, Answer]]:
    """The samples of one question that are learnt: of every option the likeliest, the highest score first."""
    answers = scored(records)
    made_of = {id(answer): record for record, answer in zip(records, answers, strict=True)}
    return [(made_of[id(answer)], answer) for answer in select(answers, threshold)]


def _turns(record: Record) -> tuple[dict[str, str], ...]:
    said = {"role": "assistant", "content": record.replies[0]}
    return ({"role": "user", "content": record.turns[0]["content"]}, said)
