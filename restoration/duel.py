"""A duel about restorations: one side plants faults in them, the judge of restorations has to name the faulty window.

The sneaky side chooses kind, strength and place of a fault, and learns what fooled the judge. A fault counts where the
truth says that the window became worse. After SPC (arXiv 2504.19162); the game itself is `vision.duel`.

n: windows of a picture, W, H: its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restoration.judge import RestorationJudge, numbers_of
from restoration.known import Known
from vision.duel import Bout, duel
from vision.planted import KINDS, UNTAUGHT, plant
from vision.resize import imresize
from vision.strategies import Candidate
from vision.strategies.need import NONE

STRENGTHS = (0.25, 0.4, 0.6, 0.8, 1.0)
"""Borders of the four strengths among which the sneaky side chooses; within them chance decides."""
PLACES = 3
"""Thirds of a picture's windows by their detail, the flattest first, among which it chooses."""
WORSE = 0.5
"""Decibels of the colours of a window by which a fault must make it worse to count."""
DRAWN = 0.25
"""Share of the faults that chance chooses, so that no kind dies out."""
RATE = 2.0
"""How fast the sneaky side learns: logits per mean reward."""


@dataclass(frozen=True)
class Draft:
    """A restoration in which faults are planted."""

    item: Known
    """With its input and truth."""
    picture: Tensor
    """(1, 3, H, W)."""
    plain: Tensor
    """(1, 3, H, W) the input, enlarged."""
    numbers: Tensor
    """(n, numbers) of the windows of the restoration, see `restoration.judge`."""
    plain_numbers: Tensor
    """(n, numbers) of those of the enlargement."""


@dataclass(frozen=True)
class Fault:
    """What was planted."""

    draft: int
    """Number of the restoration."""
    arm: tuple[int, int, int]
    """Kind, strength and third of the windows, as the sneaky side chose."""
    kind: str
    """Its name."""
    place: int
    """Number of the window, row by row."""
    picture: Tensor
    """(1, 3, H, W) with the fault."""
    numbers: Tensor
    """(n, numbers) of its windows."""


class Sneaky:
    """Plants faults where they fooled the judge before.

    Args:
        drafts: restorations.
        side: pixels per side of a window.
        kinds: of faults.
        seed: of its choices.
        learns: otherwise chance chooses all.
    """

    def __init__(self, drafts: Sequence[Draft], side: int, kinds: Sequence[str], seed: int, learns: bool = True):
        self.drafts, self.side, self.kinds, self.learns = drafts, side, tuple(kinds), learns
        self.logits = np.zeros((len(self.kinds), len(STRENGTHS) - 1, PLACES))
        self.rng = np.random.default_rng((seed, 1))

    def __call__(self, task: str, round: int) -> Candidate:
        """A fault in some restoration; the task is the number of the bout."""
        rng = self.rng
        number = int(rng.integers(len(self.drafts)))
        draft = self.drafts[number]
        arm = self._arm()
        kind, strength = self.kinds[arm[0]], float(rng.uniform(*STRENGTHS[arm[1] : arm[1] + 2]))
        busy = detail(draft.picture, self.side).argsort().tolist()
        third = [busy[i] for i in range(len(busy)) if i * PLACES // len(busy) == arm[2]] or busy
        place = third[int(rng.integers(len(third)))]
        row, column = divmod(place, draft.picture.shape[-1] // self.side)
        picture = plant(draft.picture, (row, column), self.side, kind, strength, rng)
        numbers = numbers_of(picture, draft.item.low, self.side)[0]
        return Candidate(task, Fault(number, arm, kind, place, picture, numbers), "sneaky")

    def learn(self, bouts: Sequence[Bout]) -> None:
        """Prefer what earned more than the mean."""
        if not self.learns:
            return
        earned: dict[tuple[int, int, int], list[float]] = {}
        for bout in bouts:
            earned.setdefault(bout.planted.value.arm, []).append(bout.rewards[0])
        mean = fmean(reward for rewards in earned.values() for reward in rewards)
        for arm, rewards in earned.items():
            self.logits[arm] += RATE * (fmean(rewards) - mean) * len(rewards) / (len(rewards) + 2)

    def _arm(self) -> tuple[int, int, int]:
        chances = np.exp(self.logits - self.logits.max()).flatten()
        chances = DRAWN / chances.size + (1 - DRAWN) * chances / chances.sum()
        place = self.rng.choice(chances.size, p=chances / chances.sum())
        return tuple(int(number) for number in np.unravel_index(place, self.logits.shape))


def drafts_of(items: Sequence[Known], side: int) -> list[Draft]:
    """Every restoration of the items but plain enlargement, once per restorer."""
    found = []
    for item in items:
        plain = imresize(item.low, size=tuple(item.high.shape[-2:])).clamp(0, 1)
        plain = (plain * 255).round() / 255
        against = numbers_of(plain, item.low, side)[0]
        seen = {NONE}
        for candidate, picture in zip(item.choice.candidates, item.made, strict=True):
            if candidate.origin not in seen:
                seen.add(candidate.origin)
                found.append(Draft(item, picture, plain, numbers_of(picture, item.low, side)[0], against))
    return found


def detail(picture: Tensor, side: int) -> Tensor:
    """(n,) how much is to be seen in the windows of (1, 3, H, W): mean steps between neighbours."""
    steps = (picture[..., 1:, 1:] - picture[..., :-1, :-1]).abs().mean(1, keepdim=True)
    return F.avg_pool2d(F.pad(steps, (0, 1, 0, 1)), side).flatten()


def lost(picture: Tensor, truth: Tensor, side: int) -> Tensor:
    """(n,) mean squared errors of the colours of the windows of (1, 3, H, W), not 0."""
    return F.avg_pool2d((picture - truth).square().mean(1, keepdim=True), side).flatten().clamp(min=1e-7)


@torch.no_grad()
def named(judge: RestorationJudge, fault: Fault, draft: Draft) -> int:
    """Number of the window that the judge finds faulty: where plain enlargement leads most, as in a repair."""
    return int((judge.network(draft.plain_numbers) - judge.network(fault.numbers)).argmax())


def is_worse(fault: Fault, draft: Draft, side: int) -> bool:
    """Whether the truth says so."""
    before, after = (lost(picture, draft.item.high, side)[fault.place] for picture in (draft.picture, fault.picture))
    return bool(10 * (after / before).log10() >= WORSE)


def play(sneaky: Sneaky, judge: RestorationJudge, bouts: int, round: int = 0) -> tuple[tuple[Bout, ...], int]:
    """The bouts of a round whose fault was one, and how many were none; nobody learns yet."""
    drafts, side = sneaky.drafts, sneaky.side
    game = duel(
        [f"{round}-{number}" for number in range(bouts)],
        sneaky,
        lambda planted: named(judge, planted.value, drafts[planted.value.draft]),
        lambda task, planted: is_worse(planted.value, drafts[planted.value.draft], side),
        lambda planted, says: planted.value.place == says,
    )
    return game.bouts, game.invalid


def pairs_of(bouts: Sequence[Bout], drafts: Sequence[Draft], side: int) -> Iterator[tuple[Tensor, Tensor, float]]:
    """(better, worse, weight) numbers of windows that the judge learns from: without the fault and with it, and plain
    enlargement and the fault where the truth prefers the former. A fault that fooled it weighs twice as much."""
    for bout in bouts:
        fault: Fault = bout.planted.value
        draft, weight = drafts[fault.draft], 1.0 if bout.found else 2.0
        truth, bad = draft.item.high, fault.numbers[fault.place]
        yield draft.numbers[fault.place], bad, weight
        if lost(draft.plain, truth, side)[fault.place] < lost(fault.picture, truth, side)[fault.place]:
            yield draft.plain_numbers[fault.place], bad, weight


def measure(judge: RestorationJudge, items: Sequence[Known], count: int, seed: int) -> list[dict[str, Any]]:
    """A row per kind of fault, taught or not: of `count` faults that chance chose, the share of windows that the judge
    prefers without the fault, and the share that it names among all windows of the picture; then a row of all taught
    and one of all untaught kinds."""
    side = judge.config.side
    drafts, rows = drafts_of(items, side), []
    for taught, kinds in ((True, KINDS), (False, UNTAUGHT)):
        marks: list[tuple[float, float]] = []
        for kind in kinds:
            bouts, invalid = play(Sneaky(drafts, side, (kind,), seed, learns=False), judge, count)
            own = [(_prefers(judge, bout, drafts), float(bout.found)) for bout in bouts]
            rows.append(_row(kind, taught, own, invalid))
            marks += own
        rows.append(_row("all taught" if taught else "all untaught", taught, marks, 0))
    return rows


@torch.no_grad()
def _prefers(judge: RestorationJudge, bout: Bout, drafts: Sequence[Draft]) -> float:
    fault: Fault = bout.planted.value
    good, bad = judge.network(drafts[fault.draft].numbers), judge.network(fault.numbers)
    return float(good[fault.place] > bad[fault.place])


def _row(kind: str, taught: bool, marks: Sequence[tuple[float, float]], invalid: int) -> dict[str, Any]:
    right = {"right": fmean(mark[0] for mark in marks), "named": fmean(mark[1] for mark in marks)} if marks else {}
    return {"kind": kind, "taught": taught, **right, "faults": len(marks), "no faults": invalid}
