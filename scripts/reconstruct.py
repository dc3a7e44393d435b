"""Rebuild a 3D object from posed pictures, or improve a mesh against them.

    burnish reconstruct --out runs/vase                                  (a vase made by code, to try it out)
    burnish reconstruct --views PICTURES --out runs/object               (transforms.json, COLMAP text, ...)
    burnish reconstruct --grid SIX_VIEWS.png --out runs/object           (the six-view grid of Zero123++)
    burnish reconstruct --mesh OBJECT.glb --views PICTURES --out runs/better
    burnish reconstruct --mesh OBJECT.glb --out runs/copy                (renders twelve views of it first)

Writes NAME.glb (or .obj), turntable.gif, contact.png (given views, before, after) and run.json. The same command again
after an interruption goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("reconstruct")
from recon3d.cameras import Cameras
from recon3d.evaluate import given_cameras
from recon3d.gtr.options import GTROptions
from recon3d.gtr.reconstructor import MAX_FACES, GTRReconstructor
from recon3d.gtr.result import Reconstruction
from recon3d.mesh import Mesh
from recon3d.render import render
from recon3d.show import contact_sheet, looks, spread_views, turntable_frames
from recon3d.surfaces import simplify
from recon3d.vase import vase
from recon3d.view_files import load_views, views_from_grid
from recon3d.views import Views
from vision.config import cli, to_dict
from vision.files import atomic_path
from vision.job import Show
from vision.refine import Step
from vision.report import save_gif, save_mp4, write_run

UNFINISHED = ".unfinished"
"""Sub-folder of checkpoints, until the work is done."""


@dataclass(frozen=True)
class ReconstructOptions:
    """Rebuild an object from posed pictures, or improve a mesh against them."""

    out: Path
    """Folder for the results."""
    views: Path | None = None
    """Folder of pictures with cameras: transforms.json, a COLMAP text model, or one text camera per picture."""
    grid: Path | None = None
    """Six views in one picture, three rows and two columns, in the order of Zero123++."""
    mesh: Path | None = None
    """A mesh: with views it is improved, alone its own rendered views are rebuilt."""
    options: Annotated[GTROptions, tyro.conf.arg(name="")] = field(default_factory=GTROptions)
    """What the system may change."""
    source: str | None = None
    """Weights of a generator: a folder, org/name on the model hub, or builtin:NAME; None fits from nothing."""
    rig: Literal["files", "gtr"] = "files"
    """Cameras of a folder: from its files, or the six of GTR in the order of the names."""
    background: Literal["auto", "alpha", "white", "rembg"] = "auto"
    """How the object is cut out: by transparency, a white background, or the package rembg."""
    format: Literal["glb", "obj"] = "glb"
    """File format of the mesh."""
    name: str | None = None
    """Name of the mesh file without ending; None takes it from the input."""
    film: Literal["gif", "mp4", "none"] = "gif"
    """Turntable."""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def __post_init__(self) -> None:
        if self.views is not None and self.grid is not None:
            raise ValueError("Give either --views FOLDER or --grid IMAGE, not both.")
        if self.name is not None and (not self.name or Path(self.name).name != self.name):
            raise ValueError(f"name must be a plain file name, got {self.name!r}.")

    @property
    def stem(self) -> str:
        """Name of the mesh file without ending."""
        given = self.mesh or self.grid or self.views
        return self.name or (given.resolve().stem if given else "vase")


def read(options: ReconstructOptions) -> tuple[Views, Mesh | None, list[str]]:
    """The views, the mesh that they improve, and sentences for the user."""
    mesh, notes = None, []
    if options.mesh is not None:
        mesh = Mesh.load(options.mesh)
        if len(mesh.faces) > MAX_FACES:
            notes.append(f"The mesh has {len(mesh.faces):,} faces and is simplified to {MAX_FACES:,}.")
            mesh = simplify(mesh, MAX_FACES)
    if options.views is not None:
        return load_views(options.views, options.background, options.rig), mesh, notes
    if options.grid is not None:
        return views_from_grid(options.grid, options.background), mesh, notes
    if mesh is None:
        notes.append("No views and no mesh were given: this is a vase made by code, to try it out.")
        mesh = vase()
    notes += mesh.notes()
    shown = mesh.normalised()
    return render(shown, given_cameras(options.options.view_size)), None, notes


def fingerprint(options: ReconstructOptions, views: Views, mesh: Mesh | None) -> str:
    """Of everything that the result depends on: unfinished work goes on only when it is the same."""
    digest = hashlib.sha256(json.dumps([to_dict(options.options), options.source], sort_keys=True).encode())
    tensors = [views.images, views.masks, views.cameras.c2w, views.cameras.intrinsics]
    tensors += [] if mesh is None else [mesh.vertices, mesh.faces, *mesh.textures]
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


class Bars:
    """A progress bar per stage, with the PSNR over the given views."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[db]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console)
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, step: Step) -> None:
        stage = step.at.stage
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=step.at.total, db="")
        shown = "" if step.best_score is None else f"{float(step.best_score):.2f} dB"
        self.progress.update(self.tasks[stage], completed=step.at.number, db=shown)


class Before:
    """Keeps how the object looked before its first refinement, in a file that outlives an interruption."""

    def __init__(self, path: Path, cameras: Cameras, grid_size: int) -> None:
        self.path, self.cameras, self.grid_size = path, cameras, grid_size

    def __call__(self, step: Step) -> None:
        if step.at.stage in ("geometry", "texture") and not self.path.exists():
            with atomic_path(self.path) as part:
                save_file({"images": looks(step.state, self.cameras, self.grid_size).cpu().contiguous()}, part)

    @property
    def images(self) -> torch.Tensor | None:
        """(views, 3, height, width), None when nothing was refined."""
        return load_file(self.path)["images"] if self.path.exists() else None


def main(options: ReconstructOptions) -> Path:
    """Rebuild, save, and return the mesh file."""
    started, console = time.monotonic(), Console(soft_wrap=True, highlight=False)
    target, choice = options.out / f"{options.stem}.{options.format}", options.options
    views, mesh, notes = read(options)
    key = fingerprint(options, views, mesh)
    if target.exists() and _known(options.out / "run.json") == key:
        console.print(f"{target} is already there.", markup=False)
        return target
    for note in notes:
        console.print(note, markup=False)
    result, before = rebuild(options, views, mesh, key, console)
    for note in result.notes:
        console.print(note, markup=False)
    final = result.mesh(choice.texture, choice.texture_size, choice.max_faces)
    final.save(target)
    draw(options, views, before, final)
    write_run(
        options.out,
        options=to_dict(options),
        source=options.source,
        seed=choice.seed,
        seconds=round(time.monotonic() - started, 2),
        stage_seconds=result.seconds,
        psnr_given_views={stage: {"before": a, "after": b} for stage, (a, b) in result.scores.items()},
        faces=len(final.faces),
        notes=[*notes, *result.notes],
        fingerprint=key,
    )
    shutil.rmtree(options.out / UNFINISHED)
    console.print(f"{target}: {len(final.faces):,} faces, {time.monotonic() - started:.0f} s.", markup=False)
    return target


def rebuild(
    options: ReconstructOptions, views: Views, mesh: Mesh | None, key: str, console: Console
) -> tuple[Reconstruction, torch.Tensor | None]:
    """Go through all stages, on from where an earlier run of the same work stopped.

    Returns the result, and pictures of the object before it was refined: the mesh as it was given, or the first fit
    (None where nothing was refined).
    """
    reconstructor = GTRReconstructor.from_pretrained(options.source, device=options.device)
    centre, scale = reconstructor.placement(views.check(), options.options, mesh)
    shown = views[spread_views(len(views))].moved(centre, scale)
    work = options.out / UNFINISHED
    if work.exists() and _known(work / "run.json") != key:
        shutil.rmtree(work)
    with atomic_path(work / "run.json") as part:
        part.write_text(json.dumps({"fingerprint": key}))
    bars, before = Bars(console), Before(work / "before.safetensors", shown.cameras, options.options.grid_size)
    observers = [bars, before] if mesh is None else [bars]
    try:
        with bars.progress:
            result = reconstructor.reconstruct(views, options.options, mesh=mesh, folder=work, observers=observers)
    except ValueError:  # nothing to go on with
        shutil.rmtree(work, ignore_errors=True)
        raise
    return result, before.images if mesh is None else looks(mesh.moved(centre, scale), shown.cameras)


def draw(options: ReconstructOptions, views: Views, before: torch.Tensor | None, final: Mesh) -> None:
    """The contact sheet and the turntable."""
    shown = views[spread_views(len(views))]
    columns = [("given", shown.images), ("before", before), ("after", render(final, shown.cameras).images)]
    with atomic_path(options.out / "contact.png") as part:
        contact_sheet([(label, pictures) for label, pictures in columns if pictures is not None]).save(part, "PNG")
    if options.film == "gif":
        save_gif(turntable_frames(final), options.out / "turntable.gif", fps=12)
    elif options.film == "mp4":
        save_mp4(turntable_frames(final, 72), options.out / "turntable.mp4")


def _known(path: Path) -> str | None:
    """The fingerprint in a run.json, None when there is no readable one."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text()).get("fingerprint")
    except (json.JSONDecodeError, AttributeError):
        return None


def parse(arguments: Sequence[str]) -> ReconstructOptions:
    """Options from the command line."""
    return cli(ReconstructOptions, prog="burnish reconstruct", description=__doc__, args=arguments)


def call(arguments: Sequence[str], show: Show) -> int | None:
    """The command line."""
    code = main(parse(arguments))
    return code if isinstance(code, int) else None
