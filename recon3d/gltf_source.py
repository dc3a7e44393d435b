"""A copy of the glTF file that a mesh came from, with the places, colours and textures that were refined.

Everything else stays: names, nodes, further texture coordinates and maps, skins, morph targets, animations.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recon3d.gltf import Part, Scene, Slot
from recon3d.gltf_file import GltfFile
from recon3d.gltf_material import SPECULAR
from recon3d.gltf_nodes import world_matrices
from recon3d.gltf_save import add_image, vertex_colors
from recon3d.mesh import NEARLY, Mesh, Source, equal
from recon3d.textures import png, read_texture, texture_image, to_display, to_linear

INSTANCING = "EXT_mesh_gpu_instancing"
Owners = dict[tuple[int, int], int]
"""Node and copy -> number of the mesh that it alone shows."""


@dataclass(frozen=True)
class GltfSource(Source):
    """The glTF file of a mesh."""

    suffix = ".glb"

    def fits(self, mesh: Mesh) -> bool:
        """Whether the mesh has the faces, texture coordinates, number of textures and tints of the file."""
        loaded = self.scene.mesh
        same = len(mesh.textures) == len(loaded.textures) and all(
            equal(getattr(mesh, name), getattr(loaded, name)) for name in ("faces", "uv", "face_texture")
        )
        if not same or len(mesh.vertices) != len(loaded.vertices):
            return False
        return not any(part.texture >= 0 and _recolored(mesh, loaded, part) for part in self.scene.parts)

    def save(self, mesh: Mesh, path: Path) -> list[str]:
        """Write the GLB file."""
        kept = self.scene.file
        file = GltfFile(kept.path, copy.deepcopy(kept.document), kept.binary, dict(kept.buffers))
        places = (mesh.vertices.detach().double() - self.offset) / self.scale
        loaded = self.scene.mesh
        moved = float((places - loaded.vertices).abs().amax()) > self.rounding
        recolored = [p for p in self.scene.parts if p.texture < 0 and _recolored(mesh, loaded, p)]
        owners = _separated(file, self.scene.parts) if moved or recolored else {}
        if moved:
            _put_places(file, self.scene, places, owners)
        _put_colors(file, mesh, recolored, owners)
        for number, (texture, slots) in enumerate(zip(mesh.textures, self.scene.slots, strict=True)):
            if not torch.equal(texture.detach(), loaded.textures[number]):
                _put_texture(file, texture, slots)
        if abs(self.scale - 1) > NEARLY or float(self.offset.abs().amax()) > self.rounding:
            _put_below(file, self.scale, self.offset)
        path.write_bytes(file.glb())
        return []


def _put_places(file: GltfFile, scene: Scene, places: Tensor, owners: Owners) -> None:
    """New places (vertices, 3) of the mesh, and normals that turn with the surface."""
    before = scene.mesh.vertices.double()
    turned = _turned(file, scene, before, places)
    arrays: dict[tuple[int, str, int], np.ndarray] = {}
    for part in scene.parts:
        mesh, rows = owners[part.node, part.copy], part.rows
        attributes = file.document["meshes"][mesh]["primitives"][part.primitive[1]]["attributes"]
        attributes.pop("TANGENT", None)  # made anew by whoever needs them
        chosen = slice(part.start, part.start + len(rows))
        values = {"POSITION": _inverse(part, places[chosen].numpy())}
        if "NORMAL" in attributes:
            values["NORMAL"] = turned[chosen].numpy()
        for name, new in values.items():
            key = mesh, name, attributes[name]
            if key not in arrays:
                arrays[key] = file.accessor(attributes[name], "VEC3").astype(np.float64)
            arrays[key][rows] = new
    for (mesh, name, old), values in arrays.items():
        new = file.add(values.astype(np.float32), limits=name == "POSITION")
        if sum(name == other and old == index for _, other, index in arrays) == 1:
            file.document["accessors"][old] = file.document["accessors"].pop()  # the old one is not needed any more
            continue
        for primitive in file.document["meshes"][mesh]["primitives"]:
            if primitive["attributes"].get(name) == old:
                primitive["attributes"][name] = new


def _inverse(part: Part, places: np.ndarray) -> np.ndarray:
    """(vertices, 3) of the scene in the file's own coordinates; where a skin has no inverse, as near as can be."""
    back = np.broadcast_to(_inverted(part.frames), (len(places), 4, 4))
    return np.einsum("nij,nj->ni", back[:, :3, :3], places) + back[:, :3, 3] - part.offsets


def _inverted(frames: np.ndarray) -> np.ndarray:
    return np.linalg.inv(frames) if np.linalg.det(frames).all() else np.linalg.pinv(frames)


def _turned(file: GltfFile, scene: Scene, before: Tensor, after: Tensor) -> Tensor:
    """(vertices, 3) normals in the file's coordinates: those of the file, changed as the surface's own changed."""
    given = torch.zeros_like(before)
    frames = torch.eye(3, dtype=torch.float64).repeat(len(before), 1, 1)
    back = frames.clone()
    for part in scene.parts:
        chosen = slice(part.start, part.start + len(part.rows))
        frames[chosen] = torch.from_numpy(part.frames[..., :3, :3])
        back[chosen] = torch.from_numpy(_inverted(part.frames[..., :3, :3]))
        mesh, primitive = part.primitive
        number = scene.file.item("meshes", mesh)["primitives"][primitive]["attributes"].get("NORMAL")
        if number is not None:
            given[chosen] = torch.from_numpy(file.accessor(number, "VEC3")[part.rows].astype(np.float64))
    world = normalize(
        (back.transpose(1, 2) @ given[..., None])[..., 0], dim=-1
    )  # normals move by the inverse transpose
    group = torch.unique(torch.cat([before, (world * 1000).round()], 1), dim=0, return_inverse=True)[1]

    def surface(vertices: Tensor) -> Tensor:
        a, b, c = vertices[scene.mesh.faces].unbind(1)
        crossed = torch.cross(b - a, c - a, dim=-1).repeat_interleave(3, 0)
        return normalize(torch.zeros_like(before).index_add(0, group[scene.mesh.faces].flatten(), crossed), dim=-1)[
            group
        ]

    changed = normalize(world + surface(after) - surface(before), dim=-1)
    return normalize((frames.transpose(1, 2) @ changed[..., None])[..., 0], dim=-1)


def _separated(file: GltfFile, parts: tuple[Part, ...]) -> Owners:
    """Give every instance a mesh of its own; returns which mesh each (node, copy) has then."""
    world, owners, taken, spread = world_matrices(file), {}, set(), set()
    for part in parts:
        if (part.node, part.copy) in owners:
            continue
        mesh, node = part.primitive[0], file.item("nodes", part.node)
        if mesh in taken:
            mesh = file.append("meshes", copy.deepcopy(file.item("meshes", mesh)))
        taken.add(mesh)
        owners[part.node, part.copy] = mesh
        if INSTANCING in node.get("extensions", {}) and part.frames.ndim == 2:  # instances become nodes below it
            local = np.linalg.solve(world[part.node], part.frames)
            child = file.append("nodes", {"mesh": mesh, "matrix": local.T.flatten().tolist()})
            node.setdefault("children", []).append(child)
            spread.add(part.node)
        else:
            node["mesh"] = mesh
    for number in spread:
        del file.item("nodes", number)["mesh"]
        del file.item("nodes", number)["extensions"][INSTANCING]
    return owners


def _put_colors(file: GltfFile, mesh: Mesh, parts: list[Part], owners: Owners) -> None:
    """Vertex colours of parts without texture, in place of their material's colour."""
    materials: dict[int, int] = {}
    for part in parts:
        primitive = file.item("meshes", owners[part.node, part.copy])["primitives"][part.primitive[1]]
        attributes, shown = primitive["attributes"], _colors(mesh, part)
        colors = torch.ones(len(file.accessor(attributes["POSITION"])), 3)
        colors[torch.from_numpy(part.rows)] = ((shown - 1 + part.veil) / part.veil).clamp(0, 1)
        opacity = None
        if "COLOR_0" in attributes:
            old = file.accessor(attributes["COLOR_0"], "VEC3", "VEC4")
            opacity = torch.from_numpy(old[:, 3].astype(np.float64)) if old.shape[1] == 4 else None
        attributes["COLOR_0"] = file.add(vertex_colors(colors, opacity), normalized=True)
        if "material" in primitive:
            number = primitive["material"]
            if number not in materials:
                materials[number] = file.append("materials", _white(file.document["materials"][number]))
            primitive["material"] = materials[number]


def _white(material: dict[str, Any]) -> dict[str, Any]:
    """A copy of a material whose own colour is white, and which does not glow."""
    white = copy.deepcopy(material)
    specular = white.get("extensions", {}).get(SPECULAR)
    base = white.setdefault("pbrMetallicRoughness", {}) if specular is None else specular
    key = "baseColorFactor" if specular is None else "diffuseFactor"
    factor = base.get(key, [1, 1, 1, 1])
    if not any(factor[:3]):  # it only glowed, and this was shown
        white.pop("emissiveFactor", None)
    base[key] = [1.0, 1.0, 1.0, factor[3]]
    return white


def _put_texture(file: GltfFile, texture: Tensor, slots: tuple[Slot, ...]) -> None:
    """A new picture for the materials that showed the old one; its opacity stays."""
    first = slots[0]
    colors = ((texture.detach() - 1 + first.veil) / first.veil).clamp(0, 1)
    if first.veil < 1:
        colors = to_display((to_linear(colors) / torch.tensor(first.tint).clamp(min=1e-3)).clamp(0, 1))
    picture = texture_image(colors, read_texture(file.image(first.image), "a texture")[1])
    users = {
        (number, keys)
        for number, material in enumerate(file.items("materials"))
        for keys in _texture_keys(material)
        if file.item("textures", _at(material, keys)["index"]).get("source") == first.image
    }
    image = add_image(file, png(picture))
    if users == {(slot.material, slot.keys) for slot in slots}:
        old = file.document["images"][first.image]
        file.document["images"][first.image] = {**file.document["images"].pop(), **_named(old)}
        return
    for slot in slots:
        info = _at(file.document["materials"][slot.material], slot.keys)
        old = file.item("textures", info["index"])
        new = {key: value for key, value in old.items() if key not in ("source", "extensions")}
        info["index"] = file.append("textures", {**new, "source": image})


def _named(image: dict[str, Any]) -> dict[str, Any]:
    return {"name": image["name"]} if "name" in image else {}


def _texture_keys(value: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Keys that lead to the references to textures below an object."""
    found = []
    for key, below in value.items():
        if isinstance(below, dict):
            if key.endswith("Texture") and "index" in below:
                found.append((*above, key))
            else:
                found += _texture_keys(below, (*above, key))
    return found


def _at(value: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    for key in keys:
        value = value[key]
    return value


def _put_below(file: GltfFile, scale: float, offset: Tensor) -> None:
    """One more node above all that are shown, which scales and moves them."""
    if file.items("scenes"):
        scene = file.item("scenes", file.document.get("scene", 0))
    else:
        below = {child for node in file.items("nodes") for child in node.get("children", [])}
        file.document["scenes"] = [scene := {"nodes": sorted(set(range(len(file.items("nodes")))) - below)}]
    top = {"name": "placement", "scale": [scale] * 3, "translation": offset.tolist()}
    scene["nodes"] = [file.append("nodes", {**top, "children": scene.get("nodes", [])})]


def _colors(mesh: Mesh, part: Part) -> Tensor:
    """(vertices, 3) of a part."""
    if mesh.colors is None:
        return torch.ones(len(part.rows), 3)
    return mesh.colors.detach()[part.start : part.start + len(part.rows)]


def _recolored(mesh: Mesh, loaded: Mesh, part: Part) -> bool:
    return not torch.equal(_colors(mesh, part), _colors(loaded, part))
