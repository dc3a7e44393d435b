"""Measure PASD beside plain resizing and Real-ESRGAN.

    burnish evaluate pasd --hr photos --degradation blind --out runs/pasd
    burnish evaluate pasd --hr photos --presets faithful fast --out runs/presets

What is measured, and what is written, stands in `restoration/evaluate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from restoration.compare import Method
from restoration.evaluate import RestorationEvaluation, evaluate
from restoration.pasd.options import PASDOptions, Preset
from restoration.pasd.restorer import PASDRestorer, base_alone
from vision.job import choose_device

__all__ = ["PASDEvaluation", "evaluate"]


@dataclass(frozen=True)
class PASDEvaluation(RestorationEvaluation):
    """Measure PASD on a folder."""

    pasd: str | None = None
    """Folder of PASD's own unet and controlnet; --source then names the base model."""
    presets: tuple[Preset, ...] = ()
    """Presets that get a row of the table beside the weights' own options."""
    scale: int | None = None
    """Output pixels per input pixel; None takes what the weights were tuned for."""
    base: bool = True
    """With a row of the base model alone: the same start and prompts, without pixel attention and ControlNet."""

    def methods(self) -> tuple[int, dict[str, Method]]:
        """The scale, a row of the weights' own options, of every preset, and of the base alone."""
        restorer = PASDRestorer.from_pretrained(self.source, pasd=self.pasd, device=choose_device(self.device))
        scale = self.scale or round(restorer.config.scale)

        def restore(with_restorer: PASDRestorer, preset: Preset | None, low: Tensor) -> Tensor:
            chosen = PASDOptions(preset=preset, scale=float(scale), steps=self.steps, seed=self.seed)
            return with_restorer(low, chosen)

        rows = {"base alone": partial(restore, base_alone(restorer), None)} if self.base else {}
        rows |= {f"PASD {preset or ''}".strip(): partial(restore, restorer, preset) for preset in (None, *self.presets)}
        return scale, rows
