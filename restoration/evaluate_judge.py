"""Measure which evaluators tell the better one of two restorations, on pictures whose truth is known.

    burnish benchmark restorers --hr photos --seeds 4 --keep --out runs/known --systems none iter:clean@1 iter:clean@0
    burnish evaluate judge --choices runs/known --photos photos --out runs/judge
    burnish evaluate judge --choices runs/known --photos photos --planted 100 --out runs/judge      (faults to be found)

A pair is two seeds of one restorer, two restorers, or a photograph spoiled in two ways; the truth is the PSNR of luma,
and of spoiled photographs the strength of the fault. 0.5 is chance. Writes agreement.json and .csv; `restore --best-of`
warns of evaluators that agree no better than chance about two seeds. --planted plants faults of every kind in single
windows of the restorations, those that are never taught too, and writes planted.json and .csv: how often a judge
prefers the window without its fault, and how often it names the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import PIL.Image

from restoration.best import JUDGE, named
from restoration.duel import measure
from restoration.judge import RestorationJudge
from restoration.known import PARTS, Known, known
from vision.checkpoints import one_at_a_time
from vision.faults import SpoiledPairs
from vision.images import image_files
from vision.job import Event, Job, Outcome, Show, silent
from vision.report import text_table, write_table
from vision.strategies import Candidate, Evaluator
from vision.strategies.values import score_of


@dataclass(frozen=True)
class JudgeEvaluation:
    """What the measurement of evaluators may choose."""

    choices: tuple[Path, ...]
    """Folders that `benchmark restorers --keep` wrote, of photographs that the judge did not learn from."""
    photos: Path
    """Folder of good photographs that it did not learn from either, which are spoiled."""
    out: Path
    """Folder for the table."""
    evaluators: tuple[str, ...] = ("judge", "consistency", "brisque")
    """Names of evaluators; judge:FOLDER takes other weights."""
    spoiled: int = 200
    """Pairs of spoiled photographs."""
    planted: int = 0
    """Faults of every kind that are planted in restorations, for the judges of restorations among the evaluators."""
    seed: int = 3
    """Of what is spoiled and planted."""

    def __post_init__(self) -> None:
        if not self.choices or not self.evaluators or self.spoiled < 1:
            raise ValueError("Name at least one folder, one evaluator and one pair of spoiled photographs.")
        if self.planted < 0:
            raise ValueError(f"planted must be at least 0, got {self.planted}.")


@one_at_a_time
def evaluate(options: JudgeEvaluation, show: Show = silent) -> Outcome:
    """Measure all evaluators.

    Raises:
        FileNotFoundError: a folder has no trace, or weights are missing.
        ValueError: no pictures were kept, or an evaluator is unknown.
    """
    job = Job(options.out, options, show=show)
    counts: dict[tuple[str, str], list[float]] = {}
    for number, item in enumerate(known(options.choices), 1):
        for name in options.evaluators:
            for part, right in _restorations(named(name, lambda task, low=item.low: low), item):
                counts.setdefault((name, part), []).append(right)
        job.made[item.choice.task] = {"was_done": False}
        job.progress("judging", number)
    pairs = SpoiledPairs(image_files(options.photos), options.seed)
    alone = {name: named(name, None) for name in options.evaluators if name != "consistency"}  # which needs an input
    for pair in map(pairs, range(options.spoiled)):
        for name, judge in alone.items():
            counts.setdefault((name, "spoiled"), []).append(_spoiled(judge, pair.pictures, pair.better))
    rows = table(counts, options.evaluators)
    write_table(rows, options.out / "agreement.json", options.out / "agreement.csv")
    show(Event("result", text_table(rows, digits=3), path=options.out))
    if options.planted:
        faults = _planted(options)
        write_table(faults, options.out / "planted.json", options.out / "planted.csv")
        show(Event("result", text_table(faults, digits=3), path=options.out))
    return job.finish("pictures", seed=options.seed)


def table(counts: Mapping[tuple[str, str], list[float]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row per evaluator: the share of each kind of pairs about which it was right, a tie being half."""
    rows = []
    for name in names:
        found = {part: counts.get((name, part)) for part in PARTS}
        shares = {part: fmean(right) if right else None for part, right in found.items()}
        sizes = {f"pairs of {part}": len(right or ()) for part, right in found.items()}
        rows.append({"evaluator": name, **shares, **sizes})
    return rows


def _planted(options: JudgeEvaluation) -> list[dict[str, Any]]:
    """A row per judge of restorations and kind of fault."""
    items, rows = list(known(options.choices)), []
    for name in options.evaluators:
        kind, _, source = name.partition(":")
        if kind == JUDGE:
            found = measure(RestorationJudge.from_pretrained(source or None), items, options.planted, options.seed)
            rows += [{"evaluator": name, **row} for row in found]
    return rows


def _restorations(judge: Evaluator, item: Known) -> list[tuple[str, float]]:
    """(part, whether it was right) of all pairs of an item whose PSNR differs."""
    made = zip(item.choice.candidates, item.made, strict=True)
    scores = [score_of(judge(Candidate(item.choice.task, picture, old.origin))) for old, picture in made]
    truths = [float(verdict.detail["psnr_y"]) for verdict in item.choice.verdicts]
    origins = [candidate.origin for candidate in item.choice.candidates]
    found = []
    for a, b in combinations(range(len(scores)), 2):
        if truths[a] != truths[b]:
            part = "two seeds" if origins[a] == origins[b] else "two methods"
            found.append((part, _right(scores[a] - scores[b], truths[a] > truths[b])))
    return found


def _spoiled(judge: Evaluator, pictures: tuple[PIL.Image.Image, PIL.Image.Image], better: int) -> float:
    first, second = (score_of(judge(Candidate("spoiled", picture, "spoiled"))) for picture in pictures)
    return _right(first - second, better == 1)


def _right(gap: float, first: bool) -> float:
    return 0.5 if gap == 0 or gap != gap else float((gap > 0) == first)
