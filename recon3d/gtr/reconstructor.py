"""From posed pictures, or a mesh and posed pictures, to a refined textured mesh."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from recon3d.cameras import surround
from recon3d.gtr.agreement import agreement_stage
from recon3d.gtr.fields import TriplaneField
from recon3d.gtr.fit import At, Budget, Fit, MeshFit, new_fit, new_mesh_fit
from recon3d.gtr.geometry import (
    VolumeRates,
    geometry_stage,
    object_box,
    vertex_stage,
    volume_stage,
)
from recon3d.gtr.network import Generator as Network
from recon3d.gtr.network import condition
from recon3d.gtr.options import TINY, GTRConfig, GTROptions, new_field
from recon3d.gtr.result import Reconstruction
from recon3d.gtr.run import Run, shown_psnr
from recon3d.gtr.texture import PAINT_MOVES, covered_points, helpful_moves, paint_stage, surface_points, texture_stage
from recon3d.hull import check_agreement, check_same_world, place, visual_hull
from recon3d.mesh import Mesh
from recon3d.projection import Projector
from recon3d.render import render
from recon3d.smoothing import drop_crumbs, smooth
from recon3d.surfaces import drop_hidden, simplify
from recon3d.views import Views
from vision.config import load_config, save_config
from vision.hub import Pretrained, find, read_index, write_index
from vision.refine import Step, drain, observed
from vision.weights import load_weights, save_weights

COMPONENTS = {"generator": ("recon3d.gtr.network", "Generator"), "field": ("recon3d.gtr.fields", "TriplaneField")}
MAX_FACES = 200_000
"""Meshes with more faces are simplified before they are refined."""
PLANNED = 0.75
"""Share of the steps that every stage plans under progress. Rates of surface and texture fall along the plan: a shorter
one that is gone through ends better than a longer one that is cut before its rates are small."""

Observers = Iterable[Callable[[Step[Fit | MeshFit, At]], object]]


class GTRReconstructor(Pretrained):
    """Rebuilds and refines 3D objects.

    Args:
        config: sizes.
        field: decodes triplanes; None: every object gets a fresh one.
        generator: makes a triplane from pictures; None: every object is fitted from nothing.
    """

    task: ClassVar[str] = "image-to-3d"

    def __init__(self, config: GTRConfig, field: TriplaneField | None = None, generator: Network | None = None) -> None:
        self.config = config
        self.field = field
        self.generator = generator
        self.device = torch.device("cpu")

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

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the networks; returns this reconstructor. The generator alone takes the type: fields and geometry are
        always float32."""
        self.device = torch.device(device or self.device)
        if self.field is not None:
            self.field.to(self.device)
        if self.generator is not None:
            self.generator.to(self.device, dtype)
        return self

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads, the generator as `dtype` when it is given."""
        if self.generator is None or self.field is None:
            raise ValueError("Without a generator there are no weights to save.")
        folder = Path(folder)
        save_config(self.config, folder / "config.json")
        save_weights(self.field, folder / "field")
        save_weights(self.generator, folder / "generator", dtype=dtype)
        write_index(folder, type(self).__name__, COMPONENTS)

    def __call__(
        self, views: Views, options: GTROptions | None = None, *, mesh: Mesh | None = None, observers: Observers = ()
    ) -> Mesh:
        """Rebuild an object from its views, or improve a mesh against them.

        Args:
            views: two or more posed pictures.
            options: None for the defaults.
            mesh: start from this mesh in the same world; it comes back unchanged when nothing helps.
            observers: called with every step of every stage.

        Returns:
            A textured mesh in the world of the cameras, on the CPU.
        """
        options = options or GTROptions()
        made = self.reconstruct(self.start(views, options, mesh=mesh), observers)
        return made.mesh(options.texture, options.texture_size, options.max_faces)

    def reconstruct(self, run: Run, observers: Observers = ()) -> Reconstruction:
        """All that is known of the object of a run that `start` made."""
        drain(self.run_steps(run), observers)
        return run.result()

    def steps(
        self,
        views: Views,
        options: GTROptions | None = None,
        *,
        mesh: Mesh | None = None,
        observers: Observers = (),
        resume: Path | None = None,
    ) -> Iterator[Step[Fit | MeshFit, At]]:
        """Iterate over every step of every stage; `step.at.stage` names it.

        Args:
            views, options, mesh, observers: as in `__call__`.
            resume: folder that keeps the state of every stage; a run goes on from what it holds.

        Raises:
            ValueError: views or mesh cannot be used, or the fit found no surface.
        """
        yield from observed(self.run_steps(self.start(views, options, mesh=mesh, resume=resume)), observers)

    def start(
        self, views: Views, options: GTROptions | None = None, *, mesh: Mesh | None = None, resume: Path | None = None
    ) -> Run:
        """Everything before the first stage; arguments as in `steps`."""
        options, notes = options or GTROptions(), []
        views = views.check()
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
        moved = None if mesh is None else _in_box(mesh, centre, scale, self.device)
        return Run(options, full, small, centre, scale, mesh, moved, resume, notes)

    def run_steps(self, run: Run) -> Iterator[Step[Fit | MeshFit, At]]:
        """Iterate over every step of a run that `start` made; afterwards the run holds the object."""
        if run.mesh is not None and run.options.keep_topology:
            run.surface = yield from self._keep_topology(run, run.mesh)
            run.kept = _same_places(run.given, run.mesh, run.surface)
            return
        surface, fit = yield from self._triplane(run)
        if run.mesh is None:
            run.surface, run.fit = surface, fit
        else:
            run.take_better(surface, fit)

    def placement(self, views: Views, options: GTROptions, mesh: Mesh | None = None) -> tuple[Tensor, float]:
        """Centre (3,) and scale of the box: (x - centre) * scale lies in [-1, 1]^3.

        Silhouettes decide: outliers of a bad mesh would make the box, and so the grid's cells, too large. Only a mesh
        whose topology stays is taken as it is.
        """
        return mesh.placement() if mesh is not None and options.keep_topology else place(views, options.placement)

    def _triplane(self, run: Run) -> Generator[Step, None, tuple[Mesh, Fit]]:
        """Stages A, B and C."""
        options, views, level = run.options, run.views, self.config.level
        fit = self._start(run.full, options)
        fit.box = object_box(views)
        fit.hull = visual_hull(views, options.grid_size)
        steps = options.volume_steps if options.volume_steps is not None else (250 if self.generator is None else 0)
        rates = VolumeRates(rays=options.rays)
        if steps:
            budget = _budget(options, steps, options.volume_seconds, evaluate_every=25)
            prior = None if run.mesh is None else _unseen_sides(run.mesh, views)
            yield from run.stage(volume_stage(fit, views, budget, rates, prior=prior))
        if not len(fit.surface(options.grid_size, level)[1]):
            raise ValueError(
                f"The fit holds no surface (no density above {level:g}): "
                + ("give it more volume_steps, or check the masks." if steps else "set volume_steps to fit the object.")
            )
        if options.refines_geometry:
            budget = _budget(options, options.geometry_steps, options.geometry_seconds, evaluate_every=10)
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
            budget = _budget(options, options.texture_steps, options.texture_seconds)
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

    def _smoothed(self, run: Run, surface: Mesh, fit: Fit) -> Generator[Step, None, Mesh]:
        """The surface of a field without hidden and loose parts, and without bumps unless the views agree less on it.

        The smooth surface loses detail; its vertices get it back from the views, at last at twice the size of the rest.
        """
        options, size = run.options, run.views.cameras.height
        surface = drop_crumbs(drop_hidden(surface))
        shape = new_mesh_fit(smooth(surface), torch.Generator().manual_seed(options.seed))
        budget = _budget(options, 2 * options.geometry_steps, options.geometry_seconds, evaluate_every=30)
        stage = agreement_stage(shape, run.full, (size, min(2 * size, run.full.cameras.height)), budget)
        rough = stage.evaluate(new_mesh_fit(surface, shape.generator), None).score
        yield from run.stage(stage)
        _, smoothed = run.scores["surface"]
        made = surface if rough > smoothed else Mesh(shape.current().vertices.detach(), shape.mesh.faces)
        run.scores["surface"] = shown_psnr(surface, run.views, fit.color), shown_psnr(made, run.views, fit.color)
        return made

    def _keep_topology(self, run: Run, mesh: Mesh) -> Generator[Step, None, Mesh]:
        """A mesh with its own faces: painted by the views, shaped in this paint, and painted where that moved it."""
        options = run.options
        fit = new_mesh_fit(mesh, torch.Generator().manual_seed(options.seed))
        start = fit.weights()
        if options.refines_geometry:
            if options.refines_texture:
                yield from self._painted(run, fit, "paint")
            budget = _budget(options, options.geometry_steps, options.geometry_seconds, evaluate_every=10)
            yield from run.stage(vertex_stage(fit, run.views, budget))
        if options.refines_texture:
            yield from self._painted(run, fit, "texture")
        same = {name: torch.equal(value, start[name]) for name, value in fit.weights().items()}
        if all(same.values()):
            return mesh
        done = fit.current()
        return replace(done, vertices=mesh.vertices if same["places"] else done.vertices.detach())

    def _painted(self, run: Run, fit: MeshFit, name: str) -> Generator[Step, None, None]:
        """As many moves of the painting as help views that are kept aside."""
        options = run.options
        with torch.no_grad():
            projector = Projector(fit.current(), run.full)
        moves = helpful_moves(fit, projector, min(PAINT_MOVES, options.texture_steps))
        budget = Budget(moves, options.texture_seconds, options.patience)
        yield from run.stage(paint_stage(fit, projector, budget, name=name))


def _budget(options: GTROptions, steps: int, seconds: float | None, evaluate_every: int = 1) -> Budget:
    """Of a stage, with what the call says of stages that gain nothing more; under progress `PLANNED` of the steps."""
    planned = math.ceil(PLANNED * steps) if options.stop == "progress" else steps
    return Budget(planned, seconds, options.patience, evaluate_every)


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
