"""Surfaces whose pictures have transparent parts, such as leaves and hair: these parts are cut out of the faces."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from recon3d.textures import Wrap, sample_texture

CELLS = 1024
"""Most cells per side of the grid that says where a picture is opaque."""
LEVELS = 11
"""How often a face may be split into four."""
MOST_PIECES = 20_000
"""About how many faces the cut may add to a part."""
SPLIT = torch.tensor(
    [[[2, 0, 0], [1, 1, 0], [1, 0, 1]], [[1, 1, 0], [0, 2, 0], [0, 1, 1]],
     [[1, 0, 1], [0, 1, 1], [0, 0, 2]], [[1, 1, 0], [0, 1, 1], [1, 0, 1]]], dtype=torch.float64
) / 2  # fmt: skip
"""(4, 3, 3) barycentrics of the corners of a triangle's four quarters."""


@dataclass(frozen=True)
class Sheet:
    """A piece of surface in one look."""

    vertices: Tensor
    """(vertices, 3) float64."""
    faces: Tensor
    """(faces, 3) int64."""
    colors: Tensor
    """(vertices, 3) display values."""
    uv: Tensor | None
    """(vertices, 2) texture coordinates."""


def cut_out(sheet: Sheet, opacity: Tensor, picture: Tensor | None, wrap: Wrap, cutoff: float) -> Sheet:
    """The sheet without what is less opaque than `cutoff`; the vertices stay, those of new corners follow.

    Faces that the picture's edge crosses are split into quarters until they are as small as its texels.

    Args:
        opacity: (vertices,) of the material, in [0, 1].
        picture: (height, width) opacity of the texture, multiplied with it; None for 1.
        wrap: how the texture goes on outside [0, 1].
    """
    sheet = replace(sheet, faces=sheet.faces[opacity[sheet.faces].mean(1) >= cutoff])
    if picture is None or sheet.uv is None or not len(sheet.faces):
        return sheet
    threshold = cutoff / float(opacity.amax())
    if bool((picture >= threshold).all()):
        return sheet
    grid, uv = _Grid(picture >= threshold, wrap), sheet.uv.double()
    parent = torch.arange(len(sheet.faces))
    bary = torch.eye(3, dtype=torch.float64).expand(len(parent), 3, 3)
    untouched, kept, most = None, [], MOST_PIECES + len(parent)
    for level in range(LEVELS + 1):
        corners = bary @ uv[sheet.faces[parent]]
        full, empty, small = grid.state(corners)
        if level == 0:
            untouched = sheet.faces[full]
        else:
            kept.append((parent[full], bary[full]))
        mixed = ~full & ~empty
        ends = level == LEVELS or sum(len(part) for part, _ in kept) + 4 * int((mixed & ~small).sum()) > most
        last = mixed if ends else mixed & small
        seen = sample_texture(picture[..., None].double(), corners.mean(1), wrap)[:, 0] >= threshold
        kept.append((parent[last & seen], bary[last & seen]))
        go_on = mixed & ~last
        parent, bary = parent[go_on].repeat_interleave(4), (SPLIT @ bary[go_on][:, None]).reshape(-1, 3, 3)
    faces, bary = torch.cat([part for part, _ in kept]), torch.cat([part for _, part in kept])
    corners = sheet.faces[faces]
    values = torch.cat([sheet.vertices, sheet.colors.double(), uv], 1)
    rows, index = torch.unique((bary @ values[corners]).reshape(-1, 8), dim=0, return_inverse=True)
    return Sheet(
        torch.cat([sheet.vertices, rows[:, :3]]),
        torch.cat([untouched, index.view(-1, 3) + len(sheet.vertices)]),
        torch.cat([sheet.colors, rows[:, 3:6].float()]),
        torch.cat([sheet.uv, rows[:, 6:].float()]),
    )


class _Grid:
    """Says of boxes of texture coordinates whether a picture is opaque in all of them, in none, or in a part."""

    def __init__(self, opaque: Tensor, wrap: Wrap) -> None:
        size = [min(side, CELLS) for side in opaque.shape]
        some = adaptive_max_pool2d(opaque[None].float(), size)[0]
        every = 1 - adaptive_max_pool2d(1 - opaque[None].float(), size)[0]
        self.size, self.wrap = size, wrap
        self.some, self.every = self._summed(some), self._summed(every)

    def _summed(self, cells: Tensor) -> Tensor:
        """Summed-area table of the cells with their first repetition in every direction that has one."""
        for axis, wrap in ((1, self.wrap[0]), (0, self.wrap[1])):
            if wrap == "mirror":
                cells = torch.cat([cells, cells.flip(axis)], axis)
            if wrap != "clamp":
                cells = torch.cat([cells, cells], axis)
        table = torch.zeros(cells.shape[0] + 1, cells.shape[1] + 1, dtype=torch.float64)
        table[1:, 1:] = cells.double().cumsum(0).cumsum(1)
        return table

    def state(self, uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of triangles (n, 3, 2): whether all is opaque, whether nothing is, and whether they are small."""
        place = torch.stack([uv[..., 0], 1 - uv[..., 1]], -1) * torch.tensor(self.size[::-1])
        low, high = place.amin(1), place.amax(1)
        left, right = self._span(low[:, 0], high[:, 0], self.size[1], self.wrap[0])
        top, bottom = self._span(low[:, 1], high[:, 1], self.size[0], self.wrap[1])

        def count(table: Tensor) -> Tensor:
            return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]

        area = (right - left) * (bottom - top)
        return count(self.every) >= area, count(self.some) <= 0, (high - low).amax(1) <= 1

    @staticmethod
    def _span(low: Tensor, high: Tensor, size: int, wrap: str) -> tuple[Tensor, Tensor]:
        """First and after the last cell that look-ups between two places touch."""
        first, last = (low - 0.5).floor(), (high + 0.5).floor()
        if wrap == "clamp":
            return first.clamp(0, size - 1).long(), last.clamp(0, size - 1).long() + 1
        period = 2 * size if wrap == "mirror" else size
        whole, begin = last - first + 1 >= period, (first / period).floor() * period
        first, last = torch.where(whole, 0, first - begin), torch.where(whole, period - 1, last - begin)
        return first.long(), last.long() + 1
