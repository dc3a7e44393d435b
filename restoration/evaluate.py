"""Measure a restoration system beside plain resizing and Real-ESRGAN: what `burnish evaluate iter` and `pasd` run.

Shows the means; writes images.csv and .json (every image and method), means.csv, .json and .png, and run.json. PSNR
and SSIM are on luma; NIQE, tex (texture distance) and BRISQUE: lower is better; wins: on how many images a method beats
bicubic; time per megapixel of output (wall clock, and CPU seconds of all threads); peak memory of the process while the
method runs. Columns whose weights are not installed stay empty, with a sentence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

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
from restoration.recipes import recipe
from vision.checkpoints import one_at_a_time
from vision.images import save_image
from vision.job import Event, Job, Outcome, Show, choose_device, silent
from vision.report import plot_bars, side_by_side, text_table, write_table

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
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        if (self.hr is None) == (self.pairs is None):
            raise ValueError("Give either --hr FOLDER or --pairs LQ HR.")
        if self.crop is not None and self.crop < 16:
            raise ValueError(f"crop must be at least 16, got {self.crop}.")
        if self.border < 0:
            raise ValueError(f"border must be at least 0, got {self.border}.")
        recipe(self.degradation)

    @abstractmethod
    def methods(self) -> tuple[int, dict[str, Method]]:
        """The scale, and the system's rows of the table."""


@one_at_a_time
def evaluate(options: RestorationEvaluation, show: Show = silent) -> Outcome:
    """Measure everything, and show the means.

    Raises:
        ValueError: a folder is empty, or the weights do not fit.
        FileNotFoundError: a folder or the weights are missing.
    """
    job = Job(options.out, options, show=show)
    scale, own = options.methods()
    others, sentences = baselines(scale, options.peers, choose_device(options.device))
    if options.pairs:
        samples = paired_samples(*options.pairs, scale=scale, crop=options.crop)
    else:
        given = {"scale": scale, "crop": options.crop, "seed": options.seed}
        samples = degraded_samples(options.hr, options.degradation, **given)
    samples, rows = list(samples), []
    for number, (name, read) in enumerate(samples, start=1):
        with job.attempt(Path(name)):
            measured, pictures, missing = compare(*read(), {**others, **own}, border=options.border)
            rows += [{"image": name, **row} for row in measured]
            sentences += sorted(missing - set(sentences))
            if options.pictures:
                path = options.out / "pictures" / f"{name}.png"
                save_image(side_by_side(list(pictures.values()), list(pictures)), path)
            job.made[name] = {"was_done": False}
        job.progress("measuring", number, len(samples))
    if not rows:
        raise ValueError("No image could be measured.")
    for sentence in sentences:
        job.note(sentence)
    summary = means(rows)
    shown = [name for name in summary[1] if any(row[name] is not None for row in summary)]
    printed = [{HEADINGS.get(name, name): row[name] for name in shown} for row in summary]
    show(Event("result", text_table(printed, title=f"{len(job.made)} images", digits=3), path=options.out))
    write_table(rows, options.out / "images.json", options.out / "images.csv")
    write_table(summary, options.out / "means.json", options.out / "means.csv")
    bars = [row for row in summary if row["method"] != GOOD]
    plot_bars(options.out / "means.png", bars, "method", [name for name in (*QUALITIES, COSTS[0]) if name in shown])
    return job.finish("images", source=options.source, seed=options.seed)
