"""Refine the texture of one object (stage C): its surface stays as it is (paper, section 3.3).

Triplane and colour MLP are tuned on the views. The start is judged, so that the best state is never worse than what the
stage was given, in PSNR over the views.

The published code (`texture_stage(mode="published")`) differs from the default in this: the loss is the absolute error,
not the squared one, and pixels at the outline count as wholly covered; the rate of the triplane stays constant, the
colour MLP starts with rate zero and follows a cosine over 500 steps, the triplane is subject to weight decay (which
pulls what no view sees to grey), gradients of the MLP are clipped, and the last state is taken, not the best.

Why squared: where the shape is wrong, views disagree about the colour of a surface point. The absolute error picks the
colour of the majority, the squared one their mean, which shows views that were not given better too; on thin leaves the
absolute error lowers their PSNR.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from recon3d.gtr.fit import At, Budget, Fit, MeshFit, Stage, cosine_factor, new_mesh_fit
from recon3d.gtr.losses import psnr_of
from recon3d.mesh import Mesh
from recon3d.projection import Projector, painted
from recon3d.raster import interpolate, rasterize
from recon3d.views import Views
from vision.refine import Verdict, refine, refine_steps

TextureMode = Literal["default", "published"]


@dataclass(frozen=True)
class TextureRates:
    """How the texture refinement descends."""

    code: float = 0.15
    """Learning rate of the triplane."""
    mlp: float = 1e-4
    """Learning rate of the colour MLP."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of Adam."""
    weight_decay: float = 0.05
    """Of the weights of the MLP; in the published code of the triplane too."""
    floor: float = 0.05
    """The cosine ends at this share of the rates."""
    schedule_steps: int | None = None
    """Length of the cosine; None: the steps of the stage. The published code has 500."""
    max_grad_norm: float | None = None
    """Gradient norm of the MLP is clipped to this; the published code has 1."""


PUBLISHED_RATES = TextureRates(schedule_steps=500, max_grad_norm=1.0)


@dataclass(frozen=True)
class SurfacePoints:
    """Surface points seen by pixels, fixed while the texture is refined."""

    points: Tensor
    """(points, 3) in the box's world."""
    pixel_index: Tensor
    """(points,) int64, flat index into (views, height, width)."""
    size: tuple[int, int, int]
    """Views, height, width."""
    coverage: Tensor | None = None
    """(points, 1) share of the pixel that the surface covers, the rest is white; None: all of it."""

    def picture(self, colors: Tensor) -> Tensor:
        """(views, 3, height, width) colours (points, 3) on white."""
        if self.coverage is not None:
            colors = colors * self.coverage + (1 - self.coverage)
        views, height, width = self.size
        canvas = colors.new_ones(views * height * width, 3).index_copy(0, self.pixel_index, colors)
        return canvas.view(views, height, width, 3).permute(0, 3, 1, 2)


@torch.no_grad()
def surface_points(vertices: Tensor, faces: Tensor, views: Views, supersample: int = 1) -> SurfacePoints:
    """The points of a surface at the pixel centres of the views (at `supersample` times their resolution); vertices
    (vertices, 3), faces (faces, 3)."""
    height, width = views.cameras.height * supersample, views.cameras.width * supersample
    points, index = [], []
    for number, clip in enumerate(views.cameras.resized(height, width).clip(vertices)):
        fragments = rasterize(clip, faces, (height, width))
        points.append(interpolate(vertices, faces, fragments))
        index.append(fragments.pixel_index + number * height * width)
    return SurfacePoints(torch.cat(points), torch.cat(index), (len(views), height, width))


@torch.no_grad()
def covered_points(vertices: Tensor, faces: Tensor, views: Views, samples: int = 2) -> SurfacePoints:
    """One point per pixel that the surface touches, with the share of the pixel that it covers; vertices (vertices, 3),
    faces (faces, 3).

    The share is counted with `samples` x `samples` samples; where none of them lies on the surface at the centre, the
    point is the one of a sample that does. Without shares the outline of the object would be painted with what lies
    behind it.
    """
    height, width = views.cameras.height, views.cameras.width
    fine = views.cameras.resized(height * samples, width * samples)
    points, index, shares = [], [], []
    for number, (clip, fine_clip) in enumerate(zip(views.cameras.clip(vertices), fine.clip(vertices), strict=True)):
        centre = rasterize(clip, faces, (height, width))
        around = rasterize(fine_clip, faces, (fine.height, fine.width))
        position = centre.scatter(interpolate(vertices, faces, centre))
        found = centre.mask > 0
        blocks = around.scatter(interpolate(vertices, faces, around)).view(height, samples, width, samples, 3)
        covered = around.mask.view(height, samples, width, samples)
        for row in range(samples):
            for column in range(samples):
                taken = (covered[:, row, :, column] > 0) & ~found
                position = torch.where(taken.unsqueeze(-1), blocks[:, row, :, column], position)
                found = found | taken
        share = covered.mean((1, 3)).flatten()
        pixel = (share > 0).nonzero().squeeze(-1)
        points.append(position.view(-1, 3)[pixel])
        index.append(pixel + number * height * width)
        shares.append(share[pixel, None])
    return SurfacePoints(torch.cat(points), torch.cat(index), (len(views), height, width), torch.cat(shares))


def texture_stage(
    fit: Fit,
    surface: SurfacePoints,
    images: Tensor,
    budget: Budget,
    *,
    mode: TextureMode = "default",
    rates: TextureRates | None = None,
) -> Stage:
    """Stage C. Colours at fixed surface points descend on their error over whole pictures.

    The verdict is the PSNR over all views; its detail has the loss. A verdict keeps its prediction for the next
    move, which starts from the same weights, so that every move costs one evaluation of the colours.

    Args:
        surface: the points that the pixels see; their pictures are resized bilinearly to the images where sizes differ.
        images: (views, 3, height, width) targets on white.
        mode: "published" does what the published code does; pass the fit's last state on, not its best.
    """
    published = mode == "published"
    rates = rates or (PUBLISHED_RATES if published else TextureRates())
    mlp = list(fit.field.mlp_color.parameters())
    groups = [
        {"params": [fit.code], "lr": rates.code, "weight_decay": rates.weight_decay if published else 0.0},
        {"params": [p for p in mlp if p.dim() > 1], "lr": rates.mlp, "weight_decay": rates.weight_decay},
        {"params": [p for p in mlp if p.dim() <= 1], "lr": rates.mlp, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=rates.betas, foreach=True)
    fit = replace(fit, optimizer=optimizer, prediction=None)
    same_size = surface.size[1:] == images.shape[-2:]

    def errors(colors: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the mean squared error over whole pictures."""
        picture = surface.picture(colors)
        if not same_size:
            picture = torch.nn.functional.interpolate(picture, images.shape[-2:], mode="bilinear")
        difference = picture - images
        squared = difference.square().mean()
        return difference.abs().mean() if published else squared, squared.detach()

    def propose(fit: Fit, at: At) -> Fit:
        step = at.number - 1
        factor = cosine_factor(step, rates.schedule_steps or at.total, rates.floor, warm_up=1 if published else 0)
        for index, group in enumerate(optimizer.param_groups):
            base = rates.code if index == 0 else rates.mlp
            group["lr"] = base if published and index == 0 else base * factor
        colors = fit.color(surface.points) if fit.prediction is None else fit.prediction
        fit.prediction = None
        fit.optimizer.zero_grad(set_to_none=True)
        errors(colors)[0].backward(inputs=[fit.code, *mlp])
        if rates.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(mlp, rates.max_grad_norm)
        fit.optimizer.step()
        return fit

    def evaluate(fit: Fit, at: At | None) -> Verdict:
        if not budget.judged(at):
            return Verdict()
        with torch.enable_grad():
            fit.prediction = fit.color(surface.points)
        with torch.no_grad():
            loss, mse = errors(fit.prediction)
        return Verdict(psnr_of(float(mse)), {"loss": float(loss)})

    return Stage("texture", fit, budget.schedule("texture"), propose, evaluate, budget.stop())


# Painting from the pictures in their own size -------------------------------------------------------------------------


PAINT_MOVES = 8
"""Most moves of the painting; later ones gain next to nothing."""
WORTH = 0.5
"""Decibels by which views kept aside must gain, or the paint stays as it is."""
EXACT = 54.0
"""Decibels at which paint is as good as pictures of 8 bits can tell: half a step."""


def paint_stage(
    fit: MeshFit, projector: Projector, budget: Budget, aside: list[int] | None = None, name: str = "texture"
) -> Stage:
    """What the views show beyond the paint of a mesh is carried onto it, again and again; the surface stays.

    The verdict is the PSNR over whole pictures without their outlines: what is mixed there is no matter of paint.

    Args:
        aside: views that only judge; None: all views speak and judge.
        name: of the stage.
    """
    everything = range(len(projector.views))
    speaking = [number for number in everything if aside is None or number not in aside]
    judged = list(everything) if aside is None else aside

    @torch.no_grad()
    def propose(fit: MeshFit, at: At) -> MeshFit:
        change = projector.carried(fit.paint, speaking)
        fit.paint = {name: (value + change[name]).clamp(0, 1) for name, value in fit.paint.items()}
        return fit

    @torch.no_grad()
    def evaluate(fit: MeshFit, at: At | None) -> Verdict:
        return Verdict(psnr_of(projector.error(fit.paint, judged)))

    return Stage(name, fit, budget.schedule(name), propose, evaluate, budget.stop())


def helpful_moves(fit: MeshFit, projector: Projector, most: int = PAINT_MOVES) -> int:
    """How many moves of the painting show those views best that do not speak: every third one.

    0 when they gain less than `WORTH` dB over the paint as it is, or when that is `EXACT` already. Many moves sharpen
    where the surface is exact; where it is not, they would paint the errors of its shape.
    """
    stage = paint_stage(replace(fit), projector, Budget(most, patience=1), list(range(0, len(projector.views), 3)))
    steps = refine_steps(
        stage.fit, stage.propose, stage.schedule, evaluate=stage.evaluate, stop=stage.stop, evaluate_start=True
    )
    scores = [step.score for step in steps]
    best = max(range(len(scores)), key=scores.__getitem__)
    return best if scores[0] < EXACT and scores[best] > scores[0] + WORTH else 0


def repainted(mesh: Mesh, views: Views) -> Mesh:
    """The mesh painted anew by views in its world, as far as that shows them better; otherwise the very mesh."""
    fit = new_mesh_fit(mesh, torch.Generator())
    projector = Projector(fit.mesh, views)
    moves = helpful_moves(fit, projector)
    if moves == 0:
        return mesh
    stage = paint_stage(fit, projector, Budget(moves))
    return painted(fit.mesh, refine(stage.fit, stage.propose, stage.schedule).state.paint)
