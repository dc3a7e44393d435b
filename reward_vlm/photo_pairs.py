"""Pairs of spoiled photographs of which one is less degraded, by construction: what judges of restorations learn from.

Both pictures of a pair show the same crop. Each is blurred, noisy, coded in JPEG blocks, shrunk and enlarged, or
sharpened too much, at a strength in [0, 1]; the one with the lower strength is better. Item i of a seed depends on
(seed, i) alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFilter

from reward_vlm.data import Preference

QUESTION = "which picture is less degraded ?"
KINDS = ("blur", "noise", "blocks", "coarse", "ringing")
SIDE = 56
"""Pixels per side of the crops."""
MARGIN = 8
"""Pixels by which crops are larger, on average on each side, while they are spoiled: blocks may lie anywhere."""
GAP = 0.3
"""Least difference of the strengths of a pair."""
LEVELS = ("none", "low", "middle", "high")


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


class PhotoPairs:
    """Pairs from crops of photographs."""

    def __init__(self, photos: Sequence[Path], seed: int, mixed: float = 0.3):
        """`mixed`: share of the pairs whose pictures have different faults."""
        if not photos:
            raise ValueError("Pairs of photographs need at least one photograph.")
        self.photos = [np.asarray(PIL.Image.open(path).convert("RGB")) for path in photos]
        self.seed, self.mixed = seed, mixed

    def __call__(self, index: int) -> Preference:
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
        return Preference(
            id=f"photo-{self.seed}-{index}",
            question=QUESTION,
            answers=(first, second),
            better=better,
            category=kinds[0] if kinds[0] == kinds[1] else "mixed",
            rationale=describe((kinds[0], kinds[1]), (strengths[0], strengths[1]), better),
        )

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


def level(strength: float) -> str:
    """A strength in words; strengths that differ by `GAP` have different ones."""
    return LEVELS[min(int((strength + 0.2) / GAP), len(LEVELS) - 1)]


def describe(kinds: tuple[str, str], strengths: tuple[float, float], better: int) -> str:
    """What a judge says of a pair: both pictures in words, and which is better."""
    said = [f"image {n} : {kind} {level(s)} ." for n, (kind, s) in enumerate(zip(kinds, strengths, strict=True), 1)]
    return " ".join([*said, f"response {better} is better ."])


def photo_corpus() -> Iterator[str]:
    """Every sentence of the task, for a tokenizer."""
    for kind, strength, better in product(KINDS, (0.0, 0.3, 0.6, 0.9), (1, 2)):
        told = describe((kind, kind), (strength, strength), better)
        yield f"{QUESTION} response 1 : image 1 . response 2 : image 2 . {told} {better}"
