"""Views that agree on the colours of a surface: where the surface is right, and moves that lead there."""

from dataclasses import replace

import torch

from recon3d.cameras import orbit
from recon3d.gtr.agreement import agreement_stage, disagreement, nearest_views
from recon3d.gtr.fit import Budget, new_mesh_fit
from recon3d.isosurface import extract_surface, grid_points
from recon3d.mesh import Mesh
from recon3d.raster import face_normals
from recon3d.render import render, render_surface
from vision.refine import refine

CAMERAS = orbit([60.0 * n for n in range(6)], [-20.0, 30.0] * 3, size=96)


def pattern(points):
    """(points, 3) smooth colours of space."""
    return 0.5 + 0.4 * torch.stack(
        [(15 * points[:, 0]).sin(), (14 * points[:, 1]).cos(), (15 * points[:, 2]).sin()], -1
    )


def ball(radius=0.6, size=20):
    return Mesh(*extract_surface((20 * (radius - grid_points((size,) * 3).norm(dim=-1)) + 10).view((size,) * 3)))


def scaled(mesh, radius):
    return replace(mesh, vertices=mesh.vertices / mesh.vertices.norm(dim=-1, keepdim=True) * radius)


def views_disagree(mesh, views):
    surfaces = [render_surface(mesh.vertices, mesh.faces, views.cameras[n], normals=False) for n in range(len(views))]
    return float(disagreement(surfaces, face_normals(mesh.vertices, mesh.faces), views))


def test_views_agree_on_the_true_surface_and_on_none_beside_it():
    truth = scaled(ball(), 0.6)
    views = render(truth, CAMERAS, color=pattern)
    errors = {radius: views_disagree(scaled(truth, radius), views) for radius in (0.54, 0.58, 0.6)}
    assert errors[0.6] < 0.2 * errors[0.58] < 0.2 * errors[0.54]
    grey = replace(views, images=torch.full_like(views.images, 0.5))
    assert views_disagree(scaled(truth, 0.54), grey) == 0


def test_every_view_is_compared_with_those_nearest_to_it():
    views = render(ball(size=12), orbit([0.0, 10.0, 25.0, 180.0, 195.0], [0.0] * 5, size=16))
    assert [set(group) for group in nearest_views(views, 2)] == [{0, 1}, {0, 1}, {1, 2}, {3, 4}, {3, 4}]
    assert [group[0] for group in nearest_views(views)] == [0, 1, 2, 3, 4]
    assert len(nearest_views(views[:2])[0]) == 2


def test_colours_take_off_what_silhouettes_leave():
    """Ridges between the sides that the views show; the same pictures in grey tell less of them."""
    truth = scaled(ball(), 0.6)
    views = render(truth, CAMERAS, color=pattern)
    around = torch.atan2(truth.vertices[:, 2], truth.vertices[:, 0])
    ridged = replace(truth, vertices=truth.vertices * (1 + 0.08 * (6 * around).cos()[:, None]))

    def off(seen):
        fit = new_mesh_fit(ridged, torch.Generator().manual_seed(0))
        stage = agreement_stage(fit, seen, (48, 96), Budget(30, evaluate_every=30))
        run = refine(stage.fit, stage.propose, stage.schedule, evaluate=stage.evaluate)
        return float((run.state.places.detach().norm(dim=-1) - 0.6).abs().mean())

    before = float((ridged.vertices.norm(dim=-1) - 0.6).abs().mean())
    after, in_grey = off(views), off(replace(views, images=torch.full_like(views.images, 0.5)))
    assert after < 0.87 * before and after < 0.96 * in_grey
