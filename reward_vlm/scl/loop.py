"""Learning in rounds on the refinement core: learn from answers, evaluate, accept or roll back.

The state is the name of a folder of weights. Round r asks questions drawn from (seed, r) with the weights of the state,
and trains on what it makes of the answers; what that is, says each kind of rounds. A round after which fewer answers to
the held-out questions are right than after the best one, by more than `tolerance`, is undone. Every part of a round
goes on after a kill, and the state is kept after each round, so that a killed run ends with the weights of one that was
not. One process does it all.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from reward_vlm.data import Question, question, told_rows
from reward_vlm.job import place
from reward_vlm.options import TRLTraining
from reward_vlm.scl import train as training
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.evaluate import measure, summary
from reward_vlm.scl.options import SCLOptions
from reward_vlm.training import log_row
from vision.checkpoints import Log, begin_run, forget_after, publish
from vision.refine import Verdict, checkpoints, load_checkpoint, refine, roll_back_if_worse


@dataclass(frozen=True)
class RoundTraining(TRLTraining):
    """The base of the options of what learns in rounds from answers to questions."""

    questions: Path
    """JSON lines of multiple-choice questions with their right answers, to learn from."""
    held_out: Path
    """JSON lines of questions that judge the rounds; none may be among the others."""
    folder: Path = field(default=Path("runs/scl"), kw_only=True)
    """Gets the rounds, rounds.jsonl and the `weights` of the best one; a run that finds its own state goes on."""
    rounds: int = 1
    """Rounds after the start has been evaluated."""
    per_round: int | None = None
    """Questions of a round; None: all."""
    tolerance: float = 0.0
    """A round may lose so much held-out accuracy against the best before it is undone."""
    asking: SCLOptions = field(default_factory=lambda: SCLOptions(temperature=0.7))
    """How the model is asked for what it learns from; the seed of a round takes the place of its seed."""
    seed: int = field(default=42, kw_only=True)
    """Of the questions of a round, the answers and the training."""
    device: str = "auto"
    """Where the model answers: cpu, cuda, ...; auto takes a GPU when there is one, as the training does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or (self.per_round or 1) < 1:
            raise ValueError(f"rounds and per_round must be at least 1, got {self.rounds} and {self.per_round}.")


def run_rounds(kind: type[Rounds], options: RoundTraining, log: Log | None) -> Path:
    """Run rounds of a kind and return the folder of the best weights; see `train`."""
    begin_run(options.folder, options, data=("questions", "held_out", "start", "trl"))
    say, weights = log or (lambda line: None), options.folder / "weights"
    if weights.exists():
        return weights
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("Rounds run in one process; for several, make the pairs first and train on them.")
    run = kind(options, _read(options.questions, options, say), _read(options.held_out, options, say), say)
    resume = load_checkpoint(options.folder / "rounds")
    forget_after(options.folder / "rounds.jsonl", resume.index + 1 if resume else -1)
    done = refine(
        run.start(),
        run.propose,
        range(1, options.rounds + 1),
        evaluate=run.evaluate,
        accept=roll_back_if_worse(options.tolerance, restore=str),
        keep_best=str,
        resume=resume,
        observers=[checkpoints(options.folder / "rounds")],
        result="best",
        evaluate_start=True,
    )
    said = "at the first answer" if run.score == "first" else "after the review"
    say(f"the best weights are {done.state}: {done.score:.3f} of the held-out questions right {said}")
    return publish(weights, lambda part: shutil.copytree(options.folder / done.state, part, dirs_exist_ok=True))


@dataclass(frozen=True)
class Rounds(ABC):
    """What the rounds work with; a state is the name of a folder of weights inside the run's folder."""

    score: ClassVar[str] = "first"
    """By which of the values of `summary` a round is judged."""
    options: Any
    """Of the run."""
    questions: Sequence[Question]
    """That rounds draw from."""
    held_out: Sequence[Question]
    """That rounds are measured with."""
    say: Log
    """Gets lines about progress."""

    def start(self) -> str:
        """A copy of the weights to start from."""
        return training.kept_corrector(self.options.start, self.options.folder, self.options.dtype).name

    def propose(self, name: str, number: int) -> str:
        """Round `number`: the weights that it leads to; a later round that finds nothing leaves them as they are.

        Raises:
            ValueError: the first round finds nothing to learn from.
        """
        weights = self.learn(name, number, self.options.folder / f"round-{number}")
        return name if weights is None else str(weights.relative_to(self.options.folder))

    @abstractmethod
    def learn(self, name: str, number: int, folder: Path) -> Path | None:
        """The weights of round `number` inside its folder, from those called `name`; None: a later round finds nothing
        to learn from.

        Raises:
            ValueError: the first round finds nothing.
        """

    def asking(self, number: int) -> SCLOptions:
        """How the model is asked in a round."""
        return replace(self.options.asking, seed=self.options.seed * 1_000_003 + number * 100_003)

    def common(self, name: str, number: int, folder: Path) -> dict[str, Any]:
        """What the training of a round takes from the options of the run."""
        options = self.options
        return {
            "folder": folder / "training", "start": str(options.folder / name), "save_every": options.save_every,
            "seed": options.seed + number, "dtype": options.dtype, "trl": options.trl,
        }  # fmt: skip

    def evaluate(self, name: str, number: int | None) -> Verdict:
        """The share of right first answers to the held-out questions, the most probable ones; `rounds.jsonl` gets the
        whole summary. None: of the start."""
        number = number or 0
        asking = replace(self.options.asking, temperature=0.0)
        row = summary(measure(self.corrector(name), self.held_out, asking))
        log_row(self.options.folder / "rounds.jsonl", {"step": number, "weights": name, **row})
        self.say(
            f"round {number}/{self.options.rounds}: first {row['first']:.3f}, refined {row['refined']:.3f}, "
            f"corrected {row['wrong_to_right']:.3f}, spoiled {row['right_to_wrong']:.3f}"
        )
        return Verdict(row[self.score], row)

    def select(self, number: int) -> list[Question]:
        """The questions of a round, drawn from (seed, round)."""
        order = np.random.default_rng((self.options.seed, number)).permutation(len(self.questions))
        return [self.questions[place] for place in order[: self.options.per_round]]

    def corrector(self, name: str) -> SCLCorrector:
        """With the weights of a state."""
        options = self.options
        return SCLCorrector.from_pretrained(options.folder / name, **place(options.device, options.dtype))


def _read(path: Path, options: RoundTraining, say: Log) -> list[Question]:
    return told_rows(path, question, say, skip_bad=options.skip_bad, needed="questions")
