"""Self-correction learning in rounds on the refinement core: construct pairs, train on them, evaluate, accept or roll
back.

    burnish train scl --recipe rounds --questions train.jsonl --held-out test.jsonl --start org/name \\
        --rounds 2 --folder runs/scl

The state is the name of a folder of weights. Round r asks questions drawn from (seed, r) with the weights of the state,
makes pairs of the answers that changed between right and wrong, and trains; the weights before the round are the
reference policy. A round after which fewer first answers to the held-out questions are right than after the best
one, by more than `tolerance`, is undone. Every part of a round goes on after a kill, and the state is kept after each
round, so that a killed run ends with the weights of one that was not.

One process does it all. To train in several, make the pairs and train on them in turn (`reward_vlm.scl.train`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from reward_vlm.data import Question, question, read_rows
from reward_vlm.job import place
from reward_vlm.options import TRLTraining
from reward_vlm.scl import train as training
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.evaluate import measure, summary
from reward_vlm.scl.options import DPO, SCLOptions, SCLTraining
from reward_vlm.scl.pairs import build_pairs
from reward_vlm.training import log_row
from vision.checkpoints import Log, begin_run, forget_after, one_at_a_time, publish
from vision.refine import Verdict, checkpoints, load_checkpoint, refine, roll_back_if_worse


@dataclass(frozen=True)
class SCLRounds(TRLTraining):
    """Construct, train and evaluate, round after round."""

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
    """How the model is asked when pairs are made; the seed of a round takes the place of its seed."""
    dpo: DPO = field(default_factory=DPO)
    """The recipe of the training."""
    seed: int = field(default=42, kw_only=True)
    """Of the questions of a round, the answers and the training."""
    device: str = "auto"
    """Where the model answers: cpu, cuda, ...; auto takes a GPU when there is one, as the training does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or (self.per_round or 1) < 1:
            raise ValueError(f"rounds and per_round must be at least 1, got {self.rounds} and {self.per_round}.")
        if self.asking.reviews == ():
            raise ValueError("Pairs come from reviews; give at least one (--asking.reviews).")


@one_at_a_time
def train(options: SCLRounds, *, log: Log | None = None) -> Path:
    """Run the rounds and return the folder of the best weights.

    Raises:
        ValueError: rows cannot be used (they are named by number), a question is in both files, or no answer of the
            first round changed between right and wrong.
    """
    begin_run(options.folder, options, data=("questions", "held_out", "start", "trl"))
    say, weights = log or (lambda line: None), options.folder / "weights"
    if weights.exists():
        return weights
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("Rounds run in one process; for several, make the pairs first and train on them.")
    run = Rounds(options, _read(options.questions, options, say), _read(options.held_out, options, say), say)
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
    say(f"the best weights are {done.state}: {done.score:.3f} of the held-out questions right at the first answer")
    return publish(weights, lambda part: shutil.copytree(options.folder / done.state, part, dirs_exist_ok=True))


@dataclass(frozen=True)
class Rounds:
    """What the rounds work with; a state is the name of a folder of weights inside the run's folder."""

    options: SCLRounds
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
        """Round `number`: pairs, and weights trained on them; a later round without pairs leaves them as they are.

        Raises:
            ValueError: the first round has no pairs.
        """
        options, folder = self.options, self.options.folder / f"round-{number}"
        asking = replace(options.asking, seed=options.seed * 1_000_003 + number * 100_003)
        pairs = build_pairs(
            self._corrector(name), self.select(number), folder / "pairs", asking, model=name,
            evaluation=self.held_out, log=self.say,
        )  # fmt: skip
        if not pairs and number > 1:
            self.say(f"round {number}: no answer changed between right and wrong; there is nothing to learn from")
            return name
        weights = training.train(
            SCLTraining(
                folder / "pairs" / "pairs.jsonl", options.dpo, folder=folder / "training",
                start=str(options.folder / name), save_every=options.save_every, seed=options.seed + number,
                dtype=options.dtype, trl=options.trl,
            ),
            log=self.say,
        )  # fmt: skip
        return str(weights.relative_to(options.folder))

    def evaluate(self, name: str, number: int | None) -> Verdict:
        """The share of right first answers to the held-out questions, the most probable ones; `rounds.jsonl` gets the
        whole summary. None: of the start."""
        number = number or 0
        asking = replace(self.options.asking, temperature=0.0)
        row = summary(measure(self._corrector(name), self.held_out, asking))
        log_row(self.options.folder / "rounds.jsonl", {"step": number, "weights": name, **row})
        self.say(
            f"round {number}/{self.options.rounds}: first {row['first']:.3f}, refined {row['refined']:.3f}, "
            f"corrected {row['wrong_to_right']:.3f}, spoiled {row['right_to_wrong']:.3f}"
        )
        return Verdict(row["first"], row)

    def select(self, number: int) -> list[Question]:
        """The questions of a round, drawn from (seed, round)."""
        order = np.random.default_rng((self.options.seed, number)).permutation(len(self.questions))
        return [self.questions[place] for place in order[: self.options.per_round]]

    def _corrector(self, name: str) -> SCLCorrector:
        options = self.options
        return SCLCorrector.from_pretrained(options.folder / name, **place(options.device, options.dtype))


def _read(path: Path, options: SCLRounds, say: Log) -> list[Question]:
    rows, problems = read_rows(path, question, skip_bad=options.skip_bad)
    for sentence in problems:
        say(f"left out: {sentence}")
    if not rows:
        raise ValueError(f"{path} holds no questions.")
    return rows
