"""Plain baking: which views speak for a place, and how loudly."""

import math
from dataclasses import replace

import pytest
import torch

from recon3d.baking import bake_plainly, mean_of_views
from recon3d.cameras import orbit
from recon3d.mesh import Mesh
from recon3d.render import render


def square(depth=0.0, side=0.5):
    """A square that faces the camera at azimuth 0."""
    corner = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * side
    towards = orbit([0.0], [0.0]).positions[0] / orbit([0.0], [0.0]).positions[0].norm()
    up = torch.tensor([0.0, 1.0, 0.0])
    across = torch.linalg.cross(up, towards)
    vertices = corner[:, :1] * across + corner[:, 1:] * up + depth * towards
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]])), towards


def test_views_speak_by_the_squared_cosine_and_grazing_ones_not_at_all():
    mesh, towards = square()
    cameras = orbit([0.0, 60.0, 85.0], [0.0] * 3, size=256)
    views = render(mesh, cameras)
    shades = torch.tensor([0.2, 0.6, 1.0]).view(3, 1, 1, 1)
    views = replace(views, images=shades.expand_as(views.images).clone())
    color, weight = mean_of_views(views, views.depths, torch.zeros(1, 3), towards[None], 0.02)
    assert float(weight) == pytest.approx(1 + math.cos(math.radians(60)) ** 2, abs=1e-4)
    torch.testing.assert_close(color, torch.full((1, 3), (0.2 + 0.25 * 0.6) / 1.25), atol=1e-4, rtol=0)


def test_what_lies_behind_takes_the_colour_of_the_nearest_place_that_is_seen():
    front, towards = square(0.4, side=0.2)
    back, _ = square(0.0)
    mesh = Mesh(torch.cat([front.vertices, back.vertices]), torch.cat([front.faces, back.faces + 4]))
    painted = replace(mesh, colors=torch.tensor([[1.0, 0.0, 0.0]] * 4 + [[0.0, 0.0, 1.0]] * 4))
    views = render(painted, orbit([0.0], [0.0], size=64))
    _, weight = mean_of_views(views, views.depths, torch.zeros(1, 3), towards[None], 0.02)
    assert float(weight) == 0
    color = bake_plainly(mesh, views)
    behind = color(torch.zeros(1, 3))[0]
    assert behind[2] > 0.7 and behind[2] > 2 * behind[0]  # pixels at the outline of the front mix both
    torch.testing.assert_close(color(0.4 * towards[None]), torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-3, rtol=0)


def test_a_surface_that_no_view_sees_is_refused():
    mesh, _ = square()
    with pytest.raises(ValueError, match="No view sees"):
        bake_plainly(mesh, render(mesh, orbit([90.0], [0.0], size=32)))
