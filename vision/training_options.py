"""What every training may choose, and what the stages of a small recipe do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class TrainOptions:
    """What every training run may choose."""

    folder: Path = Path("runs/train")
    """Checkpoints, the log and the finished weights go here; a run that finds its own checkpoint goes on from it."""
    steps: int = 1000
    """Optimiser updates."""
    batch_size: int = 16
    """Samples per process and micro-batch."""
    accumulate: int = 1
    """Micro-batches per update."""
    learning_rate: float = 1e-4
    """Peak learning rate of objectives that do not name their own."""
    final_learning_rate: float | None = None
    """End of the cosine decay; None keeps the peak rate."""
    warmup: int = 0
    """Updates of linear warm-up."""
    max_grad_norm: float | None = None
    """Gradients are clipped to this norm; None leaves them."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights of the first objective; None keeps none."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """no, bf16 or fp16."""
    eight_bit: bool = False
    """Keep the optimizer's state in 8 bits, a quarter of the memory; needs the package bitsandbytes."""
    seed: int = 0
    """Of the data and of every random number of the losses."""
    workers: int = 0
    """Processes that load data."""
    save_every: int = 500
    """Updates between checkpoints."""
    log_every: int = 50
    """Updates between log rows."""
    evaluate_every: int = 0
    """Updates between evaluations; 0 evaluates only at the end."""
    trackers: tuple[str, ...] = ()
    """Names of trackers to report to, such as tensorboard, trackio or wandb; each needs its package."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"mixed_precision must be no, bf16 or fp16, got {self.mixed_precision}.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1), got {self.ema_decay}.")


def stage_settings(
    options: Any, stages: Sequence[str], stage: str, *, folder: Path | None = None, fall: float = 100, **chosen: Any
) -> TrainOptions:
    """Settings of `fit_stage` for one stage of a small recipe: a cosine after a short warm-up, and averaged weights.

    Args:
        options: the recipe's dataclass, with `folder`, `seed`, and `steps`, `batch_sizes` and `rates` of every stage.
        stages: their names.
        stage: which one.
        folder: of the run, in which the stage gets its own; None: that of the options.
        fall: the learning rate at the start, over that at the end.
        chosen: further fields of `TrainOptions`.
    """
    number = stages.index(stage)
    steps, rate = options.steps[number], options.rates[number]
    same = {name: getattr(options, name) for name in ("mixed_precision", "workers") if hasattr(options, name)}
    shape = {"steps": steps, "batch_size": options.batch_sizes[number], "learning_rate": rate}
    shape |= {"final_learning_rate": rate / fall, "warmup": min(200, steps // 10), "max_grad_norm": 1.0}
    usual = {"ema_decay": 0.999, "seed": options.seed * len(stages) + number, "log_every": min(100, steps)}
    return TrainOptions((folder or options.folder) / stage, **{**same, **shape, **usual, **chosen})
