"""Meshes: files, refusals, simplification, baking, hidden parts."""

from dataclasses import replace

import pytest
import torch
import trimesh

from recon3d.atlas import bake
from recon3d.cameras import gtr_rig, orbit
from recon3d.mesh import Mesh, join, with_vertex_colors
from recon3d.mesh_files import STL_FACE, STL_HEADER, load_mesh, save_mesh
from recon3d.render import render
from recon3d.surfaces import connected_parts, drop_hidden, seen_faces, simplify
from recon3d.textures import sample_texture
from recon3d.vase import vase


def ball(radius=0.6, subdivisions=2, colors=None):
    sphere = trimesh.creation.icosphere(subdivisions, radius)
    mesh = Mesh(torch.tensor(sphere.vertices, dtype=torch.float32), torch.tensor(sphere.faces, dtype=torch.int64))
    return replace(mesh, colors=(mesh.vertices / radius + 1) / 2 if colors is None else colors)


def picture(mesh, size=32):
    return render(mesh, orbit([30.0, 200.0], [20.0, -10.0], size=size)).images


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_textured_mesh_survives_saving(tmp_path, suffix):
    mesh = vase(24, 24, 32)
    save_mesh(mesh, tmp_path / f"a.{suffix}")
    again = load_mesh(tmp_path / f"a.{suffix}")
    assert len(again.faces) == len(mesh.faces) and len(again.textures) == 1
    assert float((picture(mesh) - picture(again)).abs().max()) < 0.02  # textures are saved with 8 bits


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_vertex_colours_survive_saving(tmp_path, suffix):
    mesh = ball()
    save_mesh(mesh, tmp_path / f"a.{suffix}")
    again = load_mesh(tmp_path / f"a.{suffix}")
    assert float((picture(mesh) - picture(again)).abs().max()) < 0.005
    assert not list(tmp_path.glob(".mesh-*"))


def test_parts_with_different_textures_survive_saving(tmp_path):
    first = vase(12, 16, 16)
    second = replace(first, textures=(1 - first.textures[0],)).moved(torch.tensor([0.0, 0.0, 0.9]), 1.0)
    mesh = join([first, second, ball(0.2)])
    for suffix in ("glb", "obj"):
        save_mesh(mesh, tmp_path / f"a.{suffix}")
        again = load_mesh(tmp_path / f"a.{suffix}")
        assert len(again.textures) == (2 if suffix == "glb" else 3)  # OBJ holds vertex colours beside textures as one
        assert float((picture(mesh) - picture(again)).abs().max()) < 0.02


def test_scene_transforms_are_applied(tmp_path):
    scene = trimesh.Scene()
    moved = trimesh.transformations.translation_matrix([1, 2, 3])
    scene.add_geometry(trimesh.creation.box((0.2, 0.2, 0.2)), transform=moved)
    scene.add_geometry(trimesh.creation.box((0.2, 0.2, 0.2)))
    scene.export(tmp_path / "two.glb")
    low, high = load_mesh(tmp_path / "two.glb").bounds()
    assert low.tolist() == pytest.approx([-0.1] * 3) and high.tolist() == pytest.approx([1.1, 2.1, 3.1])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\n", "without faces"),
        ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "NaN"),
        ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no area"),
        ("", "without faces|cannot be read"),
    ],
)
def test_unusable_meshes_are_refused_with_a_sentence(tmp_path, content, sentence):
    (tmp_path / "a.obj").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        load_mesh(tmp_path / "a.obj")


def test_colours_of_stl_files_are_told_and_cut_ones_say_so(tmp_path):
    def read(content):
        (tmp_path / "a.stl").write_bytes(content)
        return load_mesh(tmp_path / "a.stl")

    plain = trimesh.creation.box().export(file_type="stl")
    painted = bytearray(plain)
    painted[STL_HEADER + STL_FACE - 1] |= 128  # the first face has a colour of its own
    headed = b"COLOR=\xff\0\0\xff".ljust(80) + plain[80:]
    assert [len(read(bytes(content)).faces) for content in (plain, painted, headed)] == [12] * 3
    assert read(plain).remarks == ()
    for content in (painted, headed):
        assert read(bytes(content)).remarks == ("The colours of an STL file are not read; it is shown without.",)
    for content in (plain[:-1], plain[:60], plain + bytes(50), b"solid".ljust(80) + plain[80:-50]):
        with pytest.raises(ValueError, match=f"bytes, but has {len(content)}"):
            read(content)


@pytest.mark.parametrize("rest", [b"\n", b"\r\n", b"\0\0\0\0"])
def test_a_binary_stl_file_may_end_with_a_little_more(tmp_path, rest):
    content = trimesh.creation.box().export(file_type="stl")
    for name, written in (("a.stl", content), ("b.stl", content + rest)):
        (tmp_path / name).write_bytes(written)
    one, other = load_mesh(tmp_path / "a.stl"), load_mesh(tmp_path / "b.stl")
    assert torch.equal(one.vertices, other.vertices) and torch.equal(one.faces, other.faces)


@pytest.mark.parametrize("suffix", ["obj", "off", "stl", "ply", "gltf"])
def test_mesh_files_in_utf_16_are_those_in_utf_8(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    kind = {"stl": "stl_ascii"}.get(suffix, suffix)
    made = trimesh.creation.box().export(file_type=kind, **({"encoding": "ascii"} if suffix == "ply" else {}))
    if suffix == "gltf":
        for name, content in made.items():
            (tmp_path / name).write_bytes(content)
        made = made["model.gltf"]
    text = made if isinstance(made, str) else made.decode()
    path.write_text(text)
    mesh = load_mesh(path)
    path.write_text(text, encoding="utf-16")
    again = load_mesh(path)
    assert torch.equal(again.vertices, mesh.vertices) and torch.equal(again.faces, mesh.faces) and len(mesh.faces) == 12


def test_files_that_are_no_meshes(tmp_path):
    with pytest.raises(FileNotFoundError, match="no mesh file"):
        load_mesh(tmp_path / "none.glb")
    (tmp_path / "a.glb").write_bytes(b"glTF" + bytes(100))
    with pytest.raises(ValueError, match="cannot be read"):
        load_mesh(tmp_path / "a.glb")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="known endings"):
        load_mesh(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"\.glb, \.obj or \.ply"):
        save_mesh(ball(), tmp_path / "a.stl")


def test_notes_on_open_and_crowded_surfaces():
    closed = ball()
    assert closed.notes() == [] and vase(12, 16, 8).notes() == []
    assert "open" in closed.keep_faces(torch.arange(len(closed.faces)) > 0).notes()[0]
    fan = Mesh(torch.randn(5, 3), torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]]))
    assert any("not manifold" in note for note in fan.notes())


def test_large_meshes_are_simplified_while_loading(tmp_path):
    save_mesh(ball(subdivisions=3), tmp_path / "a.ply")
    small = simplify(load_mesh(tmp_path / "a.ply"), 300)
    assert len(small.faces) <= 300
    assert float((picture(small) - picture(ball())).abs().mean()) < 0.03


def test_simplified_colours_come_from_the_nearest_surface():
    mesh = simplify(ball(subdivisions=3), 200)
    assert float((mesh.colors - (mesh.vertices / 0.6 + 1) / 2).abs().max()) < 0.05


def test_texture_lookup_is_bilinear_and_repeats():
    texture = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    uv = torch.stack([(columns + 0.5) / 7, 1 - (rows + 0.5) / 5], -1).view(-1, 2)
    for shift in (0, 3, -2):
        torch.testing.assert_close(sample_texture(texture, uv + shift), texture.view(-1, 3), atol=1e-5, rtol=0)
    between = sample_texture(texture, (uv[:1] + uv[1:2]) / 2)
    torch.testing.assert_close(between[0], (texture[0, 0] + texture[0, 1]) / 2)


def test_baked_texture_shows_the_colour_field():
    mesh = ball(subdivisions=3)
    baked = bake(mesh, lambda points: (points / 0.6 + 1) / 2, size=128)
    assert baked.uv.min() >= 0 and baked.uv.max() <= 1
    assert float((picture(baked) - picture(mesh)).abs().mean()) < 0.005
    small = bake(mesh, lambda points: (points / 0.6 + 1) / 2, size=128, max_faces=200)
    assert len(small.faces) <= 200


def test_shells_inside_a_solid_are_dropped():
    outer, inner = ball(0.6), ball(0.3)
    mesh = join([outer, inner])
    assert connected_parts(mesh.faces, len(mesh.vertices)).unique().tolist() == [0, 1]
    outside = drop_hidden(mesh, gtr_rig(64))
    assert len(outside.faces) == len(outer.faces)
    assert torch.equal(outside.vertices[outside.faces], outer.vertices[outer.faces])
    seen = seen_faces(mesh, gtr_rig(64))
    assert seen[: len(outer.faces)].float().mean() > 0.9 and not seen[len(outer.faces) :].any()


def test_vertex_colours_of_a_texture():
    mesh = vase(24, 24, 64)
    plain = with_vertex_colors(mesh)
    expected = sample_texture(mesh.textures[0], mesh.uv)
    torch.testing.assert_close(plain.colors, expected, atol=1e-4, rtol=0)


def test_samples_are_uniform_on_the_surface():
    points, face, bary = ball(0.5, 3).sample(20_000, torch.Generator().manual_seed(0))
    assert float(points.mean(0).abs().max()) < 0.01 and float((points.norm(dim=-1) - 0.5).abs().max()) < 0.01
    torch.testing.assert_close(bary.sum(-1), torch.ones(len(face)))


def test_the_vase_is_closed_and_faces_outward():
    mesh = vase(24, 32, 16)
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    assert float((a * torch.cross(b, c, dim=-1)).sum()) > 0
    assert mesh.notes() == []
