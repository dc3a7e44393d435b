r"""Learn to turn back: a wrong answer, joined at the review with an attempt at the same question that went well.

    burnish train scl --recipe splice --questions train.jsonl --held-out test.jsonl --start org/name \
        --folder runs/splice
    burnish train scl --recipe splice ... --shuffle              (control: the good ends of other questions)
    burnish train scl --recipe splice ... --past-mask 0.05       (a share of the tokens of earlier answers is masked)

Every question is answered and reviewed several times. Its attempts are a tree: the question, the first answers, what
their reviews make of them. A path to a wrong end is kept up to the first answer that the model's own review does not
confirm; there, as the answer to the request to review, follow a thought of turning back and the path to a right end,
and these alone are learnt. As many right paths as there are splices are learnt whole, so that a review also learns to
leave a right answer alone. Rounds are judged by the answers after the review. Source: Agent-R, arXiv 2501.11425,
section 3.2 (`reward_vlm.writers.splices`); the past mask: CYCLE, arXiv 2403.18746, section 3.2.

Differences from the paper: attempts are drawn, not searched for by MCTS; the thought and the first answer after it are
one turn, for a review is answered in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from reward_vlm.scl import lessons
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.lessons import Lesson, LessonTraining, write_lessons
from reward_vlm.scl.loop import Rounds, RoundTraining, run_rounds
from reward_vlm.scl.options import Updates
from reward_vlm.scl.pairs import Record, answer_all, refuse_overlap
from reward_vlm.writers.masks import PastMask
from reward_vlm.writers.splices import GO_ON, REVISIONS, Attempt, Mark, Message, leaves, splice, whole, worth_splicing
from reward_vlm.writers.splices import Path as Attempts
from vision.checkpoints import Log, one_at_a_time

Judging = Literal["own", "truth"]


@dataclass(frozen=True)
class SpliceTraining(RoundTraining):
    """Learn to turn back from wrong answers."""

    attempts: int = 4
    """Times that a question is answered and reviewed."""
    judge: Judging = "own"
    """Who says which answer of an attempt is the first bad one: the model's own review (the paper), or the truth."""
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
        if (self.asking.reviews is not None and len(self.asking.reviews) != 1) or self.asking.rounds != 1:
            raise ValueError("Attempts are answers with one review each; name one (--asking.reviews 0).")


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
        corrector = self.corrector(name)
        records = answer_all(
            corrector, [each for each in questions for _ in range(options.attempts)], folder / "attempts",
            self.asking(number), model=name,
            told=lambda done, pairs: self.say(f"{done}/{len(questions) * options.attempts} attempts"),
        )  # fmt: skip
        groups = [records[start : start + options.attempts] for start in range(0, len(records), options.attempts)]
        made = spliced(groups, options.revisions, options.seed + number, judge=options.judge, shuffle=options.shuffle)
        made = short_enough(made, corrector)
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
    revisions: Sequence[str] = REVISIONS,
    seed: int = 0,
    *,
    judge: Judging = "own",
    shuffle: bool = False,
) -> list[Lesson]:
    """A lesson per turn that is learnt: splices of the wrong attempts at a question with one of its right ones, and as
    many right ones whole.

    Args:
        groups: the attempts at each question, each with one review.
        revisions: thoughts of turning back; one is drawn for each splice.
        seed: of what is drawn.
        judge: see `SpliceTraining.judge`.
        shuffle: exchange the good ends between the splices: a control.
    """
    rng = np.random.default_rng((seed, len(groups)))
    runs: list[tuple[Record, list[Message]]] = []
    right: list[tuple[Record, list[Message]]] = []
    for group in groups:
        root = _tree(group)
        ends = {id(path[-1]): place for place, path in enumerate(leaves(root))}
        pairs = [(good, ends[id(bad[-1])], bad) for good, bad in worth_splicing(root, alpha=0.0, beta=0.0)]
        for place, record in enumerate(group):
            partners = [(good, bad) for good, number, bad in pairs if number == place]
            if partners:
                good, bad = partners[rng.integers(len(partners))]
                thought = str(rng.choice(revisions)) if revisions else ""
                runs.append((record, splice(bad, good, _marks(record, judge), thought)))
        right += [(group[ends[id(path[-1])]], whole(path)) for path in leaves(root) if path[-1].value]
    if shuffle:
        places = rng.permutation(len(runs))
        runs = [(row, _with_end(run, runs[place][1])) for (row, run), place in zip(runs, places, strict=True)]
    chosen = rng.permutation(len(right))[: len(runs)]
    return [lesson for row, run in [*runs, *(right[place] for place in chosen)] for lesson in _lessons(row, run)]


def short_enough(made: Sequence[Lesson], corrector: SCLCorrector) -> list[Lesson]:
    """The lessons whose learnt turn the corrector's replies can hold.

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


def _tree(group: Sequence[Record]) -> Attempt:
    """The attempts at a question as a tree: first answers, and what their reviews make of them."""
    request = group[0].turns[2]["content"]
    firsts = []
    for record in group:
        end = Attempt(record.replies[1], request, float(record.choices[1] == record.gold))
        firsts.append(Attempt(record.replies[0], request, children=(end,)))
    return Attempt(group[0].turns[0]["content"], children=tuple(firsts))


def _marks(record: Record, judge: Judging) -> Callable[[Attempts], Mark]:
    """What is said of the answers of an attempt, see `SpliceTraining.judge`."""

    def mark(path: Attempts) -> Mark:
        if judge == "truth":
            return "good" if record.choices[len(path) - 2] == record.gold else "bad"
        return "bad" if len(path) == 2 and record.choices[0] != record.choices[1] else "uncertain"

    return mark


def _with_end(run: Sequence[Message], other: Sequence[Message]) -> list[Message]:
    """A run up to where its learnt part begins, and that of another one."""
    first, second = (next(place for place, turn in enumerate(each) if turn.trained) for each in (run, other))
    return [*run[:first], *other[second:]]


def _lessons(record: Record, run: Sequence[Message]) -> Iterator[Lesson]:
    """A lesson per learnt turn; a thought and the answer after it are one."""
    joined: list[Message] = []
    for message in run:
        if joined and joined[-1] == Message("user", GO_ON, False):
            joined[-2:] = [replace(message, text=f"{joined[-2].text} {message.text}".strip())]
        else:
            joined.append(message)
    turns = tuple({"role": message.role, "content": message.text} for message in joined)
    for end, message in enumerate(joined, 1):
        if message.trained:
            yield Lesson(record.id, turns[:end], record.images)
