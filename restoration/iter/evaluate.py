"""Measure ITER beside plain resizing and Real-ESRGAN.

    burnish evaluate iter --hr photos --degradation bicubic --variant clean --out runs/clean
    burnish evaluate iter --hr photos --degradation blind --out runs/blind --pictures
    burnish evaluate iter --pairs LQ HR --out runs/pairs

What is measured, and what is written, stands in `restoration/evaluate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from restoration.compare import Method
from restoration.evaluate import RestorationEvaluation, evaluate
from restoration.iter.options import ITEROptions
from restoration.iter.restorer import ITERRestorer
from vision.job import choose_device

__all__ = ["ITEREvaluation", "evaluate"]


@dataclass(frozen=True)
class ITEREvaluation(RestorationEvaluation):
    """Measure ITER on a folder."""

    variant: Literal["photo", "clean"] | None = None
    """Which embedded weights."""
    fidelity: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Settings between the deterministic result (1) and all sampled texture (0), each a row of the table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fidelity:
            raise ValueError("Name at least one fidelity, such as --fidelity 1.")

    def methods(self) -> tuple[int, dict[str, Method]]:
        """The scale, and a row of the table per fidelity."""
        restorer = ITERRestorer.from_pretrained(self.source, variant=self.variant, device=choose_device(self.device))

        def restore(settings: ITEROptions, low: Tensor) -> Tensor:
            return restorer(low, settings)

        options = [ITEROptions(fidelity=value, steps=self.steps, seed=self.seed) for value in self.fidelity]
        return restorer.scale, {f"ITER {chosen.fidelity:g}": partial(restore, chosen) for chosen in options}
