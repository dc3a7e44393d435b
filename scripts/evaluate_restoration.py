"""Measure a restoration system beside plain resizing and Real-ESRGAN; called by `burnish evaluate`.

Prints the means; writes images.csv and .json (every image and method), means.csv, .json and .png, and run.json. PSNR
and SSIM are on luma; NIQE, tex (texture distance) and BRISQUE: lower is better; wins: on how many images a method beats
bicubic; time per megapixel of output (wall clock, and CPU seconds of all threads); peak memory of the process while the
method runs. Columns whose weights are not installed stay empty, with a sentence.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from torch import Tensor

from restoration.compare import (
    COSTS,
    GOOD,
    QUALITIES,
    Method,
    baselines,
    compare,
    degraded_samples,
    means,
    paired_samples,
)
from restoration.iter import ITEROptions, ITERRestorer
from restoration.pasd import PASDOptions, PASDRestorer
from restoration.pasd.options import Preset
from restoration.pasd.restorer import base_alone
from restoration.recipes import recipe
from vision.config import to_dict
from vision.report import plot_bars, side_by_side, table, write_run, write_table

HEADINGS = {
    "seconds_per_mp": "s/MP",
    "cpu_per_mp": "cpu s/MP",
    "peak_mb": "peak MB",
    "psnr_y": "psnr",
    "ssim_y": "ssim",
}


@dataclass(frozen=True)
class RestorationEvaluation(ABC):
    """What the measurement of every restoration system may choose."""

    out: Path
    """Folder for the tables."""
    hr: Path | None = None
    """Good images, degraded here; give this or pairs."""
    pairs: tuple[Path, Path] | None = None
    """Folder of low-quality images and folder of good ones of the same names."""
    degradation: str = "bicubic"
    """What happens to the good images: bicubic (MATLAB's), blind, bsrgan, bsrgan_light or realesrgan."""
    crop: int | None = None
    """Take only the middle of the good images, at most this many pixels per side."""
    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    steps: int | None = None
    """Steps of token sampling or of denoising; None takes what the weights were tuned for."""
    peers: tuple[str, ...] = ("x4plus", "animevideov3")
    """Real-ESRGAN networks to compare with: x4plus, x4plus-anime, animevideov3; those not installed are left out."""
    border: int = 4
    """Pixels left out on every side by PSNR and SSIM."""
    pictures: bool = False
    """Also write pictures/STEM.png: all results side by side."""
    seed: int = 0
    """Of the degradations and of the restorations."""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def __post_init__(self) -> None:
        if (self.hr is None) == (self.pairs is None):
            raise ValueError("Give either --hr FOLDER or --pairs LQ HR.")
        if self.crop is not None and self.crop < 16:
            raise ValueError(f"crop must be at least 16, got {self.crop}.")
        recipe(self.degradation)

    @abstractmethod
    def methods(self) -> tuple[int, dict[str, Method]]:
        """The scale, and the system's rows of the table."""


@dataclass(frozen=True)
class ITEREvaluation(RestorationEvaluation):
    """Measure ITER on a folder."""

    variant: Literal["photo", "clean"] | None = None
    """Which embedded weights."""
    fidelity: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Settings between the deterministic result (0) and sampled texture (1), each a row of the table."""

    def methods(self) -> tuple[int, dict[str, Method]]:
        """The scale, and a row of the table per fidelity."""
        restorer = ITERRestorer.from_pretrained(self.source, variant=self.variant, device=self.device)

        def restore(settings: ITEROptions, low: Tensor) -> Tensor:
            return restorer(low.to(self.device), settings)

        options = [ITEROptions(fidelity=value, steps=self.steps, seed=self.seed) for value in self.fidelity]
        return restorer.scale, {f"ITER {chosen.fidelity:g}": partial(restore, chosen) for chosen in options}


@dataclass(frozen=True)
class PASDEvaluation(RestorationEvaluation):
    """Measure PASD on a folder."""

    pasd: str | None = None
    """Folder of PASD's own unet and controlnet; --source then names the base model."""
    presets: tuple[Preset, ...] = ()
    """Presets that get a row of the table beside the weights' own options."""
    scale: int | None = None
    """Output pixels per input pixel; None takes what the weights were tuned for."""
    base: bool = True
    """With a row of the base model alone: the same start and prompts, without pixel attention and ControlNet."""

    def methods(self) -> tuple[int, dict[str, Method]]:
        """The scale, a row of the weights' own options, of every preset, and of the base alone."""
        restorer = PASDRestorer.from_pretrained(self.source, pasd=self.pasd, device=self.device)
        scale = self.scale or round(restorer.config.scale)

        def restore(with_restorer: PASDRestorer, preset: Preset | None, low: Tensor) -> Tensor:
            chosen = PASDOptions(preset=preset, scale=float(scale), steps=self.steps, seed=self.seed)
            return with_restorer(low.to(self.device), chosen)

        rows = {"base alone": partial(restore, base_alone(restorer), None)} if self.base else {}
        rows |= {f"PASD {preset or ''}".strip(): partial(restore, restorer, preset) for preset in (None, *self.presets)}
        return scale, rows


def main(options: RestorationEvaluation) -> int:
    """Measure everything; returns 0, or 2 when an image could not be used.

    Raises:
        ValueError: a folder is empty, or the weights do not fit.
        FileNotFoundError: a folder or the weights are missing.
    """
    started, console = time.monotonic(), Console(soft_wrap=True)
    scale, own = options.methods()
    others, sentences = baselines(scale, options.peers, options.device)
    if options.pairs:
        samples = paired_samples(*options.pairs, scale=scale, crop=options.crop)
    else:
        given = {"scale": scale, "crop": options.crop, "seed": options.seed}
        samples = degraded_samples(options.hr, options.degradation, **given)
    rows, problems = [], []
    for name, read in samples:
        try:
            measured, pictures, missing = compare(*read(), {**others, **own}, border=options.border)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            console.print(problems[-1], markup=False, highlight=False)
            continue
        console.print(f"{name} is done.", markup=False, highlight=False)
        rows += [{"image": name, **row} for row in measured]
        sentences += sorted(missing - set(sentences))
        if options.pictures:
            (options.out / "pictures").mkdir(parents=True, exist_ok=True)
            side_by_side(list(pictures.values()), list(pictures)).save(options.out / "pictures" / f"{name}.png")
    if not rows:
        raise ValueError("No image could be measured.")
    for sentence in sentences:
        console.print(sentence, markup=False, highlight=False)
    summary = means(rows)
    shown = [name for name in summary[1] if any(row[name] is not None for row in summary)]
    printed = [{HEADINGS.get(name, name): row[name] for name in shown} for row in summary]
    wide = Console(width=max(console.width, 140))
    wide.print(table(printed, title=f"{len({row['image'] for row in rows})} images", digits=3))
    write_table(rows, options.out / "images.json", options.out / "images.csv")
    write_table(summary, options.out / "means.json", options.out / "means.csv")
    bars = [row for row in summary if row["method"] != GOOD]
    plot_bars(options.out / "means.png", bars, "method", [name for name in (*QUALITIES, COSTS[0]) if name in shown])
    facts = {"source": options.source, "seed": options.seed, "problems": problems}
    write_run(options.out, options=to_dict(options), seconds=round(time.monotonic() - started, 3), **facts)
    return 2 if problems else 0
