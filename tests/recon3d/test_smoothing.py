"""Smooth surfaces: bumps go, shapes stay, simplified surfaces stay closed."""

import torch

from recon3d.isosurface import extract_surface, grid_points
from recon3d.mesh import Mesh
from recon3d.smoothing import drop_crumbs, smooth, smoother
from recon3d.surfaces import parted, simplify


def ball(noise=0.0, size=48):
    points = grid_points((size,) * 3)
    bumps = noise * torch.randn(len(points), generator=torch.Generator().manual_seed(0))
    return Mesh(*extract_surface((20 * (0.7 - points.norm(dim=-1)) + 10 + bumps).view((size,) * 3)))


def degrees_off(mesh):
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    normals = torch.nn.functional.normalize(torch.cross(b - a, c - a, dim=-1), dim=-1)
    outward = torch.nn.functional.normalize(a + b + c, dim=-1)
    return float(torch.rad2deg(torch.acos((normals * outward).sum(-1).clamp(-1, 1))).mean())


def test_bumps_go_and_the_shape_stays():
    rough = ball(noise=0.3)
    even = smooth(rough)
    assert degrees_off(even) < 0.35 * degrees_off(rough)
    assert float((even.vertices.norm(dim=-1) - 0.7).abs().mean()) < 0.01
    assert torch.equal(even.faces, rough.faces)


def test_triangles_become_even():
    def worst(mesh):
        edges = (mesh.vertices[mesh.faces] - mesh.vertices[mesh.faces].roll(1, 1)).norm(dim=-1)
        return float((edges.amax(1) / edges.amin(1).clamp(min=1e-9)).quantile(0.95))

    assert worst(smooth(ball())) < 0.5 * worst(ball())


def test_smoothed_values_keep_their_mean_over_a_closed_surface_of_one_value():
    mesh = ball(size=24)
    even = smoother(mesh.vertices, mesh.faces, 0.2)
    torch.testing.assert_close(even(torch.ones(len(mesh.vertices), 2)), torch.ones(len(mesh.vertices), 2))
    spike = torch.zeros(len(mesh.vertices), 1)
    spike[0] = 1
    assert 0 < float(even(spike)[0]) < 0.2


def test_loose_parts_go():
    mesh, crumb = ball(size=24), ball(size=24).moved(torch.tensor([0.0, 0.0, 0.0]), 0.05)
    both = Mesh(
        torch.cat([mesh.vertices, crumb.vertices + 0.9]), torch.cat([mesh.faces, crumb.faces + len(mesh.vertices)])
    )
    assert len(drop_crumbs(both).faces) == len(mesh.faces)


def test_simplified_surfaces_stay_closed():
    for seed in range(3):
        mesh = smooth(ball(noise=0.5 + 0.5 * seed, size=32), 0.05)
        assert mesh.notes() == []
        assert simplify(mesh, len(mesh.faces) * 3 // 4).notes() == []


def test_two_sided_sheets_keep_both_sides_when_simplified():
    axis = torch.linspace(-1, 1, 12)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    vertices = torch.stack([x, y, 0.2 * (3 * x).sin()], -1).view(-1, 3)
    index = torch.arange(144).view(12, 12)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = torch.cat([torch.stack([a, b, c], -1).view(-1, 3), torch.stack([b, d, c], -1).view(-1, 3)])
    sheet = Mesh(vertices, torch.cat([faces, faces.flip(1)]))
    assert len(simplify(sheet, 300).faces) > 150


def test_the_number_of_faces_counts_where_no_way_keeps_a_surface_closed():
    noise = torch.randn(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    solid = torch.nn.functional.pad(torch.nn.functional.avg_pool3d(noise, 3, 1), (1,) * 6, value=-1.0)[0, 0]
    sponge = Mesh(*extract_surface(solid, 0.0))
    assert sponge.surface_notes() == []
    made = simplify(sponge, len(sponge.faces) // 10)
    assert made.surface_notes() and len(sponge.faces) // 20 < len(made.faces) <= len(sponge.faces) // 10


def two_wedges() -> Mesh:
    """Two tetrahedra, outward, that share the edge from vertex 0 to vertex 1."""
    vertices = torch.tensor([[0, 0, 0], [0, 0, 1], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [-1, -1, 0]], dtype=torch.float32)
    first = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
    second = [[0, 4, 1], [0, 1, 5], [0, 5, 4], [1, 4, 5]]
    return Mesh(vertices, torch.tensor(first + second))


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return float((a * torch.cross(b, c, dim=-1)).sum() / 6)


def test_sheets_that_touch_along_an_edge_are_parted():
    mesh = two_wedges()
    assert "1 edges belong to more than two faces" in mesh.surface_notes()[0]
    made = parted(mesh)
    assert made.surface_notes() == [] and len(made.faces) == 8 and len(made.vertices) == 8
    assert abs(volume(made) - volume(mesh)) < 1e-2 * volume(mesh)
    left = made.vertices[made.faces[:4].unique()]
    assert (left[:, 0] >= 0).all() and (left[:, 0] > 0).sum() == 3  # the first one is on its own side now
    torch.testing.assert_close(made.vertices[made.faces], mesh.vertices[mesh.faces], atol=2e-3, rtol=0)
    again = parted(made)
    assert again is made


def test_a_surface_with_thin_handles_is_simplified_to_the_faces_that_were_asked_for():
    axis = torch.linspace(-1, 1, 40)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    solid = 0.8 - (x * x + y * y + z * z).sqrt()
    for number in range(24):  # narrow tunnels right below the surface
        angle = torch.tensor(number * 0.26)
        beside = ((x * angle.sin() + y * angle.cos() - 0.72).square() + (z - 0.02 * number + 0.2).square()).sqrt()
        solid = torch.minimum(solid, 30 * (beside - 0.055))
    mesh = Mesh(*extract_surface(solid, 0.0))
    assert mesh.surface_notes() == []
    made = simplify(mesh, len(mesh.faces) // 3)
    assert made.surface_notes() == [] and len(made.faces) <= len(mesh.faces) // 3
