"""What a mesh file holds beside the surface and its colours stays in the copy that takes what was refined."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from recon3d.gltf_file import read_gltf
from recon3d.mesh_files import load_mesh, save_mesh
from tests.recon3d.squares import CORNERS, Maker, color_at, corner_colors, near, png, quarters, uri
from tests.recon3d.test_obj import SQUARE, write


def rich(**material):
    """A square with normals, a normal map, two sets of coordinates, a skin, a morph target and an animation."""
    maker = Maker(quarters(alpha=np.full((64, 64), 200)), name="cloth", doubleSided=True, **material)
    maker.document["images"].append({"uri": uri(png(np.full((4, 4, 3), 128, np.uint8))), "name": "bumps"})
    maker.document["textures"].append({"source": 1})
    maker.document["materials"][0]["normalTexture"] = {"index": 1, "scale": 0.5}
    maker.attributes["NORMAL"] = maker.add([(0, 0, 1)] * 4)
    maker.attributes["TANGENT"] = maker.add([(1, 0, 0, 1)] * 4)
    maker.attributes["TEXCOORD_1"] = maker.add([(0, 0)] * 4)
    maker.attributes["JOINTS_0"] = maker.add([(0, 1, 0, 0)] * 4, np.uint8)
    maker.attributes["WEIGHTS_0"] = maker.add([(0.25, 0.75, 0, 0)] * 4)
    maker.primitive["targets"] = [{"POSITION": maker.add([(0, 0, 1)] * 4)}]
    maker.document["meshes"][0].update(weights=[0.5], name="flag")
    maker.document["nodes"] = [{"mesh": 0, "skin": 0, "name": "flag"}, {"translation": [0, 2, 0]}, {"scale": [2, 2, 2]}]
    maker.document["scenes"] = [{"nodes": [0, 1, 2]}]
    maker.document["skins"] = [{"joints": [1, 2]}]
    times, turns = maker.add([[0], [1]]), maker.add([(0, 0, 0), (1, 0, 0)])
    channel = {"sampler": 0, "target": {"node": 1, "path": "translation"}}
    maker.document["animations"] = [{"channels": [channel], "samplers": [{"input": times, "output": turns}]}]
    maker.document["asset"]["copyright"] = "somebody"
    return maker


def bent(mesh):
    """The mesh with another shape."""
    x, y, z = mesh.vertices.unbind(-1)
    return replace(mesh, vertices=torch.stack([x, y, z + 0.2 * x * y + 0.1], -1))


def saved(mesh, folder):
    """The file of a saved mesh, and what it shows."""
    assert save_mesh(mesh, folder / "kept.glb") == []
    return read_gltf(folder / "kept.glb"), load_mesh(folder / "kept.glb")


def test_a_rigged_mesh_keeps_everything_and_takes_its_new_shape_and_texture(tmp_path):
    maker = rich()
    mesh = bent(maker.load(tmp_path))
    (remark,) = mesh.remarks
    assert remark.endswith("only with its faces: normal maps, skeletons, animations, morph targets.")
    file, again = saved(replace(mesh, textures=(1 - mesh.textures[0],)), tmp_path)
    torch.testing.assert_close(again.vertices, mesh.vertices, atol=1e-5, rtol=0)
    assert near(
        color_at(again, *again.vertices[:, :2].mean(0).tolist()),
        color_at(replace(mesh, textures=(1 - mesh.textures[0],)), *mesh.vertices[:, :2].mean(0).tolist()),
        2,
    )
    for key in ("asset", "nodes", "skins", "animations", "scenes"):
        assert file.document[key] == maker.document[key]
    material = file.document["materials"][0]
    assert material["normalTexture"] == {"index": 1, "scale": 0.5} and material["doubleSided"] is True
    assert file.document["images"][1]["name"] == "bumps" and file.image(1) == png(np.full((4, 4, 3), 128, np.uint8))
    opacity = np.asarray(Image.open(io.BytesIO(file.image(0))).getchannel("A"))
    assert (opacity == 200).all() and len(file.document["images"]) == 2
    attributes = file.document["meshes"][0]["primitives"][0]["attributes"]
    assert sorted(attributes) == ["JOINTS_0", "NORMAL", "POSITION", "TEXCOORD_0", "TEXCOORD_1", "WEIGHTS_0"]
    normals = file.accessor(attributes["NORMAL"])
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5) and not np.allclose(normals, (0, 0, 1))


def test_an_unchanged_mesh_is_the_same_document(tmp_path):
    maker = rich()
    file, again = saved(maker.load(tmp_path), tmp_path)
    for key in ("meshes", "materials", "textures", "accessors", "nodes", "skins", "animations"):
        assert file.document[key] == maker.document[key], key
    assert corner_colors(again.moved(*maker.load(tmp_path).placement(2.0))) == CORNERS


def test_a_moved_mesh_gets_a_node_above_and_comes_back_without(tmp_path):
    mesh = rich().load(tmp_path)
    centre, scale = torch.tensor([3.0, -1, 2]), 0.3
    moved = mesh.moved(centre, scale)
    file, again = saved(moved, tmp_path)
    torch.testing.assert_close(again.vertices, moved.vertices, atol=1e-5, rtol=0)
    assert len(file.document["nodes"]) == 4 and len(file.document["skins"]) == 1
    file, again = saved(moved.moved(-centre * scale, 1 / scale), tmp_path)
    assert len(file.document["nodes"]) == 3
    torch.testing.assert_close(again.vertices, mesh.vertices, atol=1e-5, rtol=0)


@pytest.mark.parametrize("instanced", [False, True])
def test_instances_may_take_different_shapes_and_colours(tmp_path, instanced):
    maker = Maker(pbrMetallicRoughness={"baseColorFactor": [1, 0, 0, 1]})
    places = [(0, 0, 0), (3, 0, 0)]
    if instanced:
        extension = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": maker.add(places)}}}
        maker.document["nodes"] = [{"mesh": 0, "extensions": extension, "rotation": [0, 0, 1, 0]}]
    else:
        maker.document["nodes"] = [{"mesh": 0, "translation": place, "scale": [1, 2, 1]} for place in places]
        maker.document["scenes"] = [{"nodes": [0, 1]}]
    mesh = bent(maker.load(tmp_path))
    mesh = replace(mesh, colors=torch.rand(8, 3, generator=torch.Generator().manual_seed(0)))
    _, again = saved(mesh, tmp_path)
    torch.testing.assert_close(again.vertices[again.faces], mesh.vertices[mesh.faces], atol=1e-5, rtol=0)
    torch.testing.assert_close(again.colors[again.faces], mesh.colors[mesh.faces], atol=0.002, rtol=0)
    other = trimesh.load_scene(tmp_path / "kept.glb", process=False).to_mesh()  # another reader agrees
    assert np.allclose(np.sort(other.vertices, 0), np.sort(mesh.vertices.numpy(), 0), atol=1e-5)


def test_masks_keep_their_faces_and_opacity(tmp_path):
    left = np.repeat(255 * (np.arange(64) < 32)[None], 64, 0)
    maker = Maker(quarters(alpha=left), alphaMode="MASK")
    mesh = maker.load(tmp_path)
    file, again = saved(replace(mesh, textures=(mesh.textures[0] * 0.5,)), tmp_path)
    assert file.document["materials"][0]["alphaMode"] == "MASK"
    assert len(file.accessor(file.document["meshes"][0]["primitives"][0]["indices"])) == 6
    assert color_at(again, -0.5, 0.5) == (100, 20, 20) and color_at(again, 0.5, 0.5) is None


def test_blended_and_shared_and_glowing_pictures(tmp_path):
    maker = Maker(quarters(), alphaMode="BLEND", pbrMetallicRoughness={"baseColorFactor": [0.5, 1, 1, 0.5]})
    mesh = maker.load(tmp_path)
    target = mesh.textures[0] * 0.5 + 0.25
    _, again = saved(replace(mesh, textures=(target,)), tmp_path)
    assert float((again.textures[0] - target).abs().max()) < 0.02
    maker = Maker(quarters())
    maker.document["materials"][0]["emissiveTexture"] = {"index": 0}
    mesh = maker.load(tmp_path)
    file, again = saved(replace(mesh, textures=(1 - mesh.textures[0],)), tmp_path)
    assert torch.allclose(again.textures[0], 1 - mesh.textures[0], atol=0.01)
    assert len(file.document["images"]) == 2 and file.image(0) == png(quarters())  # the glow keeps the old one
    maker.document["materials"][0].update(
        emissiveFactor=[1, 1, 1], pbrMetallicRoughness={"baseColorFactor": [0, 0, 0, 1]}
    )
    mesh = maker.load(tmp_path)
    _, again = saved(replace(mesh, textures=(1 - mesh.textures[0],)), tmp_path)
    assert torch.allclose(again.textures[0], 1 - mesh.textures[0], atol=0.01)


def test_a_mesh_with_other_faces_is_written_anew_and_says_what_is_lost(tmp_path):
    mesh = rich().load(tmp_path)
    for changed, name in (
        (mesh.keep_faces(torch.tensor([True, False])), "new.glb"),
        (mesh, "new.obj"),
        (mesh, "new.ply"),
    ):
        notes = save_mesh(changed, tmp_path / name)
        assert "skeletons" in notes[-1] and len(load_mesh(tmp_path / name).faces) == len(changed.faces)


def test_far_places_and_files_beside_stay(tmp_path):
    maker = Maker(quarters())
    (tmp_path / "wood.png").write_bytes(png(quarters()))
    maker.document["images"] = [{"uri": "wood.png"}]
    maker.document["nodes"] = [{"mesh": 0, "translation": [455000.3, 5400000.6, 120]}]
    mesh = maker.load(tmp_path)
    moved = bent(replace(mesh, vertices=mesh.vertices - mesh.vertices.mean(0)))
    moved = replace(moved, vertices=moved.vertices + mesh.vertices.mean(0))
    file, again = saved(moved, tmp_path)
    torch.testing.assert_close(again.vertices, moved.vertices, atol=1e-5, rtol=0)
    assert file.document["nodes"] == maker.document["nodes"] and "uri" not in file.document["images"][0]


OBJ = SQUARE.replace("usemtl", "vn 0 0 1\no flag\ng cloth\nusemtl").replace(
    "1/1 2/2 3/3 4/4", "1/1/1 2/2/1 3/3/1 4/4/1"
)
MTL = "newmtl m\nKd 1 1 1\nNs 12\nmap_Kd -clamp on t.png\nmap_Bump -bm 0.5 my bumps.png\nmap_Ks gone.png\n"


def test_an_obj_keeps_its_lines(tmp_path):
    path = write(tmp_path, OBJ, MTL)
    (tmp_path / "my bumps.png").write_bytes(png(np.full((4, 4, 3), 128, np.uint8)))
    mesh = load_mesh(path)
    out = tmp_path / "out"
    assert save_mesh(mesh, out / "b.obj") == []
    assert (out / "b.obj").read_text() == OBJ.replace("m.mtl", "b.mtl")
    assert (out / "b.mtl").read_text().strip() == MTL.strip().replace("t.png", "b_t.png").replace(
        "my bumps", "b_my_bumps"
    )
    assert (out / "b_my_bumps.png").read_bytes() == (tmp_path / "my bumps.png").read_bytes()
    changed = replace(bent(mesh), textures=(1 - mesh.textures[0],))
    save_mesh(changed, out / "b.obj")
    again = load_mesh(out / "b.obj")
    torch.testing.assert_close(again.vertices[again.faces], changed.vertices[changed.faces], atol=1e-6, rtol=0)
    assert torch.allclose(again.textures[0], changed.textures[0], atol=0.01)
    lines = (out / "b.obj").read_text().splitlines()
    assert "g cloth" in lines and "f 1/1/1 2/2/1 3/3/1 4/4/1" in lines and any(x.startswith("vn ") for x in lines)
    assert (path.read_text(), (tmp_path / "m.mtl").read_text()) == (OBJ, MTL)
    assert json.dumps(sorted(file.name for file in out.iterdir())) == '["b.mtl", "b.obj", "b_my_bumps.png", "b_t.png"]'


def test_a_vertex_coloured_obj_takes_new_colours(tmp_path):
    lines = "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n"
    mesh = load_mesh(write(tmp_path, lines))
    changed = replace(mesh, colors=mesh.colors.flip(1)).moved(torch.tensor([1.0, 2, 3]), 2.0)
    save_mesh(changed, tmp_path / "out.obj")
    again = load_mesh(tmp_path / "out.obj")
    assert torch.equal(again.vertices, changed.vertices) and torch.equal(again.colors, changed.colors)
