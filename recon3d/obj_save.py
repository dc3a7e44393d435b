"""Meshes as new OBJ files with their materials and pictures.

A material is one picture. Faces without a texture, in a mesh that has some, get their colours from small patches of one
more picture; so do textured faces whose tint varies.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from recon3d.mesh import Mesh
from recon3d.normals import split_at_creases
from recon3d.textures import REPEAT, texture_image, times

MOST_PATCH = 64
"""Most texels per side of the patch of one face."""
MOST_PATCHES = 1 << 24
"""Most texels of all patches together."""


def save_obj(mesh: Mesh, path: Path) -> list[str]:
    """Write `.obj`, and `.mtl` with pictures when the mesh has textures."""
    if not mesh.textures or mesh.uv is None or mesh.face_texture is None:
        colors = mesh.colors if mesh.colors is not None else torch.ones_like(mesh.vertices)
        _write(path, mesh.vertices, mesh.faces, colors, None, [(None, torch.arange(len(mesh.faces)))])
        return []
    mesh, notes = _without_mirrors(mesh)
    mesh = with_patches(_tinted(mesh))
    groups = []
    materials = []
    for number in mesh.face_texture.unique().tolist():
        name, clamp = f"{path.stem}_{number}", mesh.wrap(number) == ("clamp", "clamp")
        file = f"{name}.png".replace(" ", "_")
        texture_image(mesh.textures[number]).save(path.parent / file)
        materials += [f"newmtl {name}", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {'-clamp on ' * clamp}{file}"]
        groups.append((name, (mesh.face_texture == number).nonzero().flatten()))
    (path.parent / f"{path.stem}.mtl").write_text("\n".join(materials) + "\n")
    _write(path, mesh.vertices, mesh.faces, None, mesh.uv, groups)
    return notes


def _write(
    path: Path,
    vertices: Tensor,
    faces: Tensor,
    colors: Tensor | None,
    uv: Tensor | None,
    groups: list[tuple[str | None, Tensor]],
) -> None:
    """Write an OBJ file: places with colours (vertices, 3) or texture coordinates (vertices, 2), and faces by group."""
    digits = 17 if vertices.dtype == torch.float64 else 9
    vertices = vertices.detach()
    _, by_corner, normals = split_at_creases(vertices, faces)
    normals, normal = torch.unique((normals * 1e4).round() / 1e4, dim=0, return_inverse=True)
    lines = ["# colours are display values"] + ([] if uv is None else [f"mtllib {path.stem}.mtl"])
    rows = [" ".join(f"{value:.{digits}g}" for value in row) for row in vertices.tolist()]
    if colors is not None:
        tail = colors.detach().clamp(0, 1).tolist()
        rows = [f"{row} {r:.5g} {g:.5g} {b:.5g}" for row, (r, g, b) in zip(rows, tail, strict=True)]
    lines += [f"v {row}" for row in rows]
    lines += [] if uv is None else [f"vt {u:.9g} {v:.9g}" for u, v in uv.tolist()]
    lines += [f"vn {x:.4g} {y:.4g} {z:.4g}" for x, y, z in normals.tolist()]
    corner = normal[by_corner]
    for name, chosen in groups:
        lines += [] if name is None else [f"usemtl {name}"]
        pairs = zip((faces[chosen] + 1).tolist(), (corner[chosen] + 1).tolist(), strict=True)
        if uv is None:
            lines += [f"f {a}//{i} {b}//{j} {c}//{k}" for (a, b, c), (i, j, k) in pairs]
        else:
            lines += [f"f {a}/{a}/{i} {b}/{b}/{j} {c}/{c}/{k}" for (a, b, c), (i, j, k) in pairs]
    path.write_text("\n".join(lines) + "\n")


def _without_mirrors(mesh: Mesh) -> tuple[Mesh, list[str]]:
    """Textures that mirror become twice as large; OBJ knows repeating and clamping, both ways alike."""
    textures, wraps, uv, notes = list(mesh.textures), [], mesh.uv, []
    scale = torch.ones(len(uv), 2)
    for number, texture in enumerate(textures):
        wrap = list(mesh.wrap(number))
        corners = mesh.faces[mesh.face_texture == number].unique()
        inside = ((uv[corners] >= 0) & (uv[corners] <= 1)).all(0).tolist()
        for axis in (0, 1):
            if wrap[axis] == "mirror" and not inside[axis]:
                texture = (
                    torch.cat([texture, texture.flip(1)], 1) if axis == 0 else torch.cat([texture.flip(0), texture])
                )
                scale[corners, axis] = 0.5
                wrap[axis] = "repeat"
        wanted = {kind for kind, within in zip(wrap, inside, strict=True) if not within}
        if wanted == {"repeat", "clamp"}:
            notes.append("An OBJ file cannot repeat a texture one way and clamp it the other: it is repeated.")
        kind = "clamp" if "repeat" not in wanted and "clamp" in wrap else "repeat"
        textures[number] = texture
        wraps.append((kind, kind))
    return replace(mesh, textures=tuple(textures), uv=uv * scale, wraps=tuple(wraps)), notes


def _tinted(mesh: Mesh) -> Mesh:
    """The mesh whose textures hold the tint of their faces, where it is one for all of them."""
    if mesh.colors is None:
        return mesh
    textures, colors = list(mesh.textures), mesh.colors.clone()
    for number, texture in enumerate(textures):
        corners = mesh.faces[mesh.face_texture == number].unique()
        if len(corners) and bool((mesh.colors[corners] == mesh.colors[corners[0]]).all()):
            textures[number] = times(mesh.colors[corners[0]], texture)
            colors[corners] = 1.0
    return replace(mesh, textures=tuple(textures), colors=colors)


def with_patches(mesh: Mesh) -> Mesh:
    """The mesh without vertex colours: one more texture holds a patch for every face that needs them.

    A face of one colour takes one texel; a blend of colours, or a texture under a varying tint, a square whose lower
    left half is the face.
    """
    if mesh.colors is None:
        mesh = replace(mesh, colors=torch.ones_like(mesh.vertices, dtype=torch.float32))
    corner_colors, plain = mesh.colors[mesh.faces], mesh.face_texture < 0
    needs = (plain | (corner_colors != 1).flatten(1).any(1)).nonzero().flatten()
    if not len(needs):
        return replace(mesh, colors=None)
    sizes = _patch_sizes(mesh, needs)
    picture, uv = _paint_patches(mesh, needs, sizes)
    faces, worn = mesh.faces.clone(), mesh.face_texture.clone()
    faces[needs] = torch.arange(3 * len(needs)).view(-1, 3) + len(mesh.vertices)
    worn[needs] = len(mesh.textures)
    return Mesh(
        torch.cat([mesh.vertices, mesh.vertices[mesh.faces[needs]].reshape(-1, 3)]),
        faces,
        None,
        torch.cat([mesh.uv, uv.reshape(-1, 2)]),
        (*mesh.textures, picture),
        worn,
        (*(mesh.wrap(number) for number in range(len(mesh.textures))), REPEAT),
    )


def _patch_sizes(mesh: Mesh, needs: Tensor) -> Tensor:
    """(faces,) texels per side of the patches: powers of two."""
    colors, worn = mesh.colors[mesh.faces[needs]], mesh.face_texture[needs]
    varies = (colors != colors[:, :1]).flatten(1).any(1)
    sizes = torch.where(varies, 8, 1)
    for number, texture in enumerate(mesh.textures):
        corners = mesh.uv[mesh.faces[needs[worn == number]]] * torch.tensor([texture.shape[1], texture.shape[0]])
        longest = (corners - corners.roll(1, 1)).norm(dim=-1).amax(1)
        sizes[worn == number] = torch.exp2((longest + 2).log2().ceil()).clamp(8, MOST_PATCH).long()
    while int((sizes * sizes).sum()) > MOST_PATCHES and int(sizes.max()) > 2:
        sizes = torch.where(sizes > 2, sizes // 2, sizes)
    return sizes


def _paint_patches(mesh: Mesh, needs: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """A picture (height, width, 3) of patches of `sizes` (faces,), and where their corners lie (faces, 3, 2)."""
    side = 64
    while side * side < 1.5 * int((sizes * sizes).sum()):
        side *= 2
    rows, uv, top = [], torch.empty(len(needs), 3, 2), 0
    for size in sizes.unique().tolist()[::-1]:
        members = (sizes == size).nonzero().flatten()
        along = side // size
        if size == 1:
            colors, cell = torch.unique(mesh.colors[mesh.faces[needs[members], 0]], dim=0, return_inverse=True)
            patches = colors.view(-1, 1, 1, 3)
        else:
            cell = torch.arange(len(members))
            patches = _patches(mesh, needs[members], size)
        shelves = -(-len(patches) // along)
        padding = torch.ones(shelves * along - len(patches), size, size, 3)
        grid = torch.cat([patches, padding]).view(shelves, along, size, size, 3)
        rows.append(grid.transpose(1, 2).reshape(shelves * size, along * size, 3))
        left, upper = cell % along * size + 0.5, cell // along * size + top + 0.5
        corner = torch.stack([left, upper], -1)[:, None] + torch.tensor([[0, 0], [1, 0], [0, 1]]) * (size - 1)
        uv[members] = corner
        top += shelves * size
    picture = torch.cat(rows)
    return picture, torch.stack([uv[..., 0] / side, 1 - uv[..., 1] / len(picture)], -1)


def _patches(mesh: Mesh, faces: Tensor, size: int) -> Tensor:
    """(faces, size, size, 3) colours of faces: the first corner at the top left, the second to the right."""
    step = torch.linspace(0, 1, size)
    t, s = torch.meshgrid(step, step, indexing="ij")
    bary = torch.stack([1 - s - t, s, t], -1).view(1, -1, 3)
    made = []
    for part in faces.split(max(1, (1 << 20) // (size * size))):
        weights = bary.expand(len(part), -1, -1).reshape(-1, 3)
        made.append(mesh.surface_color(part.repeat_interleave(size * size), weights).clamp(0, 1))
    return torch.cat(made).view(-1, size, size, 3)
