"""Hard negatives for a judge of pictures: what it prefers among restorations although it is further from the truth.

    burnish benchmark restorers --hr photos --seeds 3 --keep --out runs/known
    burnish train r1 --stage rl --rows hard.jsonl --mine runs/known --held-out pairs.jsonl --start runs/sft/weights

Windows at one place of all restorations of a picture are the candidates; the judge that is to learn ranks them, their
PSNR says what is right, and `mine_hard_negatives` takes the pairs that it gets wrong. Source: "Iterative Self-Training
for Code Generation via Reinforced Re-Ranking" (arXiv 2504.09643), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_vlm.data import Preference
from reward_vlm.judges import Judge, Query
from reward_vlm.photo_pairs import QUESTION
from reward_vlm.r1.options import R1Options
from reward_vlm.r1.rows import balance
from reward_vlm.writers.negatives import mine_hard_negatives
from vision.faults import SIDE
from vision.images import load_image, to_pil, to_tensor
from vision.metrics import psnr
from vision.refine import Verdict
from vision.strategies import Candidate, Choice, read_choices

TRUTH = "truth.png"
"""Name of the truth beside the restorations of a picture."""
WINDOWS = 4
"""Windows of a picture at most, those with most detail in the truth."""
SLIGHT = 0.1
"""Decibels of PSNR; what is worse by less is no negative."""


def mined(folders: Sequence[Path], judge: Judge, options: R1Options, seed: int = 0) -> list[Preference]:
    """The pairs of windows that a judge gets wrong, the better one first in half of them.

    Args:
        folders: `benchmark restorers --keep` wrote them.
        judge: ranks the windows, as it is asked by its own question or by the one about spoiled photographs.
        options: of its calls.
        seed: of the order of the answers.

    Raises:
        FileNotFoundError: a folder has no trace, or a picture is missing.
        ValueError: no pictures were kept, they are smaller than a window, or the judge gets all of them right.
    """
    pairs = [pair for folder in folders for choice in read_choices(folder) for pair in _of(choice, judge, options)]
    if not pairs:
        told = ", ".join(map(str, folders))
        raise ValueError(f"The judge gets every window of {told} right; there is nothing to mine.")
    return balance(pairs, seed)


def _of(choice: Choice, judge: Judge, options: R1Options) -> Iterator[Preference]:
    """The pairs of one picture."""
    files = [candidate.value for candidate in choice.candidates]
    if not all(isinstance(file, Path) for file in files):
        raise ValueError(f"{choice.task} has no pictures; let benchmark restorers --keep write them.")
    truth, *made = (to_tensor(load_image(path)) for path in (files[0].parent / TRUTH, *files))
    question = getattr(getattr(judge, "config", None), "question", None) or QUESTION
    for top, left in corners(truth):
        cut = (..., slice(top, top + SIDE), slice(left, left + SIDE))
        near = [float(psnr(picture[cut], truth[cut])) for picture in made]
        windows = [to_pil(picture[cut]) for picture in made]
        liked = judge.batch([Query(question, tuple(windows))], options)[0].scores.tolist()
        task = f"{choice.task}/{top}-{left}"
        places = tuple(Candidate(task, place, candidate.origin) for place, candidate in enumerate(choice.candidates))
        ranked = Choice(task, places, tuple(map(Verdict, liked)), liked.index(max(liked)), "the judge likes it most")
        found = mine_hard_negatives([ranked], lambda c, n=liked: n[c.value], lambda c, n=near: n[c.value], 0.0, SLIGHT)
        for number, pair in enumerate(found):
            answers = windows[pair.chosen.value], windows[pair.rejected.value]
            yield Preference(f"{task}/{number}", question, answers, 1, category="mined")


def corners(truth: Tensor, count: int = WINDOWS) -> list[tuple[int, int]]:
    """Upper left corners of the windows of (1, 3, h, w) with most detail, at most `count`.

    Raises:
        ValueError: it is smaller than a window.
    """
    height, width = truth.shape[-2:]
    if min(height, width) < SIDE:
        raise ValueError(f"Pictures need at least {SIDE} pixels per side, got {width} x {height}.")
    grey = truth.mean(1, keepdim=True)
    detail = (grey - F.avg_pool2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), 3, 1)).square()
    places = F.avg_pool2d(detail, SIDE)[0, 0]
    best = torch.argsort(places.flatten(), descending=True, stable=True)[:count].tolist()
    return [(place // places.shape[1] * SIDE, place % places.shape[1] * SIDE) for place in best]
