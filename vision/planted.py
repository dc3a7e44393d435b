"""Faults planted in a window of a picture, for those who must find them: what a duel of pictures is fought with.

The faults of `vision.faults` and three more are taught; four others are kept for the question whether one who learnt
from the taught ones finds what was never shown.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vision import faults
from vision.faults import spoil
from vision.images import blur, composite, to_pil, to_tensor

KINDS = (*faults.KINDS, "moved", "stranger", "tone")
"""Faults that may be taught."""
UNTAUGHT = ("banding", "cast", "seams", "moire")
"""Faults that never are."""
FADE = 2
"""Pixels over which a fault fades into its surroundings."""
CONTEXT = 16
"""Pixels around the window that are spoiled with it, so that its border is none of the picture."""


def plant(
    picture: Tensor, place: tuple[int, int], side: int, kind: str, strength: float, rng: np.random.Generator
) -> Tensor:
    """A picture (1, 3, H, W) RGB in [0, 1] with a fault in one window, in steps of 8 bit.

    Moved: shown 1 to 5 pixels away. Stranger: detail of another place mixed in. Tone: contrast and brightness change by
    up to a half and a fifth. Banding: 40 down to 6 tones. Cast: two channels move apart by up to 0.3. Seams: one part
    of the window is brighter or darker by up to 0.2, and shown up to 3 pixels away. Moire: two gratings of nearly equal
    periods. Others: `vision.faults.spoil`.

    Args:
        picture: what is spoiled.
        place: row and column of the window, counted in windows.
        side: pixels per side of a window.
        kind: of `KINDS` or `UNTAUGHT`.
        strength: in (0, 1].
        rng: what is left to chance.
    """
    top, left = (number * side for number in place)
    rows, columns = (slice(max(start - CONTEXT, 0), start + side + CONTEXT) for start in (top, left))
    part = picture[..., rows, columns]
    if kind in faults.KINDS:
        made = to_tensor(spoil(to_pil(part), kind, strength, rng))
    elif kind in KINDS or kind in UNTAUGHT:
        made = _MADE[kind](part, strength, rng)
    else:
        raise ValueError(f"kind must be one of {', '.join((*KINDS, *UNTAUGHT))}, got {kind!r}.")
    spoiled, mask = picture.clone(), torch.zeros_like(picture[:, :1])
    spoiled[..., rows, columns] = made
    mask[..., top : top + side, left : left + side] = 1
    mixed = composite(blur(mask, FADE) * mask, spoiled, picture)
    return (mixed.clamp(0, 1) * 255).round() / 255


def _moved(part: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """(1, 3, h, w), `strength` of 5 pixels away in any direction."""
    angle, far = rng.uniform(0, 2 * math.pi), 1 + 4 * strength
    return part.roll((round(far * math.sin(angle)), round(far * math.cos(angle))), (2, 3))


def _stranger(part: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """(1, 3, h, w) with the detail of another place, turned, over its own."""
    other = torch.rot90(part, int(rng.integers(1, 4)), (2, 3))
    other = other[..., : part.shape[2], : part.shape[3]]
    if other.shape != part.shape:
        other = part.flip(2, 3)
    detail = part - blur(blur(part, 1), 2)
    return part + strength * (other - blur(blur(other, 1), 2) - detail)


def _tone(part: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """(1, 3, h, w), darker or brighter, harder or softer."""
    factor = 1 + 0.5 * strength * rng.choice((-1, 1))
    mean = part.mean((2, 3), keepdim=True)
    return mean + factor * (part - mean) + 0.2 * strength * rng.choice((-1, 1))


def _banding(part: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """(1, 3, h, w) in few tones."""
    tones = round(math.exp(math.log(40) + strength * math.log(6 / 40)))
    return (part * (tones - 1)).round() / (tones - 1)


def _cast(part: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """(1, 3, h, w) with two channels apart."""
    up, down = rng.permutation(3)[:2]
    shift = torch.zeros(1, 3, 1, 1)
    shift[:, up], shift[:, down] = 0.15 * strength, -0.15 * strength
    return part + shift


def _seams(part: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """(1, 3, h, w) in two parts that do not meet."""
    height, width = part.shape[2:]
    down = bool(rng.integers(2))
    length = height if down else width
    cut = int(length * rng.uniform(0.4, 0.6))
    part = part if down else part.mT
    moved = part.roll(round(3 * strength) * int(rng.choice((-1, 1))), 3) + 0.2 * strength * float(rng.choice((-1, 1)))
    made = torch.cat([part[:, :, :cut], moved[:, :, cut:]], 2)
    return made if down else made.mT


def _moire(part: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """(1, 3, h, w) with the beat of two gratings."""
    height, width = part.shape[2:]
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    angle, period = rng.uniform(0, math.pi), rng.uniform(2.5, 6)
    waves = torch.ones(height, width)
    for turn, factor in ((0.0, 1.0), (rng.uniform(0.05, 0.2), rng.uniform(1.02, 1.1))):
        along = x * math.cos(angle + turn) + y * math.sin(angle + turn)
        waves = waves * torch.cos(2 * math.pi * along / (period * factor))
    return part + 0.2 * strength * waves


_MADE = {
    "moved": _moved,
    "stranger": _stranger,
    "tone": _tone,
    "banding": _banding,
    "cast": _cast,
    "seams": _seams,
    "moire": _moire,
}
