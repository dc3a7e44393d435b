"""OBJ and MTL files as people write them."""

import numpy as np
import pytest
import torch

from recon3d.mesh import Mesh, join
from recon3d.mesh_files import load_mesh, save_mesh
from tests.recon3d.squares import CORNERS, color_at, corner_colors, disc, huge_png, near, png, quarters

SQUARE = """mtllib m.mtl
v -1 -1 0
v 1 -1 0
v 1 1 0
v -1 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl m
f 1/1 2/2 3/3 4/4
"""
GREY = (153, 153, 153)


def write(folder, obj=SQUARE, mtl="newmtl m\nKd 1 1 1\nmap_Kd t.png\n", picture="t.png", content=None):
    (folder / "a.obj").write_bytes(obj if isinstance(obj, bytes) else obj.encode())
    if mtl is not None:
        (folder / "m.mtl").write_bytes(mtl if isinstance(mtl, bytes) else mtl.encode())
    if picture is not None:
        (folder / picture).parent.mkdir(parents=True, exist_ok=True)
        (folder / picture).write_bytes(content or png(quarters()))
    return folder / "a.obj"


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("t.png", "t.png"),
        ("-s 1 1 1 -clamp on t.png", "t.png"),
        ("-blendu on -mm 0 1 -bm 0.5 -o 0 0 -imfchan m t.png", "t.png"),
        ("-clamp on my wood.png", "my wood.png"),
        ("my  wood.png", "my  wood.png"),
        ('"t.png"', "t.png"),
        ("t%20a.png", "t%20a.png"),
        ("t%20a.png", "t a.png"),
        ("T.PNG", "t.png"),
        ("t.png", "T.Png"),
        ("C:\\\\Users\\\\me\\\\my wood.png", "my wood.png"),
        ("/home/other/t.png", "t.png"),
        ("../textures/t.png", "t.png"),
        ("pictures\\t.png", "pictures/t.png"),
        ("foo bar t.png", "t.png"),
    ],
)
def test_pictures_are_found_however_they_are_named(tmp_path, written, stored):
    mesh = load_mesh(write(tmp_path, mtl=f"newmtl m\nKd 0.1 0.1 0.1\nmap_Kd {written}\n", picture=stored))
    assert corner_colors(mesh) == CORNERS and not mesh.remarks


@pytest.mark.parametrize(
    "obj",
    [
        b"\xef\xbb\xbf" + SQUARE.encode(),
        SQUARE.replace("\n", "\r\n"),
        SQUARE.replace("\n", "\r"),
        SQUARE.replace("f 1/1 2/2 3/3 4/4", "f -4/-4 -3/-3 -2/-2 -1/-1"),
        SQUARE.replace("f 1/1 2/2 3/3 4/4", "f 1/1 2/2 3/3 \\\n4/4 # a polygon"),
        SQUARE.replace("f 1/1 2/2 3/3 4/4", "f 1/1/7 2/2/7 3/3/7 4/4/7"),  # normals that are not there are not used
        SQUARE.replace("usemtl m\n", ""),
        SQUARE.replace("m.mtl", '"m.mtl"'),
        SQUARE.replace("m.mtl", "M.MTL n.mtl"),
        SQUARE.replace("m.mtl", "n.mtl\nmtllib m.mtl"),
        SQUARE.replace("v -1 -1 0", "v -1 -1 0 1.0").replace("vt 0 0", "vt 0"),
    ],
)
def test_spellings_of_obj_files(tmp_path, obj):
    path = write(tmp_path, obj)
    (tmp_path / "n.mtl").write_text("# nothing\n" if b"usemtl" in path.read_bytes() else "")
    assert corner_colors(load_mesh(path)) == CORNERS


def test_materials_with_a_byte_order_mark_and_unused_maps_elsewhere(tmp_path):
    mtl = b"\xef\xbb\xbfnewmtl m\r\nmap_Kd t.png\r\nmap_Bump ../../n.png\r\nnewmtl unused\nmap_Kd gone.png\n"
    mesh = load_mesh(write(tmp_path, mtl=mtl))
    assert corner_colors(mesh) == CORNERS and len(mesh.remarks) == 1 and "map_bump" in mesh.remarks[0]


def test_what_is_missing_costs_a_note(tmp_path):
    mesh = load_mesh(write(tmp_path, mtl=None))
    assert color_at(mesh, 0, 0) == GREY and "m.mtl, which is missing" in mesh.notes()[0]
    mesh = load_mesh(write(tmp_path, mtl="newmtl m\nKd 1 0 0\nmap_Kd gone.png\n"))
    assert color_at(mesh, 0, 0) == GREY and "gone.png, which is missing" in mesh.notes()[0]
    mesh = load_mesh(write(tmp_path, mtl="newmtl other\nKd 1 0 0\n"))
    assert color_at(mesh, 0, 0) == GREY and "material m is in none" in mesh.notes()[0]


def test_files_outside_the_folder_are_never_read(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(png(quarters()))
    (tmp_path / "secret.mtl").write_text("newmtl m\nKd 1 0 0\n")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", "..\\secret.png", "%2e%2e/secret.png", str(tmp_path / "secret.png"), "link.png"):
        mesh = load_mesh(write(inside, mtl=f"newmtl m\nmap_Kd {name}\n"))
        assert not mesh.textures and len(mesh.remarks) == 1, name
    mesh = load_mesh(write(inside, SQUARE.replace("m.mtl", "../secret.mtl")))
    assert color_at(mesh, 0, 0) == GREY and "outside its own folder" in mesh.remarks[0]


def test_vertex_colours_and_flat_colours(tmp_path):
    colored = "v -1 -1 0 1 0 0\nv 1 -1 0 1 0 0\nv 1 1 0 1 0 0\nv -1 1 0 1 0 0\n"
    square = colored + SQUARE[SQUARE.index("vt") :].replace("usemtl m\n", "")
    for head in ("", "mtllib m.mtl\n"):
        assert color_at(load_mesh(write(tmp_path, head + square, mtl="newmtl m\nKd 1 1 1\n")), 0.2, 0) == (255, 0, 0)
    bytes_ = square.replace(" 1 0 0\n", " 0 128 255\n")
    assert color_at(load_mesh(write(tmp_path, bytes_)), 0.2, 0) == (0, 128, 255)
    for columns in (" 0 0.5 1 1\n", " 1 0 0.5 1\n"):  # with an opacity, with a weight
        seven = square.replace(" 1 0 0\n", columns)
        assert color_at(load_mesh(write(tmp_path, seven)), 0.2, 0) == (0, 128, 255)
    mesh = load_mesh(write(tmp_path, "mtllib m.mtl\n" + colored + SQUARE[SQUARE.index("vt") :]))
    assert corner_colors(mesh) == CORNERS and "vertex colours" in mesh.remarks[0]
    assert color_at(load_mesh(write(tmp_path, mtl="newmtl m\nKd 0 0.5 1\n")), 0, 0) == (0, 128, 255)
    glow = "newmtl m\nKd 0 0 0\nKe 1 1 1\nmap_Ke t.png\n"
    assert corner_colors(load_mesh(write(tmp_path, mtl=glow))) == CORNERS


def test_colours_that_zbrush_paints_are_read(tmp_path):
    painted = "#MRGB ffff000000ff0000\n#MRGB ff0000ff00808080\n"
    (tmp_path / "a.obj").write_text(f"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n{painted}f 1 2 3 4\n")
    expected = torch.tensor([[255, 0, 0], [255, 0, 0], [0, 0, 255], [128, 128, 128]]) / 255
    torch.testing.assert_close(load_mesh(tmp_path / "a.obj").colors, expected)
    for wrong, sentence in (("#MRGB ffff0000\n", "1 places, and there are 4"), ("#MRGB zz\n", "no hexadecimal digits")):
        (tmp_path / "a.obj").write_text(f"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n{wrong}f 1 2 3 4\n")
        with pytest.raises(ValueError, match=sentence):
            load_mesh(tmp_path / "a.obj")


def test_options_of_maps_scale_move_and_clamp(tmp_path):
    mesh = load_mesh(write(tmp_path, mtl="newmtl m\nmap_Kd -s 2 2 -o 0.25 0 t.png\n"))
    assert color_at(mesh, -0.9, 0.9) == (200, 40, 40) and color_at(mesh, -0.6, 0.9) == (40, 200, 40)
    mesh = load_mesh(write(tmp_path, mtl="newmtl m\nmap_Kd -s 2 2 -clamp on t.png\n"))
    assert [color_at(mesh, x, 0.9) for x in (-0.8, 0.1, 0.9)] == [(200, 40, 40), (40, 200, 40), (40, 200, 40)]


def test_opacity_maps_cut_faces(tmp_path):
    (tmp_path / "d.png").write_bytes(png(disc().astype(np.uint8)))
    mesh = load_mesh(write(tmp_path, mtl="newmtl m\nmap_Kd t.png\nmap_d d.png\n"))
    assert float(mesh.face_areas().sum()) == pytest.approx(np.pi * (20 / 32) ** 2, rel=0.03)
    assert "cut out" in mesh.remarks[0]


@pytest.mark.parametrize(
    ("said", "opaque"),
    [("d 0.25", 25), ("Tr 0.75", 25), ("Tr 0.75\nd 1.0", None), ("d 0.25\nTr 0", 25), ("Tr 0.0", None), ("Tr", None)],
)
def test_what_is_seen_through_is_told_whichever_way_it_is_said(tmp_path, said, opaque):
    mesh = load_mesh(write(tmp_path, mtl=f"newmtl m\nmap_Kd t.png\n{said}\n"))
    told = () if opaque is None else (f"A material is {opaque}% opaque; it is shown as if it were opaque.",)
    assert corner_colors(mesh) == CORNERS and mesh.remarks == told


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("v 1 1 0", "v 1"), "1 numbers instead of 3"),
        (("v 1 1 0", "v 1 x 0"), "could not convert"),
        (("f 1/1", "f 0/1"), "line 11: a face names place 0"),
        (("f 1/1", "f 9/1"), "number 9 of its 4 places"),
        (("f 1/1", "f -9/1"), "line 11: a face names place -9"),
        (("f 1/1", "f 1/9"), "number 9 of its 4 texture coordinates"),
        (("f 1/1", "f 99999999999999999999999"), "which is not there"),
        (("f 1/1", "f " + "9" * 4000), "a face names place 999"),
        (("f 1/1", "f one"), "line 11"),
        (("v 1 1 0", "v 1 1e999 0"), "NaN or infinite"),
        (("vt 1 1", "vt nan 1"), "texture coordinates that are NaN"),
        (("f 1/1 2/2 3/3 4/4", "l 1 2"), "without faces"),
    ],
)
def test_damaged_files_are_refused_with_a_sentence(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        load_mesh(write(tmp_path, SQUARE.replace(*change)))
    assert len(str(error.value)) < 400


def test_damaged_and_huge_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"t\.png, the texture of a\.obj, is not an image"):
        load_mesh(write(tmp_path, content=b"no picture"))
    for side in (13_000, 20_000, 60_000):
        with pytest.raises(ValueError, match="larger than textures may be"):
            load_mesh(write(tmp_path, content=huge_png(side)))


def test_a_saved_obj_shows_tints_mixed_parts_and_mirrors(tmp_path):
    """Whatever GLB holds, OBJ shows too."""
    square = load_mesh(write(tmp_path))
    plain = Mesh(square.vertices + torch.tensor([3.0, 0, 0]), square.faces, torch.tensor([0.0, 0, 1]).expand(4, 3))
    blend = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    tints = [None, torch.tensor([0.6, 0.2, 0.2]).expand(4, 3), blend]
    for name in ("a b", "con%20x", "plain"):
        for tint in tints:
            mesh = join(
                [Mesh(square.vertices, square.faces, tint, square.uv, square.textures, square.face_texture), plain]
            )
            save_mesh(mesh, tmp_path / f"{name}.obj")
            again = load_mesh(tmp_path / f"{name}.obj")
            assert not again.remarks
            for x, y in (*CORNERS, (3.2, 0.1), (0.1, 0.8), (-0.8, -0.3)):
                assert near(color_at(again, x, y), color_at(mesh, x, y), by=4), (name, tint, x, y)
    for wrap in (("mirror", "mirror"), ("clamp", "clamp"), ("mirror", "repeat")):
        mesh = Mesh(
            square.vertices, square.faces, None, square.uv * 2 - 0.3, square.textures, square.face_texture, (wrap,)
        )
        save_mesh(mesh, tmp_path / "wrapped.obj")
        again = load_mesh(tmp_path / "wrapped.obj")
        for x, y in ((-0.95, 0.5), (0.9, -0.9), (0.1, 0.7), (-0.5, -0.9)):
            assert near(color_at(again, x, y), color_at(mesh, x, y)), (wrap, x, y)


def test_obj_and_ply_keep_places_far_from_the_origin(tmp_path):
    square = load_mesh(write(tmp_path))
    far = Mesh(square.vertices.double() + torch.tensor([455000.3, 5400000.6, 120.1], dtype=torch.float64), square.faces)
    for suffix in ("obj", "ply", "glb"):
        save_mesh(far, tmp_path / f"far.{suffix}")
        again = load_mesh(tmp_path / f"far.{suffix}")
        torch.testing.assert_close(again.vertices, far.vertices, rtol=0, atol=1e-6)
