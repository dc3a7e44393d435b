"""Fit and refine the shape of one object: volume (A), geometry (B) and vertices, each a stage for the refinement core.

A. Volume: a triplane is fitted to the views by volume rendering.
B. Geometry: marching cubes surfaces of the density are rendered and compared with the views in colour and silhouette;
   gradients reach the field through the vertices and through the colours on the surface (paper, section 3.2).
Vertices of a mesh whose faces must stay (rigged, unwrapped, hand-made) descend on the same pictures. Their gradients
   are smoothed, so that the surface stays smooth. Not published.

Every stage judges its start, so that the best state is never worse than what the stage was given, in PSNR over the
views it sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon3d.gtr.fit import At, Budget, Fit, MeshFit, Stage, cosine_factor
from recon3d.gtr.losses import mask_loss, psnr_of, ray_opacity_loss, ray_opacity_points, rgb_loss
from recon3d.hull import visual_hull
from recon3d.raster import interpolate, opposite_vertices, rasterize
from recon3d.render import render, render_surface
from recon3d.smoothing import smoother
from recon3d.views import Views
from recon3d.volume import render_rays
from vision.refine import Verdict


def object_box(views: Views, margin: float = 0.1, resolution: int = 48) -> Tensor:
    """(6,) box around the visual hull with a margin, inside [-1, 1]^3: where the object must be."""
    hull = visual_hull(views, resolution)
    if not hull.any():
        raise ValueError("The silhouettes do not meet inside the box [-1, 1]^3; check poses, intrinsics and masks.")
    index = hull.nonzero()
    low, high = (end * (2 / (resolution - 1)) - 1 for end in (index.amin(0), index.amax(0)))
    return torch.cat([(low - margin).clamp(min=-1), (high + margin).clamp(max=1)])


# A ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VolumeRates:
    """How the volume fit descends."""

    code: float = 2e-2
    """Learning rate of the triplane."""
    mlp: float = 5e-3
    """Learning rate of both MLPs."""
    decay: float = 0.998
    """Both rates are multiplied by this in every step."""
    rays: int = 768
    """Rays per step."""
    samples: int = 40
    """Samples per ray."""
    mask: float = 0.5
    """Weight of the squared error of the opacity."""


def volume_stage(
    fit: Fit, views: Views, budget: Budget, rates: VolumeRates | None = None, *, prior: Views | None = None
) -> Stage:
    """Stage A. Three quarters of the rays pass near the object; the verdict is the PSNR of a fixed set of rays.

    Args:
        prior: pictures of a rough guess from sides that the views do not show; one ray in 32 is theirs.
    """
    rates = rates or VolumeRates()
    fit = fit.with_adam(rates.code, rates.mlp)
    sources = [views] if prior is None else [views, prior]
    rays = [source.cameras.rays() for source in sources]
    origins = torch.cat([origin.reshape(-1, 3) for origin, _ in rays])
    directions = torch.cat([direction.reshape(-1, 3) for _, direction in rays])
    colors = torch.cat([source.images.permute(0, 2, 3, 1).reshape(-1, 3) for source in sources])
    masks = torch.cat([source.masks.reshape(-1, 1) for source in sources])
    near = [torch.nn.functional.max_pool2d(x.masks, 9, 1, 4).flatten().nonzero().squeeze(-1) for x in sources]

    def draw(count: int, generator: torch.Generator, source: int = 0) -> Tensor:
        first, pixels = (0 if source == 0 else sources[0].masks.numel()), sources[source].masks.numel()
        close = torch.randint(len(near[source]), (count * 3 // 4,), generator=generator).to(origins.device)
        anywhere = torch.randint(pixels, (count - len(close),), generator=generator).to(origins.device)
        return torch.cat([near[source][close], anywhere]) + first

    judged_rays = draw(2048, torch.Generator().manual_seed(0))

    def march(rays: Tensor, jitter: Tensor | None) -> tuple[Tensor, Tensor]:
        def field(points: Tensor) -> tuple[Tensor, Tensor]:
            density, rgb = fit.field(fit.code[None], points[None])
            return density.flatten(), rgb[0]

        return render_rays(field, origins[rays], directions[rays], fit.box, rates.samples, jitter=jitter)

    def propose(fit: Fit, at: At) -> Fit:
        rays = draw(rates.rays if prior is None else rates.rays - rates.rays // 32, fit.generator)
        if prior is not None:
            rays = torch.cat([rays, draw(rates.rays // 32, fit.generator, 1)])
        jitter = torch.rand(len(rays), rates.samples + 1, generator=fit.generator).to(origins)
        rgb, opacity = march(rays, jitter)
        loss = rgb_loss(rgb, colors[rays]) + rates.mask * mask_loss(opacity, masks[rays])
        fit.descend(loss, rates.decay ** (at.number - 1))
        return fit

    @torch.no_grad()
    def evaluate(fit: Fit, at: At | None) -> Verdict:
        if not budget.judged(at):
            return Verdict()
        rgb, _ = march(judged_rays, None)
        return Verdict(psnr_of(float(rgb_loss(rgb.clamp(0, 1), colors[judged_rays]))))

    return Stage("volume", fit, budget.schedule("volume"), propose, evaluate, budget.stop())


# B ------------------------------------------------------------------------------------------------------------------


CODE_RATE, MLP_RATE, DECAY = 3e-3, 4e-4, 0.99
"""Learning rates of the triplane and of both MLPs in the geometry refinement, and their factor in every step."""
VIEWS, JUDGED_VIEWS = 3, 6
"""Views per step, and those that verdicts look at, spread over all."""
RAY_OPACITY, EMPTY_RAYS = 0.1, 2048
"""Weight of the opacity in front of the background, and background rays per step for it."""


def geometry_stage(
    fit: Fit,
    views: Views,
    budget: Budget,
    *,
    level: float = 10.0,
    resolutions: tuple[int, ...] = (64,),
) -> Stage:
    """Stage B. The verdict is the PSNR of rendered surfaces; its detail has the overlap of the silhouettes.

    Args:
        level: density of the surface.
        resolutions: grid points per side, coarse to fine.
    """
    fit = fit.with_adam(CODE_RATE, MLP_RATE)
    origins, directions = (rays.reshape(-1, 3) for rays in views.cameras.rays(normalise=False))
    background = (views.masks.flatten() == 0).nonzero().squeeze(-1)
    judged_views = spread_over(len(views), JUDGED_VIEWS)

    def empty_space(fit: Fit) -> Tensor:
        pick = torch.randint(max(1, len(background)), (EMPTY_RAYS,), generator=fit.generator)
        uniform = torch.rand(EMPTY_RAYS, 1, generator=fit.generator).to(origins)
        if len(background) == 0:
            return origins.new_zeros(())
        rays = background[pick.to(background.device)]
        points, lengths, hit = ray_opacity_points(
            origins[rays], directions[rays], torch.zeros_like(uniform), fit.box, uniform
        )
        return ray_opacity_loss(fit.density(points)[:, None], lengths, hit)

    def propose(fit: Fit, at: At) -> Fit:
        chosen = torch.randperm(len(views), generator=fit.generator)[:VIEWS].tolist()
        loss = RAY_OPACITY * empty_space(fit)
        vertices, faces = fit.surface(at.resolution, level)
        if len(faces):
            loss = loss + surface_loss(fit, vertices, faces, views, chosen)
        fit.descend(loss, DECAY ** (at.number - 1))
        return fit

    @torch.no_grad()
    def evaluate(fit: Fit, at: At | None) -> Verdict:
        if not budget.judged(at):
            return Verdict()
        vertices, faces = fit.surface(budget_resolution, level)
        if len(faces) == 0:
            return Verdict(-math.inf, {"iou": 0.0})
        mse, overlap, union = 0.0, 0.0, 0.0
        for number in judged_views:
            camera = views.cameras[number]
            fragments = rasterize(camera.clip(vertices)[0], faces, (camera.height, camera.width))
            color = fit.color(interpolate(vertices, faces, fragments)).clamp(0, 1)
            picture = fragments.scatter(color, 1.0).permute(2, 0, 1)
            mse += float(rgb_loss(picture, views.images[number])) / len(judged_views)
            mine, given = fragments.face_id >= 0, views.masks[number, 0] > 0.5
            overlap, union = overlap + float((mine & given).sum()), union + float((mine | given).sum())
        return Verdict(psnr_of(mse), {"iou": overlap / max(union, 1.0)})

    budget_resolution = resolutions[-1]
    return Stage("geometry", fit, budget.schedule("geometry", resolutions), propose, evaluate, budget.stop())


def surface_loss(fit: Fit, vertices: Tensor, faces: Tensor, views: Views, chosen: list[int]) -> Tensor:
    """Mean over the chosen views of the squared errors of colour (white outside) and antialiased mask."""
    opposite = opposite_vertices(faces)
    loss = vertices.new_zeros(())
    for number in chosen:
        surface = render_surface(vertices, faces, views.cameras[number], opposite=opposite, normals=False)
        picture = surface.fragments.scatter(fit.color(surface.position), 1.0).permute(2, 0, 1)
        loss = loss + rgb_loss(picture, views.images[number])
        loss = loss + mask_loss(surface.mask[..., 0], views.masks[number, 0])
    return loss / len(chosen)


# Vertices -----------------------------------------------------------------------------------------------------------


REACH = 0.02
"""The farthest that the first step moves a vertex, in units of a box of size 1.6; it falls along a cosine."""
MOMENTUM = 0.9
"""Of the steps."""
STIFFNESS = 0.12
"""Length over which vertices move together, in the same units."""
MASK = 2.0
"""Weight of the squared error of the antialiased mask."""
VERTEX_VIEWS = 4
"""Views per step."""


def smooth_move(fit: MeshFit, step: Tensor, at: At) -> MeshFit:
    """Move vertices against a smoothed gradient (places, 3), the farthest by a length that falls from `REACH` to 0."""
    fit.places.grad = step / step.norm(dim=-1).amax().clamp(min=1e-20)
    fit.optimizer.param_groups[0]["lr"] = REACH * cosine_factor(at.number - 1, at.total, 0.0)
    fit.optimizer.step()
    return fit


def vertex_stage(fit: MeshFit, views: Views, budget: Budget) -> Stage:
    """Vertices move smoothly until colours and silhouettes match. The verdict is the PSNR of antialiased pictures."""
    optimizer = torch.optim.SGD([fit.places], lr=REACH, momentum=MOMENTUM, dampening=MOMENTUM)
    fit = replace(fit, optimizer=optimizer)
    faces = fit.place_of[fit.mesh.faces]
    opposite = opposite_vertices(faces)
    together = smoother(fit.places, faces, STIFFNESS)
    judged = views[spread_over(len(views), JUDGED_VIEWS)]

    def propose(fit: MeshFit, at: At) -> MeshFit:
        chosen = torch.randperm(len(views), generator=fit.generator)[:VERTEX_VIEWS].tolist()
        mesh, loss = fit.current(), fit.places.new_zeros(())
        for number in chosen:
            surface = render_surface(fit.places, faces, views.cameras[number], opposite=opposite, normals=False)
            fragments = surface.fragments
            rgb = mesh.surface_color(fragments.visible, fragments.bary)
            loss = loss + rgb_loss(fragments.scatter(rgb, 1.0).permute(2, 0, 1), views.images[number])
            loss = loss + MASK * mask_loss(surface.mask[..., 0], views.masks[number, 0])
        (gradient,) = torch.autograd.grad(loss, fit.places)
        return smooth_move(fit, together(together(gradient)), at)

    @torch.no_grad()
    def evaluate(fit: MeshFit, at: At | None) -> Verdict:
        if not budget.judged(at):
            return Verdict()
        shown = render(fit.current(), judged.cameras)
        return Verdict(psnr_of(float(rgb_loss(shown.images, judged.images))))

    return Stage("geometry", fit, budget.schedule("geometry"), propose, evaluate, budget.stop())


def spread_over(count: int, most: int) -> list[int]:
    """Numbers of at most `most` views, spread over `count`."""
    most = min(most, count)
    return [round(number * (count - 1) / max(1, most - 1)) for number in range(most)]
