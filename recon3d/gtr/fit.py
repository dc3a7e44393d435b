"""One object while it is being fitted, and what a stage of the refinement core needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recon3d.gtr.fields import TriplaneField, grid_density
from recon3d.isosurface import extract_sparse, solid_core
from recon3d.mesh import Mesh
from recon3d.projection import Paint, paint_of, painted
from vision.refine import Step, Verdict, any_of, max_seconds, no_progress

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class At:
    """Where a run is."""

    stage: str
    """Name of the stage."""
    number: int
    """Of the move, from 1; 0 where the start was judged."""
    total: int
    """Moves of the stage."""
    resolution: int = 0
    """Grid points per side of the surface, where there is one."""


@dataclass
class Fit:
    """One object while it is being fitted; moves write in place."""

    code: nn.Parameter
    """(3, channels, height, width) triplane."""
    field: TriplaneField
    """Turns features of the triplane into densities and colours."""
    box: Tensor
    """(6,) minimum and maximum corner of the part of [-1, 1]^3 that may hold the object; no density lies outside."""
    generator: torch.Generator
    """Random numbers of rays and views."""
    optimizer: torch.optim.Optimizer | None = None
    """Of the code and the field; None until a stage makes one."""
    prediction: Tensor | None = None
    """Colours that the last verdict computed with gradient, for the next move to use; not saved."""
    hull: Tensor | None = None
    """What the silhouettes leave of the box; None: unknown."""

    def weights(self) -> Weights:
        """Copies of triplane, field and box."""
        named = {"code": self.code, "box": self.box}
        named |= {f"field.{name}": value for name, value in self.field.state_dict().items()}
        return {name: value.detach().clone() for name, value in named.items()}

    def load(self, weights: Weights) -> None:
        """Take over what `weights` gave."""
        with torch.no_grad():
            self.code.copy_(weights["code"])
        self.box = weights["box"].to(self.code.device)
        self.field.load_state_dict({k.removeprefix("field."): v for k, v in weights.items() if k.startswith("field.")})
        self.prediction = None

    def density(self, points: Tensor) -> Tensor:
        """(points,) density at points (points, 3)."""
        inside = ((points >= self.box[:3]) & (points <= self.box[3:])).all(-1)
        return self.field.density(self.code, points) * inside

    def color(self, points: Tensor) -> Tensor:
        """(points, 3) colour at points (points, 3)."""
        return self.field.color(self.code, points)

    @torch.no_grad()
    def grid(self, resolution: int) -> Tensor:
        """(n, n, n) density on the grid points of [-1, 1]^3, without gradient."""
        axis = torch.linspace(-1, 1, resolution, device=self.code.device)
        x, y, z = ((axis >= low) & (axis <= high) for low, high in zip(self.box[:3], self.box[3:], strict=True))
        inside = x[:, None, None] & y[None, :, None] & z[None, None]
        return grid_density(self.field, self.code, resolution) * inside

    def surface(self, resolution: int, level: float) -> tuple[Tensor, Tensor]:
        """Vertices (vertices, 3), differentiable, and faces (faces, 3) of the surface density = level.

        Hollows that no picture can see are filled (`solid_core`), as far as the hull allows.
        """
        grid = self.grid(resolution)
        hull = None
        if self.hull is not None:
            resized = torch.nn.functional.interpolate(self.hull[None, None].float(), grid.shape, mode="nearest")
            hull = resized[0, 0] > 0.5
        solid = solid_core(grid > level, hull)
        return extract_sparse(self.density, torch.where(solid, grid.clamp(min=2 * level), grid), level, solid)

    def with_adam(self, code_rate: float, mlp_rate: float) -> Fit:
        """The same object with a fresh Adam for triplane and field."""
        groups = [
            {"params": [self.code], "lr": code_rate, "initial_lr": code_rate},
            {"params": list(self.field.parameters()), "lr": mlp_rate, "initial_lr": mlp_rate},
        ]
        return replace(self, optimizer=torch.optim.Adam(groups, foreach=True), prediction=None)

    def descend(self, loss: Tensor, factor: float) -> None:
        """One optimiser step on a scalar loss, with all rates times `factor`."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def new_fit(
    channels: int, size: tuple[int, int], field: TriplaneField, generator: torch.Generator, scale: float = 0.1
) -> Fit:
    """A fresh triplane with small random features for a field, which is used as it is."""
    code = torch.randn(3, channels, *size, generator=generator) * scale
    return Fit(nn.Parameter(code.to(field.aabb.device)), field, field.aabb.clone(), generator)


@dataclass
class MeshFit:
    """A mesh while it is being refined: its vertices and its colours, with the faces left alone; moves write in place.

    Vertices at one place move together, so that the seams of textures stay closed.
    """

    mesh: Mesh
    """As it was given."""
    places: nn.Parameter
    """(places, 3) the distinct positions of the vertices."""
    place_of: Tensor
    """(vertices,) int64, which of the places a vertex has."""
    paint: Paint
    """Vertex colours (vertices, 3) and textures (height, width, 3), as far as they colour it."""
    generator: torch.Generator
    """Random numbers of the views."""
    optimizer: torch.optim.Optimizer | None = None
    """Of places and paint; None until a stage makes one."""

    def weights(self) -> Weights:
        """Copies of all that is refined."""
        return {name: value.detach().clone() for name, value in {"places": self.places, **self.paint}.items()}

    def load(self, weights: Weights) -> None:
        """Take over what `weights` gave."""
        with torch.no_grad():
            self.places.copy_(weights["places"])
        self.paint = {name: weights[name].to(self.places.device) for name in self.paint}

    def current(self) -> Mesh:
        """The mesh as it is now, differentiable."""
        return painted(replace(self.mesh, vertices=self.places[self.place_of]), self.paint)


def new_mesh_fit(mesh: Mesh, generator: torch.Generator) -> MeshFit:
    """Start from a mesh; one without any colour gets grey vertex colours to refine."""
    if mesh.colors is None and not mesh.textures:
        mesh = replace(mesh, colors=torch.full_like(mesh.vertices, 0.6))
    places, place_of = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    return MeshFit(mesh, nn.Parameter(places), place_of, paint_of(mesh), generator)


class Fitted(Protocol):
    """What can be fitted, checkpointed and put back: a `Fit` or a mesh."""

    generator: torch.Generator
    optimizer: torch.optim.Optimizer | None

    def weights(self) -> Weights:
        """Copies of all that is refined."""
        ...

    def load(self, weights: Weights) -> None:
        """Take over what `weights` gave."""
        ...


def pack(state: Fitted | Weights) -> dict:
    """A tree of tensors of a fit, or the weights of one as they are, for `vision.refine.checkpoints`."""
    if isinstance(state, dict):
        return state
    optimizer = {} if state.optimizer is None else state.optimizer.state_dict()
    return {"fit": state.weights(), "optimizer": optimizer, "generator": state.generator}


def unpacker(fit: Fitted) -> Callable[[dict], Fitted | Weights]:
    """The inverse of `pack`; it fills `fit`, which must have the optimiser of the stage."""

    def unpack(tree: dict) -> Fitted | Weights:
        if "fit" not in tree:
            return tree
        fit.load(tree["fit"])
        if fit.optimizer is not None:
            fit.optimizer.load_state_dict(tree["optimizer"])
        fit.generator.set_state(tree["generator"].get_state())  # shared with the stages before and after
        return fit

    return unpack


@dataclass(frozen=True)
class Budget:
    """When a stage ends, and how often it is judged."""

    steps: int
    """Moves."""
    seconds: float | None = None
    """Wall-clock limit; None: no limit."""
    patience: int | None = None
    """Verdicts without a better one; None: all steps are made."""
    evaluate_every: int = 1
    """Moves between verdicts."""

    def stop(self) -> Callable[[Step], bool] | None:
        """The rule for the refinement core."""
        rules = []
        if self.seconds is not None:
            rules.append(max_seconds(self.seconds, sync_every=5))
        if self.patience is not None:
            rules.append(no_progress(self.patience))
        return any_of(*rules) if rules else None

    def judged(self, at: At | None) -> bool:
        """Whether a verdict is due: of the start (None), every few moves and of the last one."""
        return at is None or at.number % self.evaluate_every == 0 or at.number == at.total

    def schedule(self, stage: str, resolutions: Sequence[int] = (0,)) -> list[At]:
        """The moves; the resolutions share them evenly."""
        parts = (resolutions[number * len(resolutions) // self.steps] for number in range(self.steps))
        return [At(stage, number, self.steps, resolution) for number, resolution in enumerate(parts, 1)]


@dataclass(frozen=True)
class Stage:
    """A stage as arguments of the refinement core."""

    name: str
    """Of the stage, as it is told."""
    fit: Any
    """The state: a `Fit`, or a mesh that keeps its topology."""
    schedule: list[At]
    """The places that it steps through."""
    propose: Callable[[Any, At], Any]
    """The move."""
    evaluate: Callable[[Any, At | None], Verdict]
    """The verdict on a candidate; on the start, where the place is None."""
    stop: Callable[[Step], bool] | None = None
    """Ends the stage early; None: it runs to its end."""


def cosine_factor(step: int, steps: int, floor: float, warm_up: int = 0) -> float:
    """Linear warm-up from 0, then half a cosine from 1 to `floor` at `steps`."""
    if step < warm_up:
        return step / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
