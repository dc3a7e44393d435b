"""Options of `burnish evaluate r1-restorations`: ITER makes what the judge of restorations compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from restoration.compare import degraded_samples
from restoration.iter import ITEROptions, ITERRestorer
from restoration.recipes import recipe
from reward_vlm.r1 import evaluate_pictures
from reward_vlm.r1.evaluate_pictures import GOOD, SEED, evaluate
from vision.job import choose_device
from vision.resize import imresize

__all__ = ["PictureEvaluation", "evaluate"]
__doc__ = evaluate_pictures.__doc__


@dataclass(frozen=True)
class PictureEvaluation(evaluate_pictures.PictureEvaluation):
    """What the measurement of the judge of restorations may choose."""

    degradation: str = "bicubic"
    """What happens to the good pictures: bicubic (MATLAB's), blind, bsrgan, bsrgan_light or realesrgan."""
    variant: Literal["photo", "clean"] = "clean"
    """Which embedded weights of ITER."""
    crop: int = 256
    """Take only the middle of the good pictures, at most this many pixels per side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        recipe(self.degradation)

    def restorations(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Every picture's name, and its versions by name, each (1, 3, height, width) in [0, 1]."""
        restorer = ITERRestorer.from_pretrained(variant=self.variant, device=choose_device(self.device))
        given = {"scale": restorer.scale, "crop": self.crop, "seed": self.seed}
        for name, read in degraded_samples(self.hr, self.degradation, **given):
            low, high = read()
            made = {"bicubic": imresize(low, restorer.scale), "ITER 1": restorer(low, ITEROptions(fidelity=1.0))}
            for seed in range(self.seed, self.seed + self.seeds):
                made[f"{SEED} {seed}"] = restorer(low, ITEROptions(fidelity=0.0, seed=seed))
            yield name, {GOOD: high, **{key: picture.clamp(0, 1) for key, picture in made.items()}}
