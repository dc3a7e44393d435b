"""Wavefront OBJ and MTL files as they are written in practice: statements, numbers, names of pictures."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recon3d.beside import find_beside, missing
from recon3d.textures import REPEAT, Wrap
from vision.files import in_utf8

OPTIONS = {
    "-blendu": 1, "-blendv": 1, "-bm": 1, "-boost": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1, "-mm": 2, "-texres": 1,
    "-type": 1, "-colorspace": 1, "-s": 3, "-o": 3, "-t": 3,
}  # fmt: skip
"""Option of a map -> how many words may follow it; of the last three, as many as are numbers."""


@dataclass(frozen=True)
class Map:
    """A picture that a material names."""

    name: str
    """Its name as written, without options."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Factors of u and v."""
    offset: tuple[float, float] = (0.0, 0.0)
    """What is added to u and v then."""
    wrap: Wrap = REPEAT
    """How it goes on outside [0, 1]."""


@dataclass
class Material:
    """What a material says about colour."""

    diffuse: tuple[float, ...] | None = None
    """Kd, display values."""
    emitted: tuple[float, ...] | None = None
    """Ke, display values."""
    opacity: float | None = None
    """d, else 1 - Tr; None where it says neither."""
    maps: dict[str, str] = field(default_factory=dict)
    """Statement in lower case, such as map_kd -> the rest of its line."""


@dataclass
class ObjFile:
    """The statements of an OBJ file, in numbers; every index counts from 0."""

    path: Path
    """Where it lies; what it names is looked up beside it."""
    lines: list[str]
    """Its text; a line that goes on is one."""
    places: np.ndarray
    """(places, 3) float64."""
    colors: np.ndarray
    """(places, 3) display values; NaN where a place has none."""
    coordinates: np.ndarray
    """(coordinates, 2) of textures."""
    corners: np.ndarray
    """(faces, 3, 3) place, texture coordinates and normal of every corner of the triangles; -1 for none."""
    worn: np.ndarray
    """(faces,) number of the material's name, -1 for none."""
    names: list[str]
    """Names of the materials that faces wear."""
    libraries: list[str]
    """Names of the material files."""


def read_obj(path: Path) -> ObjFile:
    """The statements of an OBJ file.

    Raises:
        ValueError: a line holds no numbers where it should, or names what is not there; the sentence says which.
    """
    lines = text_lines(path.read_bytes())
    rows: dict[str, list[list[str]]] = {"v": [], "vt": [], "vn": []}
    corners: list[tuple[tuple[int, int, int], ...]] = []
    worn, names, libraries, current, polypaint = [], {}, [], -1, []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words and words[0] == "#MRGB":
            polypaint += words[1:]
        if not words or words[0].startswith("#"):
            continue
        key = words[0].lower()
        if key in rows:
            rows[key].append(words[1:])
        elif key in ("f", "fo"):
            counts = tuple(len(rows[kind]) for kind in ("v", "vt", "vn"))
            try:
                polygon = [_corner(word, counts) for word in line.split("#")[0].split()[1:]]
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            corners += [(polygon[0], a, b) for a, b in itertools.pairwise(polygon[1:])]
            worn += [current] * (len(polygon) - 2)
        elif key == "usemtl":
            current = names.setdefault(_rest(line), len(names))
        elif key == "mtllib":
            libraries.append(_rest(line))
    places = _table(rows["v"], 3, 7)
    colors = np.full((len(places), 3), np.nan)
    if places.shape[1] >= 6:  # x y z r g b, x y z w r g b, or with an opacity behind, which is 1 where w is not
        opaque = (places[:, 6:] == 1).all() and not (places[:, 3] == 1).all()
        colors = (places[:, 3:6] if opaque else places[:, -3:]).copy()
        colors[np.isnan(colors).any(1)] = np.nan
        if np.nanmax(colors, initial=0) > 1:  # some programs write 0 to 255
            colors /= 255
    if polypaint:
        colors = _polypaint("".join(polypaint), len(places))
    return ObjFile(
        path,
        lines,
        places[:, :3],
        colors.clip(0, 1),
        _table(rows["vt"], 2, 3)[:, :2],
        np.array(corners, dtype=np.int64).reshape(-1, 3, 3),
        np.array(worn, dtype=np.int64),
        list(names),
        libraries,
    )


def _polypaint(text: str, count: int) -> np.ndarray:
    """(count, 3) display values that ZBrush writes as comments: eight digits a place, of its mask and its colour.

    Raises:
        ValueError: they are no such digits, or not of so many places.
    """
    try:
        values = np.frombuffer(bytes.fromhex(text), np.uint8)
    except ValueError:
        raise ValueError("its #MRGB lines hold no hexadecimal digits") from None
    if len(values) != 4 * count:
        raise ValueError(f"its #MRGB lines hold the colours of {len(values) / 4:g} places, and there are {count}")
    return values.reshape(count, 4)[:, 1:] / 255


def read_materials(file: ObjFile) -> tuple[dict[str, Material], list[str]]:
    """The materials of all material files by name, and sentences on files that were not found."""
    materials: dict[str, Material] = {}
    for path in libraries_of(file):
        _read_library(path, materials)
    notes = [
        not_shown(file.path, library)
        for library in file.libraries
        if find_beside(file.path, library) is None and None in _each(file.path, library)
    ]
    return materials, notes


def libraries_of(file: ObjFile) -> list[Path]:
    """The material files that are there, in their order; one statement may name several."""
    found: list[Path | None] = []
    for library in file.libraries:
        whole = find_beside(file.path, library)
        found += [whole] if whole is not None else _each(file.path, library)
    return [path for path in dict.fromkeys(found) if path is not None]


def _each(path: Path, names: str) -> list[Path | None]:
    return [find_beside(path, name) for name in split_names(names)]


def map_of(path: Path, rest: str) -> tuple[Map, Path | None]:
    """What a statement such as map_Kd says after its first word, and the picture's file beside `path`, if it is there.

    Names may hold spaces; where no file is called so, the last word counts.
    """
    words, options = rest.split(), {}
    while words and words[0].lower() in OPTIONS:
        option = words.pop(0).lower()
        most, values = OPTIONS[option], []
        while words and len(values) < most and (most < 3 or _is_number(words[0])):
            values.append(words.pop(0))
        options[option] = values
    name = rest.split(maxsplit=len(rest.split()) - len(words))[-1].strip() if words else ""
    scale, offset = ([float(value) for value in options.get(key, [])] for key in ("-s", "-o"))
    clamp = [value.lower() for value in options.get("-clamp", [])] == ["on"]
    found = find_beside(path, name) or find_beside(path, "".join(words[-1:]))
    scale, offset = [*scale, 1.0, 1.0], [*offset, 0.0, 0.0]
    wrap = ("clamp", "clamp") if clamp else REPEAT
    return Map(name, (scale[0], scale[1]), (offset[0], offset[1]), wrap), found


def is_map(key: str) -> bool:
    """Whether a statement of a material names a picture."""
    return key.lower().startswith("map_") or key.lower() in ("bump", "disp", "decal", "norm", "refl")


def text_lines(content: bytes) -> list[str]:
    """The lines of a text file; a backslash at the end of one joins it with the next."""
    text = in_utf8(content).decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"\\\n", " ", text).split("\n")


def split_names(text: str) -> list[str]:
    """Names separated by spaces, quoted ones as a whole."""
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', text)]


def _read_library(path: Path, materials: dict[str, Material]) -> None:
    current = Material()  # what stands before the first name belongs to none
    for line in text_lines(path.read_bytes()):
        words = line.split()
        if not words:
            continue
        key = words[0].lower()
        if key == "newmtl":
            current = materials.setdefault(_rest(line), Material())
        elif key == "kd":
            current.diffuse = _rgb(words[1:])
        elif key == "ke":
            current.emitted = _rgb(words[1:])
        elif key == "d" or (key == "tr" and current.opacity is None):
            said = next((float(word) for word in words[1:] if _is_number(word)), None)
            current.opacity = 1 - said if key == "tr" and said is not None else said
        elif is_map(key) and len(words) > 1:
            current.maps[key] = _rest(line)


def not_shown(path: Path, name: str) -> str:
    """The sentence on a file that an OBJ file names and that is not beside it."""
    return f"{str(missing(path, name)).rstrip('.')}; the surface is shown without it."


def _rest(line: str) -> str:
    return line.split(maxsplit=1)[1].strip() if len(line.split(maxsplit=1)) > 1 else ""


def _rgb(words: list[str]) -> tuple[float, ...] | None:
    """Three display values; one counts for all; None for spectral curves and the like."""
    values = [float(word) for word in words[:3] if _is_number(word)]
    if len(values) not in (1, 3) or not np.isfinite(values).all():
        return None
    return tuple(min(max(value, 0.0), 1.0) for value in (values * 3)[:3])


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _corner(word: str, counts: tuple[int, ...]) -> tuple[int, int, int]:
    """Place, texture coordinates and normal of a corner such as 3/4/5, 3//5 or -1."""
    found = [-1, -1, -1]
    for kind, text in enumerate(word.split("/")[:3]):
        if text:
            index = int(text)
            found[kind] = index - 1 if index > 0 else counts[kind] + index
            if kind == 2 and not 0 <= found[kind] < 1 << 40:
                found[kind] = -1
            elif index == 0 or not 0 <= found[kind] < 1 << 40:
                raise ValueError(f"a face names {('place', 'texture coordinate')[kind]} {text}, which is not there")
    return found[0], found[1], found[2]


def _table(rows: list[list[str]], least: int, most: int) -> np.ndarray:
    """(rows, columns) float64 of words; short rows are filled with NaN, of texture coordinates with 0."""
    if not rows:
        return np.zeros((0, least))
    rows = [row[: next((k for k, word in enumerate(row) if word.startswith("#")), most)][:most] for row in rows]
    width = max(least, max(map(len, rows)))
    short = min(map(len, rows))
    if short < least - (least == 2):
        raise ValueError(f"a vertex has {short} numbers instead of {least}")
    if short < width:
        rows = [row + ["0" if k < least else "nan" for k in range(len(row), width)] for row in rows]
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"a vertex must have numbers such as 0.5 or 1e-3 ({error})") from None
