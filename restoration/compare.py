"""Measure restorations side by side: what goes in, what to compare with, numbers per image, means.

A method is a function from a low-quality image (1, 3, h, w) to its restoration (1, 3, scale h, scale w), RGB in [0, 1].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from restoration.degradation import Draws, degrade
from restoration.esrgan import load_peer
from restoration.recipes import recipe
from vision import metrics
from vision.files import file_names, partners
from vision.images import image_files, load_image, to_pil, to_tensor, to_uint8
from vision.resize import imresize
from vision.tiles import Tiles

Method = Callable[[Tensor], Tensor]
Read = Callable[[], tuple[Tensor, Tensor]]
GOOD = "good image"
QUALITIES = ("psnr_y", "ssim_y", "niqe", "tex", "brisque")
COSTS = ("seconds_per_mp", "cpu_per_mp", "peak_mb")


def degraded_samples(
    folder: str | Path, how: str, *, scale: int, crop: int | None = None, seed: int = 0
) -> Iterator[tuple[str, Read]]:
    """Every image of a folder, degraded: its name, and what reads (low, high), each (1, 3, height, width).

    Args:
        folder: the good images.
        how: name of a degradation; image i draws from (seed, i).
        scale: pixels of the good image per pixel of the other and side.
        crop: take only the middle, at most this many pixels per side.
    """
    chosen = replace(recipe(how), scale=scale)

    def read(index: int, path: Path) -> tuple[Tensor, Tensor]:
        high = _middle(to_tensor(load_image(path)), scale, crop)
        return degrade(high, chosen, Draws.seeded(seed, index)), high

    files = _files(folder)
    for index, (name, path) in enumerate(zip(file_names(files), files, strict=True)):
        yield name, partial(read, index, path)


def paired_samples(
    low_folder: str | Path, folder: str | Path, *, scale: int, crop: int | None = None
) -> Iterator[tuple[str, Read]]:
    """Pairs of two folders by name: the name, and what reads (low, high), each (1, 3, height, width).

    Reading raises ValueError when the partner is missing or not the only one, or the sizes do not fit.
    """
    partner = partners(_files(low_folder))

    def read(path: Path) -> tuple[Tensor, Tensor]:
        if (found := partner(path)) is None:
            raise ValueError(f"{path} has no partner of this name in {low_folder}.")
        low, high = to_tensor(load_image(found)), to_tensor(load_image(path))
        if (low.shape[-2] * scale, low.shape[-1] * scale) != tuple(high.shape[-2:]):
            raise ValueError(f"The sides of {path} are not {scale} times those of {found}.")
        return _middle(low, 1, None if crop is None else crop // scale), _middle(high, scale, crop)

    files = _files(folder)
    for name, path in zip(file_names(files), files, strict=True):
        yield name, partial(read, path)


def _files(folder: str | Path) -> list[Path]:
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images.")
    return files


def _middle(image: Tensor, unit: int, most: int | None) -> Tensor:
    """The middle of (1, 3, h, w): sides multiples of `unit`, at most `most`, starting at a multiple of `unit`."""
    kept = [min(side, most or side) // unit * unit for side in image.shape[-2:]]
    top, left = ((side // unit - size // unit) // 2 * unit for side, size in zip(image.shape[-2:], kept, strict=True))
    return image[..., top : top + kept[0], left : left + kept[1]]


def baselines(
    scale: int, peers: Sequence[str], device: str | torch.device = "cpu"
) -> tuple[dict[str, Method], list[str]]:
    """Methods to compare with: bicubic, Lanczos and, at scale 4, the peers of `restoration.esrgan` that are installed.

    Returns:
        (name -> method, sentences about peers that are left out).
    """

    def lanczos(low: Tensor) -> Tensor:
        size = (low.shape[-1] * scale, low.shape[-2] * scale)
        return to_tensor(to_pil(low).resize(size, PIL.Image.Resampling.LANCZOS))

    def enlarge(network: torch.nn.Module, low: Tensor) -> Tensor:
        return Tiles(256, 16).run(network, low.to(device), scale=4)

    methods: dict[str, Method] = {"bicubic": lambda low: imresize(low, scale), "Lanczos": lanczos}
    sentences = []
    if peers and scale != 4:
        sentences.append(f"Real-ESRGAN enlarges by 4, not {scale}, and is left out.")
    for name in peers if scale == 4 else ():
        try:
            methods[name] = partial(enlarge, load_peer(name).to(device))
        except FileNotFoundError as error:
            sentences.append(str(error))
    return methods, sentences


@torch.inference_mode()
def compare(
    low: Tensor, high: Tensor, methods: Mapping[str, Method], *, border: int = 4
) -> tuple[list[dict[str, Any]], dict[str, PIL.Image.Image], set[str]]:
    """Numbers and pictures of one image: first of the good image itself, then of every method.

    Args:
        low: (1, 3, h, w) in [0, 1].
        high: (1, 3, scale h, scale w).
        methods: name -> method.
        border: pixels left out on every side by PSNR and SSIM.

    Returns:
        (rows with the keys method, `QUALITIES` and `COSTS`; name -> picture; why qualities are None).
    """
    rows, pictures, missing = [], {}, set()
    for name, method in {GOOD: None, **methods}.items():
        result, costs = (high, dict.fromkeys(COSTS)) if method is None else timed(method, low)
        result = to_uint8(result.cpu()).float() / 255
        values, reasons = measure(result, high, border)
        rows.append({"method": name, **values, **costs})
        pictures[name] = to_pil(result)
        missing |= reasons
    return rows, pictures, missing


def timed(method: Method, low: Tensor) -> tuple[Tensor, dict[str, float | None]]:
    """A method's result and its `COSTS`: time per megapixel of output, peak memory of this process (Linux only)."""
    counted = _forget_peak()
    started, cpu = time.perf_counter(), time.process_time()
    result = method(low)
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    megapixels = result.shape[-1] * result.shape[-2] / 1e6
    seconds = (time.perf_counter() - started) / megapixels
    cpu_seconds = (time.process_time() - cpu) / megapixels
    lines = Path("/proc/self/status").read_text().splitlines() if counted else []
    peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)
    return result, dict(zip(COSTS, (seconds, cpu_seconds, peak), strict=True))


def _forget_peak() -> bool:
    """Start counting peak memory anew, where the system lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def measure(image: Tensor, good: Tensor, border: int = 4) -> tuple[dict[str, float | None], set[str]]:
    """`QUALITIES` of one image (1, 3, h, w); None where weights are missing or the image is too small, and why."""
    measures = (
        lambda: metrics.psnr(image, good, border=border),
        lambda: metrics.ssim(image, good, border=border),
        lambda: metrics.niqe(image),
        lambda: metrics.texture_distance(image, good),
        lambda: metrics.brisque(image),
    )
    values: dict[str, float | None] = {}
    reasons = set()
    for name, take in zip(QUALITIES, measures, strict=True):
        try:
            values[name] = float(take())
        except (FileNotFoundError, ValueError) as error:
            values[name] = None
            reasons.add(str(error))
    return values, reasons


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per method: means over the images, and on how many a method is better than bicubic ("7/8")."""
    bicubic = {row["image"]: row for row in rows if row["method"] == "bicubic"}
    result = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        mean: dict[str, Any] = {"method": method}
        for name in (*QUALITIES, *COSTS):
            values = [row[name] for row in mine if row[name] is not None]
            mean[name] = sum(values) / len(values) if values else None
        for name in ("niqe", "tex", "brisque"):
            pairs = [(row[name], bicubic[row["image"]][name]) for row in mine]
            won = [ours < theirs for ours, theirs in pairs if ours is not None and theirs is not None]
            mean[f"{name}_wins"] = f"{sum(won)}/{len(won)}" if won and method not in (GOOD, "bicubic") else None
        result.append(mean)
    return result
