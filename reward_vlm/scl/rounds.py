"""Self-correction learning in rounds: construct pairs, train on them, evaluate, accept or roll back.

    burnish train scl --recipe rounds --questions train.jsonl --held-out test.jsonl --start org/name \\
        --rounds 2 --folder runs/scl
    burnish train scl --recipe rounds --balance ...       (sampled answers at tuned settings instead of pairs)

A round makes pairs of the answers that changed between right and wrong, and trains on them; the weights before the
round are the reference policy. How rounds go on, are judged and undone says `reward_vlm.scl.loop`; `--balance` is
described in `reward_vlm.scl.balanced`.

One process does it all. To train in several, make the pairs and train on them in turn (`reward_vlm.scl.train`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reward_vlm.scl import train as training
from reward_vlm.scl.balanced import Balance, BalancedRounds
from reward_vlm.scl.loop import Rounds, RoundTraining, run_rounds
from reward_vlm.scl.options import DPO, SCLTraining
from reward_vlm.scl.pairs import build_pairs
from vision.checkpoints import Log, one_at_a_time


@dataclass(frozen=True)
class SCLRounds(RoundTraining):
    """Construct, train and evaluate, round after round."""

    dpo: DPO = field(default_factory=DPO)
    """The recipe of the training on pairs."""
    balance: bool = False
    """Learn from the model's own right answers instead, sampled with a temperature and kept with a threshold that are
    tuned before every round."""
    balanced: Balance = field(default_factory=Balance)
    """How, with --balance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.asking.reviews == () and not self.balance:
            raise ValueError("Pairs come from reviews; give at least one (--asking.reviews).")


@one_at_a_time
def train(options: SCLRounds, *, log: Log | None = None) -> Path:
    """Run the rounds and return the folder of the best weights.

    Raises:
        ValueError: rows cannot be used (they are named by number), a question is in both files, or no answer of the
            first round changed between right and wrong.
    """
    return run_rounds(BalancedRounds if options.balance else PairRounds, options, log)


class PairRounds(Rounds):
    """Rounds that learn from pairs of corrections."""

    def learn(self, name: str, number: int, folder: Path) -> Path | None:
        """Pairs, and weights trained on them; None: a later round has no pairs.

        Raises:
            ValueError: the first round has no pairs.
        """
        options = self.options
        pairs = build_pairs(
            self.corrector(name), self.select(number), folder / "pairs", self.asking(number), model=name,
            evaluation=self.held_out, log=self.say,
        )  # fmt: skip
        if not pairs and number > 1:
            self.say(f"round {number}: no answer changed between right and wrong; there is nothing to learn from")
            return None
        return training.train(
            SCLTraining(folder / "pairs" / "pairs.jsonl", options.dpo, **self.common(name, number, folder)),
            log=self.say,
        )  # fmt: skip
