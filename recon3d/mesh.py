"""Triangle meshes with colours or textures.

Colours are display values (sRGB) in [0, 1], and nothing is lit. Where a surface has a vertex colour and a texture,
their light is multiplied. Texture row 0 is the top (v = 1), the UV origin is bottom left.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from recon3d.raster import gather
from recon3d.textures import REPEAT, Wrap, sample_texture, times

NO_FACES = "it holds a mesh without faces: points, lines and splats alone are no surface"
"""Why a file of places is refused."""
PLAIN = 0.6
"""Grey display value of a surface that comes without any colour."""
NEARLY = 2e-6
"""Share of a mesh's size below which a difference is rounding."""


@dataclass(frozen=True)
class Source:
    """The file that a mesh was read from: a copy of it takes what was refined, and keeps all the rest.

    It tells where the mesh was moved since: now = then * scale + offset.
    """

    scene: Any
    """What was read: a `mesh` as it was then, and what the file `holds` beyond the surface and its colours."""
    scale: float = 1.0
    """See above."""
    offset: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    """(3,) see above."""
    suffix: ClassVar[str]
    """Ending of the files that it writes."""

    def moved(self, centre: Tensor, scale: float) -> Self:
        """The file of the mesh in a world where x becomes (x - centre) * scale, with a centre (3,)."""
        return replace(self, scale=self.scale * scale, offset=(self.offset - centre) * scale)

    @property
    def rounding(self) -> float:
        """Distance in the file below which a difference is none."""
        return NEARLY * float((self.scene.mesh.vertices.amax(0) - self.scene.mesh.vertices.amin(0)).amax())

    def fits(self, mesh: Mesh) -> bool:
        """Whether the mesh still has the faces, texture coordinates and number of textures of the file."""
        raise NotImplementedError

    def save(self, mesh: Mesh, path: Path) -> list[str]:
        """Write the file with the vertices, colours and textures of the mesh; returns what it cannot hold."""
        raise NotImplementedError


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh; the colour of a surface point is the vertex colour times the texture."""

    vertices: Tensor
    """(vertices, 3) float32, or float64 where float32 would move them by more than a millionth of the mesh's size."""
    faces: Tensor
    """(faces, 3) int64, counter-clockwise seen from outside."""
    colors: Tensor | None = None
    """(vertices, 3) in [0, 1]; None for white."""
    uv: Tensor | None = None
    """(vertices, 2) texture coordinates."""
    textures: tuple[Tensor, ...] = ()
    """Pictures (height, width, 3) in [0, 1]."""
    face_texture: Tensor | None = None
    """(faces,) int64, which texture a face wears, -1 for none."""
    wraps: tuple[Wrap, ...] = ()
    """How each texture goes on outside [0, 1]; () when all repeat."""
    remarks: tuple[str, ...] = ()
    """Sentences on what the file held that the mesh does not show."""
    source: Source | None = None
    """The file that it was read from; None for a mesh made otherwise."""

    def check(self) -> Mesh:
        """Return the mesh, or raise ValueError where it cannot be rendered or measured."""
        if len(self.vertices) == 0 or len(self.faces) == 0:
            raise ValueError("The mesh has no faces.")
        bad = int((~torch.isfinite(self.vertices)).any(-1).sum())
        if bad:
            raise ValueError(f"Of the mesh's {len(self.vertices)} vertices {bad} are NaN or infinite.")
        if int(self.faces.min()) < 0 or int(self.faces.max()) >= len(self.vertices):
            raise ValueError("The mesh has faces that name vertices it does not have.")
        if self.uv is not None and not bool(torch.isfinite(self.uv).all()):
            raise ValueError("The mesh has texture coordinates that are NaN or infinite.")
        if self.colors is not None and not bool(torch.isfinite(self.colors).all()):
            raise ValueError("The mesh has vertex colours that are NaN or infinite.")
        size = float((self.vertices.amax(0) - self.vertices.amin(0)).amax())
        if size == 0 or float(self.face_areas().sum()) <= 1e-12 * size * size:
            raise ValueError("The surface of the mesh has no area.")
        return self

    def notes(self) -> list[str]:
        """Sentences on what its file held that is not shown, and on what is unusual about the surface."""
        return [*self.remarks, *self.surface_notes()]

    def surface_notes(self) -> list[str]:
        """Sentences on what is unusual about the surface; empty for a closed manifold."""
        # Seams of textures double vertices; compare places, not numbers.
        places, place = torch.unique(self.vertices, dim=0, return_inverse=True)
        faces = place[self.faces]
        ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        ends = ends[ends[:, 0] != ends[:, 1]]
        _, counts = torch.unique(ends.amin(1) * len(places) + ends.amax(1), return_counts=True)
        borders, crowded = int((counts == 1).sum()), int((counts > 2).sum())
        notes = []
        if borders:
            notes.append(f"The surface is open: {borders} edges belong to one face only.")
        if crowded:
            notes.append(f"The surface is not manifold: {crowded} edges belong to more than two faces.")
        return notes

    def face_areas(self) -> Tensor:
        """(faces,) areas."""
        a, b, c = self.vertices[self.faces].unbind(1)
        return torch.cross(b - a, c - a, dim=-1).norm(dim=-1) / 2

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Minimum and maximum corner (3,) of the box around the used vertices."""
        used = self.vertices[self.faces.flatten().unique()]
        return used.amin(0), used.amax(0)

    def to(self, device: torch.device | str) -> Mesh:
        """The mesh on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            vertices=self.vertices.to(device),
            faces=self.faces.to(device),
            colors=move(self.colors),
            uv=move(self.uv),
            textures=tuple(texture.to(device) for texture in self.textures),
            face_texture=move(self.face_texture),
        )

    def moved(self, centre: Tensor, scale: float) -> Mesh:
        """The mesh in a world where x becomes (x - centre) * scale, with a centre (3,)."""
        source = None if self.source is None else self.source.moved(centre.detach().double().cpu(), scale)
        exact = torch.float64 if self.vertices.device.type != "mps" else torch.float32  # all that Metal has
        vertices = (self.vertices.to(exact) - centre.to(self.vertices.device, exact)) * scale
        return replace(self, vertices=precise(vertices), source=source)

    def normalised(self, size: float = 1.6) -> Mesh:
        """The box moved to the origin and its longest side scaled to `size`."""
        return self.moved(*self.placement(size))

    def placement(self, size: float = 1.6) -> tuple[Tensor, float]:
        """Centre (3,) and scale that `normalised` uses."""
        low, high = self.bounds()
        return (low + high) / 2, size / float((high - low).amax())

    def keep_faces(self, keep: Tensor) -> Mesh:
        """The faces where `keep` (faces,) is true, without vertices that no face uses any more."""
        faces = self.faces[keep]
        used, inverse = torch.unique(faces, return_inverse=True)
        return replace(
            self,
            vertices=self.vertices[used],
            faces=inverse.view(-1, 3),
            colors=None if self.colors is None else self.colors[used],
            uv=None if self.uv is None else self.uv[used],
            face_texture=None if self.face_texture is None else self.face_texture[keep],
        )

    def surface_color(self, faces: Tensor, bary: Tensor) -> Tensor:
        """(points, 3) colours at barycentrics (points, 3) of the faces numbered `faces` (points,)."""
        corners = self.faces[faces]

        def mix(values: Tensor) -> Tensor:
            return (gather(values, corners) * bary.unsqueeze(-1).to(values.dtype)).sum(1)

        color = mix(self.colors) if self.colors is not None else torch.ones_like(bary, dtype=torch.float32)
        if self.face_texture is None or self.uv is None:
            return color
        texture, uv = self.face_texture[faces], mix(self.uv)
        for number, picture in enumerate(self.textures):
            wears = (texture == number).nonzero().squeeze(-1)
            if len(wears):
                worn = sample_texture(picture, uv[wears], self.wrap(number))
                worn = worn if self.colors is None else times(color[wears], worn)
                color = color.index_copy(0, wears, worn)
        return color

    def wrap(self, number: int) -> Wrap:
        """How texture `number` goes on outside [0, 1]."""
        return self.wraps[number] if self.wraps else REPEAT

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Uniform points on the surface: points (count, 3), their faces (count,) and barycentrics (count, 3)."""
        face = torch.multinomial(self.face_areas().cpu().double(), count, replacement=True, generator=generator)
        uniform = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        root = uniform[:, :1].sqrt()
        bary = torch.cat([1 - root, root * (1 - uniform[:, 1:]), root * uniform[:, 1:]], -1).to(self.vertices)
        face = face.to(self.faces.device)
        return (self.vertices[self.faces[face]] * bary.unsqueeze(-1)).sum(1), face, bary


def precise(vertices: Tensor) -> Tensor:
    """Vertices (vertices, 3) as float32, unless that moves one by more than a millionth of their extent."""
    short = vertices.float()
    if not len(vertices) or bool(
        (short - vertices).abs().amax() <= 1e-6 * (vertices.amax(0) - vertices.amin(0)).amax()
    ):
        return short
    return vertices


def not_refined(holds: tuple[str, ...]) -> list[str]:
    """The sentence on what a file holds beyond the surface and its colours."""
    return [f"Neither shown nor refined, and kept only with its faces: {', '.join(holds)}."] if holds else []


def join(parts: list[Mesh]) -> Mesh:
    """One mesh of all parts; parts without colours get white, parts without texture coordinates zeros."""
    if len(parts) == 1:
        return parts[0]
    vertex_offset, texture_offset = 0, 0
    colored, textured = any(p.colors is not None for p in parts), any(p.textures for p in parts)
    faces, colors, uv, worn, wraps = [], [], [], [], []
    for part in parts:
        faces.append(part.faces + vertex_offset)
        colors.append(part.colors if part.colors is not None else torch.ones_like(part.vertices))
        uv.append(part.uv if part.uv is not None else torch.zeros_like(part.vertices[:, :2]))
        wraps += [part.wrap(number) for number in range(len(part.textures))]
        none = torch.full((len(part.faces),), -1, device=part.faces.device)
        own = part.face_texture if part.face_texture is not None else none
        worn.append(torch.where(own >= 0, own + texture_offset, -1))
        vertex_offset += len(part.vertices)
        texture_offset += len(part.textures)
    return Mesh(
        torch.cat([part.vertices for part in parts]),
        torch.cat(faces),
        torch.cat(colors) if colored else None,
        torch.cat(uv) if textured else None,
        tuple(texture for part in parts for texture in part.textures),
        torch.cat(worn) if textured else None,
        tuple(wraps),
        tuple(dict.fromkeys(remark for part in parts for remark in part.remarks)),
    )


def with_vertex_colors(mesh: Mesh) -> Mesh:
    """The mesh with its texture looked up at the vertices and dropped."""
    if mesh.face_texture is None:
        colors = mesh.colors if mesh.colors is not None else torch.ones_like(mesh.vertices)
        return Mesh(mesh.vertices, mesh.faces, colors)
    face = torch.zeros(len(mesh.vertices), dtype=torch.int64, device=mesh.faces.device)
    corner = torch.zeros_like(face)
    for k in range(3):
        face[mesh.faces[:, k]] = torch.arange(len(mesh.faces), device=face.device)
        corner[mesh.faces[:, k]] = k
    bary = torch.nn.functional.one_hot(corner, 3).to(mesh.vertices)
    return Mesh(mesh.vertices, mesh.faces, mesh.surface_color(face, bary).clamp(0, 1))


def merge_vertices(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Join vertices (vertices, 3) at the same place and drop faces (faces, 3) that collapse by it."""
    merged, place = torch.unique(vertices, dim=0, return_inverse=True)
    faces = place[faces]
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return merged, faces[proper]


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether both are None, or tensors of the same numbers and any shape."""
    return a is b or (a is not None and b is not None and torch.equal(a.detach(), b.detach()))
