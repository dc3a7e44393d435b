"""What `restore --effort auto` keeps of a restorer's gain, and what it costs, on photographs whose truth is known.

    burnish benchmark effort --hr photos --out runs/effort
    burnish benchmark effort --hr photos --system iter:photo@1 --price 0.2 --out runs/dearer

The middle of every photograph is shrunk, and enlarged in four ways: plainly, with the restorer where it pays, with it
where it would pay if the picture were turned upside down (as many pixels, the idea switched off), and everywhere.
Writes effort.csv and .json: a row per way with the mean PSNR of luma, the share of the restorer's gain over plain
enlargement, the share of the pixels that it got, and CPU seconds; pictures.csv and .json have the same of every
photograph.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from restoration.effort import PRICE, Route, RoutedRestorer
from restoration.plain import PlainRestorer
from restoration.restorer import Restorer, find_system
from vision.checkpoints import one_at_a_time
from vision.files import file_names
from vision.images import image_files, load_image, to_tensor, to_uint8
from vision.job import Event, Job, Outcome, Show, choose_device, silent
from vision.metrics import psnr
from vision.report import text_table, write_table
from vision.resize import imresize

PLAIN, EFFORT, MISPLACED, EVERYWHERE = "plain enlargement", "effort auto", "effort, misplaced", "everywhere"
"""The ways to enlarge a picture."""


@dataclass(frozen=True)
class EffortBenchmark:
    """What the measurement may choose."""

    hr: Path
    """Folder of good photographs that nothing was learnt from."""
    out: Path
    """Folder for the tables."""
    system: str = "iter:clean@1"
    """The restorer; its scale must be a whole number above 1."""
    price: float = PRICE
    """Of a restored pixel: what it must hold of the loss, in times of the average."""
    largest: int = 1280
    """Longest side of the middle of a photograph that is taken, in pixels; the other one has three quarters of it."""
    seed: int = 0
    """Of a restorer that samples."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        if self.largest < 64:
            raise ValueError(f"largest must be at least 64, got {self.largest}.")


@one_at_a_time
def benchmark(options: EffortBenchmark, show: Show = silent) -> Outcome:
    """Measure every photograph.

    Raises:
        ValueError: the folder is empty, a photograph is too small, or the restorer has no whole scale above 1.
        FileNotFoundError: weights are missing.
    """
    files = image_files(options.hr)
    if not files:
        raise ValueError(f"{options.hr} holds no images.")
    job, system = Job(options.out, options, show=show), find_system(options.system)
    chosen = system.asked(seed=options.seed)
    restorer = system.load(None, chosen, device=choose_device(options.device), dtype=torch.float32)
    scale = restorer.facts(chosen).scale
    if scale != round(scale) or scale < 2:
        raise ValueError(
            f"{options.system} enlarges by {scale:g}; name a system whose scale is a whole number above 1."
        )
    rows = []
    for number, (name, path) in enumerate(zip(file_names(files), files, strict=True), 1):
        high = middle(to_tensor(load_image(path)), options.largest, round(scale))
        rows += measured(name, high, restorer, chosen, options.price)
        job.made[path.name] = {"was_done": False}
        job.progress("measuring", number, len(files))
    means = table(rows)
    write_table(rows, options.out / "pictures.json", options.out / "pictures.csv")
    write_table(means, options.out / "effort.json", options.out / "effort.csv")
    show(Event("result", text_table(means, digits=3), path=options.out))
    return job.finish("pictures", seed=options.seed)


def middle(photo: Tensor, largest: int, scale: int) -> Tensor:
    """The middle of (1, 3, h, w): at most `largest` pixels along the longer side, three quarters of it along the other.

    Raises:
        ValueError: it has no 16 pixels per side after shrinking by `scale`.
    """
    height, width = photo.shape[-2:]
    most = (largest, largest * 3 // 4) if height > width else (largest * 3 // 4, largest)
    sides = [min(side, limit) // scale * scale for side, limit in zip((height, width), most, strict=True)]
    if min(sides) < 16 * scale:
        raise ValueError(f"Photographs need {16 * scale} pixels per side, got {width} x {height}.")
    top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
    return photo[..., top : top + sides[0], left : left + sides[1]]


def measured(name: str, high: Tensor, restorer: Restorer, options: Any, price: float) -> list[dict[str, Any]]:
    """A row per way to enlarge a photograph (1, 3, H, W) that is shrunk by the restorer's scale."""
    scale = round(restorer.facts(options).scale)
    low = (imresize(high, 1 / scale).clamp(0, 1) * 255).round() / 255
    effort, misplaced = RoutedRestorer(restorer, price), Misplaced(restorer, price)
    ways: dict[str, tuple[Any, Any, Callable[[], float]]] = {
        PLAIN: (PlainRestorer(scale), None, lambda: 0.0),
        EFFORT: (effort, options, lambda: _share(effort.last, low)),
        MISPLACED: (misplaced, options, lambda: _share(misplaced.last, low)),
        EVERYWHERE: (restorer, options, lambda: 1.0),
    }
    rows = []
    for way, (asked, chosen, pixels) in ways.items():
        began = time.process_time()
        made = torch.cat(list(asked.bands(low, chosen, finish=to_uint8)), dim=2)
        seconds = time.process_time() - began
        near = float(psnr(made.float().cpu() / 255, high, border=4))
        rows.append({"photo": name, "way": way, "psnr_y": near, "pixels": pixels(), "cpu_seconds": seconds})
    return rows


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row of means per way; the shares are those of the mean gain and of the mean cost of the restorer everywhere."""
    found = {}
    for way in (PLAIN, EFFORT, MISPLACED, EVERYWHERE):
        mine = [row for row in rows if row["way"] == way]
        found[way] = {key: fmean(row[key] for row in mine) for key in ("psnr_y", "pixels", "cpu_seconds")}
    plain, whole, means = found[PLAIN]["psnr_y"], found[EVERYWHERE], []
    for way, row in found.items():
        gain, most = row["psnr_y"] - plain, whole["psnr_y"] - plain
        shares = {"of_the_gain": gain / most if most else None, "pixels": row["pixels"]}
        spent = {"cpu_seconds": row["cpu_seconds"], "of_the_cost": row["cpu_seconds"] / whole["cpu_seconds"]}
        means.append({"way": way, "psnr_y": row["psnr_y"], "gain": gain, **shares, **spent})
    return means


class Misplaced(RoutedRestorer):
    """The restorer where it would pay if the picture were turned upside down."""

    def route(self, image: Tensor, options: Any = None) -> Route:
        """The route of (b, 3, h, w), turned."""
        return super().route(image.flip((-2, -1)), options)


def _share(route: Route | None, low: Tensor) -> float:
    """Share of the pixels of (1, 3, h, w) that the restorer got."""
    return 1.0 if route is None or route.whole else route.pixels / low[0, 0].numel()
