"""Measure whether the judge of restorations agrees with the distance to the truth; called by `burnish evaluate`.

Good pictures are degraded and restored in several ways: enlarged bicubically, by ITER without sampling, and by ITER
with several seeds, as `scripts/restore.py --best-of` does. The judge sees two of them at a time, or one and the good
picture, or the good picture spoiled by two different faults of random strength, and is not told which is which; PSNR
and SSIM (luma) compare each with the good picture. Written are pairs.csv and .json (every comparison), agreement.csv
and .json, and run.json.

An agreement of 0.5 is chance. With the good picture, it is the share of restorations to which the judge prefers it;
PSNR is infinite there and says nothing. `gain` is the PSNR of the seed that best-of-N keeps less the mean of the seeds,
`most` what a judge who knew the truth would gain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from rich.console import Console
from torch import Tensor

from restoration.compare import GOOD, degraded_samples
from restoration.iter import ITEROptions, ITERRestorer
from restoration.recipes import recipe
from reward_vlm.photo_pairs import KINDS, spoil
from reward_vlm.r1.pictures import PictureJudge
from reward_vlm.strategies import best_of
from vision.config import to_dict
from vision.images import to_pil, to_tensor
from vision.metrics import psnr, ssim
from vision.report import table, write_run, write_table
from vision.resize import imresize

SEED = "seed"
"""First word of the names of sampled restorations."""


@dataclass(frozen=True)
class PictureEvaluation:
    """What the measurement of the judge of restorations may choose."""

    hr: Path
    """Folder of good pictures."""
    out: Path
    """Folder for the tables."""
    judge: str | None = None
    """Weights of the judge: a folder or org/name on the model hub; None takes those that come with the project."""
    windows: int = 16
    """Windows of a picture that are compared, at most."""
    degradation: str = "bicubic"
    """What happens to the good pictures: bicubic (MATLAB's), blind, bsrgan, bsrgan_light or realesrgan."""
    variant: Literal["photo", "clean"] = "clean"
    """Which embedded weights of ITER."""
    seeds: int = 4
    """Sampled restorations of each picture."""
    crop: int = 256
    """Take only the middle of the good pictures, at most this many pixels per side."""
    seed: int = 0
    """Of the degradations, and the first of the restorations."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2, got {self.seeds}.")
        recipe(self.degradation)


def main(options: PictureEvaluation) -> int:
    """Measure everything; returns 0.

    Raises:
        ValueError: the folder is empty, or the weights do not fit.
        FileNotFoundError: the folder or the weights are missing.
    """
    started, console = time.monotonic(), Console(soft_wrap=True, highlight=False)
    judge = PictureJudge.from_pretrained(options.judge, windows=options.windows)
    restorer = ITERRestorer.from_pretrained(variant=options.variant)
    samples = degraded_samples(
        options.hr, options.degradation, scale=restorer.scale, crop=options.crop, seed=options.seed
    )
    rows, gains = [], []
    for number, (name, read) in enumerate(samples):
        low, high = read()
        restored = {GOOD: high, **candidates(restorer, low, options)}
        spoiled = faults(high, np.random.default_rng((options.seed, number)))
        shown = restored | spoiled
        quality = {key: (float(psnr(x, high, border=4)), float(ssim(x, high, border=4))) for key, x in shown.items()}
        pairs = [*combinations(restored, 2), *combinations(spoiled, 2)]
        votes = {(a, b): judge.preference(shown[a], shown[b]) for a, b in pairs}
        rows += [
            {"image": name, "first": a, "second": b, "preference": vote}
            | {"psnr_gap": None if a == GOOD else quality[a][0] - quality[b][0]}
            | {"ssim_gap": quality[a][1] - quality[b][1]}
            for (a, b), vote in votes.items()
        ]
        seeds = [key for key in restored if key.startswith(SEED)]
        kept = best_of(seeds.__getitem__, lambda new, best: votes[best, new] < 0.5, range(len(seeds)))  # noqa: B023
        gained = [quality[key][0] for key in seeds]
        gains.append((quality[kept][0] - fmean(gained), max(gained) - fmean(gained)))
        console.print(f"{name} is done.", markup=False)
    found = agreement(rows)
    found[2] |= {"gain": fmean(gain for gain, _ in gains), "most": fmean(most for _, most in gains)}
    Console(width=max(console.width, 120)).print(table(found, digits=3))
    write_table(rows, options.out / "pairs.json", options.out / "pairs.csv")
    write_table(found, options.out / "agreement.json", options.out / "agreement.csv")
    seconds = round(time.monotonic() - started, 2)
    write_run(options.out, options=to_dict(options), source=options.judge, seconds=seconds)
    return 0


def candidates(restorer: ITERRestorer, low: Tensor, options: PictureEvaluation) -> dict[str, Tensor]:
    """Restorations (1, 3, height, width) of `low` by name."""
    found = {"bicubic": imresize(low, restorer.scale), "ITER 1": restorer(low, ITEROptions(fidelity=1.0))}
    for seed in range(options.seed, options.seed + options.seeds):
        found[f"{SEED} {seed}"] = restorer(low, ITEROptions(fidelity=0.0, seed=seed))
    return {name: picture.clamp(0, 1) for name, picture in found.items()}


def faults(high: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """`high` (1, 3, height, width) with each fault that the small judge was taught, by name, at a random strength."""
    good = to_pil(high)
    return {kind: to_tensor(spoil(good, kind, float(rng.uniform(0, 1)), rng)) for kind in KINDS}


def agreement(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shares of the comparisons in which the judge and a number prefer the same picture; a tied vote is half."""
    found = []
    for group in ("good image and restoration", "two methods", "two seeds", "two faults"):
        part = [row for row in rows if _group(row["first"], row["second"]) == group]
        line: dict[str, Any] = {"pairs": group, "comparisons": len(part)}
        for number in ("psnr", "ssim"):
            known = [(row["preference"], row[f"{number}_gap"]) for row in part if row[f"{number}_gap"] is not None]
            votes = [0.5 if preference == 0.5 else float((preference > 0.5) == (gap > 0)) for preference, gap in known]
            line[f"agrees with {number}"] = fmean(votes) if votes else None
        found.append(line)
    return found


def _group(first: str, second: str) -> str:
    if first == GOOD:
        return "good image and restoration"
    if first in KINDS:
        return "two faults"
    return "two seeds" if first.startswith(SEED) and second.startswith(SEED) else "two methods"
