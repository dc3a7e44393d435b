"""Painting from pictures: better than plain baking, nothing where nothing is to be gained, every kind of paint."""

import math
from dataclasses import replace

import pytest
import torch

from recon3d.baking import bake_plainly
from recon3d.cameras import gtr_rig, orbit
from recon3d.gtr.options import GTROptions
from recon3d.gtr.reconstructor import GTRReconstructor
from recon3d.gtr.texture import repainted
from recon3d.mesh import Mesh
from recon3d.projection import Projector, paint_of, painted, texel_places
from recon3d.render import render
from recon3d.vase import vase

HELD_OUT = orbit([15.0, 105.0, 195.0, 285.0], [10.0, 35.0, 25.0, -20.0], size=96)


def globe(size, tiles=1.0, rings=24, sides=36):
    """A sphere with a smooth texture that is laid around it `tiles` times."""
    down, around = torch.linspace(0, math.pi, rings), torch.linspace(0, 2 * math.pi, sides + 1)
    place = torch.stack(
        torch.broadcast_tensors(
            down.sin()[:, None] * around.cos(), down.cos()[:, None], down.sin()[:, None] * around.sin()
        ),
        -1,
    )
    uv = torch.stack(torch.broadcast_tensors(around[None] * tiles / (2 * math.pi), 1 - down[:, None] / math.pi), -1)
    index = torch.arange(rings * (sides + 1)).view(rings, sides + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = torch.cat([torch.stack([a, b, c], -1).view(-1, 3), torch.stack([b, d, c], -1).view(-1, 3)])
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) * (2 * math.pi / size)] * 2, indexing="ij")
    picture = torch.stack([x.sin() * (y / 2).sin(), (2 * x).cos(), (x + y).sin()], -1) * 0.35 + 0.5
    mesh = Mesh(0.8 * place.reshape(-1, 3), faces, None, uv.reshape(-1, 2), (picture,))
    mesh = replace(mesh, face_texture=torch.zeros(len(faces), dtype=torch.int64))
    return mesh.keep_faces(mesh.face_areas() > 1e-9)


def box():
    corner = torch.tensor([[x, y, z] for x in (-0.6, 0.6) for y in (-0.6, 0.6) for z in (-0.6, 0.6)])
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = torch.tensor([[q[0], q[a], q[a + 1]] for q in quads for a in (1, 2)])
    return Mesh(corner, faces, (corner + 0.6) / 1.2)


def dull(mesh):
    """The same mesh with a third of its contrast."""
    colors = None if mesh.colors is None else 0.35 + 0.3 * mesh.colors
    return replace(mesh, colors=colors, textures=tuple(0.35 + 0.3 * texture for texture in mesh.textures))


def decibels(mesh, truth, cameras=HELD_OUT):
    mse = (render(mesh, cameras).images - render(truth, cameras).images).square().mean()
    return float(-10 * torch.log10(mse.clamp(min=1e-10)))


def plainly_baked(mesh, views):
    """The mesh with every texel that a view sees as plain baking has it."""
    places, inside = texel_places(mesh, 0)
    texture = mesh.textures[0].clone()
    texture[inside] = bake_plainly(mesh, views)(places[inside])
    return replace(mesh, textures=(texture,))


@pytest.mark.parametrize("size", [64, 256])
def test_a_texture_is_refined_better_than_plain_baking_does(size):
    truth = globe(size)
    views, start = render(truth, gtr_rig(48)), dull(truth)
    peer, mine = decibels(plainly_baked(start, views), truth), decibels(repainted(start, views), truth)
    assert mine > peer + 0.5 > decibels(start, truth) + 3


@pytest.mark.parametrize("tiles", [2.0, 2.5])
def test_a_texture_that_repeats_is_refined(tiles):
    truth = globe(64, tiles)
    start = dull(truth)
    assert decibels(repainted(start, render(truth, gtr_rig(48))), truth) > decibels(start, truth) + 12


@pytest.mark.parametrize("kind", ["vertex colours", "tinted", "mixed"])
def test_every_kind_of_paint_is_refined(kind):
    truth = box() if kind == "vertex colours" else globe(64)
    if kind != "vertex colours":
        truth = replace(truth, colors=torch.full_like(truth.vertices, 0.8) * torch.tensor([1.0, 0.9, 0.6]))
    if kind == "mixed":
        worn = torch.where(truth.vertices[truth.faces].mean(1)[:, 1] > 0, 0, -1)
        truth = replace(truth, face_texture=worn)
    start = replace(dull(truth), colors=truth.colors if kind == "tinted" else dull(truth).colors)
    made = repainted(start, render(truth, gtr_rig(48)))
    assert decibels(made, truth) > decibels(start, truth) + 6
    assert torch.equal(made.vertices, start.vertices) and torch.equal(made.faces, start.faces)


@pytest.mark.parametrize("make", [lambda: globe(128), lambda: vase(24, 24, 64), box], ids=["globe", "vase", "box"])
@pytest.mark.parametrize("refine", ["both", "texture", "geometry"])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_an_exact_mesh_comes_back_bit_for_bit(make, refine, samples):
    away = torch.tensor([3.0, -1.0, 2.0])
    truth = make().moved(away, 1.7)
    views = render(truth, gtr_rig(48).moved(away, 1.7), supersample=samples)
    views = replace(views, images=(views.images * 255).round() / 255, masks=(views.masks * 255).round() / 255)
    options = GTROptions(refine=refine, keep_topology=True, geometry_steps=4, texture_steps=6, view_size=48)
    result = GTRReconstructor.from_pretrained()(views, options, mesh=truth)
    assert torch.equal(result.vertices, truth.vertices) and torch.equal(result.faces, truth.faces)
    assert (result.colors is None) == (truth.colors is None)
    assert truth.colors is None or torch.equal(result.colors, truth.colors)
    assert all(map(torch.equal, result.textures, truth.textures))


def test_outlines_paint_nothing():
    """White behind a dark object must not creep onto it."""
    truth = globe(128)
    truth = replace(truth, textures=(torch.full_like(truth.textures[0], 0.1),))
    views = render(truth, gtr_rig(40))
    projector = Projector(truth, views)
    grey = {"texture_0": torch.full_like(truth.textures[0], 0.2)}
    inside = texel_places(truth, 0)[1]
    change = projector.carried(grey, range(6))["texture_0"][inside]
    torch.testing.assert_close(change, torch.full_like(change, -0.1), atol=1e-4, rtol=0)


def test_what_no_view_sees_takes_the_change_of_its_neighbours():
    truth = globe(64)
    start = replace(truth, textures=((truth.textures[0] - 0.2).clamp(0, 1),))
    truth = painted(truth, {"texture_0": start.textures[0] + 0.1})
    change = Projector(start, render(truth, orbit([0.0, 10.0], 5.0, size=64))).carried(paint_of(start), range(2))
    behind = texel_places(start, 0)[0][..., 0] < -0.3
    assert bool(behind.any())
    torch.testing.assert_close(change["texture_0"][behind], torch.full((int(behind.sum()), 3), 0.1), atol=0.01, rtol=0)


@pytest.mark.parametrize("tint", [None, 0.8])
def test_a_projector_that_has_carried_before_carries_the_same_as_a_new_one(tint):
    truth = globe(64)
    if tint is not None:
        truth = replace(truth, colors=torch.full_like(truth.vertices, tint))
    views = render(truth, orbit([0.0, 60.0, 120.0], 5.0, size=48))
    projector, paint = Projector(truth, views), paint_of(dull(truth))
    projector.carried(paint_of(truth), [0, 1])
    projector.carried(paint_of(truth), [1, 2])
    again, fresh = (x.carried(paint, [0, 1])["texture_0"] for x in (projector, Projector(truth, views)))
    assert torch.equal(again, fresh) and bool(again.abs().max() > 0.05)
