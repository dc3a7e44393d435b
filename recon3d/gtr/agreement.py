"""Photo-consistency of a surface: its vertices move until views agree on the colour of what they see together.

Nothing is painted meanwhile. What one view sees of the surface is looked up in the views beside it, and where they see
it too, the difference of the pictures drives the vertices along the lines of sight (variational multi-view stereo,
after Faugeras and Keriven 1998). Silhouettes hold the outline; colours take off the ridges that silhouettes leave
between the sides that they show.

Pictures are compared coarse to fine, because colours lead a surface only as far as the patterns in them reach.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d, normalize

from recon3d.gtr.fit import At, Budget, MeshFit, Stage
from recon3d.gtr.geometry import MASK, MOMENTUM, REACH, smooth_move, spread_over
from recon3d.gtr.losses import mask_loss, psnr_of
from recon3d.raster import face_normals, opposite_vertices
from recon3d.render import Surface, render_surface
from recon3d.smoothing import smoother
from recon3d.views import Views
from vision.refine import Verdict

TOGETHER = 4
"""Views that are compared with each other in a step: one, and those nearest to it."""
JUDGED = 3
"""Such groups that a verdict looks at, spread over all views."""
STIFFNESS = 0.06
"""Length over which vertices move together, in units of a box of size 1.6."""
COLOR = 15.0
"""Weight of the disagreement about colours."""
STRONG = 0.05
"""Difference of colours from which it counts linearly, as a wrong match may."""
GRAZING = 0.25
"""Cosine between normal and line of sight up to which a view is not asked."""
BEHIND = 0.03
"""Depth by which a point may lie behind what a view sees and still be taken for it, in the same units."""


def agreement_stage(
    fit: MeshFit, views: Views, heights: tuple[int, ...], budget: Budget, name: str = "surface"
) -> Stage:
    """Vertices move smoothly until silhouettes match and views agree. The verdict is the error of groups of views at
    the last height, in decibels.

    Args:
        fit: a surface; its colours do not matter.
        heights: of the pictures, coarse to fine; they share the moves evenly.
        name: of the stage.
    """
    optimizer = torch.optim.SGD([fit.places], lr=REACH, momentum=MOMENTUM, dampening=MOMENTUM)
    fit = replace(fit, optimizer=optimizer)
    together = smoother(fit.places, fit.place_of[fit.mesh.faces], STIFFNESS)
    aspect = views.cameras.width / views.cameras.height
    sized = {height: views.resized(height, max(1, round(aspect * height))) for height in set(heights)}
    groups = nearest_views(views)

    def error(fit: MeshFit, views: Views) -> Tensor:
        faces = fit.place_of[fit.mesh.faces]
        opposite = opposite_vertices(faces)
        surfaces = [
            render_surface(fit.places, faces, views.cameras[number], opposite=opposite, normals=False)
            for number in range(len(views))
        ]
        masks = [mask_loss(surface.mask[..., 0], mask[0]) for surface, mask in zip(surfaces, views.masks, strict=True)]
        normals = face_normals(fit.places.detach(), faces)
        return MASK * torch.stack(masks).mean() + COLOR * disagreement(surfaces, normals, views)

    def propose(fit: MeshFit, at: At) -> MeshFit:
        group = groups[int(torch.randint(len(groups), (), generator=fit.generator))]
        (gradient,) = torch.autograd.grad(error(fit, sized[at.resolution][group]), fit.places)
        return smooth_move(fit, together(together(gradient)), at)

    @torch.no_grad()
    def evaluate(fit: MeshFit, at: At | None) -> Verdict:
        if not budget.judged(at):
            return Verdict()
        judged = [groups[number] for number in spread_over(len(groups), JUDGED)]
        errors = [float(error(fit, sized[heights[-1]][group])) for group in judged]
        return Verdict(psnr_of(sum(errors) / len(errors)))

    return Stage(name, fit, budget.schedule(name, heights), propose, evaluate, budget.stop())


def nearest_views(views: Views, count: int = TOGETHER) -> list[list[int]]:
    """For every view its number and those of the views whose cameras look from the most similar directions."""
    towards = normalize(views.cameras.positions, dim=-1)
    return (towards @ towards.T).topk(min(count, len(views)), dim=-1).indices.tolist()


def disagreement(surfaces: list[Surface], normals: Tensor, views: Views) -> Tensor:
    """Mean over pairs of views, and over the pixels of a picture, of the difference between what both see of one
    surface, squared where it is small; with gradient to the vertices along the lines of sight of the first.

    Args:
        surfaces: as each of the views sees it.
        normals: (faces, 3) of the surface, of length 1.
    """
    total = views.images.new_zeros(())
    for one, surface in enumerate(surfaces):
        fragments, points = surface.fragments, surface.position
        facing = normals[fragments.visible]
        inner = -max_pool2d(-views.masks[one] * fragments.mask, 3, 1, 1).flatten()[fragments.pixel_index] > 0.99
        mine = views.images[one].flatten(1)[:, fragments.pixel_index].T
        own = cosine(facing, points.detach(), views, one)
        for other in range(len(surfaces)):
            directly = own * cosine(facing, points.detach(), views, other)
            # Both on one side of the surface, and neither grazing it.
            asked = (inner & (own.abs() > GRAZING) & (directly > GRAZING * own.abs())).nonzero().squeeze(-1)
            if other == one or len(asked) == 0:
                continue
            clip = views.cameras[other].clip(points[asked])[0]
            where = (clip[:, :2] / clip[:, 3:])[None, None]
            with torch.no_grad():
                known = torch.cat([surfaces[other].depth.permute(2, 0, 1), views.masks[other]])[None]
                depth, mask = grid_sample(known, where, mode="nearest", align_corners=False)[0, :, 0]
                weight = directly[asked] * ((clip[:, 3] - depth).abs() < BEHIND) * (mask > 0.99)
            theirs = grid_sample(views.images[other][None], where, align_corners=False)[0, :, 0].T
            squared = (theirs - mine[asked]).square().mean(-1)
            robust = 2 * STRONG * ((squared + STRONG**2).sqrt() - STRONG)
            total = total + (weight * robust).sum() / fragments.mask.numel()
    return total / max(1, len(surfaces) * (len(surfaces) - 1))


def cosine(normals: Tensor, points: Tensor, views: Views, number: int) -> Tensor:
    """(points,) cosines between normals and the lines of sight of view `number`, both (points, 3)."""
    return (normals * normalize(views.cameras.positions[number] - points, dim=-1)).sum(-1)
