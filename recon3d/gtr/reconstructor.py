"""From posed pictures, or a mesh and posed pictures, to a refined textured mesh."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from recon3d.cameras import surround
from recon3d.gtr.fields import TriplaneField
from recon3d.gtr.fit import At, Budget, Fit, MeshFit, Stage, new_fit, new_mesh_fit, pack, unpacker
from recon3d.gtr.geometry import (
    VolumeRates,
    geometry_stage,
    object_box,
    psnr_of,
    vertex_stage,
    volume_stage,
)
from recon3d.gtr.network import Generator as Network
from recon3d.gtr.network import condition
from recon3d.gtr.options import TINY, GTRConfig, GTROptions, new_field
from recon3d.gtr.result import Reconstruction
from recon3d.gtr.texture import PAINT_MOVES, covered_points, helpful_moves, paint_stage, surface_points, texture_stage
from recon3d.hull import check_agreement, check_same_world, place, visual_hull
from recon3d.mesh import Mesh
from recon3d.projection import Projector
from recon3d.render import render
from recon3d.smoothing import drop_crumbs, smooth
from recon3d.surfaces import drop_hidden, simplify
from recon3d.views import Views
from vision.config import load_config, save_config
from vision.hub import find, load_weights, read_index, save_weights, write_index
from vision.refine import Step, checkpoints, load_checkpoint, observed, refine_steps

COMPONENTS = {"generator": ("recon3d.gtr.network", "Generator"), "field": ("recon3d.gtr.fields", "TriplaneField")}
MAX_FACES = 200_000
"""Meshes with more faces are simplified before they are refined."""
ADAPTS = 1.5
"""Decibels by which a smooth surface may show the views worse than the rough one that the colours of the field were
fitted on: the texture refinement adapts them."""
POOR = 17.0
"""A PSNR over the given views below this is worth a sentence: poses or intrinsics may be wrong."""


class GTRReconstructor:
    """Rebuilds and refines 3D objects.

    Args:
        config: sizes.
        field: decodes triplanes; None: every object gets a fresh one.
        generator: makes a triplane from pictures; None: every object is fitted from nothing.
    """

    def __init__(self, config: GTRConfig, field: TriplaneField | None = None, generator: Network | None = None) -> None:
        self.config = config
        self.field = field
        self.generator = generator

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> GTRReconstructor:
        """Build a reconstructor.

        Args:
            source: None needs no weights and fits every object from nothing; `builtin:tiny` is a small random
            generator;
                else a folder or hub name with a converted checkpoint.
            dtype: of the generator; fields and geometry are always float32.
        """
        if source is None:
            return cls(GTRConfig()).to(device)
        found = find(source, default=None, revision=revision)
        if found.kind == "builtin":
            if found.name != "tiny":
                raise ValueError(f'There is no builtin GTR {found.name!r}; known: "tiny".')
            return cls.with_random_weights(TINY).to(device, dtype)
        if found.path is None or not found.path.is_dir():
            raise ValueError(f"GTR is loaded from a folder with a model_index.json, got {found.path}.")
        components = read_index(found.path, cls.__name__)
        if components != COMPONENTS:
            raise ValueError(f"{found.path} names the components {sorted(components)}, GTR has {sorted(COMPONENTS)}.")
        config = load_config(GTRConfig, found.path / "config.json")
        made = cls.with_random_weights(config, empty=True)
        load_weights(made.field, found.path / "field")
        load_weights(made.generator, found.path / "generator")
        return made.to(device, dtype)

    @classmethod
    def with_random_weights(cls, config: GTRConfig, seed: int = 0, *, empty: bool = False) -> GTRReconstructor:
        """A reconstructor with a fresh generator, to be trained; `empty` leaves its memory as it is, to be filled."""
        if config.generator is None:
            raise ValueError("This configuration has no generator, so there is nothing to load.")
        with torch.device("meta" if empty else "cpu"):
            network, decoder = Network(config.generator), new_field(config)
        if empty:
            network, decoder = network.to_empty(device="cpu"), decoder.to_empty(device="cpu")
        else:
            random = torch.Generator().manual_seed(seed)
            decoder.reset_parameters(random)
            with torch.no_grad():
                for name, value in network.named_parameters():
                    if value.dim() > 1:
                        value.copy_(torch.randn(value.shape, generator=random) * value[0].numel() ** -0.5)
                    else:
                        value.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        return cls(config, decoder, network.eval())

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> GTRReconstructor:
        """Move the networks; the generator also changes its type."""
        self.device = torch.device(device)
        if self.field is not None:
            self.field.to(device)
        if self.generator is not None:
            self.generator.to(device, dtype)
        return self

    device: torch.device = torch.device("cpu")

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads."""
        if self.generator is None or self.field is None:
            raise ValueError("Without a generator there are no weights to save.")
        folder = Path(folder)
        write_index(folder, type(self).__name__, COMPONENTS)
        save_config(self.config, folder / "config.json")
        save_weights(self.field, folder / "field")
        save_weights(self.generator, folder / "generator", dtype=dtype)

    def __call__(self, views: Views, options: GTROptions | None = None) -> Mesh:
        """Rebuild an object from its views: a textured mesh in the world of their cameras."""
        options = options or GTROptions()
        return self.reconstruct(views, options).mesh(options.texture, options.texture_size, options.max_faces)

    def refine(self, mesh: Mesh, views: Views, options: GTROptions | None = None) -> Mesh:
        """Improve a mesh against views in the same world; it comes back unchanged when that does not help."""
        options = options or GTROptions()
        done = self.reconstruct(views, options, mesh=mesh)
        return done.mesh(options.texture, options.texture_size, options.max_faces)

    def reconstruct(
        self,
        views: Views,
        options: GTROptions | None = None,
        *,
        mesh: Mesh | None = None,
        folder: Path | None = None,
        observers: Iterable[Callable[[Step], object]] = (),
    ) -> Reconstruction:
        """Run `steps` to the end; the observers see every step."""
        steps = self.steps(views, options, mesh=mesh, folder=folder)
        observers = list(observers)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            for observe in observers:
                observe(step)

    def steps(
        self,
        views: Views,
        options: GTROptions | None = None,
        *,
        mesh: Mesh | None = None,
        folder: Path | None = None,
    ) -> Generator[Step, None, Reconstruction]:
        """Yield every step of every stage (`step.at.stage` names it); the generator returns the `Reconstruction`.

        Args:
            views: two or more posed pictures.
            mesh: start from this mesh in the same world.
            folder: keep checkpoints here and go on from those that it holds.

        Raises:
            ValueError: views or mesh cannot be used, or the fit found no surface.
        """
        options = options or GTROptions()
        views = views.check()
        notes = []
        if mesh is not None:
            mesh = mesh.check()
            notes += mesh.notes()
            if len(mesh.faces) > MAX_FACES:
                notes.append(f"The mesh has {len(mesh.faces):,} faces and is simplified to {MAX_FACES:,}.")
                mesh = simplify(mesh, MAX_FACES)
            check_same_world(mesh, views)
        centre, scale = self.placement(views, options, mesh)
        # World coordinates may need float64, which not every device has.
        full = views.moved(centre, scale).to(self.device, torch.float32)
        small = full.resized(*_scaled(views, options.view_size))
        check_agreement(small)
        run = _Run(options, small, folder)
        moved, kept = None if mesh is None else _in_box(mesh, centre, scale, self.device), None
        if mesh is not None and options.keep_topology:
            surface, fit = (yield from self._keep_topology(run, full, moved)), None
            kept = _same_places(mesh, moved, surface)
        else:
            surface, fit = yield from self._triplane(run, full, moved)
            if mesh is not None:
                surface, fit = _better(run, surface, fit, moved, notes)
                kept = mesh if fit is None else None
        reached = [after for _, after in run.scores.values()][-1:]
        if reached and reached[0] < POOR:
            notes.append(
                f"The result shows the given views poorly ({reached[0]:.1f} dB); check poses, intrinsics and masks, "
                "or give it more steps."
            )
        paints = fit is not None and options.refines_texture and options.texture_mode == "default"
        return Reconstruction(
            surface,
            fit,
            centre.cpu(),
            scale,
            views=full if paints else None,
            kept=kept,
            scores=run.scores,
            seconds=run.seconds,
            notes=tuple(notes),
        )

    def placement(self, views: Views, options: GTROptions, mesh: Mesh | None = None) -> tuple[Tensor, float]:
        """Centre (3,) and scale of the box: (x - centre) * scale lies in [-1, 1]^3.

        Silhouettes decide: outliers of a bad mesh would make the box, and so the grid's cells, too large. Only a mesh
        whose topology stays is taken as it is.
        """
        return mesh.placement() if mesh is not None and options.keep_topology else place(views, options.placement)

    def _triplane(self, run: _Run, full: Views, mesh: Mesh | None) -> Generator[Step, None, tuple[Mesh, Fit]]:
        """Stages A, B and C; `full` are the views in their own size, in the box's world."""
        options, views, level = run.options, run.views, self.config.level
        fit = self._start(full, options)
        fit.box = object_box(views)
        fit.hull = visual_hull(views, options.grid_size)
        steps = options.volume_steps if options.volume_steps is not None else (250 if self.generator is None else 0)
        rates = VolumeRates(rays=options.rays)
        if steps:
            budget = Budget(steps, options.volume_seconds, options.patience, evaluate_every=25)
            prior = None if mesh is None else _unseen_sides(mesh, views)
            yield from run.stage(volume_stage(fit, views, budget, rates, prior=prior))
        if not len(fit.surface(options.grid_size, level)[1]):
            raise ValueError(
                f"The fit holds no surface (no density above {level:g}): "
                + ("give it more volume_steps, or check the masks." if steps else "set volume_steps to fit the object.")
            )
        if options.refines_geometry:
            budget = Budget(options.geometry_steps, options.geometry_seconds, options.patience, evaluate_every=10)
            sizes = (options.grid_size // 2, options.grid_size) if options.coarse_to_fine else (options.grid_size,)
            yield from run.stage(geometry_stage(fit, views, budget, level=level, resolutions=sizes))
        surface = Mesh(*(part.detach() for part in fit.surface(options.grid_size, level)))
        published = options.texture_mode == "published"
        if options.refines_geometry and not published:
            surface = yield from self._smoothed(run, surface, fit)
        vertices, faces = surface.vertices, surface.faces
        if options.refines_texture:
            # The published code renders at 1024 pixels and compares at 512.
            points = (
                surface_points(vertices, faces, views, supersample=2)
                if published
                else covered_points(vertices, faces, views)
            )
            budget = Budget(options.texture_steps, options.texture_seconds, options.patience)
            stage = texture_stage(fit, points, views.images, budget, mode=options.texture_mode)
            yield from run.stage(stage, keep_last=published)
        return surface, fit

    def _start(self, full: Views, options: GTROptions) -> Fit:
        """The first triplane: from the generator, or small random numbers."""
        random = torch.Generator().manual_seed(options.seed)
        config = self.config
        decoder = new_field(config).to(self.device)
        if self.field is None:
            decoder.reset_parameters(random)
        else:
            decoder.load_state_dict(self.field.state_dict())
        fit = new_fit(config.plane_channels, (config.plane_size, config.plane_size), decoder, random)
        if self.generator is not None:
            sized = full.resized(config.image_size, config.image_size)
            given = condition(sized.images, sized.masks, sized.cameras)[:, : self.generator.config.in_channels]
            kind = self.generator.planes.dtype
            with torch.no_grad():
                fit.code.copy_(self.generator(given[None].to(kind))[0])
        return fit

    def _smoothed(self, run: _Run, surface: Mesh, fit: Fit) -> Generator[Step, None, Mesh]:
        """The surface of a field without hidden and loose parts, and without bumps unless that costs too much.

        The smooth surface loses detail; its vertices get it back from the views.
        """
        options = run.options
        surface = drop_crumbs(drop_hidden(surface))
        shape = new_mesh_fit(smooth(surface), torch.Generator().manual_seed(options.seed))
        budget = Budget(2 * options.geometry_steps, options.geometry_seconds, options.patience, evaluate_every=20)
        stage = vertex_stage(shape, run.views, budget, color=fit.color, name="surface")
        rough = stage.evaluate(new_mesh_fit(surface, shape.generator), None).score
        yield from run.stage(stage)
        _, smoothed = run.scores["surface"]
        run.scores["surface"] = rough, smoothed
        return surface if rough > smoothed + ADAPTS else Mesh(shape.current().vertices.detach(), shape.mesh.faces)

    def _keep_topology(self, run: _Run, full: Views, mesh: Mesh) -> Generator[Step, None, Mesh]:
        """A mesh with its own faces: painted by the views, shaped in this paint, and painted where that moved it."""
        options = run.options
        fit = new_mesh_fit(mesh, torch.Generator().manual_seed(options.seed))
        start = fit.weights()
        if options.refines_geometry:
            if options.refines_texture:
                yield from self._painted(run, full, fit, "paint")
            budget = Budget(options.geometry_steps, options.geometry_seconds, options.patience, evaluate_every=10)
            yield from run.stage(vertex_stage(fit, run.views, budget))
        if options.refines_texture:
            yield from self._painted(run, full, fit, "texture")
        same = {name: torch.equal(value, start[name]) for name, value in fit.weights().items()}
        if all(same.values()):
            return mesh
        done = fit.current()
        return replace(done, vertices=mesh.vertices if same["places"] else done.vertices.detach())

    def _painted(self, run: _Run, full: Views, fit: MeshFit, name: str) -> Generator[Step, None, None]:
        """As many moves of the painting as help views that are kept aside."""
        options = run.options
        with torch.no_grad():
            projector = Projector(fit.current(), full)
        budget = Budget(
            helpful_moves(fit, projector, min(PAINT_MOVES, options.texture_steps)),
            options.texture_seconds,
            options.patience,
        )
        yield from run.stage(paint_stage(fit, projector, budget, name=name))


@dataclass
class _Run:
    """What the stages of one reconstruction share."""

    options: GTROptions
    views: Views
    folder: Path | None
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def stage(self, stage: Stage, keep_last: bool = False) -> Generator[Step, None, None]:
        """Run one stage with checkpoints; the fit then holds its best state (or its last)."""
        name, fit = stage.name, stage.fit
        folder = None if self.folder is None else self.folder / name
        resume = last = None if folder is None else load_checkpoint(folder, unpack=unpacker(fit))
        steps = refine_steps(
            fit,
            stage.propose,
            stage.schedule,
            evaluate=stage.evaluate,
            stop=stage.stop,
            keep_best=lambda state: state.weights(),
            resume=resume,
            evaluate_start=True,
        )
        for last in observed(steps, [] if folder is None else [checkpoints(folder, every=5, pack=pack)]):
            yield last if last.at else replace(last, at=At(name, 0, len(stage.schedule)))
        if folder is not None and last is not resume:
            checkpoints(folder, pack=pack)(last)
        if not keep_last:
            fit.load(last.best)
        self.scores[name] = (float(last.start_score), float(last.score if keep_last else last.best_score))
        self.seconds[name] = last.seconds


def _in_box(mesh: Mesh, centre: Tensor, scale: float, device: torch.device) -> Mesh:
    moved = mesh.moved(centre.to(mesh.vertices.device), scale)
    return replace(moved, vertices=moved.vertices.float()).to(device)


def _scaled(views: Views, height: int) -> tuple[int, int]:
    """Height and width with the views' aspect, not larger than they are."""
    height = min(height, views.cameras.height)
    return height, max(1, round(views.cameras.width * height / views.cameras.height))


def _unseen_sides(mesh: Mesh, views: Views, degrees: float = 30.0) -> Views | None:
    """Pictures of a mesh from sides more than `degrees` away from every view; None when the views leave none.

    Showing the mesh from everywhere, or before the views, was worse: a fitted volume is opaque, and gradients hardly
    move it.
    """
    around = surround(views.cameras.height).to(views.images.device)
    towards, given = (torch.nn.functional.normalize(x.positions, dim=-1) for x in (around, views.cameras))
    unseen = ((towards @ given.T).amax(1) < math.cos(math.radians(degrees))).nonzero().flatten()
    return render(mesh, around[unseen]) if len(unseen) else None


def _same_places(given: Mesh, moved: Mesh, done: Mesh) -> Mesh | None:
    """The finished mesh in the world of the given one, bit for bit where nothing changed; None when vertices moved."""
    if done is moved:
        return given
    return replace(done, vertices=given.vertices) if done.vertices is moved.vertices else None


def _better(run: _Run, surface: Mesh, fit: Fit, given: Mesh, notes: list[str]) -> tuple[Mesh, Fit | None]:
    """The refined object, or the mesh as it was given when that shows the views better."""

    def score(pictures: Tensor) -> float:
        return psnr_of(float((pictures - run.views.images).square().mean()))

    before = score(render(given, run.views.cameras).images)
    after = score(render(surface, run.views.cameras, color=fit.color).images)
    run.scores["mesh given"] = (before, max(before, after))
    if after > before and math.isfinite(after):
        return surface, fit
    notes.append(
        f"The mesh as it was given shows the views better ({before:.2f} dB) than the refined one ({after:.2f} dB); "
        "it is returned unchanged."
    )
    return given, None
