"""Restore pictures of many kinds, whose truth is known, with every restorer, and rank what it was worth.

    burnish benchmark restorers --hr photos --out runs/restorers
    burnish benchmark restorers --hr photos --systems none iter:photo@1 network:x4.pth --cost 0.5 --out runs/mine

Writes choices.jsonl and need/choices.jsonl (which pictures need nothing, enlarging, restoring), from which `burnish
train selector` learns, and means.csv and .json. The score of a restorer on a picture is minus the mean of its ranks in
PSNR (luma) and texture distance among all restorers, 1 the best. The table orders them by worth: the share of the
others that a restorer leaves behind, over its CPU time to the power of --cost (see `vision.strategies.ranking`); at
another --cost two of them change places, which is told. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from restoration.features import features
from restoration.kinds import KINDS, Item, items, needs
from restoration.restorer import Restorer, System, find_system
from vision.checkpoints import begin_run, one_at_a_time
from vision.images import save_image, to_uint8
from vision.job import Event, Job, Outcome, Show, choose_device, silent
from vision.metrics import psnr, texture_distance
from vision.refine import Verdict
from vision.report import text_table, write_table
from vision.strategies import Candidate, Choice, Cost, read_choices, write_choices
from vision.strategies.ranking import Ranking, Row, Weights, rank
from vision.strategies.trace import NAME

REGISTRY = ("none", "iter:clean@1", "iter:clean@0.5", "iter:photo@1*0.5")
"""What `--system auto` chooses from with the selector that comes with the project."""
ACTIONS = ("none", "enlarge", "restore")
"""What a picture may need."""
PICTURES, INPUT, TRUTH = "pictures", "input.png", "truth.png"
"""Folder of the pictures that are kept, and names in the folder of every item."""
NEED = "need"
"""Folder, beside the trace of restorers, of the trace of needs."""


@dataclass(frozen=True)
class RestorerBenchmark:
    """What the measurement of all restorers may choose."""

    hr: Path
    """Folder of good photographs."""
    out: Path
    """Folder for the trace and the tables."""
    systems: tuple[str, ...] = REGISTRY
    """Names as `restore --system` takes them; none is plain enlargement here."""
    kinds: tuple[str, ...] = KINDS
    """What happens to the pictures: bicubic, blind, jpeg, noise, grey; text and flat are drawn by code."""
    cuts: int = 4
    """Cuts of every photograph, the sharpest first."""
    size: int = 256
    """Side of the truth, in pixels."""
    scale: int = 4
    """Pixels of the truth per pixel and side."""
    cost: float = 0.5
    """How much the CPU time counts in the table; 0: not at all."""
    seed: int = 0
    """Of what is drawn and degraded, and the first of the restorations."""
    seeds: int = 1
    """Restorations by every system that samples."""
    keep: bool = False
    """Also write pictures/: what was restored, the truth, and all restorations."""
    need: bool = True
    """Also write need/, which only the training and the measurement of a selector read."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        if "auto" in self.systems:
            raise ValueError("auto picks among the systems that are measured here; measure it by evaluate selector.")
        if len(set(self.systems)) < 2:
            raise ValueError(f"systems must name at least two restorers, got {' '.join(self.systems) or 'none'}.")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"kinds must be some of {', '.join(KINDS)}, got {', '.join(unknown) or 'none'}.")
        if min(self.cuts, self.scale) < 1 or self.size < 16 * self.scale or self.size % self.scale:
            raise ValueError(
                f"cuts and scale must be at least 1 and size a multiple of scale from 16 times it, got {self.cuts}, "
                f"{self.scale} and {self.size}."
            )
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}.")
        if self.cost < 0:
            raise ValueError(f"cost must be at least 0, got {self.cost}.")


@one_at_a_time
def benchmark(options: RestorerBenchmark, show: Show = silent) -> Outcome:
    """Measure everything that is not measured yet.

    Raises:
        ValueError: the folder is empty, the run was begun with other options or photographs, or a restorer cannot be
            loaded.
        FileNotFoundError: a file, or the weights of the texture distance, are missing.
    """
    job = Job(options.out, options, show=show)
    systems = [find_system(name) for name in options.systems]
    weights = sorted({path for system in systems for path in system.weights(None, system.asked())})
    begin_run(options.out, options, data=("hr",), free=("out", "cost"), files=weights)
    done = {choice.task for choice in read_choices(options.out)} if (options.out / NAME).is_file() else set()
    wanted = {"cuts_each": options.cuts, "size": options.size, "scale": options.scale, "seed": options.seed}
    if options.need:
        _measure_needs(options)
    loaded = [made for system in systems for made in _Loaded.of(system, options)]
    kept = options.out / PICTURES if options.keep else None
    total = options.cuts * len(options.kinds)
    for number, item in enumerate(items(options.hr, options.kinds, **wanted), 1):
        if item.name not in done:
            write_choices(options.out, [measured(item, loaded, kept)])
        job.made[item.name] = {"was_done": item.name in done}
        job.progress("measuring", number, max(total, number))
    rows, ranking = ranked(read_choices(options.out), options.cost)
    flips = [f"at --cost {flip.g:.2f} {flip.cheaper} and {flip.dearer} change places" for flip in ranking.flips]
    write_table(rows, options.out / "means.json", options.out / "means.csv")
    show(Event("result", text_table(rows, title="; ".join(flips) or "in this order at any --cost", digits=3)))
    return job.finish("pictures", seed=options.seed)


def ranked(choices: Sequence[Choice], cost: float) -> tuple[list[dict[str, Any]], Ranking]:
    """A row of means per restorer, the one that is worth most first, and the ranking that says so.

    Args:
        choices: what `measured` gives, of the same restorers.
        cost: how much the CPU time counts, at least 0.
    """
    found: dict[str, list[tuple[Verdict, Cost]]] = {}
    for choice in choices:
        for candidate, verdict in zip(choice.candidates, choice.verdicts, strict=True):
            found.setdefault(candidate.origin, []).append((verdict, candidate.cost))
    rows = {}
    for name, pairs in found.items():
        rank_of = -fmean(verdict.score for verdict, _ in pairs)
        means = mean_details([verdict for verdict, _ in pairs])
        seconds = fmean(spent.seconds for _, spent in pairs)
        rows[name] = {"restorer": name, "mean_rank": rank_of, **means, "cpu_seconds": seconds}
    others = max(1, len(rows) - 1)
    shares = [
        Row(name, 0.0, (len(rows) - row["mean_rank"]) / others, 0.0, row["cpu_seconds"]) for name, row in rows.items()
    ]
    ranking = rank(shares, Weights(0.0, 1.0), cost)
    return [{**rows[name], "worth": worth} for name, worth in ranking.scores], ranking


def mean_details(verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """Means of `psnr_y` and `tex`, without the infinite PSNR of pictures that equal their truth."""
    found = {}
    for key in ("psnr_y", "tex"):
        values = [float(verdict.detail[key]) for verdict in verdicts]
        finite = [value for value in values if math.isfinite(value)]
        found[key] = fmean(finite) if finite else None
    return found


def _measure_needs(options: RestorerBenchmark) -> None:
    """Write what is known of the need of pictures, as choices whose right action has the score 1, the others 0."""
    folder = options.out / NEED
    done = {choice.task for choice in read_choices(folder)} if (folder / NAME).is_file() else set()
    for name, picture, right in needs(options.hr, cuts_each=options.cuts, scale=options.scale, seed=options.seed):
        if name not in done:
            actions = tuple(Candidate(name, None, action) for action in ACTIONS)
            verdicts = tuple(Verdict(float(action == right)) for action in ACTIONS)
            choice = Choice(name, actions, verdicts, ACTIONS.index(right), "it was made so", features(picture))
            write_choices(folder, [choice])


@dataclass(frozen=True)
class _Loaded:
    """A restorer with the options that it is measured with."""

    name: str
    """Of the system."""
    restorer: Restorer
    """Loaded."""
    options: object
    """With the scale."""

    seed: int | None
    """Of the options; None: the result depends on none."""

    @classmethod
    def of(cls, system: System, options: RestorerBenchmark) -> list[_Loaded]:
        """Once, or with every seed."""
        chosen = system.asked(scale=options.scale, seed=options.seed)
        placed = {"device": choose_device(options.device), "dtype": torch.float32}
        restorer = system.load(None, chosen, **placed)
        if not restorer.facts(chosen).seed:
            return [cls(system.name, restorer, chosen, None)]
        seeds = range(options.seed, options.seed + options.seeds)
        return [cls(system.name, restorer, replace(chosen, seed=seed), seed) for seed in seeds]

    def __call__(self, low: Tensor) -> tuple[Tensor, Cost]:
        """The restoration in 8 bit, and its CPU time."""
        began = time.process_time()
        bands = list(self.restorer.bands(low, self.options, finish=to_uint8))
        cost = Cost(time.process_time() - began, 1, low[0, 0].numel())
        return torch.cat(bands, dim=2).float().cpu() / 255, cost


@torch.inference_mode()
def measured(item: Item, restorers: Sequence[_Loaded], folder: Path | None = None) -> Choice:
    """What every restorer made of a picture, as a choice of the best: candidates in the order of their cost.

    Args:
        item: the picture and its truth.
        restorers: all that restore it.
        folder: where the pictures are kept, as ITEM/INPUT.png, ITEM/TRUTH.png and a file per candidate; None: nowhere.
    """
    pictures = None if folder is None else folder / item.name
    if pictures is not None:
        save_image(item.low, pictures / INPUT)
        save_image(item.high, pictures / TRUTH)
    found = []
    for restore in restorers:
        result, cost = restore(item.low)
        numbers = {
            "psnr_y": float(psnr(result, item.high, border=4)),
            "tex": float(texture_distance(result, item.high)),
        }
        path = None if pictures is None else pictures / f"{len(found):02d}.png"
        if path is not None:
            save_image(result, path)
        found.append((Candidate(item.name, path, restore.name, cost, restore.seed), numbers))
    found.sort(key=lambda pair: pair[0].cost.seconds)
    verdicts = scored([numbers for _, numbers in found])
    best = max(range(len(found)), key=lambda place: verdicts[place].score)
    kept = found[best][0].origin
    why = f"{kept} has the best mean rank in PSNR and texture distance"
    return Choice(item.name, tuple(c for c, _ in found), verdicts, best, why, features(item.low))


def scored(numbers: Sequence[dict[str, float]]) -> tuple[Verdict, ...]:
    """Minus the mean of the ranks in `psnr_y` (higher is better) and `tex` (lower is); equal ones share a rank."""
    ranks = [_ranks([-row["psnr_y"] for row in numbers]), _ranks([row["tex"] for row in numbers])]
    return tuple(Verdict(-fmean(pair), row) for pair, row in zip(zip(*ranks, strict=True), numbers, strict=True))


def _ranks(values: Sequence[float]) -> list[float]:
    """1 for the lowest; equal values share the mean of their places."""
    below = [sum(other < value for other in values) for value in values]
    equal = [sum(other == value for other in values) for value in values]
    return [1 + low + (same - 1) / 2 for low, same in zip(below, equal, strict=True)]
