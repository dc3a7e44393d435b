"""Training of the judge of restorations, on a CPU, from restorations whose truth is known and from spoiled photographs.

    burnish benchmark restorers --hr photos --systems none iter:clean@1 iter:photo@1 iter:clean@0 iter:photo@0.5 \\
        --kinds bicubic blind jpeg noise --cuts 1 --size 128 --seeds 3 --keep --out runs/known
    burnish train judge --choices runs/known --photos photos --folder runs/judge

Two windows at one place of two restorations are a pair, and the one with the smaller squared error of luma is better.
Pairs of two seeds of one restorer look alike and are told apart last: they are the hard negatives of Reinforced
re-ranking (arXiv 2504.09643), and weigh as much as all pairs of two restorers, and these as much as
all pairs of spoiled photographs. Restorations are shown with their input, spoiled photographs without one: what is
better of the former is the smaller error, which smooth pictures have, and must not teach what is better of the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from restoration.judge import JudgeConfig, JudgeNetwork, RestorationJudge, numbers_of
from restoration.known import Known, known
from vision.checkpoints import begin_run, one_at_a_time
from vision.faults import SpoiledPairs
from vision.images import image_files, to_y

SLIGHT = 0.02
"""Decibels; windows that differ by less are no pair."""
MIXED = 0.6
"""Share of the spoiled pairs whose pictures have different faults: those are told apart last."""


@dataclass(frozen=True)
class JudgeTraining:
    """What the training of the judge of restorations may choose."""

    choices: tuple[Path, ...]
    """Folders that `benchmark restorers --keep` wrote."""
    photos: Path
    """Folder of good photographs, which are spoiled."""
    folder: Path
    """Folder to write."""
    spoiled: int = 6000
    """Pairs of spoiled photographs."""
    width: int = 64
    """Hidden numbers of the network."""
    steps: int = 3000
    """Updates, of 512 pairs of every kind."""
    rate: float = 3e-3
    """Peak learning rate."""
    decay: float = 1e-2
    """Weight decay."""
    seed: int = 0
    """Of the start, the pairs and their order."""

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("Name at least one folder that benchmark restorers --keep wrote.")
        if min(self.spoiled, self.width, self.steps) < 1 or min(self.rate, self.decay) < 0:
            raise ValueError("spoiled, width and steps must be at least 1, rate and decay at least 0.")


@dataclass(frozen=True)
class Pairs:
    """Pairs of windows of which the first is better."""

    better: Tensor
    """(pairs, numbers)."""
    worse: Tensor
    """(pairs, numbers)."""
    weight: Tensor
    """(pairs,) how much it counts, above 0."""


@one_at_a_time
def train(options: JudgeTraining, *, log: Callable[[str], object] | None = None) -> Path:
    """Train to the end and return the folder of the weights.

    Raises:
        FileNotFoundError, ValueError: as `plain_judge`.
    """
    _, parts, judge = plain_judge(options)
    judge.save_pretrained(options.folder)
    if log is not None:
        told = ", ".join(f"{len(pairs.weight)} of {name}" for name, pairs in parts.items())
        log(f"Learnt from pairs of windows: {told}.")
    return options.folder


def plain_judge(options: JudgeTraining) -> tuple[list[Known], dict[str, Pairs], RestorationJudge]:
    """Begin the run: the restorations, the pairs of every one of `PARTS`, each of which weighs the same, and the judge
    that learnt from them.

    Raises:
        FileNotFoundError: a folder has no trace.
        ValueError: the folder was begun with other options or data, no pictures were kept, or they make no pairs of
            two seeds and of two methods.
    """
    begin_run(options.folder, options, data=("choices", "photos"))
    config = JudgeConfig(options.width)
    items, parts = all_pairs(options, config.side)
    return items, parts, fit(list(parts.values()), config, options)


def all_pairs(options: JudgeTraining, side: int) -> tuple[list[Known], dict[str, Pairs]]:
    """The restorations, and the pairs of every one of `PARTS`."""
    items, found = [], {"two seeds": [], "two methods": []}
    for item in known(options.choices):
        items.append(item)
        for part, pairs in restoration_pairs(item, side).items():
            found[part] += pairs
    parts = {part: stacked(pairs, part) for part, pairs in found.items()}
    return items, parts | {"spoiled": spoiled_pairs(options.photos, options.spoiled, options.seed, side)}


def restoration_pairs(item: Known, side: int) -> dict[str, list[tuple[Tensor, Tensor, float]]]:
    """Pairs of windows of one item: (better, worse, weight), by part."""
    numbers = [numbers_of(picture, item.low, side)[0] for picture in item.made]
    quality = [window_psnr(picture, item.high, side) for picture in item.made]
    origins = [candidate.origin for candidate in item.choice.candidates]
    found: dict[str, list[tuple[Tensor, Tensor, float]]] = {"two seeds": [], "two methods": []}
    for a, b in combinations(range(len(numbers)), 2):
        part = found["two seeds" if origins[a] == origins[b] else "two methods"]
        for window, gap in enumerate((quality[a] - quality[b]).tolist()):
            if abs(gap) >= SLIGHT:
                first, second = (a, b) if gap > 0 else (b, a)
                part.append((numbers[first][window], numbers[second][window], min(abs(gap), 1.0) + 0.1))
    return found


def window_psnr(picture: Tensor, truth: Tensor, side: int) -> Tensor:
    """(windows,) PSNR of luma in dB, at most 80, of (1, 3, H, W) in [0, 1]; windows as `numbers_of` cuts them."""
    error = F.avg_pool2d((to_y(picture) - to_y(truth)).square(), side)
    return -10 * error.flatten().clamp(1e-8).log10()


def spoiled_pairs(photos: Path, count: int, seed: int, side: int) -> Pairs:
    """Pairs of spoiled photographs, without an input."""
    pairs = SpoiledPairs(image_files(photos), seed, MIXED)
    rows = []
    for number in range(count):
        pair = pairs(number)
        first, second = (numbers_of(picture, None, side)[0][0] for picture in pair.pictures)
        better, worse = (first, second) if pair.better == 1 else (second, first)
        rows.append((better, worse, 1.0))
    return stacked(rows, "spoiled")


def fit(parts: Sequence[Pairs], config: JudgeConfig, options: JudgeTraining) -> RestorationJudge:
    """The judge that tells the pairs apart best: logistic regression on differences of scores."""
    generator = torch.Generator().manual_seed(options.seed)
    network = JudgeNetwork(config.width)
    with torch.no_grad():
        for parameter in network.parameters():
            bound = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.0
            parameter.uniform_(-bound, bound, generator=generator)
        seen = torch.cat([half for pairs in parts for half in (pairs.better, pairs.worse)])
        network.mean.copy_(seen.mean(0))
        network.deviation.copy_(seen.std(0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.rate, weight_decay=options.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    for _ in range(options.steps):
        losses = []
        for pairs in parts:
            place = torch.randint(len(pairs.weight), (512,), generator=generator)
            margin = network(pairs.better[place]) - network(pairs.worse[place])
            losses.append((F.softplus(-margin) * pairs.weight[place]).sum() / pairs.weight[place].sum())
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
    return RestorationJudge(network.eval(), config)


def stacked(rows: Sequence[tuple[Tensor, Tensor, float]], part: str) -> Pairs:
    """Pairs out of (better, worse, weight).

    Raises:
        ValueError: there are none.
    """
    if not rows:
        raise ValueError(f"These pictures make no pairs of {part}; name systems that sample, and --seeds 2 or more.")
    better, worse, weight = zip(*rows, strict=True)
    return Pairs(torch.stack(better), torch.stack(worse), torch.tensor(weight))
