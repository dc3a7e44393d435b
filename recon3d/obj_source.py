"""A copy of the OBJ file that a mesh came from, with the places, colours and textures that were refined.

Its lines stay: names, groups, polygons, further maps and all that its materials say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon3d.mesh import Mesh, Source, equal
from recon3d.obj import ObjScene
from recon3d.obj_file import is_map, libraries_of, map_of, text_lines
from recon3d.textures import png, read_texture, texture_image


@dataclass(frozen=True)
class ObjSource(Source):
    """The OBJ file of a mesh."""

    suffix = ".obj"

    def fits(self, mesh: Mesh) -> bool:
        """Whether the mesh has the faces, texture coordinates, number of textures and, beside materials, colours."""
        loaded = self.scene.mesh
        names = ("faces", "uv", "face_texture", *["colors"] * bool(self.scene.file.libraries))
        same = (equal(getattr(mesh, name), getattr(loaded, name)) for name in names)
        sizes = len(mesh.vertices) == len(loaded.vertices), len(mesh.textures) == len(loaded.textures)
        return all(sizes) and all(same)

    def save(self, mesh: Mesh, path: Path) -> list[str]:
        """Write the OBJ file, and its materials and pictures beside it."""
        file, loaded = self.scene.file, self.scene.mesh
        moved, turned, colored = self._places(mesh), None, None
        if moved is not None:
            turned = _normals(self.scene, mesh)
        if not equal(mesh.colors, loaded.colors):
            kept = self.scene.rows >= 0
            colored = file.colors.copy()
            colored[self.scene.rows[kept].numpy()] = mesh.colors.detach()[kept].clamp(0, 1).numpy()
        materials = _materials(self.scene, mesh, path)
        lines, counts = [], {"v": 0, "vn": 0, "mtllib": 0}
        for line in file.lines:
            key = (line.split() or [""])[0].lower()
            number = counts.get(key, 0)
            if key in counts:
                counts[key] += 1
            if key == "v" and (moved is not None or colored is not None):
                place = (file.places if moved is None else moved)[number]
                color = (file.colors if colored is None else colored)[number]
                values = [f"{x:.9g}" if moved is None or moved.dtype == np.float32 else f"{x:.17g}" for x in place]
                line = " ".join(["v", *values, *(f"{c:.5g}" for c in color if np.isfinite(c))])
            elif key == "vn" and turned is not None and number in turned:
                line = "vn " + " ".join(f"{x:.5g}" for x in turned[number])
            elif key == "mtllib" and materials:
                line = f"mtllib {path.stem}.mtl" if number == 0 else "# " + line
            lines.append(line)
        path.write_text("\n".join(lines))
        if materials:
            path.with_suffix(".mtl").write_text("\n".join(materials) + "\n")
        return []

    def _places(self, mesh: Mesh) -> np.ndarray | None:
        """(places, 3) of the file where the mesh has them now; None when nothing moved."""
        loaded, kept = self.scene.mesh.vertices.double(), self.scene.rows >= 0
        now = mesh.vertices.detach()
        if float((now - loaded).abs().amax()) <= self.rounding:
            return None
        places = self.scene.file.places * self.scale + self.offset.numpy()
        places[self.scene.rows[kept].numpy()] = now[kept].numpy()
        return places.astype(np.float32 if now.dtype == torch.float32 else np.float64)


def _normals(scene: ObjScene, mesh: Mesh) -> dict[int, np.ndarray]:
    """Number of a normal -> the mean normal of the faces whose corners have it, where they have an area."""
    corners, places = scene.file.corners, scene.file.places.copy()
    kept = scene.rows >= 0
    places[scene.rows[kept].numpy()] = mesh.vertices.detach()[kept].numpy()
    a, b, c = np.moveaxis(places[corners[..., 0]], 1, 0)
    crossed = np.cross(b - a, c - a).repeat(3, axis=0)
    number = corners[..., 2].flatten()
    total = np.zeros((number.max(initial=-1) + 2, 3))
    np.add.at(total, number, crossed)  # corners without one go to the last row
    length = np.linalg.norm(total, axis=1)
    return {int(n): total[n] / length[n] for n in np.unique(number) if n >= 0 and length[n] > 0}


def _materials(scene: ObjScene, mesh: Mesh, path: Path) -> list[str]:
    """The lines of all material files, or []; the pictures that they name are written beside `path`."""
    file = scene.file
    new = {
        source: texture
        for source, texture, old in zip(scene.pictures, mesh.textures, scene.mesh.textures, strict=True)
        if not torch.equal(texture.detach(), old)
    }
    written: dict[Path, str] = {}
    lines = []
    for library in libraries_of(file):
        for line in text_lines(library.read_bytes()):
            words = line.split(maxsplit=1)
            named = len(words) == 2 and is_map(words[0])
            mapped, source = map_of(file.path, words[1]) if named else (None, None)
            if source is not None and mapped is not None:
                if source not in written:
                    written[source] = _picture(source, new.get(source), path, set(written.values()))
                line = f"{words[0]} {words[1].rstrip()[: -len(mapped.name)]}{written[source]}"
            lines.append(line)
    return lines


def _picture(source: Path, texture: Tensor | None, path: Path, taken: set[str]) -> str:
    """The name of a picture written beside `path`: the same file, or with new colours."""
    name = (source.name if source.name.startswith(path.stem) else f"{path.stem}_{source.name}").replace(" ", "_")
    name = name if texture is None else f"{Path(name).stem}.png"
    number = 2
    while name in taken:
        name, number = f"{Path(name).stem}_{number}{Path(name).suffix}", number + 1
    content = source.read_bytes()
    if texture is not None:
        content = png(texture_image(texture, read_texture(content, source.name)[1]))
    (path.parent / name).write_bytes(content)
    return name
