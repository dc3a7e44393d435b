"""PLY files, of text or binary: polygons and strips, colours of vertices or faces under the names that programs use."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recon3d.mesh import Mesh
from recon3d.polygons import display_values, polygon_mesh
from vision.files import in_utf8

TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
"""Names of types -> numpy's."""
COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
"""What the three colours are called."""
COORDINATES = {"s", "t", "u", "v", "texture_u", "texture_v", "texcoord", "texture_coordinates"}
"""What places in pictures are called."""


@dataclass
class Element:
    """A kind of rows."""

    name: str
    """vertex, face, ..."""
    count: int
    """How many rows there are."""
    properties: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(name, type of a value, type of the length of a list or None) of every column, in numpy's types."""


Rows = dict[str, np.ndarray | list[np.ndarray]]
"""Columns by name: (rows,) numbers, (rows, length) lists of one length, or an array for each row."""


def read_ply(content: bytes) -> Mesh:
    """What a PLY file shows.

    Raises:
        ValueError: it is damaged or holds no faces.
    """
    elements, order, comments, body = _header(in_utf8(content))
    rows: dict[str, Rows] = {}
    words, place = (body.split() if order is None else []), 0
    for element in elements:
        read = _text(element, words, place) if order is None else _binary(element, body, place, order)
        rows[element.name], place = read
    vertices, faces = rows.get("vertex", {}), rows.get("face", {})
    if not {"x", "y", "z"} <= vertices.keys():
        raise ValueError("its vertices have no x, y and z")
    corners = next((faces[name] for name in ("vertex_indices", "vertex_index") if name in faces), [])
    strips = rows.get("tristrips", {}).get("vertex_indices", [])
    painted = _colors(faces, elements, "face") if len(corners) else None
    triangles = [triangle for strip in strips for triangle in _unwound(strip)]
    if triangles:
        corners, painted = [*corners, *triangles], None
    remarks = ()
    if COORDINATES & (vertices.keys() | faces.keys()):
        pictures = [line.split(maxsplit=1)[1] for line in comments if line.lower().startswith("texturefile ")]
        named = f" and picture ({', '.join(pictures)})" if pictures else ""
        remarks = (f"The texture coordinates{named} of a PLY file are not read; it is shown without.",)
    places = np.stack([np.asarray(vertices[axis], np.float64) for axis in "xyz"], axis=1)
    return polygon_mesh(places, corners, _colors(vertices, elements, "vertex"), painted, remarks)


def _header(content: bytes) -> tuple[list[Element], str | None, list[str], bytes]:
    """Elements, numpy's byte order (None: text), comments, and what follows."""
    end = content.find(b"end_header")
    if not content.startswith(b"ply") or end < 0:
        raise ValueError("it has no PLY header")
    after = content.find(b"\n", end)
    lines = content[:end].decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    elements: list[Element] = []
    comments, order = [], ""
    for line in lines[1:]:
        words = line.split()
        if not words:
            continue
        if words[0] == "comment":
            comments.append(line.strip()[len("comment") :].strip())
        elif words[0] == "format":
            orders = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
            if len(words) < 2 or words[1] not in orders:
                raise ValueError(f"its format {' '.join(words[1:2])!r} is not known")
            order = orders[words[1]]
        elif words[0] == "element" and len(words) == 3:
            elements.append(Element(words[1], int(words[2])))
            if elements[-1].count < 0:
                raise ValueError(f"it has {words[2]} rows of {words[1]}")
        elif words[0] == "property" and elements:
            kinds = words[2:4] if words[1:2] == ["list"] and len(words) == 5 else words[1:2]
            if len(words) not in (3, 5) or not set(kinds) <= TYPES.keys():
                raise ValueError(f"its property {' '.join(words[1:])!r} is not known")
            length = TYPES[kinds[0]] if len(kinds) == 2 else None
            elements[-1].properties.append((words[-1].lower(), TYPES[kinds[-1]], length))
    if order == "":
        raise ValueError("it does not say its format")
    return elements, order, comments, content[after + 1 :] if after >= 0 else b""


def _text(element: Element, words: list[bytes], place: int) -> tuple[Rows, int]:
    """The rows of an element of words, and where the next one begins."""
    lists = [length is not None for _, _, length in element.properties]
    if element.count * len(lists) > len(words) - place:
        raise ValueError("it is cut off")
    if (made := _text_of_one_length(element, words, place)) is not None:
        return made
    found: list[list[np.ndarray]] = [[] for _ in lists]
    for _ in range(element.count):
        for column, is_list in enumerate(lists):
            length = int(words[place]) if is_list and place < len(words) else 1
            place += is_list
            if length < 0 or place + length > len(words):
                raise ValueError("it is cut off")
            found[column].append(np.array(words[place : place + length], dtype=np.float64))
            place += length
    return _columns(element, found), place


def _text_of_one_length(element: Element, words: list[bytes], place: int) -> tuple[Rows, int] | None:
    """The same where the only list, if there is any, is as long in all rows as in the first; None where it is not."""
    lists = [column for column, (_, _, length) in enumerate(element.properties) if length is not None]
    width, longer = len(element.properties), 0
    if len(lists) > 1:
        return None
    if lists and element.count:
        longer = int(words[place + lists[0]])
    end = place + element.count * (width + longer)
    if longer < 0 or end > len(words):
        return None
    table = np.array(words[place:end], dtype=np.float64).reshape(element.count, width + longer)
    if lists and (table[:, lists[0]] != longer).any():
        return None
    columns, at = {}, 0
    for name, _, length in element.properties:
        columns[name] = table[:, at] if length is None else table[:, at + 1 : at + 1 + longer]
        at += 1 if length is None else 1 + longer
    return columns, end


def _binary(element: Element, body: bytes, place: int, order: str) -> tuple[Rows, int]:
    """The rows of an element of bytes, and where the next one begins."""
    if element.count and (made := _of_one_length(element, body, place, order)) is not None:
        return made
    found: list[list[np.ndarray]] = [[] for _ in element.properties]
    for _ in range(element.count):
        for column, (_, kind, length) in enumerate(element.properties):
            count = 1
            if length is not None:
                count, place = int(_taken(body, place, order + length, 1)[0]), place + int(length[1])
            values = _taken(body, place, order + kind, count)
            found[column].append(values)
            place += values.nbytes
    return _columns(element, found), place


def _of_one_length(element: Element, body: bytes, place: int, order: str) -> tuple[Rows, int] | None:
    """The same where all lists are as long as those of the first row; None where they are not."""
    row, lengths = [], []
    at = place
    for number, (_, kind, length) in enumerate(element.properties):
        count = 1
        if length is not None:
            count = int(_taken(body, at, order + length, 1)[0])
            row.append((f"length {number}", order + length))
            lengths.append((f"length {number}", count))
            at += int(length[1])
        if count < 0:
            raise ValueError("it is damaged: a list has a negative length")
        row.append((str(number), order + kind, (count,)))
        at += count * int(kind[1])
    dtype = np.dtype(row)
    if not dtype.itemsize or element.count * dtype.itemsize > len(body) - place:
        if not lengths:
            raise ValueError("it is cut off")
        return None
    table = np.frombuffer(body, dtype, element.count, place)
    if any((table[name] != count).any() for name, count in lengths):
        return None
    columns = {}
    for number, (name, _, length) in enumerate(element.properties):
        values = table[str(number)]
        columns[name] = values if length is not None else values[:, 0]
    return columns, place + element.count * dtype.itemsize


def _taken(body: bytes, place: int, kind: str, count: int) -> np.ndarray:
    dtype = np.dtype(kind)
    if count < 0 or place + count * dtype.itemsize > len(body):
        raise ValueError("it is cut off")
    return np.frombuffer(body, dtype, count, place)


def _columns(element: Element, found: list[list[np.ndarray]]) -> Rows:
    return {
        name: values if length is not None else np.concatenate([*values, np.zeros(0)])
        for (name, _, length), values in zip(element.properties, found, strict=True)
    }


def _colors(rows: Rows, elements: list[Element], name: str) -> np.ndarray | None:
    """(rows, 3) display values; None: there are none."""
    names = next((names for names in COLORS if set(names) <= rows.keys()), None)
    if names is None:
        return None
    kinds = {column: kind for element in elements if element.name == name for column, kind, _ in element.properties}
    values = np.stack([np.asarray(rows[column], np.float64) for column in names], axis=1)
    return display_values(values, kinds[names[0]][0] != "f")


def _unwound(strip: np.ndarray) -> list[np.ndarray]:
    """The triangles of a strip, which -1 begins anew."""
    found, begun = [], 0
    for end, corner in enumerate(strip):
        if corner < 0:
            begun = end + 1
        elif end - begun >= 2:
            a, b, c = strip[end - 2 : end + 1]
            found.append(np.array([a, b, c] if (end - begun) % 2 == 0 else [b, a, c]))
    return found
