"""Mesh files, read and written through trimesh: GLB, OBJ, PLY."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor

from recon3d.gltf import read_scene
from recon3d.gltf_save import save_glb
from recon3d.mesh import Mesh, join, with_vertex_colors
from recon3d.textures import texture_image
from vision.images import BadImage

FORMATS = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
"""File name endings that can be read; `.glb`, `.obj` and `.ply` can be written."""
COLOR_MAPS = ("map_kd",)
"""Statements of a material file whose pictures are used."""
OTHER_MAPS = ("map_ka", "map_ks", "map_ke", "map_ns", "map_d", "map_bump", "bump", "disp", "decal", "refl", "norm")
"""Statements whose pictures are not."""
PLAIN = 0.6
"""Grey level of a surface that comes without any colour."""


DAMAGES = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError)
"""What a damaged file makes of a reader."""


def load_mesh(path: str | Path) -> Mesh:
    """Read a mesh file: all parts of a scene, moved to their places and joined.

    Args:
        path: a file with one of the endings in `FORMATS`.

    Raises:
        FileNotFoundError: when the file or a picture that it names is missing.
        ValueError: when it is no mesh, holds no usable surface, or names files outside its own folder.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no mesh file {path}.")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path.name} is no mesh file; known endings are {', '.join(FORMATS)}.")
    if path.suffix.lower() in (".glb", ".gltf"):
        return _load_gltf(path).check()
    _check_named_files(path)
    try:
        scene = trimesh.load_scene(path, process=False, resolver=_Beside(str(path)))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as a mesh: {error}.") from error
    parts = []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_from_trimesh(geometry, np.asarray(transform)))
    if not parts:
        raise ValueError(f"{path.name} holds a mesh without faces.")
    return join(parts).check()


def _load_gltf(path: Path) -> Mesh:
    try:
        return read_scene(path).mesh
    except (BadImage, FileNotFoundError):
        raise
    except DAMAGES as error:
        raise ValueError(f"{path.name} cannot be read as a mesh: {error}.") from error


def _check_named_files(path: Path) -> None:
    """Refuse an OBJ (with its materials) or glTF file that names files outside its folder, or needs missing ones.

    trimesh would go on without them, or read them from anywhere. Pictures other than the colour (bumps, gloss) are not
    used, so they may be missing.
    """
    if path.suffix.lower() == ".obj":
        for _, library in _statements(path, ("mtllib",)):
            material = _inside(path, library)
            for key, name in _statements(material, COLOR_MAPS + OTHER_MAPS):
                if key in COLOR_MAPS:
                    _check_picture(_inside(path, name), path)
                else:
                    _inside(path, name, needed=False)
    elif path.suffix.lower() == ".gltf":
        try:
            data = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name} is not a glTF file: {error}.") from error
        for entry in [*data.get("images", []), *data.get("buffers", [])]:
            if "uri" in entry and not entry["uri"].startswith("data:"):
                _inside(path, entry["uri"])


def _statements(path: Path, keys: tuple[str, ...]) -> list[tuple[str, str]]:
    """Lines that start with one of the words `keys`: the word in lower case and the rest."""
    lines = (line.split(maxsplit=1) for line in path.read_text(errors="replace").splitlines())
    return [(parts[0].lower(), parts[1].strip()) for parts in lines if len(parts) == 2 and parts[0].lower() in keys]


def _check_picture(picture: Path, path: Path) -> None:
    try:
        Image.open(picture).verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{picture.name}, the texture of {path.name}, cannot be read as a picture.") from error


class _Beside(trimesh.resolvers.FilePathResolver):
    """Gives trimesh the files that `_inside` allows."""

    def get(self, name: str) -> bytes:
        """The content of the file `name`."""
        return _inside(Path(self.file_path), name).read_bytes()


def _inside(path: Path, name: str, needed: bool = True) -> Path:
    """The file `name` beside `path`; refused outside that folder, and missing when it is needed."""
    folder = path.parent.resolve()
    target = (folder / unquote(name).replace("\\", "/")).resolve()
    if not target.is_relative_to(folder):
        raise ValueError(f"{path.name} names a file outside its own folder: {name}. It is not read.")
    if needed and not target.is_file():
        raise FileNotFoundError(f"{path.name} names {name}, which is missing in its folder.")
    return target


def _from_trimesh(geometry: trimesh.Trimesh, transform: np.ndarray) -> Mesh:
    geometry = geometry.copy()
    geometry.apply_transform(transform)
    visual = geometry.visual
    if visual.kind == "face":
        geometry = geometry.copy()
        colors = np.repeat(visual.face_colors[:, :3], 3, axis=0)
        vertices, faces = geometry.triangles.reshape(-1, 3), np.arange(3 * len(geometry.faces)).reshape(-1, 3)
    else:
        vertices, faces = geometry.vertices, geometry.faces
        colors = visual.vertex_colors[:, :3] if visual.kind == "vertex" else None
    mesh = Mesh(torch.tensor(np.array(vertices), dtype=torch.float32), torch.tensor(np.array(faces), dtype=torch.int64))
    if colors is not None:
        return replace(mesh, colors=torch.tensor(np.array(colors), dtype=torch.float32) / 255)
    if visual.kind != "texture":
        return replace(mesh, colors=torch.full_like(mesh.vertices, PLAIN))
    picture, factor = _material(visual.material)
    mesh = replace(mesh, colors=None if factor is None else factor.expand_as(mesh.vertices).clone())
    if picture is None or visual.uv is None:
        return mesh if mesh.colors is not None else replace(mesh, colors=torch.full_like(mesh.vertices, PLAIN))
    return replace(
        mesh,
        uv=torch.tensor(np.array(visual.uv[:, :2]), dtype=torch.float32),
        textures=(picture,),
        face_texture=torch.zeros(len(mesh.faces), dtype=torch.int64),
    )


def _material(material: object) -> tuple[Tensor | None, Tensor | None]:
    """Picture (height, width, 3), or flat colour (3,) where there is no picture, of a trimesh material.

    A picture replaces the flat colour, as in OBJ files: converters store the unused diffuse colour beside it.
    """
    if isinstance(material, trimesh.visual.material.PBRMaterial):
        image, factor = material.baseColorTexture, material.baseColorFactor
    else:
        image, factor = getattr(material, "image", None), getattr(material, "diffuse", None)
    if image is not None:
        return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32) / 255), None
    if factor is None:
        return None, None
    values = np.asarray(factor)
    scale = 255.0 if values.dtype.kind in "ui" else 1.0
    return None, torch.tensor(values[:3] / scale, dtype=torch.float32)


def save_mesh(mesh: Mesh, path: str | Path) -> None:
    """Write `.glb`, `.obj` (with its `.mtl` and pictures beside it) or `.ply`; it appears only when it is complete.

    `.ply` holds vertex colours only: a texture is looked up at the vertices.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".glb", ".obj", ".ply"):
        raise ValueError(f"Meshes are written as .glb, .obj or .ply, not as {path.name}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh = mesh.to("cpu")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mesh-") as folder:
        target = Path(folder) / path.name
        if suffix == ".ply":
            _to_trimesh(with_vertex_colors(mesh)).export(target)
        elif suffix == ".obj":
            _save_obj(mesh, target)
        else:
            save_glb(mesh, target)
        # The mesh file last: whoever sees it finds its materials and pictures too.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            shutil.move(file, path.parent / file.name)


def _to_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    rgb = (mesh.colors.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    visual = trimesh.visual.ColorVisuals(vertex_colors=np.concatenate([rgb, np.full_like(rgb[:, :1], 255)], 1))
    return trimesh.Trimesh(mesh.vertices.detach().numpy(), mesh.faces.numpy(), visual=visual, process=False)


def _save_obj(mesh: Mesh, path: Path) -> None:
    """OBJ with one material per texture; vertex colours as three more numbers after the position."""
    colors = mesh.colors if mesh.colors is not None or mesh.textures else torch.ones_like(mesh.vertices)
    rows = mesh.vertices if colors is None else torch.cat([mesh.vertices, colors.clamp(0, 1)], -1)
    lines = ["# colours are display values"]
    textured = mesh.textures and mesh.uv is not None and mesh.face_texture is not None
    if textured:
        lines.append(f"mtllib {path.stem}.mtl")
    lines += ["v " + " ".join(f"{v:.7g}" for v in row) for row in rows.tolist()]
    if not textured:
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
        path.write_text("\n".join(lines) + "\n")
        return
    lines += [f"vt {u:.7g} {v:.7g}" for u, v in mesh.uv.tolist()]
    materials = []
    for number in mesh.face_texture.unique().tolist():
        name = f"{path.stem}_{number}" if number >= 0 else f"{path.stem}_plain"
        materials += [f"newmtl {name}", "Kd 1 1 1", "Ks 0 0 0", "illum 1"]
        if number >= 0:
            texture_image(mesh.textures[number]).save(path.parent / f"{name}.png")
            materials.append(f"map_Kd {name}.png")
        lines.append(f"usemtl {name}")
        faces = (mesh.faces[mesh.face_texture == number] + 1).tolist()
        lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in faces]
    (path.parent / f"{path.stem}.mtl").write_text("\n".join(materials) + "\n")
    path.write_text("\n".join(lines) + "\n")
