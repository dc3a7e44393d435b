"""Crops that the small network learns from, degraded once and kept on disk, with what a large network makes of them.

Degrading by the published pipelines costs more than a training step, and a teacher's answer (Real-ESRGAN x4plus, a
deterministic network of 16.7 M parameters) costs a second: both are computed once. A lesson is a crop (`hr`), its
degraded version (`lr`) and the teacher's restoration of that (`teacher`). Where the teacher errs (letters, line art,
flat colours) and on inputs that need nothing, the truth takes the teacher's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from restoration.degradation import Draws, degrade
from restoration.drawn import drawn_crop
from restoration.esrgan import load_peer
from restoration.recipes import recipe
from vision.files import atomic_path
from vision.images import load_image
from vision.weights import read_tensors

SHARD = 32
"""Lessons per file."""


def make_lessons(
    photos: Iterable[Path],
    folder: Path,
    count: int,
    mixture: Mapping[str, float],
    *,
    size: int = 256,
    drawn: float = 0.25,
    taught: bool = True,
    seed: int = 0,
    device: str | torch.device = "cpu",
    bf16: bool = False,
    log: Callable[[str], object] | None = None,
) -> list[Path]:
    """Files of lessons in `folder`; those that exist are kept, so that a stopped run goes on.

    Args:
        photos: files of good photographs.
        count: lessons, rounded up to whole files of `SHARD`.
        mixture: shares of degradations by their names.
        size: pixels per side of the crops.
        drawn: share of crops that are drawn by code.
        taught: ask the teacher; otherwise the truth takes its place everywhere.
        seed: lesson i depends on (seed, i) alone.
        bf16: let the teacher compute in bfloat16, which processors without it in hardware do ten times slower.
    """
    images = [np.asarray(load_image(path).rgb) for path in photos]
    images = [image for image in images if min(image.shape[:2]) >= size]
    if not images:
        raise ValueError(f"No photograph has {size} pixels on both sides, as the crops have.")
    teacher = load_peer("x4plus").to(device) if taught else None
    files = []
    for number in range(-(-count // SHARD)):
        file = folder / f"lessons_{number:04d}.safetensors"
        files.append(file)
        if file.exists():
            continue
        numbers = range(number * SHARD, (number + 1) * SHARD)
        shard = [_lesson(images, mixture, size, drawn, teacher, seed, index, bf16) for index in numbers]
        with atomic_path(file) as part:
            save_file({name: torch.stack([lesson[name] for lesson in shard]) for name in shard[0]}, part)
        if log is not None:
            log(f"lessons {(number + 1) * SHARD}/{count}")
    return files


def random_crop(images: list[np.ndarray], size: int, rng: np.random.Generator, sharpness: float = 5.0) -> np.ndarray:
    """A crop (size, size, 3) of an image chosen by the square root of its area, flipped and transposed at random.

    It is drawn again, at most three times, while the standard deviation of its Laplacian is below `sharpness` (grey
    levels): half of a typical photograph is sky and blur, from which little is learnt.
    """
    shares = np.cumsum([np.sqrt(image.shape[0] * image.shape[1]) for image in images])
    for _ in range(4):
        image = images[int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))]
        y, x = (int(rng.integers(0, side - size + 1)) for side in image.shape[:2])
        crop = image[y : y + size, x : x + size]
        if _laplacian_deviation(crop[..., 1]) >= sharpness:
            break
    down, across, transpose = rng.integers(0, 2, 3)
    crop = crop[:: -1 if down else 1, :: -1 if across else 1]
    return np.ascontiguousarray(crop.transpose(1, 0, 2) if transpose else crop)


def _laplacian_deviation(channel: np.ndarray) -> float:
    x = channel.astype(np.float32)
    return float((x[1:-1, :-2] + x[1:-1, 2:] + x[:-2, 1:-1] + x[2:, 1:-1] - 4 * x[1:-1, 1:-1]).std())


def choose(mixture: Mapping[str, float], draw: float) -> str:
    """The name whose share a number in [0, 1) falls into."""
    shares = np.cumsum(list(mixture.values()))
    return list(mixture)[int(np.searchsorted(shares, draw * shares[-1], side="right"))]


@torch.inference_mode()
def _lesson(
    images: list[np.ndarray],
    mixture: Mapping[str, float],
    size: int,
    drawn: float,
    teacher: torch.nn.Module | None,
    seed: int,
    index: int,
    bf16: bool,
) -> dict[str, Tensor]:
    """hr, teacher (3, size, size) and lr (3, size / 4, size / 4), uint8."""
    rng = np.random.default_rng((seed, index))
    from_code = rng.random() < drawn
    crop = drawn_crop(rng, size) if from_code else random_crop(images, size, rng, 0.0 if rng.random() < 0.15 else 5.0)
    hr = torch.from_numpy(crop.transpose(2, 0, 1).copy()).float() / 255
    how = choose(mixture, rng.random())
    lr = degrade(hr, replace(recipe(how), scale=4), Draws.seeded(seed, index))
    if rng.random() < 0.08:  # grey pictures, and grey noise on them
        hr, lr = (x.mean(0, keepdim=True).expand(3, -1, -1) for x in (hr, lr))
    found = hr
    if teacher is not None and not from_code and how != "bicubic":
        device = next(teacher.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            found = teacher(lr[None].to(device).contiguous(memory_format=torch.channels_last))[0].float().cpu()
    return {name: (x * 255).round().clamp(0, 255).byte() for name, x in (("hr", hr), ("lr", lr), ("teacher", found))}


class Lessons(Dataset[dict[str, Tensor]]):
    """Random parts of kept lessons, flipped and transposed; item i depends on (seed, i) alone.

    Args:
        files: of `make_lessons`.
        size: pixels per side of the high-resolution part, a multiple of 4.
    """

    def __init__(self, files: Iterable[Path], size: int, seed: int = 0):
        shards = [read_tensors(file) for file in files]
        self.lessons = {name: torch.cat([shard[name] for shard in shards]) for name in ("hr", "lr", "teacher")}
        self.size, self.seed = size, seed
        whole = self.lessons["hr"].shape[-1]
        if size % 4 or size > whole:
            raise ValueError(f"Parts of lessons must be multiples of 4 up to {whole} pixels, got {size}.")

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """hr, teacher (3, size, size) and lr (3, size / 4, size / 4), float32 in [0, 1]."""
        rng = np.random.default_rng((self.seed, index))
        number = int(rng.integers(len(self.lessons["hr"])))
        y, x = (int(rng.integers(0, (self.lessons["hr"].shape[-1] - self.size) // 4 + 1)) for _ in range(2))
        flips = [axis for axis in (1, 2) if rng.random() < 0.5]
        transpose = rng.random() < 0.5
        item = {}
        for name, pictures in self.lessons.items():
            unit, side = (1, self.size // 4) if name == "lr" else (4, self.size)
            part = pictures[number, :, unit * y : unit * y + side, unit * x : unit * x + side].flip(flips)
            item[name] = (part.transpose(1, 2) if transpose else part).float().div(255).contiguous()
        return item
