"""Triangle meshes with colours or textures.

Colours are plain display values in [0, 1]; nothing is lit and no colour space is converted. Texture row 0 is the top
(v = 1), the UV origin is bottom left, textures repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon3d.raster import gather


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh; the colour of a surface point is the vertex colour times the texture.

    `vertices`: (vertices, 3). `faces`: (faces, 3) int64, counter-clockwise seen from outside. `colors`:
    (vertices, 3) in [0, 1], None for white. `uv`: (vertices, 2). `textures`: pictures (height, width, 3) in [0, 1].
    `face_texture`: (faces,) int64, which texture a face wears, -1 for none.
    """

    vertices: Tensor
    faces: Tensor
    colors: Tensor | None = None
    uv: Tensor | None = None
    textures: tuple[Tensor, ...] = ()
    face_texture: Tensor | None = None

    def check(self) -> Mesh:
        """Return the mesh, or raise ValueError where it cannot be rendered or measured."""
        if len(self.vertices) == 0 or len(self.faces) == 0:
            raise ValueError("The mesh has no faces.")
        bad = int((~torch.isfinite(self.vertices)).any(-1).sum())
        if bad:
            raise ValueError(f"The mesh has {bad} vertices that are NaN or infinite.")
        if int(self.faces.min()) < 0 or int(self.faces.max()) >= len(self.vertices):
            raise ValueError("The mesh has faces that name vertices it does not have.")
        size = float((self.vertices.amax(0) - self.vertices.amin(0)).amax())
        if size == 0 or float(self.face_areas().sum()) <= 1e-12 * size * size:
            raise ValueError("The surface of the mesh has no area.")
        return self

    def notes(self) -> list[str]:
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

        return Mesh(
            self.vertices.to(device),
            self.faces.to(device),
            move(self.colors),
            move(self.uv),
            tuple(texture.to(device) for texture in self.textures),
            move(self.face_texture),
        )

    def moved(self, centre: Tensor, scale: float) -> Mesh:
        """The mesh in a world where x becomes (x - centre) * scale."""
        return replace(self, vertices=(self.vertices - centre) * scale)

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

        color = mix(self.colors) if self.colors is not None else self.vertices.new_ones(len(faces), 3)
        if self.face_texture is None or self.uv is None:
            return color
        texture, uv = self.face_texture[faces], mix(self.uv)
        for number, picture in enumerate(self.textures):
            wears = (texture == number).nonzero().squeeze(-1)
            if len(wears):
                color = color.index_copy(0, wears, color[wears] * sample_texture(picture, uv[wears]))
        return color

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Uniform points on the surface: points (count, 3), their faces (count,) and barycentrics (count, 3)."""
        face = torch.multinomial(self.face_areas().cpu().double(), count, replacement=True, generator=generator)
        uniform = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        root = uniform[:, :1].sqrt()
        bary = torch.cat([1 - root, root * (1 - uniform[:, 1:]), root * uniform[:, 1:]], -1).to(self.vertices)
        face = face.to(self.faces.device)
        return (self.vertices[self.faces[face]] * bary.unsqueeze(-1)).sum(1), face, bary


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """(points, 3) bilinear look-up with repeat in (height, width, 3) at uv (points, 2), origin bottom left."""
    height, width = texture.shape[:2]
    x = uv[:, 0] * width - 0.5
    y = (1 - uv[:, 1]) * height - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = (x - left).unsqueeze(-1), (y - top).unsqueeze(-1)
    left, top = left.long(), top.long()
    flat = texture.reshape(height * width, -1)

    def texel(row: Tensor, column: Tensor) -> Tensor:
        return flat.index_select(0, (row % height) * width + column % width)

    upper = texel(top, left) * (1 - fx) + texel(top, left + 1) * fx
    lower = texel(top + 1, left) * (1 - fx) + texel(top + 1, left + 1) * fx
    return upper * (1 - fy) + lower * fy


def join(parts: list[Mesh]) -> Mesh:
    """One mesh of all parts; parts without colours get white, parts without texture coordinates zeros."""
    if len(parts) == 1:
        return parts[0]
    vertex_offset, texture_offset = 0, 0
    colored, textured = any(p.colors is not None for p in parts), any(p.textures for p in parts)
    faces, colors, uv, worn = [], [], [], []
    for part in parts:
        faces.append(part.faces + vertex_offset)
        colors.append(part.colors if part.colors is not None else torch.ones_like(part.vertices))
        uv.append(part.uv if part.uv is not None else torch.zeros_like(part.vertices[:, :2]))
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
    """Join vertices at the same place and drop faces that collapse by it."""
    merged, place = torch.unique(vertices, dim=0, return_inverse=True)
    faces = place[faces]
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return merged, faces[proper]
