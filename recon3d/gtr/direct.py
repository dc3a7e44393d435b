"""Refine a mesh as it is: its vertices and its colours, with the faces left alone.

For meshes whose topology must stay (rigged, unwrapped, hand-made). Vertices move smoothly: the bend of their
displacement is penalised. Vertices at one place move together, so that texture seams stay closed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from recon3d.gtr.fit import At, Budget, Stage, Weights
from recon3d.gtr.geometry import psnr_of
from recon3d.gtr.losses import mask_loss, rgb_loss
from recon3d.mesh import Mesh
from recon3d.raster import opposite_vertices, rasterize
from recon3d.render import render_surface
from recon3d.views import Views
from vision.refine import Verdict


@dataclass
class MeshFit:
    """A mesh while it is being refined; moves write in place.

    `places`: (places, 3) the distinct positions of the vertices. `place_of`: (vertices,) which one a vertex has.
    `paint`: vertex colours (vertices, 3) and textures (height, width, 3), as far as the mesh has them.
    """

    mesh: Mesh
    places: nn.Parameter
    place_of: Tensor
    paint: dict[str, nn.Parameter]
    generator: torch.Generator
    optimizer: torch.optim.Optimizer | None = None

    def weights(self) -> Weights:
        """Copies of all that is refined."""
        return {name: value.detach().clone() for name, value in {"places": self.places, **self.paint}.items()}

    def load(self, weights: Weights) -> None:
        """Take over what `weights` gave."""
        with torch.no_grad():
            for name, value in {"places": self.places, **self.paint}.items():
                value.copy_(weights[name])

    def current(self) -> Mesh:
        """The mesh as it is now, differentiable."""
        textures = tuple(self.paint[f"texture_{n}"] for n in range(len(self.mesh.textures)))
        colors = self.paint.get("colors", self.mesh.colors)
        return replace(self.mesh, vertices=self.places[self.place_of], colors=colors, textures=textures)


def new_mesh_fit(mesh: Mesh, generator: torch.Generator) -> MeshFit:
    """Start from a mesh; one without any colour gets grey vertex colours to refine."""
    if mesh.colors is None and not mesh.textures:
        mesh = replace(mesh, colors=torch.full_like(mesh.vertices, 0.6))
    places, place_of = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    paint = {f"texture_{n}": nn.Parameter(texture.clone()) for n, texture in enumerate(mesh.textures)}
    plain_faces = mesh.face_texture is None or bool((mesh.face_texture < 0).any())
    if mesh.colors is not None and plain_faces:
        paint["colors"] = nn.Parameter(mesh.colors.clone())
    return MeshFit(mesh, nn.Parameter(places), place_of, paint, generator)


@dataclass(frozen=True)
class DirectRates:
    """How a mesh descends."""

    places: float = 4e-3
    """Learning rate of the vertices, in units of a box of size 1.6."""
    paint: float = 2e-2
    """Learning rate of colours and texels."""
    bend: float = 0.3
    """Weight of the squared Laplacian of the displacement, times the number of vertices."""
    views: int = 4
    """Views per step."""


def direct_geometry_stage(fit: MeshFit, views: Views, budget: Budget, rates: DirectRates | None = None) -> Stage:
    """Move vertices (and colours with them) to match colour and silhouette of the views."""
    rates = rates or DirectRates()
    groups = [
        {"params": [fit.places], "lr": rates.places},
        {"params": list(fit.paint.values()), "lr": rates.paint / 4},
    ]
    fit = replace(fit, optimizer=torch.optim.Adam(groups))
    start = fit.places.detach().clone()
    faces = fit.place_of[fit.mesh.faces]
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = torch.unique(torch.cat([edges, edges.flip(1)]), dim=0)
    degree = torch.bincount(edges[:, 0], minlength=len(start)).clamp(min=1)[:, None]
    opposite = opposite_vertices(faces)

    def bend(offset: Tensor) -> Tensor:
        mean = torch.zeros_like(offset).index_add(0, edges[:, 0], offset[edges[:, 1]]) / degree
        return (offset - mean).square().sum()

    def propose(fit: MeshFit, at: At) -> MeshFit:
        if at.number == 0:
            return fit
        chosen = torch.randperm(len(views), generator=fit.generator)[: rates.views].tolist()
        loss = rates.bend * bend(fit.places - start)
        mesh = fit.current()
        for number in chosen:
            surface = render_surface(fit.places, faces, views.cameras[number], opposite=opposite, normals=False)
            rgb = mesh.surface_color(surface.fragments.visible, surface.fragments.bary)
            picture = surface.fragments.scatter(rgb, 1.0).permute(2, 0, 1)
            loss = loss + rgb_loss(picture, views.images[number]) / len(chosen)
            loss = loss + mask_loss(surface.mask[..., 0], views.masks[number, 0]) / len(chosen)
        fit.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        fit.optimizer.step()
        return fit

    @torch.no_grad()
    def evaluate(fit: MeshFit, at: At) -> Verdict:
        if not budget.judged(at):
            return Verdict()
        return Verdict(psnr_of(float(rgb_loss(picture_of(fit.current(), views), views.images))))

    return Stage("geometry", fit, budget.schedule("geometry"), propose, evaluate, budget.stop())


def direct_texture_stage(fit: MeshFit, views: Views, budget: Budget, rates: DirectRates | None = None) -> Stage:
    """Tune colours and texels on the views, mean absolute error over whole pictures; the surface stays."""
    rates = rates or DirectRates()
    fit = replace(fit, optimizer=torch.optim.Adam(list(fit.paint.values()), lr=rates.paint))
    size = (views.cameras.height, views.cameras.width)
    with torch.no_grad():
        fragments = [rasterize(clip, fit.mesh.faces, size) for clip in views.cameras.clip(fit.current().vertices)]

    def error(fit: MeshFit) -> tuple[Tensor, Tensor]:
        mesh = fit.current()
        pictures = [f.scatter(mesh.surface_color(f.visible, f.bary), 1.0).permute(2, 0, 1) for f in fragments]
        difference = torch.stack(pictures) - views.images
        return difference.abs().mean(), difference.detach().square().mean()

    def propose(fit: MeshFit, at: At) -> MeshFit:
        if at.number == 0:
            return fit
        fit.optimizer.zero_grad(set_to_none=True)
        error(fit)[0].backward(inputs=list(fit.paint.values()))
        fit.optimizer.step()
        with torch.no_grad():
            for values in fit.paint.values():
                values.clamp_(0, 1)
        return fit

    @torch.no_grad()
    def evaluate(fit: MeshFit, at: At) -> Verdict:
        if not budget.judged(at):
            return Verdict()
        loss, mse = error(fit)
        return Verdict(psnr_of(float(mse)), {"loss": float(loss)})

    return Stage("texture", fit, budget.schedule("texture"), propose, evaluate, budget.stop())


@torch.no_grad()
def picture_of(mesh: Mesh, views: Views) -> Tensor:
    """(views, 3, height, width) the mesh on white in the cameras of the views, one sample per pixel."""
    size = (views.cameras.height, views.cameras.width)
    pictures = []
    for clip in views.cameras.clip(mesh.vertices):
        fragments = rasterize(clip, mesh.faces, size)
        rgb = mesh.surface_color(fragments.visible, fragments.bary).clamp(0, 1)
        pictures.append(fragments.scatter(rgb, 1.0).permute(2, 0, 1))
    return torch.stack(pictures)
