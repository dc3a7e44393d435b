"""PLY and OFF files in the spellings that programs give them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from recon3d.mesh_files import load_mesh, save_mesh

PLACES = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
RGB = ("red", "green", "blue")


def header(order: str = "ascii", vertex: str = "", face: str = "", faces: int = 1) -> str:
    lines = ["ply", f"format {order} 1.0", "comment TextureFile a b.png", "element vertex 4"]
    lines += [f"property float {axis}" for axis in "xyz"] + [vertex, f"element face {faces}"]
    lines += ["property list uchar int vertex_indices", face, "end_header"]
    return "\n".join(line for line in lines if line) + "\n"


def colored(kind: str, names: tuple[str, ...] = RGB) -> str:
    return "\n".join(f"property {kind} {name}" for name in names)


def ply(folder, text, values=("",) * 4, faces=("4 0 1 2 3",)):
    lines = [f"{x} {y} {z} {value}" for (x, y, z), value in zip(PLACES, values, strict=True)]
    (folder / "a.ply").write_text(text + "\n".join([*lines, *faces]) + "\n")
    return load_mesh(folder / "a.ply")


@pytest.mark.parametrize(
    ("kind", "value", "names"),
    [
        ("uchar", "255 51 0", RGB),
        ("ushort", "65535 13107 0", RGB),
        ("float", "1.0 0.2 0.0", RGB),
        ("float", "255 51 0", RGB),
        ("int", "255 51 0", RGB),
        ("uchar", "255 51 0", ("diffuse_red", "diffuse_green", "diffuse_blue")),
        ("uint8", "255 51 0", ("r", "g", "b")),
        ("uchar", "255 51 0", ("Red", "Green", "Blue")),
    ],
)
def test_colours_of_vertices_by_every_name_and_type(tmp_path, kind, value, names):
    mesh = ply(tmp_path, header(vertex=colored(kind, names)), (value,) * 4)
    assert torch.allclose(mesh.colors, torch.tensor([1.0, 0.2, 0.0]).expand(4, 3)) and not mesh.remarks
    assert len(mesh.faces) == 2 and float(mesh.face_areas().sum()) == 1.0


def test_colours_of_faces_belong_to_all_triangles_of_their_polygons(tmp_path):
    faces = ("4 0 1 2 3 255 0 0", "3 0 1 3 0 0 255")
    mesh = ply(tmp_path, header(face=colored("uchar"), faces=2), faces=faces)
    expected = torch.tensor([[1.0, 0.0, 0.0]] * 6 + [[0.0, 0.0, 1.0]] * 3)
    assert torch.equal(mesh.colors[mesh.faces].reshape(-1, 3), expected)
    for suffix in ("glb", "obj", "ply"):
        save_mesh(mesh, tmp_path / f"again.{suffix}")
        assert len(load_mesh(tmp_path / f"again.{suffix}").faces) == 3


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("polygons", [[(0, 1, 2, 3)], [(0, 1, 2), (0, 1, 2, 3)], [(0, 1), (0, 2, 3)]])
def test_binary_files_are_those_of_text(tmp_path, order, polygons):
    kind = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    values = [struct.pack(f"{order}3f3B", *place, 255, 51, number) for number, place in enumerate(PLACES)]
    values += [struct.pack(f"{order}B{len(p)}i", len(p), *p) for p in polygons]
    text = header(kind, colored("uchar"), faces=len(polygons))
    (tmp_path / "b.ply").write_bytes(text.encode() + b"".join(values))
    words = [f"{len(p)} {' '.join(map(str, p))}" for p in polygons]
    wanted = ply(
        tmp_path, header(vertex=colored("uchar"), faces=len(polygons)), [f"255 51 {n}" for n in range(4)], words
    )
    made = load_mesh(tmp_path / "b.ply")
    assert torch.equal(made.faces, wanted.faces) and torch.equal(made.colors, wanted.colors)
    assert torch.equal(made.vertices, wanted.vertices)
    (tmp_path / "b.ply").write_bytes((text.encode() + b"".join(values))[:-1])
    with pytest.raises(ValueError, match=r"b\.ply cannot be read as a mesh: it is cut off"):
        load_mesh(tmp_path / "b.ply")


def test_strips_are_unwound_and_begun_anew(tmp_path):
    text = header(faces=0).replace(
        "end_header\n", "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    )
    mesh = ply(tmp_path, text, faces=("8 0 1 3 2 -1 0 1 2",))
    assert mesh.faces.tolist() == [[0, 1, 3], [3, 1, 2], [0, 1, 2]]


def test_what_of_textures_is_not_read_is_said(tmp_path):
    (remark,) = ply(tmp_path, header(vertex="property float s\nproperty float t"), ("0 0",) * 4).remarks
    assert remark == "The texture coordinates and picture (a b.png) of a PLY file are not read; it is shown without."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (header().replace("ascii", "runes"), "its format 'runes' is not known"),
        (header().replace("element vertex 4", "element vertex 4000000000"), "it is cut off"),
        (header().replace("float x", "float w"), "its vertices have no x, y and z"),
        (header().replace("uchar int", "uchar quad"), "is not known"),
        (header().replace("end_header", ""), "it has no PLY header"),
    ],
)
def test_damaged_files_are_refused_with_a_sentence(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        ply(tmp_path, text)
    with pytest.raises(ValueError, match="a face names vertex 9, and there are 4"):
        ply(tmp_path, header(), faces=("3 0 1 9",))
    with pytest.raises(ValueError, match="a face names vertex -2, and there are 4"):
        ply(tmp_path, header(), faces=("3 0 1 -2",))


SQUARE = "0 0 0{0}\n1 0 0{0}\n1 1 0{0}\n0 1 0{0}\n"


@pytest.mark.parametrize(
    "text",
    [
        "COFF\n4 1 0\n" + SQUARE.format(" 255 51 0 255") + "4 0 1 2 3\n",
        "OFF # a remark\n# another\n\n4 1 0\n" + SQUARE.format("") + "4 0 1 2 3 255 51 0\n",
        "OFF 4 1 0\n" + SQUARE.format("") + "4 0 1 2 3 1.0 0.2 0.0 1.0\n",
        "COFF4 1 0\n" + SQUARE.format(" 255 51 0 255") + "4 0 1 2 3\n",
        "4 1\n" + SQUARE.format(" 1.0 0.2 0.0") + "4 0 1 2 3\n",
        "CNOFF\n4 1 0\n" + SQUARE.format(" 0 0 1 1.0 0.2 0.0 1.0") + "4 0 1 2 3\n",
    ],
)
def test_off_files_with_colours(tmp_path, text):
    (tmp_path / "a.off").write_text(text)
    mesh = load_mesh(tmp_path / "a.off")
    assert len(mesh.faces) == 2 and np.allclose(mesh.colors, (1.0, 0.2, 0.0))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("OFF BINARY\n", "binary OFF file"),
        ("4OFF\n1 1 0\n", "four numbers"),
        ("OFF\n4 9 0\n" + SQUARE.format("") + "3 0 1 2\n", "it is cut off"),
        ("OFF\n4 1 0\n" + SQUARE.format("") + "5 0 1 2\n", "fewer corners than it says"),
        ("OFF\n4 1 0\n" + SQUARE.format("") + "3 0 1 -2\n", "a face names vertex"),
        ("OFF\n4 1 0\n" + SQUARE.format("") + f"3 0 1 {10**30}\n", "its content is damaged"),
        ("OFF\n", "does not say how many"),
        ("", "does not say how many"),
    ],
)
def test_damaged_off_files_are_refused(tmp_path, text, sentence):
    (tmp_path / "a.off").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load_mesh(tmp_path / "a.off")
