"""The triangles of a glTF 2.0 file, as its scene shows them at rest: places, colours, textures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon3d.cutting import Sheet, cut_out
from recon3d.gltf_file import GltfFile, numbers, objects, read_gltf, whole
from recon3d.gltf_material import Look, Pictures, other_maps, read_look
from recon3d.gltf_nodes import placed, shown_nodes, world_matrices
from recon3d.mesh import NO_FACES, PLAIN, Mesh, not_refined, precise
from recon3d.textures import Wrap, times, to_display, to_linear, without_hidden

GREY = float(to_linear(torch.tensor(PLAIN)))
MAX_VERTICES = 1 << 24
"""Vertices of all parts together."""


@dataclass(frozen=True)
class Part:
    """A primitive where a node shows it."""

    node: int
    """Number of the node."""
    copy: int
    """Which of the node's instances."""
    primitive: tuple[int, int]
    """Number of the mesh, and of the primitive in it."""
    rows: np.ndarray
    """(count,) which rows of its accessors became vertices of the mesh, in their order."""
    frames: np.ndarray
    """(4, 4), or for a skin (count, 4, 4): from the file's places to those in the scene."""
    offsets: np.ndarray | float
    """What morph targets add to the file's places, before `frames`: (count, 3) or 0."""
    start: int
    """The mesh's first vertex that belongs to it."""
    texture: int = -1
    """Its texture in the mesh, -1 for none."""
    veil: float = 1.0
    """Opacity with which its colours were blended with white."""


@dataclass(frozen=True)
class Slot:
    """Where a texture of the mesh comes from."""

    material: int
    """Number of the material."""
    keys: tuple[str, ...]
    """Keys in the material that lead to the reference to the texture."""
    image: int
    """Number of the picture."""
    veil: float = 1.0
    """Opacity by which the picture was blended with white."""
    tint: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Linear factor that was multiplied in before."""


@dataclass(frozen=True)
class Scene:
    """A file, and how the mesh was made of it."""

    file: GltfFile
    """The file."""
    mesh: Mesh
    """What it shows."""
    parts: tuple[Part, ...]
    """Where the vertices come from; further vertices of the mesh belong to cut faces."""
    slots: tuple[tuple[Slot, ...], ...]
    """Where the textures come from."""
    holds: tuple[str, ...]
    """What the file holds beyond the surface and its colours."""


def read_scene(path: Path) -> Scene:
    """The default scene of a .glb or .gltf file.

    Raises:
        FileNotFoundError: a buffer that it names is missing or lies outside the folder.
        ValueError: it is damaged or holds no triangles.
    """
    file = read_gltf(path)
    reader = _Reader(file)
    for node, matrix in shown_nodes(file, reader.world):
        reader.add_node(node, matrix)
    return reader.scene()


class _Reader:
    """Collects the parts of a scene."""

    def __init__(self, file: GltfFile) -> None:
        self.file = file
        self.world = world_matrices(file)
        self.pictures = Pictures(file)
        self.looks: dict[Any, Look] = {}
        self.textures: dict[tuple, int] = {}  # what makes a texture -> its number
        self.images: list[Tensor] = []
        self.wraps: list[Wrap] = []
        self.slots: list[dict[Slot, None]] = []
        self.parts: list[Part] = []
        self.sheets: list[Sheet] = []  # one for every part
        self.notes: dict[str, None] = {}
        self.vertices = 0

    def add_node(self, number: int, matrix: np.ndarray) -> None:
        node = self.file.item("nodes", number)
        mesh = self.file.item("meshes", node["mesh"])
        for index, primitive in enumerate(objects(mesh.get("primitives", []), "primitives")):
            triangles = self._triangles(primitive)
            if triangles is None:
                continue
            rows, corners = np.unique(triangles, return_inverse=True)
            places = self.file.accessor(primitive["attributes"]["POSITION"], "VEC3")
            if int(rows[-1]) >= len(places):
                raise ValueError(f"its faces name vertex {rows[-1]}, and there are {len(places)}")
            offsets = self._morphed(node, mesh, primitive, rows)
            for copy, here in enumerate(self._instances(node, matrix)):
                frames = self._skin(node["skin"], primitive, rows) if "skin" in node else here
                moved = _apply(frames, places[rows].astype(np.float64) + offsets)
                part = Part(number, copy, (node["mesh"], index), rows, frames, offsets, self.vertices)
                self.parts.append(self._add(part, primitive, moved, self._faces(corners, frames)))

    def scene(self) -> Scene:
        if not self.sheets:
            raise ValueError(NO_FACES)
        if not any(len(sheet.faces) for sheet in self.sheets):
            raise ValueError("all of its surface is transparent")
        shown = {(slot.material, slot.keys) for slots in self.slots for slot in slots}
        holds = (*other_maps(self.file, shown), *_motions(self.file))
        starts = [part.start for part in self.parts]
        colors = torch.cat([sheet.colors for sheet in self.sheets])
        textured = bool(self.images)
        mesh = Mesh(
            precise(torch.cat([sheet.vertices for sheet in self.sheets])),
            torch.cat([sheet.faces + start for sheet, start in zip(self.sheets, starts, strict=True)]),
            None if bool((colors == 1).all()) else colors,
            torch.cat([_uv(sheet) for sheet in self.sheets]) if textured else None,
            tuple(self.images),
            torch.cat([torch.full((len(s.faces),), p.texture) for s, p in zip(self.sheets, self.parts, strict=True)])
            if textured
            else None,
            tuple(self.wraps),
            (*self.notes, *self.pictures.notes, *not_refined(holds)),
        )
        return Scene(self.file, mesh, tuple(self.parts), tuple(tuple(slots) for slots in self.slots), holds)

    def _triangles(self, primitive: dict[str, Any]) -> np.ndarray | None:
        """(faces, 3) indices; None for points and lines."""
        mode, attributes = primitive.get("mode", 4), primitive.get("attributes")
        if not isinstance(attributes, dict) or "POSITION" not in attributes:
            self.notes["Parts without places (POSITION) are not shown."] = None
            return None
        if mode not in (4, 5, 6):
            self.notes["Points and lines are not shown."] = None
            return None
        if "KHR_draco_mesh_compression" in primitive.get("extensions", {}):
            from recon3d.draco import unpack

            unpack(self.file, primitive)
        if "indices" in primitive:
            indices = self.file.accessor(primitive["indices"], "SCALAR")[:, 0]
            if indices.dtype.kind not in "iu" or (len(indices) and int(indices.min()) < 0):
                raise ValueError("its faces are no whole numbers from 0 on")
            indices = indices.astype(np.int64)
        else:
            indices = np.arange(len(self.file.accessor(attributes["POSITION"], "VEC3")))
        if mode == 4:
            triangles = indices[: len(indices) // 3 * 3].reshape(-1, 3)
        elif mode == 5:  # every second triangle of a strip is turned
            triangles = np.stack([indices[:-2], indices[1:-1], indices[2:]], 1)
            triangles[1::2] = triangles[1::2, [1, 0, 2]]
        else:
            triangles = np.stack([np.broadcast_to(indices[:1], len(indices[2:])), indices[1:-1], indices[2:]], 1)
        return triangles if len(triangles) else None

    def _faces(self, corners: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """(faces, 3) of the part's own vertices; a mirroring turns them inside out, and so back."""
        faces = corners.reshape(-1, 3)
        mirrored = np.linalg.det(frames.reshape(-1, 4, 4)[:, :3, :3].mean(0)) < 0
        return faces[:, ::-1] if mirrored else faces

    def _morphed(self, node: dict, mesh: dict, primitive: dict, rows: np.ndarray) -> np.ndarray | float:
        targets = objects(primitive.get("targets", []), "morph targets")
        weights = numbers(node.get("weights", mesh.get("weights")), len(targets), (0,) * len(targets), "morph weights")
        total: np.ndarray | float = 0.0
        for target, weight in zip(targets, weights, strict=True):
            if weight and "POSITION" in target:
                total = total + weight * self.file.accessor(target["POSITION"], "VEC3")[rows].astype(np.float64)
        return total

    def _instances(self, node: dict[str, Any], matrix: np.ndarray) -> Iterator[np.ndarray]:
        """The matrix of a node, or those of its instances (EXT_mesh_gpu_instancing)."""
        attributes = node.get("extensions", {}).get("EXT_mesh_gpu_instancing", {}).get("attributes")
        if not attributes:
            yield matrix
            return
        read = {
            key: self.file.accessor(attributes[key], kind).astype(np.float64)
            for key, kind in (("TRANSLATION", "VEC3"), ("ROTATION", "VEC4"), ("SCALE", "VEC3"))
            if key in attributes
        }
        for number in range(min((len(values) for values in read.values()), default=0)):
            yield matrix @ placed(
                read["TRANSLATION"][number] if "TRANSLATION" in read else np.zeros(3),
                read["ROTATION"][number] if "ROTATION" in read else np.array([0.0, 0, 0, 1]),
                read["SCALE"][number] if "SCALE" in read else np.ones(3),
            )

    def _skin(self, index: Any, primitive: dict[str, Any], rows: np.ndarray) -> np.ndarray:
        """(vertices, 4, 4) of a primitive whose vertices follow joints; where the node is does not count."""
        skin = self.file.item("skins", index)
        joints = skin.get("joints", [])
        if not isinstance(joints, list) or any(joint not in self.world for joint in joints if whole(joint)):
            raise ValueError(f"skin {index} names joints that are no nodes")
        frames = np.stack([self.world[joint] for joint in joints])
        if "inverseBindMatrices" in skin:
            inverse = self.file.accessor(skin["inverseBindMatrices"], "MAT4").astype(np.float64)
            frames = frames @ inverse[: len(frames)].reshape(-1, 4, 4).transpose(0, 2, 1)
        total, weighed = np.zeros((len(rows), 4, 4)), np.zeros(len(rows))
        attributes = primitive["attributes"]
        for group in range(4):
            if f"JOINTS_{group}" not in attributes or f"WEIGHTS_{group}" not in attributes:
                break
            joint = self.file.accessor(attributes[f"JOINTS_{group}"], "VEC4")[rows].astype(np.int64)
            weight = self.file.accessor(attributes[f"WEIGHTS_{group}"], "VEC4")[rows].astype(np.float64)
            if joint.size and joint.max() >= len(frames):
                raise ValueError(f"vertices follow joint {joint.max()} of skin {index}, which has {len(frames)}")
            for lane in range(4):
                total += weight[:, lane, None, None] * frames[joint[:, lane]]
                weighed += weight[:, lane]
        total[weighed < 1e-6] = np.eye(4)
        return total / np.where(weighed < 1e-6, 1, weighed)[:, None, None]

    def _add(self, part: Part, primitive: dict[str, Any], places: np.ndarray, faces: np.ndarray) -> Part:
        """Take in the surface of a part in the look of its material; returns the part with its texture and veil."""
        index, attributes, rows = primitive.get("material"), primitive["attributes"], part.rows
        if index not in self.looks:
            self.looks[index], notes = read_look(self.file, index)
            self.notes.update(dict.fromkeys(notes))
        look = self.looks[index]
        picture = None if look.image is None else self.pictures(look.image)
        texcoords = f"TEXCOORD_{look.texcoord}"
        if picture is not None and texcoords not in attributes:
            self.notes["A textured part has no texture coordinates; it is shown without its texture."] = None
            picture = None
        tint = np.ones((len(rows), 4))
        if "COLOR_0" in attributes and look.slot != ("emissiveTexture",):
            colors = self._rows(attributes["COLOR_0"], rows, "VEC3", "VEC4").clip(0, 1)
            tint[:, : colors.shape[1]] = colors
        elif picture is None and (not look.given or (look.image is not None and look.factor[:3].min() == 1)):
            tint[:, :3] = GREY
        uv = None
        if picture is not None:
            flat = np.column_stack([self._rows(attributes[texcoords], rows, "VEC2"), np.ones(len(rows))])
            uv = torch.from_numpy(flat @ look.transform.T * (1, -1) + (0, 1)).float()
        sheet = Sheet(torch.from_numpy(places), torch.from_numpy(faces.copy()), torch.from_numpy(tint[:, :3]), uv)
        opacity = torch.from_numpy(tint[:, 3] * look.factor[3])
        sheet, veil = self._transparent(sheet, look, opacity, None if picture is None else picture[1], index)
        factor = torch.from_numpy(look.factor[:3])
        if picture is not None and veil < 1:  # white shines through the picture in its own colour
            slot, colors = Slot(index, look.slot, look.image, veil, tuple(factor.tolist())), sheet.colors
        elif picture is not None:
            slot, colors = Slot(index, look.slot, look.image), sheet.colors * factor
        else:
            slot, colors = None, sheet.colors * factor
        colors = to_display(colors.float())
        self.sheets.append(replace(sheet, colors=colors if picture is not None else colors * veil + 1 - veil))
        self.vertices += len(sheet.vertices)
        if self.vertices > MAX_VERTICES:
            raise ValueError(f"it has more than {MAX_VERTICES:,} vertices")
        return replace(part, texture=-1 if picture is None else self._texture(look, picture, slot), veil=veil)

    def _rows(self, accessor: Any, rows: np.ndarray, *kinds: str) -> np.ndarray:
        values = self.file.accessor(accessor, *kinds)
        if len(values) <= int(rows[-1]):
            raise ValueError(f"accessor {accessor} has {len(values)} elements, its places more")
        return values[rows].astype(np.float64)

    def _transparent(
        self, sheet: Sheet, look: Look, opacity: Tensor, picture: Tensor | None, material: Any
    ) -> tuple[Sheet, float]:
        """The sheet without its transparent parts, and how opaque the rest is.

        A mask says where it ends. What is blended is cut where it is less than half as opaque as at its most opaque
        place; there it hides what is behind it, and white shines through.
        """
        if look.alpha == "OPAQUE":
            return sheet, 1.0
        most = float(opacity.amax()) * (1.0 if picture is None else float(picture.amax()))
        blends = look.alpha == "BLEND"
        cut = cut_out(sheet, opacity, picture, look.wrap, max(most / 2, 1 / 255) if blends else look.cutoff)
        name = self.file.item("materials", material).get("name") or f"number {material}"
        if not torch.equal(cut.faces, sheet.faces):
            self.notes[f"The transparent parts of material {name} are cut out of the surface."] = None
        veil = most if blends and most < 254 / 255 else 1.0
        if veil < 1 and len(cut.faces):
            self.notes[f"Material {name} is {veil:.0%} opaque; it is shown as if white were behind it."] = None
        return cut, veil

    def _texture(self, look: Look, picture: tuple[Tensor, Tensor | None], slot: Slot) -> int:
        """Number of the texture that a picture makes."""
        colors, opacity = picture
        cut = opacity is not None and look.alpha != "OPAQUE"
        made = (look.image, look.wrap, slot.veil, slot.tint, cut)
        if made not in self.textures:
            self.textures[made] = len(self.images)
            colors = without_hidden(colors, opacity) if cut else colors
            if slot.veil < 1:
                colors = times(to_display(torch.tensor(slot.tint)), colors) * slot.veil + 1 - slot.veil
            self.images.append(colors)
            self.wraps.append(look.wrap)
            self.slots.append({})
        self.slots[self.textures[made]][slot] = None
        return self.textures[made]


def _uv(sheet: Sheet) -> Tensor:
    return torch.zeros(len(sheet.vertices), 2) if sheet.uv is None else sheet.uv


def _apply(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(vertices, 3) places moved by one matrix (4, 4), or by one for each (vertices, 4, 4)."""
    if frames.ndim == 2:
        return places @ frames[:3, :3].T + frames[:3, 3]
    return np.einsum("nij,nj->ni", frames[:, :3, :3], places) + frames[:, :3, 3]


def _motions(file: GltfFile) -> list[str]:
    """Names of what moves the surface."""
    found = [what for what, key in (("skeletons", "skins"), ("animations", "animations")) if file.document.get(key)]
    primitives = [primitive for mesh in file.items("meshes") for primitive in mesh.get("primitives", [])]
    return [*found, *["morph targets"] * any("targets" in primitive for primitive in primitives)]
