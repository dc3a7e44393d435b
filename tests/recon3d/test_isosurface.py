"""Marching cubes: closed surfaces, ambiguous cells, exact zeros, gradients, the separable grid."""

import sys
from types import SimpleNamespace

import pytest
import torch
from skimage.measure import marching_cubes

from recon3d.gtr.fields import TriplaneField, grid_density
from recon3d.isosurface import extract_sparse, extract_surface, find_topology, grid_points, solid_core


def noise(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half_edges(faces):
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_noise_gives_a_closed_surface_where_scikit_image_puts_it(seed):
    sdf = noise((7, 9, 6), seed)  # full of ambiguous cells
    topology = find_topology(sdf)
    vertices, faces = extract_surface(-sdf, 0.0)
    edges = {tuple(edge) for edge in half_edges(faces)}
    assert all((b, a) in edges for a, b in edges)
    padded = torch.nn.functional.pad(sdf[None, None], (1,) * 6, value=1.0)[0, 0]
    reference, _, _, _ = marching_cubes(padded.numpy(), 0.0)
    on_edges = (vertices + 1) / 2 * (torch.tensor(sdf.shape) - 1) + 1
    count = len(topology.edge_lo)
    distance = torch.cdist(on_edges[:count], torch.from_numpy(reference.copy()).double()).amin(1)
    assert float(distance.max()) < 1e-4


def test_ambiguous_cells_get_their_middle_vertex():
    found = [find_topology(noise((8, 8, 8), seed)) for seed in range(6)]
    assert sum(len(topology.members) for topology in found) > 0
    for topology in found:
        assert ((topology.members >= 0).sum(1) >= 3).all()
        assert int(topology.faces.max()) < len(topology.edge_lo) + len(topology.members)


def test_normals_point_from_dense_to_empty():
    points = grid_points((24, 24, 24))
    density = (20 - 25 * points.norm(dim=-1)).view(24, 24, 24)
    vertices, faces = extract_surface(density)
    a, b, c = vertices[faces].unbind(1)
    volume = float((a * torch.cross(b, c, dim=-1)).sum() / 6)
    assert volume == pytest.approx(4 / 3 * torch.pi * 0.4**3, rel=0.05)


def test_values_exactly_on_the_level():
    density = torch.zeros(5, 5, 5)
    density[2, 2, 2] = 20
    density[1, 2, 2] = 10  # exactly the level
    density.requires_grad_()
    vertices, faces = extract_surface(density)
    assert torch.isfinite(vertices).all() and len(faces) > 0
    vertices.sum().backward()
    assert torch.isfinite(density.grad).all()


def test_no_surface_and_a_full_box():
    assert extract_surface(torch.zeros(4, 4, 4))[1].shape == (0, 3)
    vertices, faces = extract_surface(torch.full((4, 4, 4), 20.0))
    assert len(faces) > 0 and float(vertices.abs().max()) > 1  # closed by the ring, up to one cell outside


def test_gradient_equals_finite_differences():
    density = (noise((4, 5, 4), 3) * 3 + 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: extract_surface(d)[0], (density,), eps=1e-7, atol=1e-5)


def field():
    generator = torch.Generator().manual_seed(0)
    made = TriplaneField(4, 8, 3, 3)
    made.reset_parameters(generator)
    with torch.no_grad():
        made.mlp_sigma.layers[-1].weight *= 60
    return made, torch.randn(3, 4, 10, 12, generator=generator)


def test_separable_grid_equals_point_by_point():
    made, code = field()
    with torch.no_grad():
        slow = made.density(code, grid_points((17, 17, 17))).view(17, 17, 17)
    for slab in (17 * 17, 1 << 20):
        torch.testing.assert_close(grid_density(made, code, 17, slab), slow, atol=2e-5, rtol=1e-4)


def test_sparse_gradient_equals_dense():
    made, code = field()
    code.requires_grad_()
    probe = torch.randn(5000, 3, generator=torch.Generator().manual_seed(1))

    def density(points):
        return made.density(code, points)

    resolution = 14
    dense = density(grid_points((resolution,) * 3)).view((resolution,) * 3)
    vertices, faces = extract_surface(dense)
    sparse, sparse_faces = extract_sparse(density, dense.detach(), 10.0)
    assert torch.equal(faces, sparse_faces) and len(faces) > 0
    torch.testing.assert_close(sparse, vertices, atol=2e-5, rtol=0)
    (a,) = torch.autograd.grad((vertices * probe[: len(vertices)]).sum(), code)
    (b,) = torch.autograd.grad((sparse * probe[: len(sparse)]).sum(), code)
    torch.testing.assert_close(a, b, atol=1e-3 * float(a.abs().max()), rtol=0)


def test_hollows_are_filled_and_true_gaps_stay():
    points = grid_points((32,) * 3)
    radius = points.norm(dim=-1).view(32, 32, 32)
    shell = (radius < 0.8) & (radius > 0.4)
    core = solid_core(shell)
    assert core[16, 16, 16] and not (core & (radius > 0.8)).any()
    pierced = shell & ~((points[:, 0] > 0) & (points[:, 1:].norm(dim=-1) < 0.1)).view(32, 32, 32)
    assert solid_core(pierced)[16, 16, 16]  # a narrow hole does not make it a bowl
    assert not solid_core(pierced, allowed=radius > 0.3)[16, 16, 16]
    assert not solid_core(torch.zeros(4, 4, 4, dtype=torch.bool)).any()


def test_fixed_values_get_no_gradient():
    made, code = field()
    code.requires_grad_()
    grid = grid_density(made, code, 12)
    fixed = grid > 10
    raised = torch.where(fixed, grid + 30, grid)
    vertices, _ = extract_sparse(lambda points: made.density(code, points), raised, 10.0, fixed)
    expected, _ = extract_surface(raised)
    torch.testing.assert_close(vertices, expected, atol=2e-5, rtol=0)
    vertices.sum().backward()
    assert code.grad.abs().sum() > 0


class _PretendDiffMC:
    """diso's class by its description: nothing without a sign change, else places in [0, 1] of a ringed grid."""

    def __init__(self, dtype):
        assert dtype in (torch.float32, torch.float64)

    def to(self, device):
        return self

    def __call__(self, sdf, deform, isovalue):
        if not float(sdf.min()) < isovalue < float(sdf.max()):
            return sdf.new_zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32)
        vertices, faces = extract_surface(-sdf, 0.0, backend="torch")
        return (vertices + 1) / 2, faces.int()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("fill", ["ball", "full"])
def test_diso_gives_what_the_torch_code_gives(monkeypatch, dtype, fill):
    monkeypatch.setitem(sys.modules, "diso", SimpleNamespace(DiffMC=_PretendDiffMC))
    radius = grid_points((9, 10, 11)).norm(dim=-1).view(9, 10, 11)
    density = (20 * (1.2 - radius) if fill == "ball" else torch.full_like(radius, 20.0)).to(dtype)
    mine, other = (extract_surface(density, backend=backend)[0] for backend in ("torch", "diso"))
    assert mine.dtype == other.dtype and len(other) == len(mine) > 0
    torch.testing.assert_close(other.amin(0), mine.amin(0), atol=2e-3, rtol=0)
    torch.testing.assert_close(other.amax(0), mine.amax(0), atol=2e-3, rtol=0)
