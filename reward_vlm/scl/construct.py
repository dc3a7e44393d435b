r"""Make preference pairs of a model's own corrections.

    burnish train scl --recipe pairs --questions train.jsonl --held-out test.jsonl --start org/name \
        --folder runs/pairs
    burnish train scl --recipe pairs --benchmark MMBench --data MMBench_EN --start org/name \
        --folder runs/pairs

Writes records.jsonl (every question with the whole dialogue), pairs.jsonl (what `--recipe published` trains on) and
counts.json. Answers are written batch by batch: the same command goes on after a kill. `--published minicpm` asks,
reads and stores as the published code's script does for this model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from reward_vlm.data import Question, question, tell_left_out, told_rows
from reward_vlm.job import place
from reward_vlm.scl.corrector import PRETRAINED, SCLCorrector
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.pairs import build_pairs
from reward_vlm.scl.published import asked_as_published, write_preferences
from reward_vlm.scl.sources import BENCHMARKS, read_benchmark
from vision.checkpoints import Log, one_at_a_time
from vision.config import Dtype


@dataclass(frozen=True)
class PairConstruction:
    """Let a model answer and review questions, and keep what can be learnt from it."""

    questions: Path | None = None
    """JSON lines of multiple-choice questions with their right answers."""
    benchmark: str | None = None
    """Instead: a published set, such as MMStar, MMBench, SEEDBench, MMTBench or ScienceQA."""
    data: str | None = None
    """The set's file, folder or name on the hub; None: where it was published."""
    split: str | None = None
    """Of the set; None: the one that the published code uses."""
    limit: int | None = None
    """Use so many of its rows."""
    held_out: Path | None = None
    """JSON lines of questions that the model will be measured with; none may be among the others."""
    folder: Path = Path("runs/pairs")
    """Gets the results, and pictures that are no files."""
    start: str | None = None
    """Source of the weights; None: the embedded model."""
    asking: SCLOptions = field(default_factory=lambda: SCLOptions(temperature=0.7))
    """How the model is asked."""
    published: str | None = None
    """Ask and store as the published code does for minicpm, internlm, llava7b or llava13b."""
    prompt: Literal["full", "bare"] = "full"
    """A pair's prompt: the first turn as it was sent, or the question alone."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Dtype = "float32"
    """Numbers that the model computes with."""
    skip_bad: bool = False
    """Leave out rows that cannot be used; they are reported by number either way."""

    def __post_init__(self) -> None:
        if (self.questions is None) == (self.benchmark is None):
            raise ValueError("Give either a file of --questions or a --benchmark.")
        if self.benchmark is not None and self.benchmark not in BENCHMARKS:
            raise ValueError(f"There is no benchmark {self.benchmark!r}; known are {', '.join(BENCHMARKS)}.")
        if self.benchmark is None and (self.data, self.split, self.limit) != (None, None, None):
            raise ValueError("--data, --split and --limit belong to a --benchmark.")
        if self.asking.reviews == ():
            raise ValueError("Pairs come from reviews; give at least one (--asking.reviews).")
        if self.published is not None:
            asked_as_published(self.published, "construction")


@one_at_a_time
def train(options: PairConstruction, *, log: Log | None = None) -> Path:
    """Make the pairs and return their file.

    Raises:
        ValueError: rows cannot be used (they are named by number), a question is in both files, or the folder was begun
            with other questions or options.
    """
    say = log or (lambda line: None)
    questions = _questions(options, say)
    held_out: list[Question] = []
    if options.held_out is not None:
        held_out = told_rows(options.held_out, question, say, skip_bad=options.skip_bad)
    corrector = SCLCorrector.from_pretrained(options.start, **place(options.device, options.dtype))
    asking, prompt = options.asking, options.prompt
    first = (asking.reviews or corrector.config.reviews)[0]
    if options.published is not None:
        config, own = asked_as_published(options.published, "construction", first)
        corrector, prompt = SCLCorrector(corrector.chat, config), "bare"
        asking = replace(own, batch_size=asking.batch_size, seed=asking.seed)
    pairs = build_pairs(
        corrector,
        questions,
        options.folder,
        asking,
        model=options.start or PRETRAINED.name,
        evaluation=held_out,
        prompt=prompt,
        log=say,
    )
    if options.published is not None:
        number = first if isinstance(first, int) else None
        write_preferences(pairs, options.folder, options.published, options.benchmark or "questions", number)
    say(f"{len(pairs)} pairs of {len(questions)} questions are in {options.folder / 'pairs.jsonl'}")
    return options.folder / "pairs.jsonl"


def _questions(options: PairConstruction, say: Log) -> list[Question]:
    if options.questions is not None:
        return told_rows(options.questions, question, say, skip_bad=options.skip_bad)
    assert options.benchmark is not None
    found, problems = read_benchmark(
        options.benchmark,
        options.data,
        pictures=options.folder / "images",
        published=options.published is not None,
        split=options.split,
        limit=options.limit,
        skip_bad=options.skip_bad,
    )
    tell_left_out(problems, say)
    return found
