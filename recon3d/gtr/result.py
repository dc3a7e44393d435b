"""A finished reconstruction: pictures of it, and the mesh to keep."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from recon3d.atlas import bake
from recon3d.cameras import Cameras
from recon3d.gtr.fit import Fit
from recon3d.gtr.texture import repainted
from recon3d.mesh import Mesh
from recon3d.render import render
from recon3d.surfaces import drop_hidden
from recon3d.views import Views


@dataclass(frozen=True)
class Reconstruction:
    """A finished object in the box [-1, 1]^3, and how it came about."""

    surface: Mesh
    """The mesh that was refined, without colours unless `fit` is None."""
    fit: Fit | None
    """Triplane and field that colour it."""
    centre: Tensor
    """(3,) the middle of the box in the user's world."""
    scale: float
    """The box holds (x - centre) * scale of the user's world."""
    views: Views | None = None
    """Pictures in the box's world, in their own size, that paint the mesh; None: the field alone does."""
    kept: Mesh | None = None
    """A mesh in the user's world whose vertices stayed where they were."""
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    """PSNR over the input views, by stage: before and after."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by stage."""
    notes: tuple[str, ...] = ()
    """Sentences for the user."""

    def color(self, points: Tensor) -> Tensor:
        """(points, 3) colours of surface points in the box."""
        assert self.fit is not None, "a mesh that kept its topology has its own colours"
        return self.fit.color(points).clamp(0, 1)

    def render(self, cameras: Cameras, supersample: int = 2) -> Views:
        """Pictures of the object, cameras in the box's world."""
        return render(self.surface, cameras, supersample=supersample, color=None if self.fit is None else self.color)

    @torch.no_grad()
    def mesh(self, texture: Literal["uv", "vertex"] = "uv", size: int = 1024, max_faces: int = 10_000) -> Mesh:
        """The textured mesh in the user's world, without hidden inner surfaces."""
        if self.kept is not None:
            return self.kept.to("cpu")
        if self.fit is None:
            return self.to_world(self.surface)
        made = drop_hidden(self.surface)
        made = bake(made, self.color, size, max_faces) if texture == "uv" else self._vertex_colored(made)
        return self.to_world(made if self.views is None else repainted(made, self.views))

    def _vertex_colored(self, mesh: Mesh) -> Mesh:
        return replace(mesh, colors=self.color(mesh.vertices))

    def to_world(self, mesh: Mesh) -> Mesh:
        """A mesh of the box in the user's world, on the CPU."""
        return mesh.to("cpu").moved(-self.centre * self.scale, 1 / self.scale)
