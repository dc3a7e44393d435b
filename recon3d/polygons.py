"""OFF files, and what OFF and PLY share: polygons with the colours of their corners or of the polygons themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from recon3d.mesh import NO_FACES, PLAIN, Mesh, precise
from vision.files import in_utf8


def polygon_mesh(
    places: np.ndarray,
    polygons: np.ndarray | Sequence[np.ndarray],
    colors: np.ndarray | None = None,
    polygon_colors: np.ndarray | None = None,
    remarks: tuple[str, ...] = (),
) -> Mesh:
    """Polygons as fans of triangles; those of fewer than three corners are left out.

    Args:
        places: (places, 3) float64.
        polygons: (polygons, corners) or one array of numbers of places for each.
        colors: (places, 3) display values in [0, 1]; None for grey.
        polygon_colors: (polygons, 3) the same of the polygons, which come before those of the places.
        remarks: see `Mesh`.

    Raises:
        ValueError: there are no faces, or they name places that are not there.
    """
    if isinstance(polygons, np.ndarray):
        counts, corners = np.full(len(polygons), polygons.shape[-1]), polygons.reshape(-1).astype(np.int64)
    else:
        counts = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
        corners = np.concatenate([*polygons, np.zeros(0)]).astype(np.int64)
    triangles = np.maximum(counts - 2, 0)
    owner = np.repeat(np.arange(len(counts)), triangles)
    if not len(owner):
        raise ValueError(NO_FACES)
    first = (np.cumsum(counts) - counts)[owner]
    place = np.arange(len(owner)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    faces = np.stack([corners[first], corners[first + place + 1], corners[first + place + 2]], axis=1)
    if faces.min() < 0 or faces.max() >= len(places):
        wrong = faces.min() if faces.min() < 0 else faces.max()
        raise ValueError(f"a face names vertex {wrong}, and there are {len(places)}")
    if polygon_colors is not None:
        colors = np.repeat(polygon_colors[owner], 3, axis=0)
        places, faces = places[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
    colors = np.full((len(places), 3), PLAIN) if colors is None else colors
    return Mesh(
        precise(torch.from_numpy(np.ascontiguousarray(places, dtype=np.float64))),
        torch.from_numpy(faces),
        torch.from_numpy(np.nan_to_num(colors).clip(0, 1)).float(),
        remarks=remarks,
    )


def display_values(colors: np.ndarray, integers: bool) -> np.ndarray:
    """Colours (n, 3) as files write them in [0, 1]: floats to 1, integers to 255 or, where they exceed that, 65535."""
    highest = np.nanmax(colors, initial=0)
    white = 65535 if integers and highest > 255 else 255 if integers or highest > 1 else 1
    return colors.astype(np.float64) / white


def read_off(content: bytes) -> Mesh:
    """What an OFF file (also COFF, NOFF, STOFF and their mixtures) shows.

    Raises:
        ValueError: it is damaged, binary or holds no faces.
    """
    text = in_utf8(content).decode(errors="replace")
    lines = [words for line in text.splitlines() if (words := line.split("#")[0].split())]
    if lines and (joined := re.fullmatch(r"([A-Za-z]*OFF)(\d+)", lines[0][0], re.IGNORECASE)):  # as in ModelNet40
        lines[0][:1] = joined.groups()
    kind = lines[0].pop(0).upper() if lines and lines[0][0].upper().endswith("OFF") else "OFF"
    if "4" in kind:
        raise ValueError(f"it is a {kind} file, whose places have four numbers")
    lines = lines if lines and lines[0] else lines[1:]
    if lines and lines[0][0].upper() == "BINARY":
        raise ValueError("it is a binary OFF file, and only those of text are read")
    if not lines or len(lines[0]) < 2:
        raise ValueError("it does not say how many places and faces it has")
    count, number = int(lines[0][0]), int(lines[0][1])
    rows, polygons = lines[1 : 1 + count], lines[1 + count : 1 + count + number]
    if min(count, number) < 0 or len(rows) < count or len(polygons) < number:
        raise ValueError("it is cut off")
    between = 3 + 3 * ("N" in kind.removesuffix("OFF"))  # places and normals
    places = np.array([[float(word) for word in row[:3]] for row in rows], dtype=np.float64).reshape(-1, 3)
    colored = count > 0 and all(len(row) >= between + 3 for row in rows)
    corners = [np.array([int(word) for word in row[1 : 1 + int(row[0])]]) for row in polygons]
    if any(len(found) < int(row[0]) for found, row in zip(corners, polygons, strict=True)):
        raise ValueError("a face has fewer corners than it says")
    painted = [row[1 + len(found) : 4 + len(found)] for found, row in zip(corners, polygons, strict=True)]
    return polygon_mesh(
        places,
        corners,
        _colors([row[between : between + 3] for row in rows]) if colored else None,
        _colors([words if len(words) == 3 else ["nan"] * 3 for words in painted], PLAIN)
        if any(len(words) == 3 for words in painted)
        else None,
    )


def _colors(rows: Sequence[Sequence[str]], missing: float = 0.0) -> np.ndarray:
    """(rows, 3) display values; `missing` where a row has none."""
    values = np.array([[float(word) for word in row] for row in rows])
    found = display_values(values, not any("." in word for row in rows for word in row))
    return np.where(np.isfinite(found), found, missing)
