"""Training of the judge of restorations in a duel, on a CPU: one side plants faults, the judge has to find them.

    burnish train judge --recipe duel --choices runs/known --photos photos --folder runs/judge
    burnish evaluate judge --choices runs/held_out --photos held_out --evaluators judge:runs/judge --planted 100 \\
        --out runs/agreement

The judge learns as `burnish train judge` lets it; then every round plants faults in the restorations, the judge names
windows, the sneaky side learns what fooled it, and the judge learns anew from all faults so far beside its other pairs.
After SPC (arXiv 2504.19162, `restoration.duel`). `--sneaky draws` leaves the choice of faults to chance, and `--rounds
0` is no duel. Writes rounds.json beside the weights: how many faults of every round were found.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from restoration.duel import Sneaky, drafts_of, pairs_of, play
from restoration.train_judge import JudgeTraining, fit, plain_judge, stacked
from vision.checkpoints import one_at_a_time
from vision.files import atomic_path
from vision.planted import KINDS


@dataclass(frozen=True)
class DuelTraining(JudgeTraining):
    """What the duel may choose beside what the training of the judge may."""

    spoiled: int = 3000
    """Pairs of spoiled photographs."""
    steps: int = 1500
    """Updates after every round, of 512 pairs of every kind."""
    rounds: int = 2
    """After each both sides learn; 0: no duel."""
    bouts: int = 250
    """Faults of a round."""
    sneaky: Literal["learns", "draws"] = "learns"
    """Whether faults are chosen by what fooled the judge, or by chance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 0 or self.bouts < 1:
            raise ValueError(f"rounds must be at least 0 and bouts at least 1, got {self.rounds} and {self.bouts}.")
        if self.sneaky not in ("learns", "draws"):
            raise ValueError(f"sneaky must be learns or draws, got {self.sneaky}.")


@one_at_a_time
def train(options: DuelTraining, *, log: Callable[[str], object] | None = None) -> Path:
    """Train to the end and return the folder of the weights.

    Raises:
        FileNotFoundError, ValueError: as `plain_judge`.
    """
    items, parts, judge = plain_judge(options)
    config = judge.config
    drafts = drafts_of(items, config.side)
    sneaky = Sneaky(drafts, config.side, KINDS, options.seed, options.sneaky == "learns")
    pairs, told = [], []
    for number in range(options.rounds):
        bouts, invalid = play(sneaky, judge, options.bouts, number)
        sneaky.learn(bouts)
        pairs += pairs_of(bouts, drafts, config.side)
        told.append(_told(sneaky, bouts, invalid))
        if log is not None:
            log(f"Round {number + 1}: {told[-1]['found']:.2f} of {len(bouts)} faults found, {invalid} were none.")
        judge = fit([*parts.values(), stacked(pairs, "planted faults")], config, options)
    judge.save_pretrained(options.folder)
    with atomic_path(options.folder / "rounds.json") as part:
        part.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return options.folder


def _told(sneaky: Sneaky, bouts: Any, invalid: int) -> dict[str, Any]:
    """What is known of a round, by kind."""
    rows = {kind: [bout.found for bout in bouts if bout.planted.value.kind == kind] for kind in sneaky.kinds}
    kinds = {kind: {"faults": len(found), "found": sum(found)} for kind, found in rows.items()}
    share = sum(bout.found for bout in bouts) / max(len(bouts), 1)
    return {"found": share, "faults": len(bouts), "no faults": invalid, "kinds": kinds}
