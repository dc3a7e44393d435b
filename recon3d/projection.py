"""Paint a surface from posed pictures: what the pictures show beyond the paint is carried back onto it.

Paint is what colours a mesh: its textures (height, width, 3) and its vertex colours (vertices, 3), by name. Every
sample of a picture looks the paint up linearly, so the difference between given and drawn pictures comes back along the
same look-ups: each texel takes the weighted mean of the differences of the samples that use it (SIRT, the simultaneous
iterative reconstruction technique). Once is projection baking; repeated, it sharpens.

Samples weigh by how directly they look at the surface. Pixels at outlines, where the object covers them in part or its
depth jumps, are a mixture of colours and weigh nothing. Texels between the samples take the difference of the coarser
levels of a pyramid; what no picture sees takes the change of the nearest places on the surface that are seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, normalize

from recon3d.mesh import Mesh
from recon3d.raster import Fragments, face_normals, rasterize
from recon3d.raster import interpolate as on_surface
from recon3d.views import Views

Paint = dict[str, Tensor]

DRAWN = 2
"""Samples per pixel side of the pictures that are compared; their mean is the pixel."""
MOST_PER_SIDE, MOST_SAMPLES = 4, 12_000_000
"""Samples per pixel side, and of all pictures together, along which differences are carried back."""
BESIDE = 0.05
"""Weight of a pixel next to an outline, where the neighbours' shape may be a little off."""
LEVELS = 3
"""Halvings of a texture over which texels between samples find a difference."""
CERTAIN = 0.1
"""Weight of the coarser level against the samples of a texel, one of which weighs up to 1."""


def paint_of(mesh: Mesh) -> Paint:
    """The textures of a mesh, and its vertex colours where they alone colour a face."""
    paint = {f"texture_{number}": texture for number, texture in enumerate(mesh.textures)}
    if mesh.colors is not None and (mesh.face_texture is None or bool((mesh.face_texture < 0).any())):
        paint["colors"] = mesh.colors
    return paint


def painted(mesh: Mesh, paint: Paint) -> Mesh:
    """The mesh with other paint."""
    textures = tuple(paint[f"texture_{number}"] for number in range(len(mesh.textures)))
    return replace(mesh, colors=paint.get("colors", mesh.colors), textures=textures)


class Projector:
    """Draws a mesh in the cameras of views, and carries differences of the pictures back onto its paint.

    Args:
        mesh: the surface, whose shape stays.
        views: pictures with cameras and masks, in the world of the mesh.
    """

    @torch.no_grad()
    def __init__(self, mesh: Mesh, views: Views) -> None:
        self.mesh, self.views = mesh, views
        self.drawn = self._visible(DRAWN)
        self.samples = _samples(mesh, views, self.drawn)  # per pixel side, when differences are carried back
        self.carrying = self.drawn if self.samples == DRAWN else self._visible(self.samples)
        self.trust = [self._trust(number) for number in range(len(views))]
        normals = face_normals(mesh.vertices, mesh.faces)
        self.linear = mesh.colors is None or not mesh.textures  # no tint makes look-ups depend on the paint
        self.heard: dict[tuple[int, ...], dict[str, _Heard]] = {}
        self.weight = []  # (samples,) of every view: trust times the cosine between ray and normal
        for number, fragments in enumerate(self.carrying):
            towards = views.cameras.positions[number] - on_surface(mesh.vertices, mesh.faces, fragments)
            cosine = (normals[fragments.visible] * normalize(towards, dim=-1)).sum(-1)
            trust = interpolate(self.trust[number][None, None], scale_factor=self.samples).flatten()
            self.weight.append(trust[fragments.pixel_index] * cosine.abs())

    @torch.no_grad()
    def picture(self, paint: Paint, number: int) -> Tensor:
        """(3, height, width) the mesh in this paint on white, as view `number` sees it."""
        fragments = self.drawn[number]
        fine = fragments.scatter(self._colors(paint, fragments).clamp(0, 1), 1.0)
        return avg_pool2d(fine.permute(2, 0, 1), DRAWN)

    def error(self, paint: Paint, numbers: Sequence[int]) -> float:
        """Mean squared error over the whole pictures of the views numbered, where outlines count as right."""
        total = 0.0
        for number in numbers:
            squared = (self.picture(paint, number) - self.views.images[number]).square()
            total += float((squared * (self.trust[number] > 0)).mean()) / len(numbers)
        return total

    def carried(self, paint: Paint, numbers: Sequence[int]) -> Paint:
        """The change of the paint that the differences of the views numbered from its pictures ask for."""
        given = {name: value.detach().requires_grad_() for name, value in paint.items()}
        total = {name: torch.zeros_like(value) for name, value in paint.items()}
        weight = {name: torch.zeros_like(value) for name, value in paint.items()}
        white = {name: torch.ones_like(value) for name, value in paint.items()}
        key = tuple(numbers)
        new = key not in self.heard or not self.linear
        for number in numbers:
            with torch.enable_grad():
                colors = self._colors(given, self.carrying[number])
            missing = self._at_samples(self.views.images[number] - self.picture(paint, number), number)
            self._add_back(total, colors, given, number, missing)
            if new:
                reach = self._colors(white, self.carrying[number])  # 1, or the tint of a textured face
                self._add_back(weight, colors, given, number, reach)
        if new:
            self.heard[key] = {name: self._heard(name, weight[name]) for name in paint}
        return {name: self.heard[key][name].filled(total[name]) for name in paint}

    def _visible(self, samples: int) -> list[Fragments]:
        size = (self.views.cameras.height * samples, self.views.cameras.width * samples)
        clips = self.views.cameras.resized(*size).clip(self.mesh.vertices)
        return [rasterize(clip, self.mesh.faces, size) for clip in clips]

    def _colors(self, paint: Paint, fragments: Fragments) -> Tensor:
        """(fragments, 3) colours of samples in this paint."""
        return painted(self.mesh, paint).surface_color(fragments.visible, fragments.bary)

    def _add_back(self, sums: Paint, colors: Tensor, paint: Paint, number: int, values: Tensor) -> None:
        """Values (samples, 3) of a view, times what its samples weigh, added up along the look-ups of the colours."""
        values = self.weight[number][:, None] * values
        parts = torch.autograd.grad(
            colors, list(paint.values()), values, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for name, part in zip(paint, parts, strict=True):
            sums[name] += part

    def _trust(self, number: int) -> Tensor:
        """(height, width) 1 where a pixel and its neighbours show one surface, little beside outlines, 0 on them."""
        fragments, camera = self.drawn[number], self.views.cameras.c2w[number]
        position = on_surface(self.mesh.vertices, self.mesh.faces, fragments)
        depth = ((position - camera[:3, 3]) @ camera[:3, 2])[:, None]
        low = -max_pool2d(-fragments.scatter(depth, torch.inf)[None, ..., 0], DRAWN)
        high = max_pool2d(fragments.scatter(depth, -torch.inf)[None, ..., 0], DRAWN)
        jump = 0.05 * float((self.mesh.vertices.amax(0) - self.mesh.vertices.amin(0)).amax())
        # Samples beside the surface have made `low` or `high` infinite.
        whole = (avg_pool2d(fragments.mask[None], DRAWN) > 0.99) & (self.views.masks[number] > 0.99)
        clean = (whole & (high - low < jump)).float()
        level = max_pool2d(high, 3, 1, 1) + max_pool2d(-low, 3, 1, 1) < jump
        inner = -max_pool2d(-clean, 3, 1, 1) * level
        return (BESIDE * clean + (1 - BESIDE) * inner)[0]

    def _at_samples(self, picture: Tensor, number: int) -> Tensor:
        """(fragments, 3) a picture (3, height, width) at the samples, blended between trusted pixels."""
        trust = self.trust[number][None]
        both = torch.cat([picture * trust, trust])[None]
        fine = interpolate(both, scale_factor=self.samples, mode="bilinear", align_corners=False)[0]
        fine = fine.flatten(1)[:, self.carrying[number].pixel_index].T
        return fine[:, :3] / fine[:, 3:].clamp(min=1e-6)

    def _heard(self, name: str, weight: Tensor) -> _Heard:
        """What the weights of all samples tell about a part of the paint."""
        if name == "colors":
            places, known = self.mesh.vertices, weight[:, 0] > CERTAIN
            inside = torch.ones_like(known)
        else:
            places, inside = texel_places(self.mesh, int(name.removeprefix("texture_")))
            known = _completed(weight, weight)[1][..., 0] > 0.5
        source = inside & known
        asking = inside & ~known & source.any()
        nearest = nearest_places(places[source], places[asking]) if bool(asking.any()) else None
        return _Heard(weight, known, asking, source, nearest)


@dataclass(frozen=True)
class _Heard:
    """How much views say about vertex colours (vertices, 3) or a texture (height, width, 3)."""

    weight: Tensor
    """Of all samples, of the size of the paint."""
    known: Tensor
    """bool, without the channels: enough speaks, here or on a coarser level."""
    asking: Tensor
    """bool: parts of the surface of which nothing is known."""
    source: Tensor
    """bool: parts of the surface that are known."""
    nearest: Tensor | None
    """(asking, n) int64, which of the sources are nearest; None: nothing asks."""

    def filled(self, total: Tensor) -> Tensor:
        """The weighted mean where enough speaks; elsewhere a coarser level's, or that of the nearest places known."""
        change = _completed(total, self.weight)[0] if total.dim() == 3 else total / self.weight.clamp(min=1e-6)
        if self.nearest is not None:
            change[self.asking] = change[self.source][self.nearest].mean(1)
        return change * (self.known | self.asking).unsqueeze(-1)


def _completed(total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Means of a texture (height, width, 3) that coarser levels complete, and how sure they are, from 0 to 1."""
    means, sure = _pull(*(x.permute(2, 0, 1)[None] for x in (total, weight)), LEVELS)
    return means[0].permute(1, 2, 0), sure[0].permute(1, 2, 0)


def _pull(total: Tensor, weight: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The same for (1, 3, height, width), with so many coarser levels."""
    if levels > 0 and min(total.shape[-2:]) > 1:
        sums = (4 * avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (total, weight))
        coarse, sure = _pull(*sums, levels - 1)
        blended, size = torch.cat([coarse * sure, sure]), total.shape[-2:]
        coarse, sure = interpolate(blended, size, mode="bilinear", align_corners=False).split(1)
        total, weight = total + CERTAIN * coarse, weight + CERTAIN * sure
    return total / weight.clamp(min=1e-6), (weight / CERTAIN).clamp(max=1)


def _samples(mesh: Mesh, views: Views, drawn: list[Fragments]) -> int:
    """Samples per pixel side that leave few texels between them, as far as memory allows."""
    texels = sum(texture.shape[0] * texture.shape[1] for texture in mesh.textures) / 2  # what one view may see
    covered = sum(len(fragments.pixel_index) for fragments in drawn) / DRAWN**2
    wanted = math.ceil(math.sqrt(texels * len(views) / max(covered, 1)))
    allowed = int(math.sqrt(MOST_SAMPLES / max(covered, 1)))
    return max(DRAWN, min(wanted, allowed, MOST_PER_SIDE))


def texel_places(mesh: Mesh, number: int) -> tuple[Tensor, Tensor]:
    """Where the texels of a texture lie on the surface (height, width, 3), and which lie on it (height, width) bool."""
    texture = mesh.textures[number]
    faces = mesh.faces[mesh.face_texture == number]
    corner = mesh.uv[faces]  # moved into the first tile, each face on its own
    corner = corner - corner.amin(1, keepdim=True).floor()
    flat = torch.stack([corner[..., 0] * 2 - 1, 1 - corner[..., 1] * 2], -1).reshape(-1, 2)
    clip = torch.cat([flat, torch.zeros_like(flat[:, :1]), torch.ones_like(flat[:, :1])], -1)
    own = torch.arange(len(clip), device=clip.device).view(-1, 3)
    fragments = rasterize(clip, own, texture.shape[:2])
    places = on_surface(mesh.vertices[faces].reshape(-1, 3), own, fragments)
    return fragments.scatter(places), fragments.face_id >= 0


def nearest_places(places: Tensor, asked: Tensor, count: int = 4) -> Tensor:
    """(asked, count) int64, which of places (places, 3) are nearest to (asked, 3); fewer where there are fewer."""
    nearest = list(range(1, min(count, len(places)) + 1))
    _, index = cKDTree(places.cpu().numpy()).query(asked.cpu().numpy(), k=nearest)
    return torch.from_numpy(index).to(places.device)
