"""Do no harm: what every way to decide gives, beside doing nothing, on photographs whose truth is known.

    burnish benchmark harm --hr photos --out runs/harm
    burnish benchmark harm --hr photos --measured runs/gtr runs/pie runs/scl --out runs/all    (other jobs' rows too)

Cuts of good photographs are spoiled as people's pictures are. Every job then does its work, and what it gives is
compared with what there was without it: a degraded picture that keeps its size with itself, an enlargement with plain
enlargement, the best of some seeds with the mean of all, a repaired picture with its draft, sampling that stops by
progress with all its steps. Writes harm.csv and .json: a row per job and kind of picture with the mean PSNR of luma of
both, their difference, and the share of pictures that became worse by more than 0.1 dB. A job whose mean is lower is
told. Writes choices.jsonl too, a line per job and picture: a run that is stopped goes on where it was, and further jobs
may be added. Meshes, edits, answers and sharpened weights are measured by commands of their own (`evaluate gtr
--spoil`, `pie`, `scl`, `sharpened`), which write such rows too; `--measured` takes them into the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from restoration.best import named, until_sure
from restoration.effort import RoutedRestorer
from restoration.judge import RestorationJudge
from restoration.kinds import Item, items
from restoration.repair import RepairingRestorer, joined
from restoration.restorer import PRETRAINED, Restorer, find_system
from restoration.selection import Selection
from vision.checkpoints import begin_run, one_at_a_time
from vision.harm import Pair, harm_rows, losses, read_harm, write_harm
from vision.job import Event, Job, Outcome, Show, choose_device, silent
from vision.metrics import psnr
from vision.refine import Verdict
from vision.report import text_table
from vision.resize import imresize
from vision.strategies import Candidate, Choice, read_choices, write_choices
from vision.strategies.best import best_of_n
from vision.strategies.trace import NAME
from vision.strategies.values import best

JOBS = ("auto", "auto-full-size", "effort", "best-of", "until-sure", "repair", "stop")
"""What can be measured."""
WAYS = ("nothing", "job")
"""What is compared of every picture, as the trace names it."""
SLIGHTLY = 0.1
"""Decibels that a picture may lose before it counts as worse."""


@dataclass(frozen=True)
class HarmBenchmark:
    """What the measurement may choose."""

    hr: Path
    """Folder of good photographs that nothing was learnt from."""
    out: Path
    """Folder for the table."""
    jobs: tuple[str, ...] = JOBS
    """Which jobs are measured."""
    kinds: tuple[str, ...] = ("bicubic", "blind", "jpeg", "noise")
    """What happens to the pictures, see `benchmark restorers`."""
    cuts: int = 1
    """Cuts of every photograph, the sharpest first."""
    size: int = 192
    """Side of the truth, in pixels."""
    seeds: int = 4
    """Of best-of and until-sure."""
    system: str = "iter:photo@0.5"
    """The restorer of best-of, until-sure, repair and stop; it must sample."""
    measured: tuple[Path, ...] = ()
    """Folders of evaluate gtr --spoil, pie, scl or sharpened, whose rows come into the table."""
    seed: int = 0
    """Of the degradations, and the first of the restorations."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        unknown = [job for job in self.jobs if job not in JOBS]
        if unknown or not self.jobs:
            raise ValueError(f"jobs must be some of {', '.join(JOBS)}, got {', '.join(unknown) or 'none'}.")
        if self.seeds < 2 or self.size < 64 or self.size % 4:
            raise ValueError("seeds must be at least 2, and size a multiple of 4 from 64 on.")


@one_at_a_time
def benchmark(options: HarmBenchmark, show: Show = silent) -> Outcome:
    """Measure every job on every picture.

    Raises:
        ValueError: the folder is empty, a restorer cannot be loaded, a folder holds another table, or the run was begun
            with other options, photographs or weights.
        FileNotFoundError: weights, or the table of a measurement, are missing.
    """
    for folder in options.measured:
        read_harm(folder)  # before hours of work
    job = Job(options.out, options, show=show)
    weights = [PRETRAINED, *find_system(options.system).files]
    begin_run(options.out, options, data=("hr",), free=("out", "jobs", "measured"), files=weights)
    earlier = read_choices(options.out) if (options.out / NAME).is_file() else []
    done = {choice.task: _pair(choice) for choice in earlier}
    found: dict[str, dict[str, list[Pair]]] = {}
    for scale, names in ((1, ("auto-full-size",)), (4, tuple(name for name in JOBS if name != "auto-full-size"))):
        jobs = {name: _JOBS[name] for name in options.jobs if name in names}
        if not jobs:
            continue
        work = _Work(options)
        given = {"cuts_each": options.cuts, "size": options.size, "scale": scale, "seed": options.seed}
        for number, item in enumerate(items(options.hr, options.kinds, **given), 1):
            job.made[f"{item.name}@{scale}"] = {"was_done": all(f"{name}/{item.name}" in done for name in jobs)}
            for name, measure in jobs.items():
                task = f"{name}/{item.name}"
                if task not in done:
                    done[task] = measure(work, item)
                    write_choices(options.out, [_choice(task, done[task])])
                found.setdefault(name, {}).setdefault(item.kind, []).append(done[task])
            job.progress("measuring", number)
    rows = [row for name in options.jobs for row in harm_rows(name, found[name], "dB", SLIGHTLY)]
    rows += [row for folder in options.measured for row in read_harm(folder)]
    write_harm(options.out, rows)
    show(Event("result", text_table(rows, digits=3), path=options.out))
    for sentence in losses(rows):
        job.note(sentence)
    return job.finish("pictures", seed=options.seed)


class _Work:
    """Restorers and judges, loaded once."""

    def __init__(self, options: HarmBenchmark):
        self.options, self.loaded = options, {}
        self.selection, self.judge = Selection.from_pretrained(), RestorationJudge.from_pretrained()

    def restorer(self, name: str, **asked: Any) -> tuple[Restorer, Any]:
        """The restorer of a name and its options."""
        system = find_system(name)
        chosen = system.asked(**asked)
        if name not in self.loaded:
            placed = {"device": choose_device(self.options.device), "dtype": torch.float32}
            self.loaded[name] = system.load(None, chosen, **placed)
        return self.loaded[name], chosen

    def run(self, low: Tensor, name: str, **asked: Any) -> Tensor:
        """A restoration (1, 3, H, W)."""
        restorer, chosen = self.restorer(name, **asked)
        return _eight_bits(joined(restorer.bands(low, chosen)))

    def seeds(self, item: Item) -> Iterator[Tensor]:
        """Restorations by the system that samples."""
        for seed in range(self.options.seed, self.options.seed + self.options.seeds):
            yield self.run(item.low, self.options.system, scale=4, seed=seed)


Measure = Callable[[_Work, Item], Pair]
"""PSNR without and with a job."""


def _choice(task: str, pair: Pair) -> Choice:
    """What a job gave on a picture, for the trace."""
    verdicts = tuple(map(Verdict, pair))
    place = best(verdicts)
    return Choice(task, tuple(Candidate(task, None, way) for way in WAYS), verdicts, place, "nearest to the truth")


def _pair(choice: Choice) -> Pair:
    without, with_job = choice.verdicts
    return float(without.score), float(with_job.score)


def _auto(work: _Work, item: Item) -> Pair:
    plan = work.selection.plan(item.low, 4)
    return _near(_plain(item), item), _near(work.run(item.low, plan.system, scale=4, seed=0), item)


def _full_size(work: _Work, item: Item) -> Pair:
    plan = work.selection.plan(item.low, 1)
    return _near(item.low, item), _near(work.run(item.low, plan.system, scale=1, seed=0), item)


def _effort(work: _Work, item: Item) -> Pair:
    plan = work.selection.plan(item.low, 4)
    restorer, chosen = work.restorer(plan.system, scale=4, seed=0)
    return _near(_plain(item), item), _near(_eight_bits(joined(RoutedRestorer(restorer).bands(item.low, chosen))), item)


def _best_of(work: _Work, item: Item) -> Pair:
    made = list(work.seeds(item))
    score = named("judge", lambda task: item.low)
    choice = best_of_n(lambda seed: Candidate(item.name, made[seed], "seed"), score, range(len(made)))
    return fmean(_near(picture, item) for picture in made), _near(choice.kept.value, item)


def _until_sure(work: _Work, item: Item) -> Pair:
    made = list(work.seeds(item))
    make = lambda seed: Candidate(item.name, made[seed], "seed")  # noqa: E731
    choice = until_sure(make, range(len(made)), "judge", item.low)
    return fmean(_near(picture, item) for picture in made), _near(choice.kept.value, item)


def _repair(work: _Work, item: Item) -> Pair:
    restorer, chosen = work.restorer(work.options.system, scale=4, seed=work.options.seed)
    draft = _eight_bits(joined(restorer.bands(item.low, chosen)))
    mended = RepairingRestorer(restorer, work.judge).repair(draft, item.low, chosen).choice.kept.value
    return _near(draft, item), _near(_eight_bits(mended), item)


def _stop(work: _Work, item: Item) -> Pair:
    name, asked = work.options.system, {"scale": 4, "seed": work.options.seed}
    return tuple(_near(work.run(item.low, name, stop=stop, **asked), item) for stop in ("end", "progress"))


_MEASURES = (_auto, _full_size, _effort, _best_of, _until_sure, _repair, _stop)
_JOBS: dict[str, Measure] = dict(zip(JOBS, _MEASURES, strict=True))


def _plain(item: Item) -> Tensor:
    return _eight_bits(imresize(item.low, size=tuple(item.high.shape[-2:])))


def _eight_bits(picture: Tensor) -> Tensor:
    return (picture.clamp(0, 1) * 255).round().cpu().float() / 255


def _near(picture: Tensor, item: Item) -> float:
    return min(float(psnr(picture, item.high, border=4)), 100.0)
