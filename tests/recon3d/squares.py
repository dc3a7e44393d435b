"""Squares with a picture in four colours, as files of meshes and as surfaces to look at."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import torch
from PIL import Image

from recon3d.mesh_files import load_mesh

CORNERS = {
    (-0.5, 0.5): (200, 40, 40),
    (0.5, 0.5): (40, 200, 40),
    (-0.5, -0.5): (40, 40, 200),
    (0.5, -0.5): (200, 200, 40),
}
FLAT = [(0, 1), (1, 1), (1, 0), (0, 0)]


def uri(content, kind="application/octet-stream"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png(array):
    file = io.BytesIO()
    Image.fromarray(np.asarray(array)).save(file, "PNG")
    return file.getvalue()


def quarters(size=64, alpha=None):
    """A picture whose quarters have the colours of `CORNERS`; `alpha` (size, size)."""
    picture = np.zeros((size, size, 3), np.uint8)
    half = size // 2
    for (x, y), color in CORNERS.items():
        picture[half * (y < 0) : half * (y < 0) + half, half * (x > 0) : half * (x > 0) + half] = color
    return picture if alpha is None else np.dstack([picture, alpha.astype(np.uint8)])


class Maker:
    """A glTF document of one square in z = 0 from -1 to 1, to which a test adds what it is about."""

    def __init__(self, picture=None, uv=FLAT, **material):
        self.document = {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [{"attributes": {}}]}],
            "accessors": [], "bufferViews": [], "buffers": [],
        }  # fmt: skip
        self.primitive = self.document["meshes"][0]["primitives"][0]
        self.attributes = self.primitive["attributes"]
        self.attributes["POSITION"] = self.add([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)])
        self.primitive["indices"] = self.add([[0], [1], [2], [0], [2], [3]], np.uint16)
        if uv is not None:
            self.attributes["TEXCOORD_0"] = self.add(uv)
        if picture is not None:
            self.document["images"] = [{"uri": uri(png(picture))}]
            self.document["textures"] = [{"source": 0}]
            material.setdefault("pbrMetallicRoughness", {})["baseColorTexture"] = {"index": 0}
        if material:
            self.primitive["material"] = 0
            self.document["materials"] = [material]

    def add(self, values, dtype=np.float32, **further):
        values = np.asarray(values, dtype)
        kind = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[values.shape[1]]
        component = {"f4": 5126, "u1": 5121, "i1": 5120, "u2": 5123, "u4": 5125}[values.dtype.str[1:]]
        self.document["buffers"].append({"byteLength": values.nbytes, "uri": uri(values.tobytes())})
        self.document["bufferViews"].append({"buffer": len(self.document["buffers"]) - 1, "byteLength": values.nbytes})
        accessor = {"bufferView": len(self.document["bufferViews"]) - 1, "componentType": component, "type": kind}
        self.document["accessors"].append({**accessor, "count": len(values), **further})
        return len(self.document["accessors"]) - 1

    @property
    def base(self):
        return self.document["materials"][0]["pbrMetallicRoughness"]

    def write(self, folder):
        (folder / "a.gltf").write_text(json.dumps(self.document))
        return folder / "a.gltf"

    def load(self, folder):
        return load_mesh(self.write(folder))


def color_at(mesh, x, y):
    """8-bit display colour of the surface at (x, y), seen along z; None beside it."""
    corners = mesh.vertices[mesh.faces][..., :2].double()
    a, b, c = corners.unbind(1)
    point = torch.tensor([x, y], dtype=torch.float64)

    def cross(p, q):
        return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]

    weights = torch.stack([cross(b - point, c - point), cross(c - point, a - point), cross(a - point, b - point)], -1)
    area = weights.sum(-1, keepdim=True)
    bary = weights / torch.where(area == 0, 1, area)
    inside = ((bary.amin(-1) >= -1e-9) & (area[:, 0] != 0)).nonzero().flatten()[:1]
    if not len(inside):
        return None
    return tuple((mesh.surface_color(inside, bary[inside].float())[0] * 255).round().int().tolist())


def corner_colors(mesh):
    return {place: color_at(mesh, *place) for place in CORNERS}


def near(color, expected, by=1):
    return color is not None and max(abs(a - b) for a, b in zip(color, expected, strict=True)) <= by


def linear(value):
    return ((value / 255 + 0.055) / 1.055) ** 2.4


def huge_png(side):
    """A small file that says it holds side x side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = png(quarters(8))
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def disc(size=64, radius=20):
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    return 255 * (x * x + y * y < radius * radius)
