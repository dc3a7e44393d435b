"""Time the stages of GTR: `burnish benchmark gtr`.

Per step of every stage, geometry on sparse against dense grids, and the memory of one large surface.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from recon3d.gtr.agreement import agreement_stage
from recon3d.gtr.evaluate import given_cameras
from recon3d.gtr.fit import Budget, Fit, new_mesh_fit
from recon3d.gtr.geometry import geometry_stage, surface_loss, volume_stage
from recon3d.gtr.options import GTROptions
from recon3d.gtr.reconstructor import GTRReconstructor
from recon3d.gtr.texture import covered_points, paint_stage, texture_stage
from recon3d.isosurface import extract_surface, grid_points
from recon3d.mesh import Mesh
from recon3d.mesh_files import load_mesh
from recon3d.projection import Projector
from recon3d.render import render
from recon3d.vase import vase
from recon3d.views import Views
from vision.checkpoints import one_at_a_time
from vision.job import Event, Show, choose_device, silent
from vision.refine import refine
from vision.report import text_table, write_table

LEVEL = 10.0


@dataclass(frozen=True)
class GTRBenchmark:
    """Time the stages of GTR on one object."""

    mesh: Path | None = None
    """Textured mesh; None takes a vase made by code."""
    grid_size: int = 64
    """Grid points per side."""
    steps: int = 10
    """Steps per measurement."""
    large: int = 256
    """Grid points per side of the one large extraction, for its memory; 0 leaves it out."""
    out: Path | None = None
    """Folder for gtr.json and gtr.csv."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}.")
        if self.large and not 8 <= self.large <= 512:
            raise ValueError(f"large must lie in [8, 512], or be 0, got {self.large}.")
        GTROptions(grid_size=self.grid_size)


@one_at_a_time
def benchmark(options: GTRBenchmark, show: Show = silent) -> list[dict[str, object]]:
    """Measure and show; returns the rows.

    Raises:
        ValueError: another process works on the folder `out`.
    """
    device = choose_device(options.device)
    truth = (load_mesh(options.mesh) if options.mesh else vase()).normalised()
    views = render(truth, given_cameras()).to(device)
    reconstructor = GTRReconstructor.from_pretrained(device=device)
    settings = GTROptions(refine="none", grid_size=options.grid_size)
    fit = reconstructor.reconstruct(reconstructor.start(views, settings)).fit
    weights = fit.weights()
    rows = []

    def timed(name: str, steps: int, run: Callable[[], object]) -> None:
        fit.load(weights)
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        spent = (time.process_time() - cpu) / steps, (time.perf_counter() - wall) / steps
        rows.append({"what": name, "cpu_seconds": spent[0], "seconds": spent[1], "peak_mb": _peak_mb()})

    n = options.steps
    quiet = Budget(n, evaluate_every=10**9)
    shape = Mesh(*(part.detach() for part in fit.surface(options.grid_size, LEVEL)))
    surface = covered_points(shape.vertices, shape.faces, views)
    bare = new_mesh_fit(shape, torch.Generator().manual_seed(0))
    painted = new_mesh_fit(truth.to(device), torch.Generator().manual_seed(0))
    stages = {
        "A volume step": lambda: volume_stage(fit, views, quiet),
        "B geometry step, sparse": lambda: geometry_stage(
            fit, views, quiet, level=LEVEL, resolutions=(options.grid_size,)
        ),
        "Vertices step": lambda: agreement_stage(bare, views, (views.cameras.height,), quiet),
        "C texture step": lambda: texture_stage(fit, surface, views.images, quiet),
        "Painting move": lambda: paint_stage(painted, Projector(painted.mesh, views), quiet),
    }
    for name, make in stages.items():
        stage = make()
        timed(name, n, partial(refine, stage.fit, stage.propose, stage.schedule))
    timed("B geometry step, dense", n, lambda: dense_geometry(fit, views, n, options.grid_size))
    if options.large:
        timed(f"surface of {options.large}^3, sparse", 1, lambda: _one_surface(fit, options.large))
    for row in rows:
        if row["what"] == "B geometry step, dense":
            row["times_sparse"] = row["cpu_seconds"] / rows[1]["cpu_seconds"]
    show(Event("result", text_table(rows, title=f"{torch.get_num_threads()} threads")))
    if options.out is not None:
        write_table(rows, options.out / "gtr.json", options.out / "gtr.csv")
    return rows


def dense_geometry(fit: Fit, views: Views, steps: int, resolution: int) -> None:
    """The plain twin of stage B: every grid point is evaluated with gradient, nothing is filled."""
    fit = fit.with_adam(3e-3, 4e-4)
    points = grid_points((resolution,) * 3, fit.code.device)
    for number in range(steps):
        chosen = torch.randperm(len(views), generator=fit.generator)[:3].tolist()
        density = fit.density(points).view((resolution,) * 3)
        fit.descend(surface_loss(fit, *extract_surface(density, LEVEL), views, chosen), 0.99**number)


def _one_surface(fit: Fit, resolution: int) -> None:
    vertices, _ = fit.surface(resolution, LEVEL)
    vertices.sum().backward()


def _peak_mb() -> float:
    """Highest memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
