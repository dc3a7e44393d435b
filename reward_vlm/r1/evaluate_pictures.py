"""Measure whether the judge of restorations agrees with the distance to the truth; what `burnish evaluate` runs.

Good pictures are degraded and restored in several ways: enlarged bicubically, by ITER without sampling, and by ITER
with several seeds, as `burnish restore --best-of` does. The judge sees two of them at a time, or one and the good
picture, or the good picture spoiled by two different faults of random strength, and is not told which is which; PSNR
and SSIM (luma) compare each with the good picture. Written are pairs.csv and .json (every comparison), agreement.csv
and .json, and run.json.

An agreement of 0.5 is chance. With the good picture, it is the share of restorations to which the judge prefers it;
PSNR is infinite there and says nothing. `gain` is the PSNR of the seed that best-of-N keeps less the mean of the seeds,
`most` what a judge who knew the truth would gain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from reward_vlm.r1.pictures import PictureJudge
from vision.checkpoints import one_at_a_time
from vision.faults import KINDS, spoil
from vision.images import to_pil, to_tensor
from vision.job import Event, Job, Outcome, Show, choose_device, silent
from vision.metrics import psnr, ssim
from vision.report import text_table, write_table
from vision.strategies.best import best_of

GOOD = "good image"
"""Name of the truth among the restorations."""
SEED = "seed"
"""First word of the names of sampled restorations."""


@dataclass(frozen=True)
class PictureEvaluation(ABC):
    """What the measurement of the judge of restorations may choose, whatever restores."""

    hr: Path
    """Folder of good pictures."""
    out: Path
    """Folder for the tables."""
    judge: str | None = None
    """Weights of the judge: a folder or org/name on the model hub; None takes those that come with the project."""
    windows: int = 16
    """Windows of a picture that are compared, at most."""
    seeds: int = 4
    """Sampled restorations of each picture."""
    seed: int = 0
    """Of the degradations, and the first of the restorations."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2, got {self.seeds}.")
        if self.windows < 1:
            raise ValueError(f"windows must be at least 1, got {self.windows}.")

    @abstractmethod
    def restorations(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Every picture's name, and its versions by name, each (1, 3, height, width) in [0, 1]: `GOOD` first, then the
        restorations; sampled ones are called `SEED` and a number."""


@one_at_a_time
def evaluate(options: PictureEvaluation, show: Show = silent) -> Outcome:
    """Measure everything, and show the agreement.

    Raises:
        ValueError: the folder is empty, or the weights do not fit.
        FileNotFoundError: the folder or the weights are missing.
    """
    job = Job(options.out, options, show=show)
    judge = PictureJudge.from_pretrained(options.judge, windows=options.windows, device=choose_device(options.device))
    rows: list[dict[str, Any]] = []
    gains: list[tuple[float, float]] = []
    for number, (name, restored) in enumerate(options.restorations()):
        compared, votes, quality = _compared(judge, restored, np.random.default_rng((options.seed, number)))
        rows += [{"image": name, **row} for row in compared]
        seeds = [key for key in restored if key.startswith(SEED)]
        kept = best_of(seeds.__getitem__, lambda new, best: votes[best, new] < 0.5, range(len(seeds)))  # noqa: B023
        gained = [quality[key] for key in seeds]
        gains.append((quality[kept] - fmean(gained), max(gained) - fmean(gained)))
        job.progress("comparing", number + 1)
    table = agreement(rows)
    table[2] |= {"gain": fmean(gain for gain, _ in gains), "most": fmean(most for _, most in gains)}
    show(Event("result", text_table(table, digits=3), path=options.out))
    write_table(rows, options.out / "pairs.json", options.out / "pairs.csv")
    write_table(table, options.out / "agreement.json", options.out / "agreement.csv")
    job.conclude("images", len(gains), 0, source=options.judge, seed=options.seed)
    return Outcome(options.out, {row["pairs"]: row for row in table})


def _compared(
    judge: PictureJudge, restored: dict[str, Tensor], rng: np.random.Generator
) -> tuple[list[dict[str, Any]], dict[tuple[str, str], float], dict[str, float]]:
    """Of one picture: a row per comparison, the judge's preferences by pair, and the PSNR by name."""
    high = restored[GOOD]
    spoiled = faults(high, rng)
    shown = restored | spoiled
    near = {key: float(psnr(x, high, border=4)) for key, x in shown.items()}
    alike = {key: float(ssim(x, high, border=4)) for key, x in shown.items()}
    pairs = [*combinations(restored, 2), *combinations(spoiled, 2)]
    votes = {(a, b): judge.preference(shown[a], shown[b]) for a, b in pairs}
    rows = [
        {"first": a, "second": b, "preference": vote, "psnr_gap": None if a == GOOD else near[a] - near[b]}
        | {"ssim_gap": alike[a] - alike[b]}
        for (a, b), vote in votes.items()
    ]
    return rows, votes, near


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
