"""The triangles of an OBJ file with the colours and textures of its materials.

A picture stands in place of the diffuse colour, as converters leave an unused one beside it; vertex colours colour
faces without a picture. All are display values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon3d.cutting import Sheet, cut_out
from recon3d.mesh import NO_FACES, PLAIN, Mesh, not_refined, precise
from recon3d.obj_file import Map, Material, ObjFile, map_of, not_shown, read_materials, read_obj
from recon3d.textures import MAX_TEXELS, UnknownTexture, Wrap, read_texture

SHOWN_MAPS = ("map_kd", "map_d")
"""Maps that are shown, and map_ke where a material only glows."""


@dataclass(frozen=True)
class ObjScene:
    """A file, and how the mesh was made of it."""

    file: ObjFile
    """Its statements."""
    mesh: Mesh
    """What it shows."""
    rows: Tensor
    """(vertices,) which place of the file a vertex is, -1 for those of cut faces."""
    pictures: tuple[Path, ...]
    """Where the textures come from."""
    holds: tuple[str, ...]
    """Maps of its materials beyond the colour."""


def read_obj_scene(path: Path) -> ObjScene:
    """What an OBJ file shows.

    Raises:
        ValueError: it is damaged, holds no faces, or a picture of it is damaged or too large.
    """
    file = read_obj(path)
    if not len(file.corners):
        raise ValueError(NO_FACES)
    for kind, count, what in ((0, len(file.places), "places"), (1, len(file.coordinates), "texture coordinates")):
        if int(file.corners[..., kind].max()) >= count:
            raise ValueError(f"a face names number {file.corners[..., kind].max() + 1} of its {count} {what}")
    reader = _Reader(file)
    for number in np.unique(file.worn):
        reader.add(int(number))
    return reader.scene()


class _Reader:
    """Collects what the materials wear."""

    def __init__(self, file: ObjFile) -> None:
        self.file = file
        self.materials, notes = read_materials(file)
        self.notes = dict.fromkeys(notes)
        self.complete = bool(file.libraries) and not notes
        self.sheets: list[Sheet] = []
        self.rows: list[Tensor] = []
        self.worn: list[int] = []
        self.wraps: list[Wrap] = []
        self.textures: dict[tuple[Path, Wrap], int] = {}
        self.pictures: list[Path] = []
        self.images: list[Tensor] = []
        self.read: dict[Path, tuple[Tensor, Tensor | None] | None] = {}
        self.left = MAX_TEXELS
        self.holds: set[str] = set()

    def scene(self) -> ObjScene:
        starts = np.cumsum([0, *(len(sheet.vertices) for sheet in self.sheets)])[:-1].tolist()
        colors = torch.cat([sheet.colors for sheet in self.sheets])
        worn = [torch.full((len(s.faces),), number) for s, number in zip(self.sheets, self.worn, strict=True)]
        faces = torch.cat([sheet.faces + start for sheet, start in zip(self.sheets, starts, strict=True)])
        if not len(faces):
            raise ValueError("all of its surface is transparent")
        holds = tuple(sorted(self.holds))
        mesh = Mesh(
            precise(torch.cat([sheet.vertices for sheet in self.sheets])),
            faces,
            None if bool((colors == 1).all()) else colors,
            torch.cat([sheet.uv for sheet in self.sheets]) if self.images else None,
            tuple(self.images),
            torch.cat(worn) if self.images else None,
            tuple(self.wraps),
            (*self.notes, *not_refined(holds)),
        )
        return ObjScene(self.file, mesh, torch.cat(self.rows), tuple(self.pictures), holds)

    def add(self, number: int) -> None:
        """The faces that wear material `number` of the file's names, or -1 for none."""
        file, material = self.file, self._material(number)
        corners = file.corners[file.worn == number]
        mapped, picture, path = self._picture(material)
        if picture is not None and bool((corners[..., 1] < 0).all()):
            self.notes["A textured part has no texture coordinates; it is shown without its texture."] = None
            mapped = picture = None
        keys, index = np.unique(corners[..., :2].reshape(-1, 2), axis=0, return_inverse=True)
        uv = np.zeros((len(keys), 2))
        if picture is not None:
            uv = np.where(keys[:, 1:] >= 0, file.coordinates[keys[:, 1]], 0) * mapped.scale + mapped.offset
        sheet = Sheet(
            torch.from_numpy(file.places[keys[:, 0]]),
            torch.from_numpy(index.reshape(-1, 3)),
            torch.from_numpy(self._colors(material, keys[:, 0], picture)).float(),
            torch.from_numpy(uv).float(),
        )
        sheet = self._cut(sheet, material, mapped)
        self.sheets.append(sheet)
        rows = torch.full((len(sheet.vertices),), -1)
        rows[: len(keys)] = torch.from_numpy(keys[:, 0].copy())
        self.rows.append(rows)
        self.worn.append(-1 if picture is None else self._texture(mapped, path, picture))

    def _material(self, number: int) -> Material:
        """The material; faces without one wear the only one there is."""
        if number < 0:
            only = list(self.materials.values())
            return only[0] if len(only) == 1 and not self.file.names else Material()
        name = self.file.names[number]
        if name not in self.materials and self.complete:
            self.notes[f"The material {name} is in none of the material files."] = None
        return self.materials.get(name, Material())

    def _picture(self, material: Material) -> tuple[Map | None, Tensor | None, Path | None]:
        """What the material's picture is, its colours (height, width, 3), and its file."""
        glows = material.emitted is not None and any(material.emitted) and not any(material.diffuse or (1,))
        maps = dict(material.maps)
        rest = maps.pop("map_ke" if glows else "map_kd", None)
        self.holds |= {key for key in maps if key not in SHOWN_MAPS}
        if material.opacity is not None and material.opacity < 1 and "map_d" not in material.maps:
            self.notes[f"A material is {material.opacity:.0%} opaque; it is shown as if it were opaque."] = None
        if rest is None:
            return None, None, None
        mapped, path = map_of(self.file.path, rest)
        if path is None:
            self.notes[not_shown(self.file.path, mapped.name)] = None
            return None, None, None
        read = self._read(path)
        return (mapped, read[0], path) if read is not None else (None, None, None)

    def _read(self, path: Path) -> tuple[Tensor, Tensor | None] | None:
        if path not in self.read:
            self.read[path] = None
            name = f"{path.name}, the texture of {self.file.path.name},"
            try:
                colors, opacity = read_texture(path.read_bytes(), name, self.left)
            except UnknownTexture as error:
                self.notes[f"{str(error).rstrip('.')}; the surface is shown without it."] = None
            else:
                self.read[path] = colors, opacity
                self.left -= colors.shape[0] * colors.shape[1]
        return self.read[path]

    def _colors(self, material: Material, places: np.ndarray, picture: Tensor | None) -> np.ndarray:
        """(vertices, 3) of a material without picture: vertex colours, else its own, else grey."""
        if picture is not None:
            colors = self.file.colors[places]
            if np.isfinite(colors).any() and not (colors[np.isfinite(colors)] == 1).all():
                self.notes["The vertex colours of textured faces are not shown."] = None
            return np.ones((len(places), 3))
        glows = material.emitted is not None and any(material.emitted) and not any(material.diffuse or (1,))
        own = material.emitted if glows else material.diffuse
        flat = np.broadcast_to((PLAIN,) * 3 if own is None or "map_kd" in material.maps else own, (len(places), 3))
        colors = self.file.colors[places]
        return np.where(np.isfinite(colors), colors, flat)

    def _cut(self, sheet: Sheet, material: Material, mapped: Map | None) -> Sheet:
        """The sheet without the parts that map_d says are transparent."""
        rest = material.maps.get("map_d")
        path = map_of(self.file.path, rest)[1] if rest is not None and mapped is not None else None
        read = None if path is None else self._read(path)
        if read is None:
            return sheet
        opacity = read[1] if read[1] is not None else read[0].mean(-1)
        cut = cut_out(sheet, torch.ones(len(sheet.vertices)), opacity, mapped.wrap, 0.5)
        if not torch.equal(cut.faces, sheet.faces):
            self.notes["The transparent parts of a material are cut out of the surface."] = None
        return cut

    def _texture(self, mapped: Map, path: Path, picture: Tensor) -> int:
        """Number of the texture that a picture makes."""
        made = path, mapped.wrap
        if made not in self.textures:
            self.textures[made] = len(self.images)
            self.images.append(picture)
            self.wraps.append(mapped.wrap)
            self.pictures.append(path)
        return self.textures[made]
