"""Measure what sharpening changed: one sample of the sharpened weights against one of those that it started from.

    burnish evaluate sharpened --hr held_out --source runs/iter-sharpened/weights --out runs/sharpened

Both restore the sharpest cuts of good photographs, shrunk alone, at fidelity 0 with the same seeds. Writes wins.json
and .csv: how often the sharpened sample has the higher score of the judge of restorations, the higher PSNR of luma and
the smaller texture distance (a tie is half a win), by how much in the mean, and beside it the start at a lower
temperature of its tokens, which also makes samples less various and needs no training. harm.json and .csv have the PSNR
for `benchmark harm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from restoration.iter.options import ITEROptions, Variant
from restoration.iter.restorer import ITERRestorer
from restoration.judge import RestorationJudge
from restoration.kinds import items
from vision.checkpoints import one_at_a_time
from vision.harm import harm_rows, write_harm
from vision.job import Event, Job, Outcome, Show, choose_device, silent
from vision.metrics import psnr, texture_distance
from vision.report import text_table, write_table

MEASURES = ("judge", "psnr_y", "tex")
"""The score of the judge, PSNR of luma, and minus the texture distance."""


@dataclass(frozen=True)
class SharpenedEvaluation:
    """What the measurement may choose."""

    hr: Path
    """Folder of good photographs that nothing was learnt from."""
    source: Path
    """Folder of the sharpened weights."""
    out: Path
    """Folder for the table."""
    start: Variant = "clean"
    """Embedded weights that they started from."""
    cuts: int = 1
    """Cuts of every photograph, the sharpest first."""
    size: int = 168
    """Side of the truth, in pixels."""
    seeds: int = 3
    """Samples of every picture."""
    temperature: float = 0.9
    """Of the tokens, in the row that the sharpened weights are compared with."""
    seed: int = 0
    """The first of the samples."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        if min(self.cuts, self.seeds) < 1 or self.size < 64 or self.size % 4:
            raise ValueError("cuts and seeds must be at least 1, and size a multiple of 4 from 64 on.")


@one_at_a_time
@torch.inference_mode()
def evaluate(options: SharpenedEvaluation, show: Show = silent) -> Outcome:
    """Measure all pictures.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: the folder holds no pictures.
    """
    job, device = Job(options.out, options, show=show), choose_device(options.device)
    start = ITERRestorer.from_pretrained(variant=options.start, device=device)
    sharpened = ITERRestorer.from_pretrained(options.source, device=device)
    judge = RestorationJudge.from_pretrained()
    cold = ITEROptions(fidelity=0.0, temperature_tokens=options.temperature)
    ways = {"sharpened": (sharpened, ITEROptions(fidelity=0.0)), f"temperature {options.temperature:g}": (start, cold)}
    found: dict[str, list[tuple[Mapping[str, float], Mapping[str, float]]]] = {name: [] for name in ways}
    given = {"cuts_each": options.cuts, "size": options.size, "scale": start.scale, "seed": options.seed}
    for number, item in enumerate(items(options.hr, ("bicubic",), **given), 1):
        for seed in range(options.seed, options.seed + options.seeds):

            def sample(restorer: ITERRestorer, chosen: ITEROptions, seed: int = seed) -> dict[str, float]:
                made = (restorer(item.low, replace(chosen, seed=seed)) * 255).round() / 255  # noqa: B023
                return _measures(made, item.low, item.high, judge)  # noqa: B023

            before = sample(start, ITEROptions(fidelity=0.0))
            for name, way in ways.items():
                found[name].append((before, sample(*way)))
        job.made[item.name] = {"was_done": False}
        job.progress("measuring", number)
    rows = table(found)
    write_table(rows, options.out / "wins.json", options.out / "wins.csv")
    pairs = [(before["psnr_y"], after["psnr_y"]) for before, after in found["sharpened"]]
    write_harm(options.out, harm_rows("sharpened weights", {"bicubic": pairs}, "dB", 0.1))
    show(Event("result", text_table(rows, digits=3), path=options.out))
    return job.finish("pictures", source=str(options.source), seed=options.seed)


def table(found: Mapping[str, list[tuple[Mapping[str, float], Mapping[str, float]]]]) -> list[dict[str, Any]]:
    """A row per way, of (measures of the start, measures of the way): share of wins, and the mean difference."""
    rows = []
    for name, pairs in found.items():
        row: dict[str, Any] = {"sample of": name, "samples": len(pairs)}
        for key in MEASURES:
            gaps = [after[key] - before[key] for before, after in pairs]
            row |= {f"{key} wins": fmean((gap > 0) + (gap == 0) / 2 for gap in gaps), f"{key} gained": fmean(gaps)}
        rows.append(row)
    return rows


def _measures(made: Tensor, low: Tensor, high: Tensor, judge: RestorationJudge) -> dict[str, float]:
    made = made.float().cpu()
    score = float(judge.windows(made, low).mean())
    return dict(
        zip(
            MEASURES,
            (score, float(psnr(made, high, border=4)), -float(texture_distance(made, high))),
            strict=True,
        )
    )
