"""Rebuild an object from posed pictures, or improve a mesh: what `burnish reconstruct` runs, and any other caller can.

reconstruct(ReconstructOptions(Path("runs/vase")))                  # a vase made by code
reconstruct(ReconstructOptions(Path("runs/object"), views=Path("pictures"), mesh=Path("start.glb")))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from recon3d.cameras import Cameras
from recon3d.gtr.evaluate import given_cameras
from recon3d.gtr.options import GTROptions
from recon3d.gtr.reconstructor import MAX_FACES, GTRReconstructor
from recon3d.gtr.result import Reconstruction
from recon3d.looks import contact_sheet, lit, looks, spread_views, turntable_frames
from recon3d.mesh import Mesh, merge_vertices
from recon3d.mesh_files import load_mesh, save_mesh
from recon3d.render import render
from recon3d.surfaces import connected_parts, simplify
from recon3d.vase import SOURCE, vase
from recon3d.view_files import load_views, views_from_grid
from recon3d.views import Views
from vision.checkpoints import load_state, save_state
from vision.config import UNNAMED
from vision.files import atomic_path
from vision.job import Item, Job, Outcome, Show, choose_device, silent
from vision.refine import Step
from vision.report import save_gif, save_mp4

NEUTRAL = ("views", "grid", "mesh", "device")
"""Options that leave a result as it is; what the files hold counts, not where they are."""


@dataclass(frozen=True)
class ReconstructOptions:
    """Rebuild an object from posed pictures, or improve a mesh against them."""

    out: Path
    """Folder for the results."""
    views: Path | None = None
    """Folder of pictures with cameras: transforms.json, a COLMAP model, or one text camera per picture."""
    grid: Path | None = None
    """Six views in one picture, three rows and two columns, in the order of Zero123++."""
    mesh: Path | None = None
    """A mesh: with views it is improved, alone its own rendered views are rebuilt."""
    options: Annotated[GTROptions, UNNAMED] = field(default_factory=GTROptions)
    """What the system may change."""
    source: str | None = None
    """Weights of a generator: a folder, org/name on the model hub, or builtin:NAME; None fits from nothing."""
    rig: Literal["files", "gtr"] = "files"
    """Cameras of a folder: from its files, or the six of GTR in the order of the names."""
    cut_out: Literal["auto", "alpha", "white", "rembg"] = "auto"
    """How the object is cut out: by transparency, a white background, or the package rembg."""
    format: Literal["glb", "obj"] = "glb"
    """File format of the mesh."""
    name: str | None = None
    """Name of the mesh file without ending; None takes it from the input."""
    film: Literal["gif", "mp4", "none"] = "gif"
    """Turntable: the lit object beside its bare shape."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU when there is one."""
    overwrite: bool = False
    """Replace files in --out that this job did not make, or made from other inputs."""

    def __post_init__(self) -> None:
        if self.views is not None and self.grid is not None:
            raise ValueError("Give either --views FOLDER or --grid IMAGE, not both.")
        given = (self.views, self.grid)
        if self.rig != ReconstructOptions.rig and self.views is None:
            raise ValueError(f"rig {self.rig} is about a folder of pictures; give --views as well.")
        if self.cut_out != ReconstructOptions.cut_out and given == (None, None):
            raise ValueError(f"cut_out {self.cut_out} is about pictures; give --views or --grid as well.")
        if self.options.keep_topology and self.mesh is None and given != (None, None):
            raise ValueError("keep_topology is about a mesh that is improved; give --mesh as well.")
        if self.name is not None and (not self.name or Path(self.name).name != self.name):
            raise ValueError(f"name must be a plain file name, got {self.name!r}.")

    @property
    def given(self) -> Path | None:
        """What the result is named after; None: the vase."""
        return self.mesh or self.grid or self.views

    @property
    def file(self) -> str:
        """Name of the mesh file."""
        return f"{self.name or (self.given.resolve().stem if self.given else 'vase')}.{self.format}"


def reconstruct(options: ReconstructOptions, show: Show = silent) -> Outcome:
    """Rebuild or improve one object: the mesh, turntable.gif, contact.png and run.json in `options.out`.

    The same call again returns what is done, or goes on where it was interrupted.

    Raises:
        ValueError: views, mesh, weights, device or the output folder cannot be used, or no surface was found.
    """
    from vision.hub import on_disk

    device = choose_device(options.device)
    job = Job(
        options.out,
        options,
        neutral=NEUTRAL,
        files=[] if options.source is None else [on_disk(options.source, None)],
        show=show,
        overwrite=options.overwrite,
    )
    views, mesh, notes = read(options)
    for note in notes:
        job.note(note)
    item = Item(job, options.given or SOURCE, options.file, content=_content(views, mesh))
    if not item.done():
        further = ["contact.png", *[f"turntable.{options.film}"] * (options.film != "none")]
        try:
            with item.results(*further) as folder:
                _make(item, folder, options, views, mesh, device)
        except ValueError:  # nothing to go on with
            item.record.forget_work()
            raise
    return job.finish("meshes", source=options.source, seed=options.options.seed, device=str(device))


def read(options: ReconstructOptions) -> tuple[Views, Mesh | None, list[str]]:
    """The views, the mesh that they improve, and sentences for the user."""
    mesh, notes = None, []
    if options.mesh is not None:
        mesh = load_mesh(options.mesh)
        if len(mesh.faces) > MAX_FACES:
            notes.append(f"The mesh has {len(mesh.faces):,} faces and is simplified to {MAX_FACES:,}.")
            mesh = simplify(mesh, MAX_FACES)
    if options.views is not None:
        views = load_views(options.views, options.cut_out, options.rig)
        return views, mesh, [*notes, *views.notes]
    if options.grid is not None:
        return views_from_grid(options.grid, options.cut_out), mesh, notes
    if mesh is None:
        notes.append("No views and no mesh were given: this is a vase made by code, to try it out.")
        mesh = vase()
    notes += [f"The mesh given: {note}" for note in mesh.notes()]
    # Seen in the box, then brought back: the result is where and as large as the mesh.
    centre, scale = mesh.placement()
    views = render(mesh.moved(centre, scale), given_cameras(2 * options.options.view_size))
    return views.moved(-centre * scale, 1 / scale), mesh if options.options.keep_topology else None, notes


def _make(
    item: Item, folder: Path, options: ReconstructOptions, views: Views, mesh: Mesh | None, device: torch.device
) -> None:
    """Go through all stages, on from where an earlier run of the same work stopped, and write the results."""
    reconstructor = item.job.needs(lambda: GTRReconstructor.from_pretrained(options.source, device=device))
    centre, scale = reconstructor.placement(views.check(), options.options, mesh)
    shown = views[spread_views(len(views))]
    before = Before(
        item.work() / "before.safetensors",
        shown.cameras.moved(centre, scale).to(dtype=torch.float32),
        options.options.grid_size,
    )
    observers: list[Callable[[Step], object]] = [lambda step: item.job.progress(*_told(step))]
    observers += [before] if mesh is None else []
    run = reconstructor.start(views, options.options, mesh=mesh, resume=item.work())
    result = reconstructor.reconstruct(run, observers)
    reached = ", ".join(f"{stage} {after:.2f}" for stage, (_, after) in result.scores.items())
    for note in (f"PSNR over the given views after each stage: {reached} dB.", *result.notes):
        item.job.note(note)
    choice = options.options
    final = result.mesh(choice.texture, choice.texture_size, choice.max_faces)
    for note in save_mesh(final, folder / item.name):
        item.job.note(note)
    draw(folder, options.film, shown, before.images if mesh is None else looks(mesh, shown.cameras), final)
    item.tell(geometry=geometry(final), **_facts(result))


def _told(step: Step) -> tuple[str, int, int]:
    """What to say of a step: its stage, how far that is, and how far it goes."""
    return step.at.stage, step.at.number, step.at.total


def _facts(result: Reconstruction) -> dict[str, Any]:
    return {
        "stage_seconds": {stage: round(seconds, 2) for stage, seconds in result.seconds.items()},
        "psnr_given_views": {stage: {"before": a, "after": b} for stage, (a, b) in result.scores.items()},
        "notes": list(result.notes),
    }


def geometry(mesh: Mesh) -> dict[str, Any]:
    """Numbers about a surface: faces, vertices at different places, parts, whether it is closed, its box and area."""
    places, faces = merge_vertices(mesh.vertices, mesh.faces)
    low, high = mesh.bounds()
    return {
        "faces": len(mesh.faces),
        "vertices": len(places),
        "parts": int(connected_parts(faces, len(places)).max()) + 1,
        "closed": not mesh.surface_notes(),
        "box": [low.tolist(), high.tolist()],
        "area": float(mesh.face_areas().sum()),
    }


def _content(views: Views, mesh: Mesh | None) -> str:
    """Digest of everything that was read."""
    content = hashlib.sha256()
    tensors = [views.images, views.masks, views.cameras.c2w, views.cameras.intrinsics]
    if mesh is not None:
        worn = [mesh.colors, mesh.uv, mesh.face_texture]
        tensors += [mesh.vertices, mesh.faces, *mesh.textures, *(x for x in worn if x is not None)]
    for tensor in tensors:
        content.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.contiguous().numpy().tobytes())
    return content.hexdigest()


class Before:
    """Keeps how the object looked before its first refinement, in a file that outlives an interruption."""

    def __init__(self, path: Path, cameras: Cameras, grid_size: int) -> None:
        self.path, self.cameras, self.grid_size = path, cameras, grid_size

    def __call__(self, step: Step) -> None:
        if step.at.stage in ("geometry", "texture") and not self.path.exists():
            save_state(self.path, {"images": looks(step.state, self.cameras, self.grid_size)}, {})

    @property
    def images(self) -> torch.Tensor | None:
        """(views, 3, height, width), None when nothing was refined."""
        return load_state(self.path)[0]["images"] if self.path.exists() else None


def draw(folder: Path, film: str, shown: Views, before: torch.Tensor | None, final: Mesh) -> None:
    """The contact sheet (given, before, after, lit and bare) and the turntable (lit beside bare); `before` is
    (views, 3, height, width) in [0, 1]."""
    columns = [("given", shown.images), ("before", before), ("after", render(final, shown.cameras).images)]
    columns += [("after, lit", lit(final, shown.cameras)), ("its shape", lit(final, shown.cameras, bare=True))]
    with atomic_path(folder / "contact.png") as part:
        contact_sheet([(label, pictures) for label, pictures in columns if pictures is not None]).save(part, "PNG")
    if film == "gif":
        save_gif(turntable_frames(final), folder / "turntable.gif", fps=12)
    elif film == "mp4":
        save_mp4(turntable_frames(final, 72), folder / "turntable.mp4")
