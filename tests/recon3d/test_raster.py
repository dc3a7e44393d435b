"""Rasteriser: brute force, chunks, gradients, silhouettes."""

import pytest
import torch

from recon3d.raster import antialias, interpolate, opposite_vertices, rasterize, vertex_normals, visible_faces

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def soup(faces=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(3 * faces, 4, generator=generator, dtype=torch.float64)
    clip[:, 3] = clip[:, 3].abs() + 0.5
    return clip, torch.randperm(3 * faces, generator=generator).view(-1, 3)


def brute_force(clip, faces, size):
    """Every pixel against every triangle, one after the other."""
    height, width = size
    best = torch.full(size, float("inf"), dtype=clip.dtype)
    winner = torch.full(size, -1)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    u, v = (x.double() + 0.5) / width * 2 - 1, (y.double() + 0.5) / height * 2 - 1
    for number, face in enumerate(faces):
        p = clip[face, :2] / clip[face, 3:]
        z = clip[face, 2] / clip[face, 3]
        a, b, c = p
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        w0 = ((b[0] - u) * (c[1] - v) - (b[1] - v) * (c[0] - u)) / area
        w1 = ((c[0] - u) * (a[1] - v) - (c[1] - v) * (a[0] - u)) / area
        w2 = 1 - w0 - w1
        depth = w0 * z[0] + w1 * z[1] + w2 * z[2]
        front = (w0 >= 0) & (w1 >= 0) & (w2 >= 0) & (depth < best)
        best[front], winner[front] = depth[front], number
    return winner


@pytest.mark.parametrize("seed", range(4))
def test_visibility_equals_brute_force(seed):
    clip, faces = soup(seed=seed)
    size = (17, 23)
    expected = brute_force(clip, faces, size)
    for chunk in (1 << 22, 50):
        assert torch.equal(visible_faces(clip, faces, size, chunk=chunk), expected)


def test_triangles_behind_the_camera_and_empty_meshes_draw_nothing():
    clip, faces = soup(4)
    clip[:, 3] = -1
    assert (visible_faces(clip, faces, (8, 8)) == -1).all()
    fragments = rasterize(clip, faces[:0], (8, 8))
    assert fragments.bary.shape == (0, 3) and (fragments.mask == 0).all()


def test_degenerate_triangles_draw_nothing():
    clip = torch.tensor([[0.0, 0, 0, 1], [0.5, 0.5, 0, 1], [1.0, 1, 0, 1]])
    assert (visible_faces(clip, torch.tensor([[0, 1, 2], [0, 0, 0]]), (9, 9)) == -1).all()


def test_interpolated_gradient():
    clip, faces = soup(6, seed=5)
    values = torch.randn(len(clip), 2, dtype=torch.float64)
    fragments = rasterize(clip, faces, (9, 9))

    def picture(clip, values):
        from recon3d.raster import Fragments, barycentrics, gather

        corners = gather(clip, faces[fragments.visible])
        bary = barycentrics(corners, fragments.pixel_index, (9, 9))
        return interpolate(values, faces, Fragments(fragments.face_id, fragments.pixel_index, bary, fragments.depth))

    torch.testing.assert_close(picture(clip, values), interpolate(values, faces, fragments))
    assert torch.autograd.gradcheck(picture, (clip.requires_grad_(), values.requires_grad_()))


def test_opposite_vertices_of_a_closed_and_an_open_mesh():
    opposite = opposite_vertices(TETRAHEDRON)
    for face, across in zip(TETRAHEDRON.tolist(), opposite.tolist(), strict=True):
        for corner in range(3):
            edge = {face[corner], face[(corner + 1) % 3]}
            assert {across[corner]} | edge | {face[(corner + 2) % 3]} == {0, 1, 2, 3}
    assert opposite_vertices(TETRAHEDRON[:1]).tolist() == [[-1, -1, -1]]
    fan = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]])  # three faces at one edge: nobody is across
    assert (opposite_vertices(fan)[:, 0] == -1).all()


def test_antialiased_mask_follows_the_area_and_pulls_at_the_vertices():
    xy = torch.tensor([[-0.61, -0.52], [0.72, -0.33], [0.07, 0.81]], dtype=torch.float64, requires_grad=True)
    clip = torch.cat([xy, torch.zeros(3, 1), torch.ones(3, 1)], 1)
    faces = torch.tensor([[0, 1, 2]])
    fragments = rasterize(clip, faces, (32, 32))
    mask = antialias(fragments.mask[..., None], fragments, clip, faces)
    a, b, c = xy.detach()
    area = float(((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])).abs()) / 2 / 4 * 32 * 32
    assert float(mask.detach().sum()) == pytest.approx(area, rel=0.01)
    (gradient,) = torch.autograd.grad(mask.sum(), xy)
    # Moving a vertex away from the middle makes the triangle larger.
    assert ((gradient * (xy.detach() - xy.detach().mean(0))).sum(-1) > 0).all()


def test_inner_edges_are_not_blended():
    corners = torch.tensor([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]])
    clip = torch.cat([corners, torch.zeros(4, 1), torch.ones(4, 1)], 1)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    fragments = rasterize(clip, faces, (16, 16))
    colors = fragments.face_id[..., None].clamp(min=0).float()
    blended = antialias(colors, fragments, clip, faces)
    inner = fragments.face_id >= 0
    inner[1:] &= inner[:-1].clone()
    inner[:-1] &= inner[1:].clone()
    inner[:, 1:] &= inner[:, :-1].clone()
    inner[:, :-1] &= inner[:, 1:].clone()
    assert torch.equal(blended[inner], colors[inner])


def test_normals_of_a_tetrahedron_point_outward():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    normals = vertex_normals(vertices, TETRAHEDRON)
    assert (((vertices - vertices.mean(0)) * normals).sum(-1) > 0).all()
    assert vertex_normals(vertices, TETRAHEDRON[:0]).tolist() == [[0, 0, 1]] * 4


@pytest.mark.gpu
def test_cuda_equals_cpu():
    clip, faces = soup(200, seed=9)
    on_gpu = visible_faces(clip.cuda(), faces.cuda(), (64, 64), backend="torch").cpu()
    assert torch.equal(on_gpu, visible_faces(clip, faces, (64, 64)))
