"""Pairs of good and bad images to train restoration with, from folders.

Every sample is a function of (seed, index) alone: crops, flips and degradations are the same whatever the number
of workers, and a run that is resumed sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from restoration.degradation import Draws, degrade
from restoration.recipes import Recipe, recipe
from vision.files import partners
from vision.images import image_files, load_image, to_tensor
from vision.resize import resize


class _SeededImages(Dataset[dict[str, Tensor]]):
    """What both kinds of folder share: files, random streams per sample."""

    def __init__(
        self,
        paths: list[Path],
        folder: str | Path,
        crop: int | None,
        augment: bool,
        seed: int,
        repeats: int,
        in_memory: bool,
    ):
        if not paths:
            raise ValueError(f"{folder} holds no images.")
        if crop is not None and crop < 1:
            raise ValueError(f"crop must be at least 1 pixel, got {crop}.")
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}.")
        self.paths, self.crop, self.augment, self.seed, self.repeats = paths, crop, augment, seed, repeats
        self.in_memory = in_memory
        self._pixels: dict[Path, Tensor] = {}

    def __len__(self) -> int:
        return len(self.paths) * self.repeats

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[index] for index in range(len(self)))

    def _draws(self, index: int) -> Draws:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} samples, got index {index}.")
        return Draws.seeded(self.seed, 0, index)

    def _read(self, path: Path) -> Tensor:
        """(3, height, width) uint8 of a file."""
        if path in self._pixels:
            return self._pixels[path]
        pixels = to_tensor(load_image(path))[0].mul(255).round().to(torch.uint8)
        if self.in_memory:
            self._pixels[path] = pixels
        return pixels


class DegradedImages(_SeededImages):
    """Good images of one folder, degraded on the fly.

    Samples are {"high": (3, crop, crop), "low": (3, crop / scale, crop / scale)}, float32 RGB in [0, 1].

    Args:
        folder: holds the images; sub-folders are not searched.
        how: a recipe of `restoration.recipes`, or its name.
        crop: side of the random crop in pixels of the good image, a multiple of the scale; None takes whole images, cut
            to multiples of the scale.
        augment: flip and transpose at random.
        seed: see the module.
        repeats: samples per image.
        in_memory: keep decoded images (3 bytes per pixel, in every worker).

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: it holds no images, or an option is out of range; later, when an image is unreadable or too small.
    """

    def __init__(
        self,
        folder: str | Path,
        how: Recipe | str,
        *,
        crop: int | None = 128,
        augment: bool = True,
        seed: int = 0,
        repeats: int = 1,
        in_memory: bool = False,
    ):
        super().__init__(image_files(folder), folder, crop, augment, seed, repeats, in_memory)
        self.recipe = recipe(how) if isinstance(how, str) else how
        if crop is not None and crop % self.recipe.scale:
            raise ValueError(f"crop must be a multiple of the scale {self.recipe.scale}, got {crop}.")

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draws = self._draws(index)
        path = self.paths[index % len(self.paths)]
        high = self._read(path)
        scale = self.recipe.scale
        size = (self.crop, self.crop) if self.crop else tuple(side - side % scale for side in high.shape[-2:])
        top, left = _place(high, size, path, draws.python)
        high = high[:, top : top + size[0], left : left + size[1]].float().div(255)
        if self.augment:
            (high,) = _augment([high], draws.python)
        return {"high": high, "low": degrade(high, self.recipe, draws)}


class PairedImages(_SeededImages):
    """Good and bad images of the same names in two folders.

    Samples are {"high": (3, crop, crop), "low": (3, crop / scale, crop / scale)}, float32 RGB in [0, 1]; the scale is
    read off the images and may be 1.

    Args:
        folder: holds the sub-folders `hr` and `lr`, or the good images when `low` is given.
        low: folder of the bad images.
        crop: side of the random crop in pixels of the good image, a multiple of the scale; None takes whole images.
        augment: flip and transpose at random.
        rescale: shrink pairs at random before the crop, at most until the shorter side is `crop`.
        seed: see the module.
        repeats: samples per image.
        in_memory: keep decoded images (3 bytes per pixel, in every worker).

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: the folders hold no images or not the same names, one has several partners, or an option is out of
            range; later, when an image is unreadable or too small, or the sizes of a pair do not fit.
    """

    def __init__(
        self,
        folder: str | Path,
        low: str | Path | None = None,
        *,
        crop: int | None = None,
        augment: bool = False,
        rescale: bool = False,
        seed: int = 0,
        repeats: int = 1,
        in_memory: bool = False,
    ):
        high_folder, low_folder = (
            (Path(folder) / "hr", Path(folder) / "lr") if low is None else (Path(folder), Path(low))
        )
        super().__init__(image_files(high_folder), high_folder, crop, augment, seed, repeats, in_memory)
        if rescale and crop is None:
            raise ValueError("rescale needs a crop, which says how small images may become.")
        self.rescale = rescale
        found = [*map(partners(image_files(low_folder)), self.paths)]
        missing = [path.name for path, other in zip(self.paths, found, strict=True) if other is None]
        if missing:
            raise ValueError(
                f"{len(missing)} images of {high_folder} have no partner in {low_folder}; first: {missing[0]}."
            )
        self.low_paths = [path for path in found if path is not None]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draws = self._draws(index)
        place = index % len(self.paths)
        path = self.paths[place]
        high, low = self._read(path), self._read(self.low_paths[place])
        scale = high.shape[-1] // low.shape[-1]
        if scale < 1 or high.shape[-2:] != (low.shape[-2] * scale, low.shape[-1] * scale):
            raise ValueError(
                f"{path.name}: {high.shape[-1]} x {high.shape[-2]} pixels are no whole multiple of its partner's "
                f"{low.shape[-1]} x {low.shape[-2]}."
            )
        if self.crop is not None:
            if self.crop % scale:
                raise ValueError(f"crop must be a multiple of the scale {scale}, got {self.crop}.")
            if self.rescale:
                high, low = self._shrunk(high, low, scale, draws.python)
            size = (self.crop // scale, self.crop // scale)
            top, left = _place(low, size, path, draws.python, scale)
            low = low[:, top : top + size[0], left : left + size[1]]
            high = high[:, top * scale : (top + size[0]) * scale, left * scale : (left + size[1]) * scale]
        high, low = (image.float().div(255) for image in (high, low))
        if self.augment:
            high, low = _augment([high, low], draws.python)
        return {"high": high, "low": low}

    def _shrunk(self, high: Tensor, low: Tensor, scale: int, chance: random.Random) -> tuple[Tensor, Tensor]:
        """A pair shrunk (cubic) to a random common size, both uint8."""
        shorter = min(low.shape[-2:])
        if shorter * scale <= self.crop:
            return high, low
        factor = chance.randint(self.crop // scale, shorter) / shorter
        size = tuple(max(self.crop // scale, round(side * factor)) for side in low.shape[-2:])
        large = (size[0] * scale, size[1] * scale)
        return tuple(
            resize(image.float(), to, "cubic").round().clamp(0, 255).to(torch.uint8)
            for image, to in ((high, large), (low, size))
        )


def _place(image: Tensor, size: tuple[int, int], path: Path, chance: random.Random, scale: int = 1) -> tuple[int, int]:
    """Random (top, left) of a crop."""
    height, width = image.shape[-2:]
    if height < size[0] or width < size[1] or min(size) < 1:
        raise ValueError(
            f"{path} has {width * scale} x {height * scale} pixels, too few for a crop of {max(1, size[1]) * scale} x "
            f"{max(1, size[0]) * scale}; leave it out or choose a smaller crop."
        )
    return chance.randint(0, height - size[0]), chance.randint(0, width - size[1])


def _augment(images: list[Tensor], chance: random.Random) -> list[Tensor]:
    """The same random flips and transpose for all, each half of the time."""
    flips = [dim for dim in (-1, -2) if chance.random() < 0.5]
    transposed = chance.random() < 0.5
    images = [image.flip(flips) for image in images]
    return [(image.transpose(-1, -2) if transposed else image).contiguous() for image in images]
