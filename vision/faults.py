"""Pairs of spoiled photographs of which one is less degraded, by construction: what judges of pictures learn from.

Both pictures of a pair show the same crop. Each is blurred, noisy, coded in JPEG blocks, shrunk and enlarged, or
sharpened too much, at a strength in [0, 1]; the one with the lower strength is better. Item i of a seed depends on
(seed, i) alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFilter

KINDS = ("blur", "noise", "blocks", "coarse", "ringing")
SIDE = 56
"""Pixels per side of the crops."""
MARGIN = 8
"""Pixels by which crops are larger, on average on each side, while they are spoiled: blocks may lie anywhere."""
GAP = 0.3
"""Least difference of the strengths of a pair."""


@dataclass(frozen=True)
class SpoiledPair:
    """Two versions of a crop."""

    pictures: tuple[PIL.Image.Image, PIL.Image.Image]
    """`SIDE` pixels per side."""
    kinds: tuple[str, str]
    """Their faults, of `KINDS`."""
    strengths: tuple[float, float]
    """Of the faults, in [0, 1]; 0: the crop as it is."""
    better: int
    """1 or 2: the one with the lower strength."""


def spoil(crop: PIL.Image.Image, kind: str, strength: float, rng: np.random.Generator) -> PIL.Image.Image:
    """A crop with one fault; strength 0 leaves it as it is.

    Blur: Gaussian, sigma up to 2.5 pixels. Noise: Gaussian, standard deviation up to 50 of 255. Blocks: JPEG, quality
    from 60 down to 4. Coarse: shrunk up to 4 times and enlarged, bicubic. Ringing: unsharp mask of radius 2, up to 5
    times the difference added.
    """
    if strength <= 0:
        return crop
    if kind == "blur":
        return crop.filter(PIL.ImageFilter.GaussianBlur(2.5 * strength))
    if kind == "noise":
        noisy = np.asarray(crop, dtype=np.float32) + rng.normal(0, 50 * strength, (crop.height, crop.width, 3))
        return PIL.Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    if kind == "blocks":
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=round(math.exp(math.log(60) + strength * math.log(4 / 60))))
        return PIL.Image.open(buffer).convert("RGB")
    if kind == "coarse":
        small = [max(round(side / (1 + 3 * strength)), 1) for side in crop.size]
        return crop.resize(small, PIL.Image.Resampling.BICUBIC).resize(crop.size, PIL.Image.Resampling.BICUBIC)
    if kind == "ringing":
        return crop.filter(PIL.ImageFilter.UnsharpMask(2, round(500 * strength), 0))
    raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")


class SpoiledPairs:
    """Pairs from crops of photographs."""

    def __init__(self, photos: Sequence[Path], seed: int, mixed: float = 0.3):
        """`mixed`: share of the pairs whose pictures have different faults."""
        if not photos:
            raise ValueError("Pairs of photographs need at least one photograph.")
        self.photos = [np.asarray(PIL.Image.open(path).convert("RGB")) for path in photos]
        self.seed, self.mixed = seed, mixed

    def __call__(self, index: int) -> SpoiledPair:
        """The pair with this number; half of the better pictures come first."""
        rng = np.random.default_rng((self.seed, index))
        crop = self._crop(rng)
        kind = KINDS[rng.integers(len(KINDS))]
        kinds = [kind, kind]
        if rng.random() < self.mixed:
            kinds[1] = KINDS[rng.integers(len(KINDS))]
        low = max(rng.uniform(-0.2, 1 - GAP), 0.0)  # a fifth or so of the better pictures have no fault
        strengths = [low, float(rng.uniform(low + GAP, 1))]
        better = int(rng.integers(1, 3))
        if better == 2:
            kinds, strengths = kinds[::-1], strengths[::-1]
        x, y = (int(place) for place in rng.integers(0, 2 * MARGIN, 2))
        window = (x, y, x + SIDE, y + SIDE)
        first, second = (spoil(crop, k, s, rng).crop(window) for k, s in zip(kinds, strengths, strict=True))
        return SpoiledPair((first, second), (kinds[0], kinds[1]), (strengths[0], strengths[1]), better)

    def _crop(self, rng: np.random.Generator) -> PIL.Image.Image:
        """A crop with something to see in it: at most five are drawn until one has fine structure."""
        whole = SIDE + 2 * MARGIN
        for _ in range(5):
            photo = self.photos[rng.integers(len(self.photos))]
            y, x = (int(rng.integers(0, side - whole + 1)) for side in photo.shape[:2])
            crop = photo[y : y + whole, x : x + whole]
            grey = crop.astype(np.float32).mean(2)
            if np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean() > 6:
                break
        return PIL.Image.fromarray(crop)
