"""Kinds of pictures whose truth is known, on which choices among restorers are measured and learnt.

Cuts of good photographs, and text and flat graphics drawn by code, are degraded in the ways that people's pictures are.
A cut has three forms: small and degraded (what an enlargement starts from), of full size and degraded, and as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from restoration.degradation import Draws, degrade
from restoration.drawn import flat_graphic, line_art, screenshot, text_page
from restoration.jpeg import jpeg
from restoration.recipes import recipe
from vision.files import file_names
from vision.images import image_files, load_image, to_pil, to_tensor
from vision.resize import imresize

PHOTOGRAPHS = ("bicubic", "blind", "jpeg", "noise", "grey")
"""Kinds made of photographs: shrunk alone; blurred, noisy and compressed; compressed; noisy; without colour."""
DRAWN = ("text", "flat")
"""Kinds drawn by code, half of them shrunk alone, half blind."""
KINDS = PHOTOGRAPHS + DRAWN


@dataclass(frozen=True)
class Item:
    """A picture and its truth."""

    name: str
    """PHOTOGRAPH_CUT/KIND, or KIND_NUMBER/KIND."""
    kind: str
    """One of KINDS."""
    low: Tensor
    """(1, 3, h, w) what is restored, RGB in [0, 1]."""
    high: Tensor
    """(1, 3, scale h, scale w) the truth."""


def cuts(photo: Tensor, size: int, count: int) -> list[Tensor]:
    """The `count` sharpest cuts (1, 3, size, size) of a photograph that overlap by at most half, sharpest first.

    Args:
        photo: (1, 3, h, w) in [0, 1]; a smaller one gives itself.
    """
    height, width = photo.shape[-2:]
    if min(height, width) <= size:
        return [photo[..., :size, :size]]
    luma = photo.mean(1, keepdim=True)
    edges = 4 * luma[..., 1:-1, 1:-1] - luma[..., 1:-1, :-2] - luma[..., 1:-1, 2:] - luma[..., :-2, 1:-1]
    edges = (edges - luma[..., 2:, 1:-1]).abs()
    step = size // 2
    sharp = torch.nn.functional.avg_pool2d(edges, size - 2, step)[0, 0]
    found = []
    for place in sharp.flatten().argsort(descending=True).tolist():
        row, column = divmod(place, sharp.shape[1])
        if all(max(abs(row - r), abs(column - c)) >= 1 for r, c in found):
            found.append((row, column))
        if len(found) == count:
            break
    return [photo[..., row * step : row * step + size, column * step : column * step + size] for row, column in found]


def items(folder: Path, kinds: Sequence[str], *, cuts_each: int, size: int, scale: int, seed: int) -> Iterator[Item]:
    """Small degraded pictures: first the sharpest cut of every photograph in every kind, then the next ones.

    Args:
        folder: good photographs.
        kinds: of `KINDS`.
        cuts_each: cuts of a photograph; as many pictures of each drawn kind as cuts in all.
        size: side of the truth, in pixels.
        scale: pixels of the truth per pixel and side.
        seed: of what is drawn and degraded; item i of a kind draws from (seed, kind, i).
    """
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images.")
    for number in range(cuts_each):
        for place, (stem, path) in enumerate(zip(file_names(files), files, strict=True)):
            found = cuts(to_tensor(load_image(path)), size, cuts_each)
            for kind in kinds:
                rng = np.random.default_rng((seed, KINDS.index(kind), number * len(files) + place))
                if kind in DRAWN:
                    draw = text_page if kind == "text" else flat_graphic
                    high, name = to_tensor(draw(rng, size)), f"{kind}_{number * len(files) + place:03d}"
                elif number < len(found):
                    high, name = found[number], f"{stem}_{number}"
                else:
                    continue
                high = high.mean(1, keepdim=True).expand(-1, 3, -1, -1) if kind == "grey" else high
                high = (high * 255).round() / 255
                yield Item(f"{name}/{kind}", kind, spoilt(high, kind, scale, rng), high)


def needs(folder: Path, *, cuts_each: int, scale: int, seed: int) -> Iterator[tuple[str, Tensor, str]]:
    """Pictures and what they need (none, enlarge, restore): cuts of photographs and drawn pictures, each as it is (half
    of them through JPEG as cameras write it), degraded at full size, and shrunk.

    Args:
        folder: good photographs.
        cuts_each: cuts of every photograph, of random sizes; as many drawn pictures.
        scale: by how much pictures are shrunk.
        seed: item i draws from (seed, i).

    Yields:
        A name, (1, 3, h, w) in [0, 1], and the need.
    """
    files = image_files(folder)
    for number in range(cuts_each):
        for place, (stem, path) in enumerate(zip(file_names(files), files, strict=True)):
            rng = np.random.default_rng((seed, len(KINDS), number, place))
            size = int(rng.integers(60, 181)) * scale
            found = cuts(to_tensor(load_image(path)), size, cuts_each)
            drawn = (text_page, flat_graphic, line_art, screenshot)[int(rng.integers(4))]
            pictures = {f"{stem}_{number}": found[min(number, len(found) - 1)], f"drawn_{place}_{number}": None}
            for name, picture in pictures.items():
                high = to_tensor(drawn(rng, size)) if picture is None else picture
                sides = [side // scale * scale for side in high.shape[-2:]]
                high = high[..., : sides[0], : sides[1]]
                if rng.random() < 0.15:
                    high = high.mean(1, keepdim=True).expand(-1, 3, -1, -1)
                good = jpeg(high[0], int(rng.integers(90, 99)))[None] if rng.random() < 0.5 else high
                yield f"{name}/none", (good * 255).round() / 255, "none"
                kind = ("bicubic", "blind", "jpeg", "noise")[int(rng.integers(4))]
                yield f"{name}/restore", spoilt(high, kind, 1, rng), "restore"
                yield f"{name}/enlarge", spoilt(high, kind, scale, rng), "enlarge"


def spoilt(high: Tensor, kind: str, scale: int, rng: np.random.Generator) -> Tensor:
    """A degraded, smaller picture (1, 3, h / scale, w / scale) of a kind; at scale 1 it is always degraded."""
    small = high if scale == 1 else degrade(high, replace(recipe("bicubic"), scale=scale), Draws.seeded(0))
    if kind == "jpeg":
        return jpeg(small[0], int(rng.integers(10, 61)))[None]
    if kind == "noise":
        noise = rng.normal(0, rng.uniform(5, 30) / 255, small.shape)
        return ((small + torch.from_numpy(noise).float()).clamp(0, 1) * 255).round() / 255
    blind = kind == "blind" or (kind in (*DRAWN, "grey") and rng.random() < 0.5)
    if blind:
        return degrade(high, replace(recipe("blind"), scale=scale), Draws.seeded(0))
    return small if scale > 1 else blurred(high, rng)


def blurred(high: Tensor, rng: np.random.Generator) -> Tensor:
    """(1, 3, h, w) out of focus, or enlarged from fewer pixels."""
    if rng.random() < 0.5:
        soft = to_pil(high).filter(ImageFilter.GaussianBlur(float(rng.uniform(1.2, 4))))
        return to_tensor(soft)
    small = imresize(high, float(rng.uniform(0.2, 0.55)))
    enlarged = to_pil(small.clamp(0, 1)).resize(high.shape[:-3:-1], Image.Resampling.BICUBIC)
    return to_tensor(enlarged)
