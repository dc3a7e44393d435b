"""Triangle meshes with colours or textures: files through trimesh, simplification, UV baking, hidden parts.

Colours are plain display values in [0, 1]; nothing is lit and no colour space is converted. Texture row 0 is the top
(v = 1), the UV origin is bottom left, textures repeat.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image
from scipy import ndimage, sparse
from scipy.spatial import cKDTree
from torch import Tensor

from recon3d.cameras import Cameras, surround
from recon3d.raster import gather, interpolate, rasterize, visible_faces

FORMATS = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
"""File name endings that can be read; `.glb`, `.obj` and `.ply` can be written."""
PLAIN = 0.6
"""Grey level of a surface that comes without any colour."""


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

    @classmethod
    def load(cls, path: str | Path, max_faces: int | None = None) -> Mesh:
        """Read a mesh file: all parts of a scene, moved to their places and joined. See `load_mesh`."""
        return load_mesh(Path(path), max_faces)

    def save(self, path: str | Path) -> None:
        """Write `.glb`, `.obj` (with its `.mtl` and pictures beside it) or `.ply`. See `save_mesh`."""
        save_mesh(self, Path(path))

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
        edges = torch.cat([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]]).sort(-1).values
        # Seams of textures double vertices; compare places, not numbers.
        _, place = torch.unique(self.vertices, dim=0, return_inverse=True)
        edges = place[edges].sort(-1).values
        edges = edges[edges[:, 0] != edges[:, 1]]
        _, counts = torch.unique(edges, dim=0, return_counts=True)
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


# Files --------------------------------------------------------------------------------------------------------------


def load_mesh(path: Path, max_faces: int | None = None) -> Mesh:
    """Read a mesh file through trimesh.

    Args:
        path: a file with one of the endings in `FORMATS`.
        max_faces: simplify to this many faces when there are more (colours then sit on the vertices).

    Raises:
        FileNotFoundError: when the file or a picture that it names is missing.
        ValueError: when it is no mesh, holds no usable surface, or names files outside its own folder.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no mesh file {path}.")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path.name} is no mesh file; known endings are {', '.join(FORMATS)}.")
    for name in _named_files(path):
        _inside(path, name)
    try:
        scene = trimesh.load_scene(path, process=False)
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
    mesh = join(parts).check()
    if max_faces is not None and len(mesh.faces) > max_faces:
        mesh = simplify(mesh, max_faces)
    return mesh


def _named_files(path: Path) -> list[str]:
    """The other files that an OBJ (with its materials) or glTF file names."""
    names: list[str] = []
    if path.suffix.lower() == ".obj":
        for library in _statements(path, ("mtllib",)):
            names.append(library)
            material = _inside(path, library)
            maps = ("map_kd", "map_ka", "map_ks", "map_ke", "map_d", "map_bump", "bump", "norm")
            names += [line.split()[-1] for line in _statements(material, maps)]
    elif path.suffix.lower() == ".gltf":
        try:
            data = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name} is not a glTF file: {error}.") from error
        entries = [*data.get("images", []), *data.get("buffers", [])]
        names = [entry["uri"] for entry in entries if "uri" in entry and not entry["uri"].startswith("data:")]
    return names


def _statements(path: Path, keys: tuple[str, ...]) -> list[str]:
    lines = (line.strip() for line in path.read_text(errors="replace").splitlines())
    split = (line.split(maxsplit=1) for line in lines if line)
    return [entry[1].strip() for entry in split if len(entry) == 2 and entry[0].lower() in keys]


def _inside(path: Path, name: str) -> Path:
    """The file `name` beside `path`; refused outside that folder."""
    folder = path.parent.resolve()
    target = (folder / name.replace("\\", "/")).resolve()
    if not target.is_relative_to(folder):
        raise ValueError(f"{path.name} names a file outside its own folder: {name}. It is not read.")
    if not target.is_file():
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


def save_mesh(mesh: Mesh, path: Path) -> None:
    """Write `.glb`, `.obj` or `.ply`; the file appears only when it is complete.

    `.ply` holds vertex colours only: a texture is looked up at the vertices.
    """
    suffix = path.suffix.lower()
    if suffix not in (".glb", ".obj", ".ply"):
        raise ValueError(f"Meshes are written as .glb, .obj or .ply, not as {path.name}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh = mesh.to("cpu")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mesh-") as folder:
        target = Path(folder) / path.name
        if suffix == ".ply":
            _to_trimesh(with_vertex_colors(mesh), path.stem).export(target)
        elif suffix == ".obj":
            _save_obj(mesh, target)
        else:
            scene = trimesh.Scene()
            for name, part in _by_texture(mesh, path.stem):
                scene.add_geometry(_to_trimesh(part, name), node_name=name, geom_name=name)
            scene.export(target)
        # The mesh file last: whoever sees it finds its materials and pictures too.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            shutil.move(file, path.parent / file.name)


def _by_texture(mesh: Mesh, stem: str) -> list[tuple[str, Mesh]]:
    """The mesh cut into parts that wear one texture or none."""
    if mesh.face_texture is None:
        return [(stem, mesh)]
    parts = []
    for number in mesh.face_texture.unique().tolist():
        part = mesh.keep_faces(mesh.face_texture == number)
        worn = (mesh.textures[number],) if number >= 0 else ()
        part = replace(part, textures=worn, face_texture=torch.full_like(part.face_texture, 0 if worn else -1))
        parts.append((stem if not parts else f"{stem}_{number}", part))
    return parts


def _to_trimesh(mesh: Mesh, name: str) -> trimesh.Trimesh:
    if mesh.textures and mesh.uv is not None:
        tint = mesh.colors if mesh.colors is not None else torch.ones(1, 3)
        flat = bool((tint == tint[0]).all())
        material = trimesh.visual.material.PBRMaterial(
            name=name,
            baseColorTexture=texture_image(mesh.textures[0] * (tint[0] if flat else 1)),
            metallicFactor=0.0,
            roughnessFactor=1.0,
        )
        visual = trimesh.visual.TextureVisuals(uv=mesh.uv.double().numpy(), material=material)
    else:
        colors = mesh.colors if mesh.colors is not None else torch.ones_like(mesh.vertices)
        rgb = (colors.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        visual = trimesh.visual.ColorVisuals(vertex_colors=np.concatenate([rgb, np.full_like(rgb[:, :1], 255)], 1))
    return trimesh.Trimesh(mesh.vertices.detach().numpy(), mesh.faces.numpy(), visual=visual, process=False)


def texture_image(texture: Tensor) -> Image.Image:
    """PIL picture of a texture (height, width, 3) in [0, 1]."""
    return Image.fromarray((texture.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


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


# Changes ------------------------------------------------------------------------------------------------------------


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


def simplify(mesh: Mesh, num_faces: int) -> Mesh:
    """Quadric simplification to about `num_faces` faces; vertices take the colour of the nearest old surface."""
    import fast_simplification

    vertices, faces = merge_vertices(mesh.vertices.cpu(), mesh.faces.cpu())
    if len(faces) > num_faces:
        new_vertices, new_faces = fast_simplification.simplify(
            vertices.float().numpy(), faces.int().numpy(), target_count=num_faces
        )
        vertices, faces = torch.from_numpy(new_vertices), torch.from_numpy(new_faces).long()
    simpler = Mesh(vertices.to(mesh.vertices), faces.to(mesh.faces.device))
    return replace(simpler, colors=nearest_color(mesh, simpler.vertices))


def nearest_color(mesh: Mesh, points: Tensor, samples: int = 200_000) -> Tensor:
    """(points, 3) colours of the nearest of many surface samples of the mesh."""
    generator = torch.Generator().manual_seed(0)
    surface, face, bary = mesh.sample(samples, generator)
    _, nearest = cKDTree(surface.cpu().numpy()).query(points.detach().cpu().numpy())
    nearest = torch.from_numpy(nearest).to(face.device)
    return mesh.surface_color(face[nearest], bary[nearest])


def seen_faces(mesh: Mesh, cameras: Cameras | None = None) -> Tensor:
    """(faces,) bool: visible in at least one pixel of the cameras (48 views around the unit box by default)."""
    cameras = surround() if cameras is None else cameras
    seen = torch.zeros(len(mesh.faces), dtype=torch.bool, device=mesh.faces.device)
    for clip in cameras.to(mesh.vertices.device).clip(mesh.vertices.detach().float()):
        ids = visible_faces(clip, mesh.faces, (cameras.height, cameras.width))
        seen[ids[ids >= 0]] = True
    return seen


def drop_hidden(mesh: Mesh, cameras: Cameras | None = None, *, whole_parts: bool = True) -> Mesh:
    """Remove surfaces that no camera can see, such as shells inside a solid.

    Args:
        cameras: who looks; 48 views around the unit box by default.
        whole_parts: drop only connected parts of which nothing is seen, so that closed surfaces stay closed; otherwise
            every single face that is not seen goes.
    """
    seen = seen_faces(mesh, cameras)
    if not seen.any():
        return mesh
    if whole_parts:
        part = connected_parts(mesh.faces, len(mesh.vertices))
        visible = torch.zeros(int(part.max()) + 1, dtype=torch.bool, device=part.device)
        visible[part[seen]] = True
        seen = visible[part]
    return mesh.keep_faces(seen)


def connected_parts(faces: Tensor, num_vertices: int) -> Tensor:
    """(faces,) number of the connected part each face belongs to."""
    ends = faces.cpu().numpy()
    rows, columns = np.concatenate([ends[:, 0], ends[:, 1]]), np.concatenate([ends[:, 1], ends[:, 2]])
    graph = sparse.coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(num_vertices, num_vertices))
    _, labels = sparse.csgraph.connected_components(graph, directed=False)
    return torch.from_numpy(labels[ends[:, 0]].astype(np.int64)).to(faces.device)


def unwrap(mesh: Mesh) -> Mesh:
    """Lay the surface out in the unit square (xatlas); vertices double along the seams, colours follow."""
    import xatlas

    vertices = np.ascontiguousarray(mesh.vertices.detach().cpu().numpy(), dtype=np.float32)
    source, faces, uv = xatlas.parametrize(vertices, mesh.faces.cpu().numpy().astype(np.uint32))
    source = torch.from_numpy(source.astype(np.int64)).to(mesh.faces.device)
    return Mesh(
        mesh.vertices[source],
        torch.from_numpy(faces.astype(np.int64)).to(mesh.faces.device),
        None if mesh.colors is None else mesh.colors[source],
        torch.from_numpy(uv.astype(np.float32)).to(mesh.vertices.device),
    )


@torch.no_grad()
def bake(
    mesh: Mesh, color: Callable[[Tensor], Tensor], size: int = 1024, max_faces: int = 10_000, chunk: int = 1 << 17
) -> Mesh:
    """Give the mesh a texture atlas painted by a colour field.

    Args:
        mesh: any mesh; simplified first when it has more than `max_faces` (unwrapping large meshes takes minutes).
        color: maps surface points (points, 3) to colours (points, 3) in [0, 1].
        size: texture side in pixels.
    """
    if len(mesh.faces) > max_faces:
        mesh = simplify(replace(mesh, colors=None, uv=None, textures=(), face_texture=None), max_faces)
    mesh = unwrap(replace(mesh, colors=None))
    texture, _, _ = paint_texture(mesh, color, size, chunk)
    return replace(
        mesh,
        textures=(texture,),
        face_texture=torch.zeros(len(mesh.faces), dtype=torch.int64, device=mesh.faces.device),
    )


def paint_texture(
    mesh: Mesh, color: Callable[[Tensor], Tensor], size: int, chunk: int = 1 << 17
) -> tuple[Tensor, Tensor, Tensor]:
    """Texture (size, size, 3) of an unwrapped mesh, with its surface points and their texels.

    Texels outside the charts copy their nearest neighbour inside, so that bilinear look-ups stay clean at seams.
    """
    flat = torch.cat([mesh.uv * 2 - 1, torch.zeros_like(mesh.uv[:, :1]), torch.ones_like(mesh.uv[:, :1])], -1)
    fragments = rasterize(flat, mesh.faces, (size, size))
    points = interpolate(mesh.vertices, mesh.faces, fragments)
    colors = torch.cat([color(part) for part in points.split(chunk)]).clamp(0, 1)
    filled = spread(fragments.scatter(colors), fragments.face_id >= 0)
    return filled.flip(0), points, fragments.pixel_index  # row 0 becomes v = 1


def spread(picture: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels of (height, width, channels) with their nearest known one, `known` (height, width) bool."""
    if bool(known.all()) or not bool(known.any()):
        return picture
    rows, columns = ndimage.distance_transform_edt(~known.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(rows).long(), torch.from_numpy(columns).long()
    return picture[rows.to(picture.device), columns.to(picture.device)]


# Made by code -------------------------------------------------------------------------------------------------------


def vase(rings: int = 96, sides: int = 128, texture_size: int = 256) -> Mesh:
    """A small closed vase with a painted wall, made by code: something to try everything on."""
    t = torch.linspace(0, 1, rings)
    height = t * 1.6 - 0.8
    radius = 0.34 + 0.16 * torch.sin(2 * math.pi * (t * 0.9 + 0.05)) - 0.08 * t
    radius = torch.where((t == 0) | (t == 1), 0.0, radius)
    around = torch.linspace(0, 2 * math.pi, sides + 1)
    ribs = 1 + 0.05 * torch.cos(8 * around)
    ring = torch.stack([torch.cos(around) * ribs, torch.zeros_like(around), torch.sin(around) * ribs], -1)
    ring[-1] = ring[0]  # exactly, so that the wall closes
    vertices = ring[None] * radius[:, None, None]
    vertices[..., 1] = height[:, None]
    uv = torch.stack(torch.broadcast_tensors(around[None] / (2 * math.pi), t[:, None]), -1)
    index = torch.arange(rings * (sides + 1)).view(rings, sides + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = torch.cat([torch.stack([a, c, b], -1).view(-1, 3), torch.stack([b, c, d], -1).view(-1, 3)])
    mesh = Mesh(vertices.view(-1, 3), faces, None, uv.reshape(-1, 2), (_vase_texture(texture_size),))
    mesh = replace(mesh, face_texture=torch.zeros(len(faces), dtype=torch.int64))
    return mesh.keep_faces(mesh.face_areas() > 1e-7)


def _vase_texture(size: int) -> Tensor:
    v, u = torch.meshgrid(torch.linspace(1, 0, size), torch.linspace(0, 1, size), indexing="ij")
    clay, glaze, white = (torch.tensor(c) for c in ([0.72, 0.36, 0.22], [0.1, 0.28, 0.5], [0.95, 0.92, 0.84]))
    band = ((v > 0.3) & (v < 0.7)).float()[..., None]
    zigzag = ((u * 12) % 1 - 0.5).abs() * 0.2 + 0.4
    leaf = (((u * 6) % 1 - 0.5) ** 2 * 4 + ((v - 0.58) * 14) ** 2 < 0.5).float()[..., None]
    line = ((v - zigzag).abs() < 0.025).float()[..., None]
    ground = glaze * band + clay * (1 - band)
    return ground * (1 - line) * (1 - leaf * band) + white * line + white * leaf * band * (1 - line)
