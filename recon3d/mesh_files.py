"""Mesh files: glTF, OBJ, PLY and OFF read by our own code, STL through trimesh."""

from __future__ import annotations

import io
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import trimesh

from recon3d.gltf import read_scene
from recon3d.gltf_save import save_glb
from recon3d.gltf_source import GltfSource
from recon3d.mesh import Mesh, with_vertex_colors
from recon3d.obj import read_obj_scene
from recon3d.obj_save import save_obj
from recon3d.obj_source import ObjSource
from recon3d.ply import read_ply
from recon3d.polygons import polygon_mesh, read_off
from vision.files import in_utf8
from vision.images import BadImage

FORMATS = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
"""File name endings that can be read."""
WRITTEN = (".glb", ".obj", ".ply")
"""File name endings that can be written."""
STL_HEADER, STL_FACE = 84, 50
"""Bytes of a binary STL file before its faces, the last four their number; and of a face, whose last two
are a colour of its own in most programs where their highest bit is set."""
DAMAGES = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NameError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What a damaged file makes of a reader."""


def load_mesh(path: str | Path) -> Mesh:
    """Read a mesh file: all parts of a scene, moved to their places and joined.

    What the file holds beyond the surface and its colours is told by `Mesh.notes`, and kept in `Mesh.source`.

    Args:
        path: a file with one of the endings in `FORMATS`.

    Raises:
        FileNotFoundError: when the file or data that it needs is missing; pictures and materials may be.
        ValueError: when it is no mesh, holds no usable surface, or needs data outside its own folder.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no mesh file {path}.")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path.name} is no mesh file; known endings are {', '.join(FORMATS)}.")
    try:
        if path.suffix.lower() in (".glb", ".gltf"):
            scene = read_scene(path)
            mesh = replace(scene.mesh, source=GltfSource(scene))
        elif path.suffix.lower() == ".obj":
            scene = read_obj_scene(path)
            mesh = replace(scene.mesh, source=ObjSource(scene))
        elif path.suffix.lower() == ".stl":
            mesh = _read_stl(path.read_bytes())
        else:
            mesh = {".ply": read_ply, ".off": read_off}[path.suffix.lower()](path.read_bytes())
    except (BadImage, FileNotFoundError):
        raise
    except DAMAGES as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if not reason or isinstance(error, (NameError, AttributeError, LookupError, AssertionError, OverflowError)):
            reason = "its content is damaged"  # these talk about the reader's code
        raise ValueError(f"{path.name} cannot be read as a mesh: {reason:.300}.") from error
    return mesh.check()


def _read_stl(content: bytes) -> Mesh:
    content = in_utf8(content)
    count, remarks = int.from_bytes(content[80:84], "little"), ()
    if b"\0" in content:  # no text
        size = STL_HEADER + count * STL_FACE
        if not 0 <= len(content) - size < STL_FACE:  # some programs end with a line or a checksum
            raise ValueError(
                f"it says that it holds {count:,} faces, which take {size:,} bytes, but has {len(content):,}"
            )
        content = content[:size]
        last = np.frombuffer(content, np.uint8, offset=STL_HEADER).reshape(count, STL_FACE)[:, -1]
        if b"COLOR=" in content[:80] or (last >= 128).any():
            remarks = ("The colours of an STL file are not read; it is shown without.",)
    # as a stream, so that no other file is opened
    part = trimesh.load_mesh(io.BytesIO(content), file_type="stl", process=False)
    return polygon_mesh(np.asarray(part.vertices), np.asarray(part.faces), remarks=remarks)


def save_mesh(mesh: Mesh, path: str | Path) -> list[str]:
    """Write `.glb`, `.obj` (with its `.mtl` and pictures beside it) or `.ply`; it appears only when it is complete.

    A mesh that still has the faces of the file it came from is written into a copy of that file, if it has the same
    ending (`.glb` for `.gltf`): names, further maps, skeletons and animations stay.

    Returns:
        Sentences on what the file cannot hold.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        raise ValueError(f"Meshes are written as {', '.join(WRITTEN[:-1])} or {WRITTEN[-1]}, not as {path.name}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh = mesh.to("cpu")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mesh-") as folder:
        target = Path(folder) / path.name
        if mesh.source is not None and mesh.source.suffix == suffix and mesh.source.fits(mesh):
            notes = mesh.source.save(mesh, target)
        else:
            notes = {".glb": save_glb, ".obj": save_obj, ".ply": _save_ply}[suffix](mesh, target)
            if mesh.source is not None and mesh.source.scene.holds:
                left = ", ".join(mesh.source.scene.holds)
                notes = [*notes, f"{path.name} has not the {left} of the file that the mesh came from."]
        # The mesh file last: whoever sees it finds its materials and pictures too.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            shutil.move(file, path.parent / file.name)
    return notes


def _save_ply(mesh: Mesh, path: Path) -> list[str]:
    """A binary PLY with vertex colours; a texture is looked up at the vertices."""
    plain = with_vertex_colors(mesh)
    real = "double" if plain.vertices.dtype == torch.float64 else "float"
    kinds = [
        *((axis, f"<f{8 if real == 'double' else 4}") for axis in "xyz"),
        *((c, "u1") for c in ("red", "green", "blue")),
    ]
    vertices = np.empty(len(plain.vertices), dtype=kinds)
    colors = (plain.colors.detach().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    for axis, name in enumerate(("x", "y", "z")):
        vertices[name] = plain.vertices.detach()[:, axis].numpy()
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = colors[:, channel]
    faces = np.empty(len(plain.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, plain.faces.numpy()
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    lines += [f"property {real} {axis}" for axis in "xyz"]
    lines += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    path.write_bytes("\n".join(lines).encode() + b"\n" + vertices.tobytes() + faces.tobytes())
    return ["A PLY file has no textures: their colours were looked up at the vertices."] if mesh.textures else []
