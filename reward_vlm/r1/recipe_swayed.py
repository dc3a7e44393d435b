"""What reinforcement adds to a judge whose teacher errs: a small judge learns from a biased writer, then from labels.

    burnish train r1 --recipe mini-swayed --seed 0 --folder runs/r1-swayed

Judgements for a cold start are written by a model, and language models prefer what they read first. The writer here
describes a picture rightly unless the answers differ in the colour of the object: there he sees, in `swayed` of the
pairs, the colour that answer 1 names, and chooses it. One in seven of his judgements is wrong. The judge that imitates
him sees in such pairs what answer 1 says; StableReinforce, which is told only which answer is right, has to bring it
back to looking. The recipe is that of `reward_vlm.r1.recipe_mini` otherwise; the figures of three seeds stand in
`docs/r1_reward.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reward_vlm.data import Preference
from reward_vlm.r1.recipe_mini import SEEDS, MiniR1Training, train
from reward_vlm.scenes import scene_pairs

__all__ = ["SwayedJudgeTraining", "train"]


@dataclass(frozen=True)
class SwayedJudgeTraining(MiniR1Training):
    """The recipe of a small judge with a biased teacher."""

    folder: Path = Path("runs/r1-swayed")
    """Data, the two stages and the report go here."""
    swayed: float = 0.6
    """Share of the pairs with different colours of the object in which the writer sees what answer 1 says."""
    sft_steps: int = 180
    """Updates of the cold start, 32 judgements each."""
    sft_schedule: Literal["cosine", "constant"] = "cosine"
    """Of the cold start."""
    rounds: int = 6
    """Rounds of reinforcement."""
    steps: int = 20
    """Updates per round."""
    judgements: int = 64
    """Judgements per update of reinforcement, a multiple of 32."""
    rate: float = 3e-4
    """Peak learning rate of reinforcement."""
    tolerance: float = 0.1
    """A round that lowers the held-out accuracy by more than this is undone."""
    rows: tuple[int, int, int] = (4000, 3000, 200)
    """Pairs for the cold start, for reinforcement, and held out to judge the rounds."""

    def __post_init__(self) -> None:
        if not 0 <= self.swayed <= 1:
            raise ValueError(f"swayed is a share of the pairs and must be in [0, 1], got {self.swayed}.")

    def pairs(self, name: str, count: int) -> list[Preference]:
        """The pairs of a stage: one of `SEEDS`; only those of the cold start come from the biased writer."""
        return scene_pairs(SEEDS[name], count, swayed=self.swayed if name == "sft" else 0.0)
