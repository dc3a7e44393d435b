"""What every training with TRL may choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TRLTraining:
    """The base of all options of trainings with TRL."""

    folder: Path
    """Checkpoints, the log and the finished `weights`; a run that finds its own state goes on from it."""
    start: str | None = None
    """Source of the weights to start from; None: those that come with the project."""
    save_every: int = 25
    """Updates between TRL's checkpoints."""
    trackers: tuple[str, ...] = ()
    """Names of trackers to report to, such as tensorboard, trackio or wandb; each needs its package."""
    seed: int = 0
    """Of the order of the rows and of everything that is drawn."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights while they are trained."""
    skip_bad: bool = False
    """Leave out rows that cannot be used; they are reported by number either way."""
    trl: Path | None = None
    """JSON file with further arguments of TRL's configuration."""

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise ValueError(f"save_every must be at least 1, got {self.save_every}.")
