"""Measure GTR over a folder of meshes; called by `burnish evaluate gtr`.

Every mesh is rebuilt from rendered views (or, with `--spoil`, a spoiled version of it is refined), and compared
with itself on views that were not given and on its visible surface. `recon3d/evaluate.py` states the protocol.
Writes runs.csv and .json (every mesh, seed and stage), means.csv, .json and .png (means over seeds), a contact
sheet per mesh, and run.json.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from recon3d.evaluate import Setting, means, measure, spoil
from recon3d.gtr.options import GTROptions
from recon3d.gtr.reconstructor import MAX_FACES, GTRReconstructor
from recon3d.gtr.result import Reconstruction
from recon3d.mesh import Mesh
from recon3d.mesh_files import FORMATS
from recon3d.show import contact_sheet, gallery_cameras, looks, shaded
from recon3d.vase import vase
from vision.config import to_dict
from vision.files import atomic_path
from vision.report import plot_bars, table, write_run, write_table


@dataclass(frozen=True)
class GTREvaluation:
    """Measure GTR on a folder of meshes."""

    out: Path
    """Folder for tables and pictures."""
    meshes: Path | None = None
    """Folder of textured meshes; None measures a vase made by code."""
    options: Annotated[GTROptions, tyro.conf.arg(name="")] = field(default_factory=GTROptions)
    """What the system may change."""
    source: str | None = None
    """Weights of a generator: a folder, org/name on the model hub, or builtin:NAME; None fits from nothing."""
    seeds: int = 1
    """Runs per mesh, with seeds from the given one on."""
    views: int = 12
    """Views that are given: 12, or the six of GTR."""
    spoil: bool = False
    """Refine a spoiled version of every mesh (2 % of its faces, displaced, colours blurred and shifted)."""
    lpips: bool = False
    """Also measure LPIPS; its weights must be installed."""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def __post_init__(self) -> None:
        if self.views not in (6, 12):
            raise ValueError(f"views must be 12 or 6, got {self.views}.")
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}.")


def main(options: GTREvaluation) -> int:
    """Measure everything; returns 0, or 2 when a mesh could not be used.

    Raises:
        ValueError: the folder holds no usable mesh.
        FileNotFoundError: the folder or the weights are missing.
    """
    started, console = time.monotonic(), Console(soft_wrap=True, highlight=False)
    reconstructor = GTRReconstructor.from_pretrained(options.source, device=options.device)
    setting = Setting(options.views, options.options.view_size, options.lpips, exported=True)
    rows, problems = [], []
    for path in _files(options.meshes):
        name = path.stem if path else "vase"
        try:
            mesh = Mesh.load(path, max_faces=MAX_FACES) if path else vase()
        except (ValueError, OSError) as error:
            problems.append(str(error))
            console.print(problems[-1], markup=False)
            continue
        for seed in range(options.options.seed, options.options.seed + options.seeds):
            sheet: list[tuple[str, Reconstruction]] = []
            start = spoil(mesh, seed) if options.spoil else None
            found = measure(
                mesh,
                reconstructor,
                replace(options.options, seed=seed),
                setting,
                start=start,
                done=lambda stage, result, sheet=sheet: sheet.append((stage, result)),
            )
            rows += [{"mesh": name, "seed": seed, **row} for row in found]
            last = found[-2]
            console.print(f"{name}, seed {seed}: {last['psnr']:.2f} dB, Chamfer {last['chamfer']:.4f}.", markup=False)
            if seed == options.options.seed:
                _picture(options.out / f"{name}.png", mesh, start, sheet)
    if not rows:
        raise ValueError("No mesh could be measured.")
    summary = means(rows)
    Console(width=max(console.width, 160)).print(table(summary, digits=3))
    write_table(rows, options.out / "runs.json", options.out / "runs.csv")
    write_table(summary, options.out / "means.json", options.out / "means.csv")
    bars = [{"name": f"{row['mesh']} {row['stage']}", **row} for row in summary]
    plot_bars(options.out / "means.png", bars, "name", ["psnr", "psnr_given", "iou", "chamfer", "f@0.05"])
    facts = {"source": options.source, "seed": options.options.seed, "problems": problems}
    write_run(options.out, options=to_dict(options), seconds=round(time.monotonic() - started, 2), **facts)
    return 2 if problems else 0


def _files(folder: Path | None) -> list[Path | None]:
    if folder is None:
        return [None]
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMATS)
    if not files:
        raise ValueError(f"{folder} holds no meshes ({', '.join(FORMATS)}).")
    return list(files)


def _picture(path: Path, mesh: Mesh, start: Mesh | None, sheet: list[tuple[str, Reconstruction]]) -> None:
    """The truth, what was given, and every stage, coloured and bare, from six sides."""
    cameras = gallery_cameras(192)
    truth = mesh.normalised()
    columns = [("truth", looks(truth, cameras)), ("its shape", shaded(truth, cameras))]
    if start is not None:
        columns.append(("given", looks(start.moved(*mesh.placement()), cameras)))
    for stage, result in sheet:
        columns.append((stage, result.render(cameras).images))
        if stage != "texture":
            columns.append((f"{stage}, shape", shaded(result.surface, cameras)))
    with atomic_path(path) as part:
        contact_sheet(columns).save(part, "PNG")
