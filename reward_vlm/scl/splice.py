r"""Learn to turn back: a wrong answer, joined at the review with an attempt at the same question that went well.

    burnish train scl --recipe splice --questions train.jsonl --held-out test.jsonl --start org/name \
        --folder runs/splice
    burnish train scl --recipe splice ... --shuffle              (control: the good ends of other questions)
    burnish train scl --recipe splice ... --past-mask 0.05       (a share of the tokens of earlier answers is masked)

Every question is answered several times. A wrong answer is kept; there, as the reply to the request to review it,
follow a thought of turning back and a right answer to the same question, and these alone are learnt. As many right
answers are followed by another right one, so that a review also learns to leave a right answer alone, and as many are
learnt as they are, so that first answers do not begin with the thought. Rounds are judged by the answers after the
review. Source: Agent-R, arXiv 2501.11425, section 3.2 (`reward_vlm.writers.splices`); the past
mask: CYCLE, arXiv 2403.18746, section 3.2.

Differences from the paper: attempts are drawn, not searched for by MCTS; an attempt is one answer, so that there is no
earlier place to cut it; the thought and the answer after it are one turn, for a review is answered in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from reward_vlm.scl import lessons
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.lessons import Lesson, LessonTraining, write_lessons
from reward_vlm.scl.loop import Rounds, RoundTraining, run_rounds
from reward_vlm.scl.options import Updates
from reward_vlm.scl.pairs import Record, answer_all, refuse_overlap
from reward_vlm.scl.talk import Talk
from reward_vlm.writers.masks import PastMask
from reward_vlm.writers.splices import REVISIONS, Attempt, Message, leaves, splice, whole, worth_splicing
from vision.checkpoints import Log, one_at_a_time


@dataclass(frozen=True)
class SpliceTraining(RoundTraining):
    """Learn to turn back from wrong answers."""

    attempts: int = 4
    """Times that a question is answered."""
    revisions: tuple[str, ...] = REVISIONS
    """Thoughts of turning back, of which one is drawn; empty: a right answer follows without one."""
    updates: Updates = field(default_factory=Updates)
    """The recipe of the training."""
    past_mask: float = 0.0
    """Share of the tokens of earlier answers that are masked while the review is learnt, so that it cannot copy them;
    the paper takes 0.05."""
    shuffle: bool = False
    """Exchange the good ends between questions: a control, which must not teach to correct."""

    def __post_init__(self) -> None:
        super().__post_init__()
        PastMask(self.past_mask)  # its own check
        if self.attempts < 2:
            raise ValueError(f"A splice joins two attempts; attempts must be 2 or more, got {self.attempts}.")
        if self.asking.reviews == ():
            raise ValueError("Splices join answers at a review; name one (--asking.reviews 0).")


@one_at_a_time
def train(options: SpliceTraining, *, log: Log | None = None) -> Path:
    """Run the rounds and return the folder of the best weights.

    Raises:
        ValueError: rows cannot be used (they are named by number), a question is in both files, or there is nothing to
            learn from in the first round.
    """
    return run_rounds(SpliceRounds, options, log)


class SpliceRounds(Rounds):
    """Rounds that learn from splices."""

    score: ClassVar[str] = "refined"

    def learn(self, name: str, number: int, folder: Path) -> Path | None:
        """Attempts, splices of them, and weights that have learnt these."""
        options, questions = self.options, self.select(number)
        refuse_overlap(questions, self.held_out)
        corrector, asking = self.corrector(name), self.asking(number)
        records = answer_all(
            corrector, [each for each in questions for _ in range(options.attempts)], folder / "attempts",
            replace(asking, reviews=()), model=name,
            told=lambda done, pairs: self.say(f"{done}/{len(questions) * options.attempts} attempts"),
        )  # fmt: skip
        groups = [records[start : start + options.attempts] for start in range(0, len(records), options.attempts)]
        requests = [corrector.ask(Talk(each), corrector.schedule(asking)[1]).turns[-1].text for each in questions]
        joined, said = spliced(groups, requests, options.revisions, options.seed + number, shuffle=options.shuffle)
        made = [*short_enough(joined, corrector), *said]
        if not made and number > 1:
            self.say(f"round {number}: no question has right and wrong attempts; there is nothing to learn from")
            return None
        self.say(f"round {number}: {len(made)} turns to learn from {len(questions)} questions")
        path = write_lessons(made, folder / "lessons.jsonl")
        training = LessonTraining(
            path, updates=options.updates, past_mask=options.past_mask, **self.common(name, number, folder)
        )
        return lessons.train(training, log=self.say)


def spliced(
    groups: Sequence[Sequence[Record]],
    requests: Sequence[str],
    revisions: Sequence[str] = REVISIONS,
    seed: int = 0,
    *,
    shuffle: bool = False,
) -> tuple[list[Lesson], list[Lesson]]:
    """Splices of the wrong attempts at a question with its right ones; and as many right attempts that another right
    one follows, with as many right attempts alone.

    Args:
        groups: the attempts at each question.
        requests: to review an answer, for each question.
        revisions: thoughts of turning back; one is drawn for each splice.
        seed: of what is drawn.
        shuffle: exchange the good ends between the splices: a control.
    """
    rng = np.random.default_rng((seed, len(groups)))
    runs: list[tuple[Record, list[Message]]] = []
    right: list[tuple[Record, list[Message]]] = []
    alone: list[tuple[Record, list[Message]]] = []
    for group, request in zip(groups, requests, strict=True):
        root = _tree(group, request)
        paths = dict(zip(map(id, root.children), group, strict=True))
        pairs = worth_splicing(root, alpha=0.0, beta=0.0)
        for bad in {id(bad[-1]): bad for _, bad in pairs}.values():
            ends = [good for good, other in pairs if other[-1] is bad[-1]]
            thought = str(rng.choice(revisions)) if revisions else ""
            run = splice(bad, ends[rng.integers(len(ends))], lambda path: "bad", thought)
            runs.append((paths[id(bad[-1])], _in_one_reply(run)))
        good = [path for path in leaves(root) if path[-1].value]
        for path, after in zip(good, [*good[1:], *good[:1]], strict=True):
            right.append((paths[id(path[-1])], whole((*path, after[-1]))))
            alone.append((paths[id(path[-1])], whole(path)))
    if shuffle:
        places = rng.permutation(len(runs))
        runs = [(row, [*run[:3], *runs[place][1][3:]]) for (row, run), place in zip(runs, places, strict=True)]
    said = [made[place] for made in (right, alone) for place in rng.permutation(len(made))[: len(runs)]]
    joined, kept = ([_lesson(row, run) for row, run in made] for made in (runs, said))
    return joined, kept


def short_enough(made: Sequence[Lesson], corrector: SCLCorrector) -> list[Lesson]:
    """The splices whose learnt turn the corrector's replies can hold.

    Raises:
        ValueError: these are less than half.
    """
    limit, tokenizer = corrector.config.max_new_tokens, corrector.model.tokenizer
    counts = [len(tokenizer(one.turns[-1]["content"], add_special_tokens=False)["input_ids"]) + 1 for one in made]
    kept = [one for one, count in zip(made, counts, strict=True) if count <= limit]
    if len(kept) < len(made) / 2:
        raise ValueError(
            f"Turns to be learnt have up to {max(counts)} tokens, but the replies of these weights end after {limit}; "
            "give shorter thoughts (--revisions)."
        )
    return kept


def _tree(group: Sequence[Record], request: str) -> Attempt:
    """The attempts at a question as a tree of one level, whose environment asks for a review."""
    said = [Attempt(record.replies[0], request, float(record.choices[0] == record.gold)) for record in group]
    return Attempt(group[0].turns[0]["content"], children=tuple(said))


def _in_one_reply(run: Sequence[Message]) -> list[Message]:
    """A spliced run whose thought and the good answer after it are one reply, without what is said between."""
    *before, thought, _, good, end = run
    return [*before, replace(good, text=f"{thought.text} {good.text}".strip()), end]


def _lesson(record: Record, run: Sequence[Message]) -> Lesson:
    """Question, answer, request, and what is learnt; nobody replies to the request after it."""
    turns = tuple({"role": message.role, "content": message.text} for message in run[:-1])
    return Lesson(record.id, turns, record.images)
