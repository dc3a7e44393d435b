"""What glTF files say about places and colours; files made by code, one feature each."""

import importlib.util
import io
import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from recon3d.mesh_files import load_mesh, save_mesh
from tests.recon3d.squares import (
    CORNERS,
    FLAT,
    Maker,
    color_at,
    corner_colors,
    disc,
    huge_png,
    linear,
    near,
    png,
    quarters,
    uri,
)


def test_a_picture_and_a_plain_grey_square(tmp_path):
    assert corner_colors(Maker(quarters()).load(tmp_path)) == CORNERS
    assert color_at(Maker().load(tmp_path), 0.3, 0.3) == (153, 153, 153)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
@pytest.mark.parametrize("opaque", [False, True])
def test_vertex_colours_are_light(tmp_path, dtype, opaque):
    maker = Maker(pbrMetallicRoughness={})
    scale = 1 if dtype == np.float32 else np.iinfo(dtype).max
    values = np.tile([[linear(128), linear(200), 0, 1][: 3 + opaque]], (4, 1)) * scale
    values = values if dtype == np.float32 else values.round()
    maker.attributes["COLOR_0"] = maker.add(values, dtype, normalized=dtype != np.float32)
    assert near(color_at(maker.load(tmp_path), 0.2, 0.1), (128, 200, 0), by=2 if dtype == np.uint8 else 0)


def test_factor_colours_and_texture_multiply_light(tmp_path):
    maker = Maker(quarters(), pbrMetallicRoughness={"baseColorFactor": [0.5, 0.1, 1, 1]})
    maker.attributes["COLOR_0"] = maker.add([[0.5, 1, 0.2]] * 4)
    mesh = maker.load(tmp_path)
    for place, color in CORNERS.items():
        light = np.array([linear(c) for c in color]) * (0.25, 0.1, 0.2)
        expected = [round(255 * (12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055)) for x in light]
        assert near(color_at(mesh, *place), expected)
    flat = Maker(pbrMetallicRoughness={"baseColorFactor": [linear(128)] * 3 + [1]}).load(tmp_path)
    assert color_at(flat, 0, 0) == (128, 128, 128)


def test_the_colour_that_trimesh_leaves_beside_the_texture_of_an_obj_is_unused(tmp_path):
    maker = Maker(quarters(), pbrMetallicRoughness={"baseColorFactor": [0.6, 0.6, 0.6, 1], "roughnessFactor": 0.3})
    assert corner_colors(maker.load(tmp_path)) != CORNERS
    maker.document["asset"]["generator"] = "https://github.com/mikedh/trimesh"
    assert corner_colors(maker.load(tmp_path)) == CORNERS


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_normalised_texture_coordinates(tmp_path, dtype):
    maker = Maker(quarters())
    maker.attributes["TEXCOORD_0"] = maker.add(np.array(FLAT) * np.iinfo(dtype).max, dtype, normalized=True)
    assert corner_colors(maker.load(tmp_path)) == CORNERS


def test_second_texture_coordinates(tmp_path):
    maker = Maker(quarters(), uv=[(0.1, 0.1)] * 4)
    maker.attributes["TEXCOORD_1"] = maker.add(FLAT)
    maker.base["baseColorTexture"]["texCoord"] = 1
    assert corner_colors(maker.load(tmp_path)) == CORNERS
    maker.base["baseColorTexture"] = {"index": 0, "extensions": {"KHR_texture_transform": {"texCoord": 1}}}
    assert corner_colors(maker.load(tmp_path)) == CORNERS


def test_texture_transform_turns_scales_and_moves(tmp_path):
    """The example of the extension: the lower left quarter, turned clockwise."""
    gradient = np.zeros((256, 256, 3), np.uint8)
    gradient[..., 0], gradient[..., 1] = np.arange(256), np.arange(256)[:, None]  # red is u, green is v
    maker = Maker(gradient)
    transform = {"offset": [0, 1], "rotation": np.pi / 2, "scale": [0.5, 0.5]}
    maker.base["baseColorTexture"]["extensions"] = {"KHR_texture_transform": transform}
    mesh = maker.load(tmp_path)
    assert near(color_at(mesh, -0.5, 0.5), (32, 224, 0), 2)  # u = v = 1/4 of the square, v down
    assert near(color_at(mesh, 0.5, 0.5), (32, 160, 0), 2)
    transform.update(offset=[0.1, 0.2], rotation=0.0, scale=[0.5, 0.25])
    assert near(color_at(maker.load(tmp_path), 0, 0), (0.35 * 255, 0.325 * 255, 0), 2)


@pytest.mark.parametrize(("wrap", "beyond"), [(33071, (200, 40, 40)), (33648, (200, 40, 40)), (10497, (200, 200, 40))])
def test_samplers_clamp_mirror_and_repeat(tmp_path, wrap, beyond):
    maker = Maker(quarters(), uv=[(-0.5, 1.5), (1.5, 1.5), (1.5, -0.5), (-0.5, -0.5)])
    maker.document["textures"][0]["sampler"] = 0
    maker.document["samplers"] = [{"wrapS": wrap, "wrapT": wrap}]
    mesh = maker.load(tmp_path)
    assert color_at(mesh, -0.25, 0.25) == (200, 40, 40)
    assert color_at(mesh, -0.7, 0.7) == beyond


@pytest.mark.parametrize("hidden", [None, 0, 32768])
def test_deep_grey_textures(tmp_path, hidden):
    """With a grey that a PNG calls transparent, or without: where opacity means nothing, it counts."""
    maker, file = Maker(quarters()), io.BytesIO()
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(file, "PNG", transparency=hidden)
    maker.document["images"] = [{"uri": uri(file.getvalue())}]
    assert color_at(maker.load(tmp_path), 0, 0) == (128, 128, 128)


def test_spec_gloss_and_glowing_textures(tmp_path):
    maker = Maker(quarters())
    glow = {"emissiveFactor": [1, 1, 1], "emissiveTexture": {"index": 0}}
    maker.document["materials"] = [{**glow, "pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]}}]
    mesh = maker.load(tmp_path)
    assert corner_colors(mesh) == CORNERS and not mesh.remarks
    old = {"KHR_materials_pbrSpecularGlossiness": {"diffuseTexture": {"index": 0}}}
    maker.document["materials"] = [{"extensions": old, "normalTexture": {"index": 0}}]
    mesh = maker.load(tmp_path)
    assert corner_colors(mesh) == CORNERS and "normal maps" in mesh.remarks[0]


@pytest.mark.parametrize("mode", ["MASK", "BLEND"])
def test_transparent_parts_are_cut_out(tmp_path, mode):
    mesh = Maker(quarters(alpha=disc()), alphaMode=mode).load(tmp_path)
    assert float(mesh.face_areas().sum()) == pytest.approx(np.pi * (20 / 32) ** 2, rel=0.03)
    assert color_at(mesh, -0.3, 0.3) == (200, 40, 40) and color_at(mesh, 0.9, 0.9) is None
    assert "cut out" in mesh.remarks[0]
    assert len(Maker(quarters(alpha=disc())).load(tmp_path).faces) == 2  # opaque: opacity means nothing


def test_colours_under_opacity_count_where_it_means_nothing_and_reach_no_edge_where_it_cuts(tmp_path):
    picture = np.dstack([disc() // 255 * 200] * 3 + [disc()]).astype(np.uint8)
    assert color_at(Maker(picture).load(tmp_path), 0.9, 0.9) == (0, 0, 0)
    mesh = Maker(picture, alphaMode="MASK").load(tmp_path)
    shown = mesh.surface_color(torch.arange(len(mesh.faces)), torch.full((len(mesh.faces), 3), 1 / 3))
    assert float(shown.min()) > 0.78  # nothing dark at the edge


@pytest.mark.parametrize("wrap", [10497, 33648, 33071])
def test_transparent_parts_repeat_as_the_picture_does(tmp_path, wrap):
    left = np.repeat(255 * (np.arange(64) < 32)[None], 64, 0)  # the left half is opaque
    maker = Maker(quarters(alpha=left), uv=[(0, 1), (2, 1), (2, 0), (0, 0)], alphaMode="MASK")
    maker.document["textures"][0]["sampler"] = 0
    maker.document["samplers"] = [{"wrapS": wrap, "wrapT": wrap}]
    mesh = maker.load(tmp_path)
    there = [color_at(mesh, x, 0.3) is not None for x in (-0.75, -0.25, 0.25, 0.75)]
    assert there == {10497: [1, 0, 1, 0], 33648: [1, 0, 0, 1], 33071: [1, 0, 0, 0]}[wrap]


def test_mask_with_factor_colours_and_cutoff(tmp_path):
    maker = Maker(alphaMode="MASK", alphaCutoff=0.3, pbrMetallicRoughness={"baseColorFactor": [1, 0, 0, 0.5]})
    assert len(maker.load(tmp_path).faces) == 2
    maker.attributes["COLOR_0"] = maker.add([[1, 1, 1, 0.5], [1, 1, 1, 0.5], [1, 1, 1, 1], [1, 1, 1, 1]])
    assert len(maker.load(tmp_path).faces) == 2
    maker.attributes["COLOR_0"] = maker.add([[1, 1, 1, 0.5]] * 4)
    with pytest.raises(ValueError, match="all of its surface is transparent"):
        maker.load(tmp_path)


def test_glass_is_shown_as_if_white_were_behind_it(tmp_path):
    mesh = Maker(alphaMode="BLEND", pbrMetallicRoughness={"baseColorFactor": [0, 0, 0, 0.25]}).load(tmp_path)
    assert near(color_at(mesh, 0, 0), (191, 191, 191)) and "25% opaque" in mesh.remarks[0]
    mesh = Maker(quarters(), alphaMode="BLEND", pbrMetallicRoughness={"baseColorFactor": [1, 1, 1, 0.5]}).load(tmp_path)
    assert near(color_at(mesh, -0.5, 0.5), (228, 148, 148))
    with pytest.raises(ValueError, match="all of its surface is transparent"):
        Maker(alphaMode="BLEND", pbrMetallicRoughness={"baseColorFactor": [1, 0, 0, 0]}).load(tmp_path)


def test_instances_nodes_and_mirrors(tmp_path):
    maker = Maker()
    maker.document["nodes"] = [
        {"children": [1, 2], "translation": [0, 0, 5]},
        {"mesh": 0, "scale": [2, 1, 1], "rotation": [0, 0, np.sin(np.pi / 4), np.cos(np.pi / 4)]},
        {"mesh": 0, "matrix": [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 9, 0, 0, 1]},
    ]
    mesh = maker.load(tmp_path)
    low, high = mesh.bounds()
    torch.testing.assert_close(low, torch.tensor([-1.0, -2, 5])) and torch.testing.assert_close(high[:2], low[:2])
    assert high.tolist() == [10, 2, 5]
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    assert bool((torch.cross(b - a, c - a, dim=-1)[:, 2] > 0).all())  # the mirrored one too
    moves = maker.add([(0, 0, 0), (3, 0, 0), (6, 0, 0)])
    extension = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": moves}}}
    maker.document["nodes"] = [{"mesh": 0, "extensions": extension}]
    mesh = maker.load(tmp_path)
    assert len(mesh.faces) == 6 and mesh.bounds()[1].tolist() == [7, 1, 0]


@pytest.mark.parametrize(("mode", "indices"), [(5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])])
def test_strips_and_fans(tmp_path, mode, indices):
    maker = Maker()
    maker.primitive.update(mode=mode, indices=maker.add([[i] for i in indices], np.uint8))
    mesh = maker.load(tmp_path)
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    assert float(torch.cross(b - a, c - a, dim=-1)[:, 2].sum()) == 8 and len(mesh.faces) == 2


def test_skins_and_morphs_are_shown_at_rest(tmp_path):
    maker = Maker()
    maker.attributes["JOINTS_0"] = maker.add([(0, 0, 0, 0), (0, 0, 0, 0), (1, 0, 0, 0), (1, 0, 0, 0)], np.uint8)
    maker.attributes["WEIGHTS_0"] = maker.add([(1, 0, 0, 0)] * 4)
    back = np.eye(4)
    back[3, 2] = -1  # column-major: inverse bind moves by -1 along z
    maker.document["skins"] = [{"joints": [1, 2], "inverseBindMatrices": maker.add([np.eye(4).ravel(), back.ravel()])}]
    maker.document["nodes"] = [{"mesh": 0, "skin": 0, "translation": [9, 9, 9]}, {}, {"translation": [0, 3, 1]}]
    maker.document["scenes"] = [{"nodes": [0, 1, 2]}]
    mesh = maker.load(tmp_path)
    assert sorted(mesh.vertices.tolist()) == [[-1, -1, 0], [-1, 4, 0], [1, -1, 0], [1, 4, 0]]
    assert "skeleton" in mesh.remarks[0]
    maker = Maker()
    maker.primitive["targets"] = [{"POSITION": maker.add([(0, 0, 2)] * 4)}]
    maker.document["meshes"][0]["weights"] = [0.5]
    assert maker.load(tmp_path).vertices[:, 2].tolist() == [1] * 4


def test_sparse_accessors(tmp_path):
    maker = Maker()
    index, value = maker.add([[2]], np.uint16), maker.add([(5, 5, 0)])
    maker.document["accessors"][0]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": index, "componentType": 5123},
        "values": {"bufferView": value},
    }
    assert maker.load(tmp_path).bounds()[1].tolist() == [5, 5, 0]


def test_pictures_that_are_missing_or_not_read_cost_a_note(tmp_path):
    maker = Maker(quarters())
    for image, word in (
        ({"uri": "gone.png"}, "gone.png, which is missing"),
        ({"uri": "../gone.png"}, "outside its own folder"),
        ({"uri": uri(b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(40), "image/ktx2")}, "KTX2"),
    ):
        maker.document["images"] = [image]
        mesh = maker.load(tmp_path)
        assert color_at(mesh, 0, 0) == (153, 153, 153)
        assert len(mesh.notes()) == 2 and word in mesh.notes()[0]
    maker.document["images"] = [{"uri": uri(png(quarters()))}]
    maker.document["textures"] = [{"extensions": {"KHR_texture_basisu": {}}}]
    assert "names no picture" in maker.load(tmp_path).notes()[0]


def broken(change):
    maker = Maker(quarters())
    change(maker.document, maker)
    return maker


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d, m: d.update(images=None), "images are no list"),
        (lambda d, m: d.update(images=[{"uri": 7}]), "uri is 7"),
        (lambda d, m: d.update(images=[{"uri": uri(huge_png(20000))}]), "larger than textures may be"),
        (lambda d, m: d.update(images=[{"uri": "data:;base64,AAA"}]), "base64"),
        (lambda d, m: d.update(images=[{"uri": uri(b"nothing")}]), "not an image"),
        (lambda d, m: d.update(nodes=[{"mesh": 0, "children": [0]}]), "circle"),
        (lambda d, m: d["scenes"][0].update(nodes=[4]), "names 4 among its 1 nodes"),
        (lambda d, m: d["buffers"][0].update(uri="../b.bin"), "outside its own folder"),
        (lambda d, m: d["buffers"][0].update(uri="b.bin"), "b.bin, which is missing"),
        (lambda d, m: d["bufferViews"][0].update(byteLength=10**30), "beyond its buffer"),
        (lambda d, m: d["accessors"][0].update(count=2**31), "elements"),
        (lambda d, m: d["accessors"][0].pop("bufferView") or d["accessors"][0].update(count=2**31), "elements"),
        (lambda d, m: d["accessors"][0].update(count=5), "beyond"),
        (lambda d, m: d["accessors"][0].update(componentType=[]), "component type"),
        (lambda d, m: d["accessors"][0].update(count=3), "vertex 3"),
        (lambda d, m: m.primitive.update(attributes=[]), "without faces"),
        (lambda d, m: m.attributes.update(COLOR_0=m.add(np.full((4, 3), np.nan))), "vertex colours that are NaN"),
        (lambda d, m: d["nodes"][0].update(translation=[1, 2]), "must be 3 numbers"),
        (lambda d, m: d["nodes"][0].update(matrix=[10**400] * 16), "must be 16 numbers"),
        (lambda d, m: d["materials"][0].update(alphaMode="SOLID"), "SOLID"),
        (lambda d, m: m.base.update(baseColorTexture={"index": True}), "among its 1 textures"),
        (lambda d, m: d.update(extensionsRequired=["EXT_meshopt_compression"]), "EXT_meshopt_compression"),
        (lambda d, m: d["asset"].update(version="1.0"), "glTF 1.0"),
        (lambda d, m: d["asset"].update(version="2.beta"), "glTF 2.beta"),
        (lambda d, m: d["asset"].update(minVersion="2.1"), r"needs a reader of glTF 2\.1 \(minVersion\)"),
        (lambda d, m: d["asset"].update(minVersion=None), "needs a reader of glTF None"),
        (lambda d, m: m.primitive.update(extensions=7), "cannot be read"),
    ],
)
def test_damaged_files_are_refused_with_a_sentence(tmp_path, change, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        broken(change).load(tmp_path)


def test_texts_that_are_no_documents(tmp_path):
    for text in ("[]", "7", '{"asset": 3}', "[" * 100_000, '{"a": 1', "", '{"asset": {"version": "2.0"}}'):
        (tmp_path / "a.gltf").write_text(text)
        with pytest.raises(ValueError, match="cannot be read as a mesh"):
            load_mesh(tmp_path / "a.gltf")
    for content in (
        b"glTF",
        b"glTF" + struct.pack("<II", 2, 500) + bytes(30),
        b"glTF" + struct.pack("<II", 1, 20) + bytes(8),
    ):
        (tmp_path / "a.glb").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a mesh"):
            load_mesh(tmp_path / "a.glb")


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        (
            "wood a.png",
            ["wood a.png", "wood%20a.png", "C:\\me\\wood a.png", "/home/me/Wood%20a.png", "not/there/wood a.png"],
        ),
        ("wood%20a.png", ["wood%20a.png", "WOOD%20A.png", "./wood%20a.png"]),
        ("Textures/Wood A.PNG", ["textures/wood%20a.png", "Textures\\Wood A.png", "./textures//wood a.png"]),
    ],
)
def test_files_beside_are_found_however_they_are_spelled(tmp_path, stored, names):
    (tmp_path / stored).parent.mkdir(exist_ok=True)
    (tmp_path / stored).write_bytes(png(quarters()))
    for name in names:
        maker = Maker(quarters())
        maker.document["images"] = [{"uri": name}]
        assert corner_colors(maker.load(tmp_path)) == CORNERS, name


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(png(quarters()))
    (folder / "t.png").symlink_to(tmp_path / "secret.png")
    maker = Maker(quarters())
    for name in ("t.png", "../secret.png", str(tmp_path / "secret.png")):
        maker.document["images"] = [{"uri": name}]
        assert not maker.load(folder).textures


def test_places_far_from_the_origin_stay_exact(tmp_path):
    maker = Maker()
    maker.document["nodes"] = [{"mesh": 0, "translation": [455000.3, 5400000.6, 120]}]
    mesh = maker.load(tmp_path)
    assert mesh.vertices.dtype == torch.float64 and mesh.bounds()[0].tolist() == [454999.3, 5399999.6, 120]
    assert mesh.normalised().vertices.dtype == torch.float32
    centre, scale = mesh.placement()
    back = mesh.moved(centre, scale).moved(-centre * scale, 1 / scale)
    assert float((back.vertices - mesh.vertices).abs().max()) < 1e-6


def test_draco_is_unpacked_or_named(tmp_path):
    maker = Maker(quarters())
    name = "KHR_draco_mesh_compression"
    maker.document.update(extensionsUsed=[name], extensionsRequired=[name])
    maker.primitive["extensions"] = {name: {"bufferView": 0, "attributes": {"POSITION": 2, "TEXCOORD_0": 1}}}
    if importlib.util.find_spec("DracoPy") is None:
        with pytest.raises(ValueError, match=r"KHR_draco_mesh_compression.*install DracoPy"):
            maker.load(tmp_path)
        return
    import DracoPy

    places = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], np.float32)
    faces = np.array([(0, 1, 2), (0, 2, 3)], np.uint32)
    content = DracoPy.encode(places, faces, tex_coord=np.array(FLAT, np.float64))
    ids = {found["attribute_type"]: found["unique_id"] for found in DracoPy.decode(content).attributes}
    attributes = {"POSITION": ids[0], "TEXCOORD_0": ids[3]}
    view = {"buffer": len(maker.document["buffers"]), "byteLength": len(content)}
    maker.document["buffers"].append({"byteLength": len(content), "uri": uri(content)})
    maker.document["bufferViews"].append(view)
    maker.primitive["extensions"][name] = {
        "bufferView": len(maker.document["bufferViews"]) - 1,
        "attributes": attributes,
    }
    for number in (maker.attributes["POSITION"], maker.attributes["TEXCOORD_0"], maker.primitive["indices"]):
        del maker.document["accessors"][number]["bufferView"]
    mesh = maker.load(tmp_path)
    assert corner_colors(mesh) == CORNERS
    save_mesh(mesh, tmp_path / "plain.glb")  # a copy of the file, unpacked
    assert corner_colors(load_mesh(tmp_path / "plain.glb")) == CORNERS
    assert b"draco" not in (tmp_path / "plain.glb").read_bytes()
    maker.document["buffers"][-1]["uri"] = uri(content[:20] + bytes(len(content) - 20))
    with pytest.raises(ValueError, match="compressed data is damaged"):
        maker.load(tmp_path)


def test_mutated_files_give_a_mesh_or_a_sentence(tmp_path):
    """Seeded mutations of every kind of file; a longer run takes more of the same."""
    random = np.random.default_rng(0)
    maker = Maker(quarters(8, alpha=disc(8, 3)), alphaMode="MASK")
    mesh = maker.load(tmp_path)
    originals = {".gltf": json.dumps(maker.document).encode()}
    for suffix in (".glb", ".obj", ".ply"):
        save_mesh(mesh, tmp_path / f"good{suffix}")
        originals[suffix] = (tmp_path / f"good{suffix}").read_bytes()
    originals[".off"] = b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    odd = [b"99999999999", b"-1", b"nan", b"1e999", b"//", b"\0", b"\xff", b"\n", b"null", b"[]", b"{}", b"true"]
    loaded = 0
    for number in range(200):
        suffix = list(originals)[number % len(originals)]
        content = bytearray(originals[suffix])
        for _ in range(random.integers(1, 4)):
            place, kind = random.integers(len(content)), random.integers(4)
            if kind == 0:
                content[place] = random.integers(256)
            elif kind == 1:
                content[place : place + random.integers(1, 6)] = odd[random.integers(len(odd))]
            elif kind == 2:
                other = random.integers(len(content))
                content[place : place + 4] = content[other : other + 4]
            elif len(content) > 40 and random.random() < 0.3:
                del content[place:]
        (tmp_path / f"bad{suffix}").write_bytes(content or b" ")
        try:
            load_mesh(tmp_path / f"bad{suffix}")
            loaded += 1
        except (ValueError, FileNotFoundError) as error:
            assert str(error).endswith(".") and "\n" not in str(error)
    assert 0 < loaded < 200
