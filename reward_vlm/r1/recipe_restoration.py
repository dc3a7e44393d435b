"""Training of the small judge of restorations that ships with the project, from nothing, on a CPU.

    burnish train r1 --recipe mini-restoration --photos photos --folder runs/r1-mini-restoration

The recipe of `reward_vlm.r1.recipe_mini` on pairs of spoiled photographs (`reward_vlm.photo_pairs`): a cold start on
written judgements, then StableReinforce. The image encoder starts with filters that see fine structure
(`reward_vlm.spectrum`); from random ones it learns to see it late or never (`docs/r1_reward.md`). Times and measured
results stand in the model card.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from reward_vlm.data import Preference
from reward_vlm.photo_pairs import QUESTION, PhotoPairs, photo_corpus
from reward_vlm.r1.options import R1Config
from reward_vlm.r1.recipe_mini import SEEDS, MiniR1Training, train
from reward_vlm.tiny import TinySize
from vision.photos import HELD_OUT_PHOTOS, TRAINING_PHOTOS, collect_photos

__all__ = ["PictureJudgeTraining", "train"]

VALIDATION_PHOTOS = TRAINING_PHOTOS[::7]
"""Judge the rounds; the others are trained on, and the test is on `HELD_OUT_PHOTOS`."""


@dataclass(frozen=True)
class PictureJudgeTraining(MiniR1Training):
    """The recipe of the small judge of restorations."""

    folder: Path = Path("runs/r1-mini-restoration")
    """Data, the two stages and the report go here."""
    photos: Path = Path("photos")
    """Folder below which the photographs lie; a missing one is told by name."""
    sft_steps: int = 1200
    """Updates of the cold start at most, 32 judgements each."""
    sft_every: int = 100
    """Updates of the cold start between checkpoints."""
    sft_rate: float = 1e-3
    """Peak learning rate of the cold start."""
    sft_schedule: Literal["cosine", "constant"] = "cosine"
    """Of the cold start."""
    rounds: int = 5
    """Rounds of reinforcement."""
    rate: float = 1e-4
    """Peak learning rate of reinforcement."""
    select: Literal["all", "hard"] = "hard"
    """Prompts of a round: any, or those that the judge is least sure of. Where more than nine of ten judgements are
    right, the filter of three standard deviations drops every wrong one; the hard prompts leave it something to
    learn."""
    rows: tuple[int, int, int] = (16000, 3000, 200)
    """Pairs for the cold start, for reinforcement, and held out to judge the rounds."""
    size: TinySize = field(default_factory=lambda: TinySize(image_hidden=160, image_start="spectra"))
    """Sizes of the network."""

    def corpus(self) -> Iterable[str]:
        """Sentences of the task, for the tokenizer."""
        return photo_corpus()

    def config(self) -> R1Config:
        """How the weights are asked, and what they are taught."""
        return replace(super().config(), question=QUESTION, answers="pictures")

    def pairs(self, name: str, count: int) -> list[Preference]:
        """The pairs of a stage: one of `SEEDS`; each stage has photographs of its own but reinforcement, which has
        those of the cold start."""
        training = tuple(photo for photo in TRAINING_PHOTOS if photo not in VALIDATION_PHOTOS)
        names = {"held_out": VALIDATION_PHOTOS, "test": HELD_OUT_PHOTOS}.get(name, training)
        pairs = PhotoPairs(collect_photos(self.photos, self.folder / "pictures", names=names), SEEDS[name])
        return [pairs(index) for index in range(count)]
