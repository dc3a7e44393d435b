"""Learn in which way a question is to be answered, from attempts of every way at questions of known answer.

    burnish train scl --recipe strategy --folder runs/ways                       (rendered scenes, embedded model)
    burnish train scl --recipe strategy --questions train.jsonl --held-out test.jsonl --start org/name \
        --folder runs/ways
    burnish answer --rows questions.jsonl --out answers.jsonl --strategy runs/ways

Every question is answered in every way of `reward_vlm.scl.ways`; the first answer, a review of it and the majority of
votes share their first reply. They teach a regression on numbers of the question and its first answer: every way by how
much better it was than the worst, less the price of its replies (`--lessons regret`), or the cheapest right way of
every question alone, the relabelling of SMART (`--lessons first`). Another price takes seconds. Writes attempts.jsonl
and held_out.jsonl (the same command goes on with them), strategy.json, and ways.json and .csv: the accuracy on the
held-out questions of every fixed way, of the pick, and of an oracle that knows for every question a way that is right.
Source: arXiv 2410.16128.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reward_vlm.data import Question, question, told_rows
from reward_vlm.job import place
from reward_vlm.results import Results
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.deliberate import answers, in_way
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.pairs import refuse_overlap
from reward_vlm.scl.scene_questions import TEST_SEED, scene_questions
from reward_vlm.scl.talk import Talk
from reward_vlm.scl.ways import WAYS, AnswerStrategy, answer_facts, attempts_choice, fit_strategy, replies
from vision.checkpoints import Log, begin_run, one_at_a_time
from vision.config import Dtype
from vision.report import text_table, wilson, write_table
from vision.strategies import Choice, StrategySelector


@dataclass(frozen=True)
class StrategyTraining:
    """Learn which way a question is to be answered."""

    folder: Path
    """Folder to write."""
    questions: Path | None = None
    """JSON lines of multiple-choice questions with their right answers, to learn from; None: rendered scenes."""
    held_out: Path | None = None
    """The same to measure with, with --questions; none may be among the others."""
    limit: int = 400
    """Questions to learn from, at most."""
    held_out_limit: int = 400
    """Questions to measure with, at most."""
    scenes: int = 1000
    """Seed of the rendered scenes that are learnt from; those of seed 99 are held out."""
    start: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    asking: SCLOptions = field(default_factory=lambda: SCLOptions(votes=8, batch_size=64))
    """How the model is asked; votes is how often a question is asked again in the way of votes, and the first of the
    reviews is the one that is tried."""
    lessons: Literal["regret", "first"] = "regret"
    """regret: every attempt teaches, weighted by how much better it was than the worst. first: the cheapest right way
    of a question is what should have been tried first."""
    price: float = 0.003
    """Share of right answers that one more reply must be worth, with regret."""
    decay: float = 0.3
    """Weight of the squared weights, per lesson."""
    seed: int = 42
    """Of the orders in which options are shown."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Dtype = "float32"
    """Numbers that the model computes with; bfloat16 halves the memory of large ones."""
    skip_bad: bool = False
    """Leave out rows that cannot be used; they are reported by number."""

    def __post_init__(self) -> None:
        if (self.questions is None) != (self.held_out is None):
            raise ValueError("Give both --questions and --held-out, or neither for rendered scenes.")
        if self.questions is None and self.scenes == TEST_SEED:
            raise ValueError(f"Scenes of seed {TEST_SEED} are held out; learn from another seed.")
        if min(self.limit, self.held_out_limit) < 1:
            raise ValueError(f"limits must be at least 1, got {self.limit} and {self.held_out_limit}.")
        if self.asking.deliberates or self.asking.votes < 1:
            raise ValueError("Every way is asked anyhow; say how many votes (--asking.votes 8) and no other way.")
        if self.decay <= 0 or not 0 <= self.price < 1:
            raise ValueError(f"decay must be above 0 and price in [0, 1), got {self.decay} and {self.price}.")


@one_at_a_time
def train(options: StrategyTraining, *, log: Log | None = None) -> Path:
    """Ask what is not asked yet, fit the selector, measure it, and return the folder.

    Raises:
        ValueError: rows cannot be used (they are named by number), a question is in both files, nothing can be learnt,
            or the folder was begun with other options or data.
    """
    begin_run(options.folder, options, data=("questions", "held_out", "start"), free=("lessons", "price", "decay"))
    say = log or (lambda line: None)
    learnt, held_out = _questions(options, say)
    refuse_overlap(learnt, held_out)
    corrector = SCLCorrector.from_pretrained(options.start, **place(options.device, options.dtype))
    parts = (("attempts", learnt), ("held_out", held_out))
    rows = {name: attempts(corrector, asked, options.folder / f"{name}.jsonl", options, say) for name, asked in parts}
    selector = fit_strategy(_choices(rows["attempts"], options), options.lessons, options.price, options.decay)
    model = corrector.asking(options.asking)
    AnswerStrategy(selector, options.asking.votes, model.review).save_pretrained(options.folder)
    table = measured(_choices(rows["held_out"], options), selector, options.asking.votes)
    write_table(table, options.folder / "ways.json", options.folder / "ways.csv")
    say(text_table(table, digits=3))
    return options.folder


def attempts(
    corrector: SCLCorrector, questions: Sequence[Question], path: Path, options: StrategyTraining, say: Log
) -> list[dict[str, Any]]:
    """A row per question: its numbers, and the option that every way names; those that `path` holds are not asked."""
    results = Results(path, {"questions": len(questions)})  # begin_run holds everything else
    model, size = corrector.asking(options.asking), options.asking.batch_size
    with results.alone():
        for start in range(len(results.rows), len(questions), size):
            asked = questions[start : start + size]
            seeds = [options.seed + start + number for number in range(len(asked))]
            first = answers(model, [Talk(each) for each in asked], [None] * len(asked), model.sampling, seeds)
            made = {way: in_way(model, first, way, options.asking.votes, options.asking, seeds) for way in WAYS}
            results.add(*_rows(asked, first, made))
            say(f"{len(results.rows)}/{len(questions)} questions answered in every way")
    return results.rows


def _rows(
    asked: Sequence[Question], first: Sequence[Talk], made: Mapping[str, Sequence[Talk]]
) -> Iterator[dict[str, Any]]:
    for number, (each, talk) in enumerate(zip(asked, first, strict=True)):
        chosen = {way: talks[number].final.choice for way, talks in made.items()}
        yield {"id": each.id, "answer": each.answer, "facts": answer_facts(talk), "chosen": chosen}


def measured(choices: Sequence[Choice], selector: StrategySelector, votes: int) -> list[dict[str, Any]]:
    """A row for every fixed way, the pick and the oracle: share of the questions answered rightly with its 95 %
    interval (Wilson), replies per question, and the share of the questions for which the pick is that way.

    The oracle takes the cheapest right way, and the first answer where none is right.
    """
    picks = [selector.pick(choice.facts) for choice in choices]
    ways = {way: [way] * len(choices) for way in WAYS}
    ways |= {"pick": picks, "oracle": [choice.kept.origin for choice in choices]}
    rows = []
    for name, chosen in ways.items():
        right = sum(_scores(choice)[way] == 1 for choice, way in zip(choices, chosen, strict=True))
        low, high = wilson(right, len(choices))
        rows.append(
            {
                "way": name, "questions": len(choices), "right": right / len(choices), "low": low, "high": high,
                "replies": sum(replies(way, votes) for way in chosen) / len(choices),
                "picked": picks.count(name) / len(choices) if name in WAYS else None,
            }
        )  # fmt: skip
    return rows


def _scores(choice: Choice) -> dict[str, float]:
    pairs = zip(choice.candidates, choice.verdicts, strict=True)
    return {candidate.origin: float(verdict.score) for candidate, verdict in pairs}


def _choices(rows: Sequence[Mapping[str, Any]], options: StrategyTraining) -> list[Choice]:
    return [
        attempts_choice(row["id"], row["facts"], row["chosen"], row["answer"], options.asking.votes) for row in rows
    ]


def _questions(options: StrategyTraining, say: Log) -> tuple[list[Question], list[Question]]:
    """To learn from, and to measure with."""
    if options.questions is None or options.held_out is None:
        return scene_questions(options.scenes, options.limit), scene_questions(TEST_SEED, options.held_out_limit)
    learnt, held_out = (
        told_rows(path, question, say, skip_bad=options.skip_bad, needed="questions")
        for path in (options.questions, options.held_out)
    )
    return learnt[: options.limit], held_out[: options.held_out_limit]
