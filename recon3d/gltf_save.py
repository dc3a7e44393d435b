"""Meshes as GLB files: new ones, and copies of the file a mesh came from that hold what was refined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon3d.gltf_file import GltfFile
from recon3d.gltf_material import WRAPS
from recon3d.mesh import Mesh
from recon3d.normals import split_at_creases
from recon3d.textures import Wrap, png, texture_image, to_linear


def save_glb(mesh: Mesh, path: Path) -> list[str]:
    """Write a mesh as a new GLB file, one primitive for each texture."""
    file = GltfFile(path, {"asset": {"version": "2.0", "generator": "burnish"}, "scene": 0, "scenes": [{"nodes": [0]}]})
    centre = torch.zeros(3, dtype=torch.float64)
    if mesh.vertices.dtype == torch.float64:  # the file holds float32: the rest is the node's
        low, high = mesh.bounds()
        centre = ((low + high) / 2).round()
    two_sided = bool(mesh.surface_notes())  # the back of an open surface is seen
    primitives = []
    for number, part in by_texture(mesh):
        source, faces, normals = split_at_creases(part.vertices, part.faces)
        attributes = {
            "POSITION": file.add((part.vertices[source] - centre).float().numpy(), limits=True),
            "NORMAL": file.add(normals.numpy()),
        }
        if number >= 0:
            flipped = part.uv[source] * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1.0])
            attributes["TEXCOORD_0"] = file.add(flipped.float().numpy())
        if part.colors is not None and bool((part.colors != 1).any()):
            attributes["COLOR_0"] = file.add(vertex_colors(part.colors[source]), normalized=True)
        material = _new_material(file, path.stem, two_sided, mesh.textures[number] if number >= 0 else None)
        if number >= 0:
            file.document["textures"][-1]["sampler"] = sampler(file, mesh.wrap(number))
        indices = file.add(faces.reshape(-1, 1).numpy().astype(np.uint32))
        primitives.append({"attributes": attributes, "indices": indices, "material": material})
    file.append("meshes", {"name": path.stem, "primitives": primitives})
    node: dict[str, Any] = {"name": path.stem, "mesh": 0}
    if bool(centre.any()):
        node["translation"] = centre.tolist()
    file.append("nodes", node)
    path.write_bytes(file.glb())
    return []


def by_texture(mesh: Mesh) -> list[tuple[int, Mesh]]:
    """The mesh cut into parts that wear one texture or (number -1) none."""
    if mesh.face_texture is None or mesh.uv is None or not mesh.textures:
        return [(-1, mesh)]
    return [(number, mesh.keep_faces(mesh.face_texture == number)) for number in mesh.face_texture.unique().tolist()]


def vertex_colors(colors: Tensor, opacity: Tensor | None = None) -> np.ndarray:
    """(vertices, 4) uint16 light, to be normalised, of display colours (vertices, 3) and opacity (vertices,)."""
    light = to_linear(colors.detach().cpu().double().clamp(0, 1))
    opacity = torch.ones(len(light)) if opacity is None else opacity
    return (torch.cat([light, opacity[:, None].double()], 1) * 65535).round().numpy().astype(np.uint16)


def sampler(file: GltfFile, wrap: Wrap) -> int:
    """Number of a sampler for a way to go on outside [0, 1]."""
    codes = {name: code for code, name in WRAPS.items()}
    entry = {"wrapS": codes[wrap[0]], "wrapT": codes[wrap[1]]}
    known = file.document.setdefault("samplers", [])
    return known.index(entry) if entry in known else file.append("samplers", entry)


def add_image(file: GltfFile, content: bytes) -> int:
    """Number of a new picture with the content of a PNG file."""
    return file.append("images", {"bufferView": file.add_view(content), "mimeType": "image/png"})


def _new_material(file: GltfFile, name: str, two_sided: bool, texture: Tensor | None) -> int:
    base: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    if texture is not None:
        image = add_image(file, png(texture_image(texture)))
        base["baseColorTexture"] = {"index": file.append("textures", {"source": image})}
    else:
        base["baseColorFactor"] = [1.0, 1.0, 1.0, 1.0]  # said, so that white is not taken for a missing colour
    return file.append("materials", {"name": name, "doubleSided": two_sided, "pbrMetallicRoughness": base})
