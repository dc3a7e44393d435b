"""glTF 2.0 files as they lie on the disk: container, buffers, accessors and pictures, checked as they are read."""

from __future__ import annotations

import base64
import binascii
import copy
import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from recon3d.beside import OutsideFolder, find_beside, missing
from vision.files import in_utf8

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
"""Component type -> numpy type."""
SIZES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
"""Accessor type -> numbers per element."""
MAX_ELEMENTS = 1 << 26
"""Numbers an accessor may hold: 0.5 GB in float64."""
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
"""Types of the chunks of a GLB file."""
UNDERSTOOD = frozenset(
    """KHR_texture_transform KHR_mesh_quantization KHR_texture_basisu EXT_texture_webp EXT_texture_avif MSFT_texture_dds
    EXT_mesh_gpu_instancing KHR_draco_mesh_compression KHR_lights_punctual KHR_animation_pointer KHR_xmp_json_ld
    KHR_materials_variants MSFT_lod""".split()
)
"""Extensions that a file may require; those of materials (KHR_materials_...) may be required as well."""


@dataclass
class GltfFile:
    """A parsed file: its JSON document and what it refers to."""

    path: Path
    """Where it lies; what it names is looked up beside it."""
    document: dict[str, Any]
    """The JSON object."""
    binary: bytes = b""
    """The binary chunk of a GLB file."""
    buffers: dict[int, bytes] = field(default_factory=dict)
    """Buffers that have been read."""

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The objects of an array at the top of the document, such as "nodes"."""
        return objects(self.document.get(kind, []), kind)

    def item(self, kind: str, index: Any) -> dict[str, Any]:
        """One object of such an array."""
        found = self.items(kind)
        if not whole(index) or not 0 <= index < len(found):
            raise ValueError(f"it names {index!r} among its {len(found)} {kind}")
        return found[index]

    def buffer(self, index: Any) -> bytes:
        """The bytes of a buffer."""
        entry = self.item("buffers", index)
        if index not in self.buffers:
            uri = entry.get("uri")
            self.buffers[index] = self.binary if uri is None and index == 0 else self._named(uri, "buffers")
        return self.buffers[index]

    def view(self, index: Any) -> bytes:
        """The bytes of a buffer view."""
        entry = self.item("bufferViews", index)
        content, start = self.buffer(entry.get("buffer")), entry.get("byteOffset", 0)
        length = entry.get("byteLength")
        if not whole(start) or not whole(length) or start < 0 or length < 0 or start + length > len(content):
            raise ValueError(f"buffer view {index} reaches beyond its buffer of {len(content)} bytes")
        return content[start : start + length]

    def image(self, index: Any) -> bytes:
        """The content of a picture's file.

        Raises:
            FileNotFoundError: the file that it names is missing.
            OutsideFolder: it names one outside the folder.
        """
        entry = self.item("images", index)
        return self.view(entry["bufferView"]) if "bufferView" in entry else self._named(entry.get("uri"), "images")

    def accessor(self, index: Any, *kinds: str) -> np.ndarray:
        """(count, components) numbers of an accessor: integers, or floats where it is normalised.

        Args:
            index: which one.
            kinds: types that are allowed, such as "VEC3"; () for all.
        """
        entry = self.item("accessors", index)
        kind, count = entry.get("type"), entry.get("count")
        if kind not in SIZES or (kinds and kind not in kinds):
            raise ValueError(f"accessor {index} has the type {kind!r} instead of {' or '.join(kinds or SIZES)}")
        if not whole(count) or count < 0 or count * SIZES[kind] > MAX_ELEMENTS:
            raise ValueError(f"accessor {index} has {count!r} elements, more than are read or none that can be")
        dtype = _dtype(entry.get("componentType"))
        if "bufferView" in entry:
            values = self._elements(entry, dtype, count, SIZES[kind])
        else:
            values = np.zeros((count, SIZES[kind]), dtype)
        if "sparse" in entry:
            values = values.copy()
            sparse = entry["sparse"]
            number = sparse.get("count", 0)
            if not whole(number) or not 0 <= number <= count:
                raise ValueError(f"accessor {index} replaces {number!r} of its {count} elements")
            rows = self._elements(sparse["indices"], _dtype(sparse["indices"].get("componentType")), number, 1)[:, 0]
            if number and int(rows.max()) >= count:
                raise ValueError(f"accessor {index} replaces an element that it does not have")
            values[rows.astype(np.int64)] = self._elements(sparse["values"], dtype, number, SIZES[kind])
        if entry.get("normalized") is True and dtype.kind in "iu":
            return np.maximum(values.astype(np.float64) / np.iinfo(dtype).max, -1.0)
        return values

    def add(self, values: np.ndarray, *, limits: bool = False, **further: Any) -> int:
        """Number of a new accessor with (count, components) values, in a buffer of its own.

        Args:
            values: of one of the types in `COMPONENTS`.
            limits: say the least and largest values too, as places need it.
            further: keys of the accessor.
        """
        component = next(key for key, kind in COMPONENTS.items() if np.dtype(kind) == values.dtype)
        kind = next(kind for kind, size in SIZES.items() if size == values.shape[1])
        if limits:
            further |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        view = self.add_view(np.ascontiguousarray(values).tobytes())
        entry = {"bufferView": view, "componentType": component, "count": len(values), "type": kind, **further}
        return self.append("accessors", entry)

    def add_view(self, content: bytes) -> int:
        """Number of a new buffer view that holds `content`, in a buffer of its own."""
        buffer = self.append("buffers", {"byteLength": len(content)})
        self.buffers[buffer] = content
        return self.append("bufferViews", {"buffer": buffer, "byteLength": len(content)})

    def append(self, kind: str, entry: dict[str, Any]) -> int:
        """Number of a new object in an array at the top of the document."""
        self.document.setdefault(kind, []).append(entry)
        return len(self.document[kind]) - 1

    def glb(self) -> bytes:
        """The content of a GLB file with all buffers and pictures inside; data that nothing refers to is left out."""
        document, binary = copy.deepcopy(self.document), bytearray()
        for number, image in enumerate(document.get("images", [])):
            if "bufferView" not in image and (content := self._embedded(number)) is not None:
                image.pop("uri")
                image["bufferView"] = len(document.setdefault("bufferViews", []))
                image.setdefault("mimeType", "image/jpeg" if content.startswith(b"\xff\xd8") else "image/png")
                document["bufferViews"].append({"content": content})
        used = _referenced(document)
        for number, view in enumerate(document.get("bufferViews", [])):
            content = view.pop("content", None)
            if content is None:
                content = self.view(number) if number in used else bytes(4)
            binary += bytes(-len(binary) % 8)
            view.update(buffer=0, byteOffset=len(binary), byteLength=len(content))
            binary += content
        binary += bytes(-len(binary) % 4)
        if binary:
            document["buffers"] = [{"byteLength": len(binary)}]
        text = json.dumps(document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = [struct.pack("<II", len(text), JSON_CHUNK), text]
        chunks += [struct.pack("<II", len(binary), BINARY_CHUNK), bytes(binary)] if binary else []
        return b"".join([b"glTF", struct.pack("<II", 2, 12 + sum(map(len, chunks))), *chunks])

    def _embedded(self, number: int) -> bytes | None:
        """The content of a picture; None where its file is missing, which leaves its name."""
        try:
            return self.image(number)
        except (FileNotFoundError, OutsideFolder):
            return None

    def _elements(self, entry: dict[str, Any], dtype: np.dtype, count: int, size: int) -> np.ndarray:
        content, start = self.view(entry.get("bufferView")), entry.get("byteOffset", 0)
        stride = self.item("bufferViews", entry.get("bufferView")).get("byteStride") or dtype.itemsize * size
        if not whole(start) or not whole(stride) or start < 0 or stride < dtype.itemsize * size:
            raise ValueError(f"an accessor starts at {start!r} with a stride of {stride!r} bytes")
        if count and start + stride * (count - 1) + dtype.itemsize * size > len(content):
            raise ValueError(f"an accessor reaches beyond its {len(content)} bytes; the file is damaged or cut off")
        if not count:
            return np.zeros((0, size), dtype)
        return np.ndarray((count, size), dtype, content, start, (stride, dtype.itemsize))

    def _named(self, uri: Any, kind: str) -> bytes:
        if not isinstance(uri, str):
            raise ValueError(f"one of its {kind} has no data (its uri is {uri!r})")
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            try:
                return base64.b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
            except binascii.Error as error:
                raise ValueError(f"one of its {kind} is no valid base64 text: {error}") from None
        found = find_beside(self.path, uri)
        if found is None:
            raise missing(self.path, uri)
        return found.read_bytes()


def read_gltf(path: Path) -> GltfFile:
    """The parsed file `path`, .glb or .gltf.

    Raises:
        ValueError: it is none, of another version, cut off, or requires an extension that is not read.
    """
    content, binary = path.read_bytes(), b""
    if content[:4] == b"glTF":
        content, binary = _chunks(content)
    try:
        document = json.loads(in_utf8(content).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it holds no JSON document ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("asset", {}), dict):
        raise ValueError("its document is no JSON object with an asset")
    asset = document.get("asset", {})
    version, least = str(asset.get("version", "2.0")), asset.get("minVersion", "2.0")
    if not re.fullmatch(r"2(\.\d+)?", version):
        raise ValueError(f"it is glTF {version[:40]}, and only glTF 2 is read")
    if least != "2.0":
        raise ValueError(f"it needs a reader of glTF {str(least)[:40]} (minVersion), and this one reads 2.0")
    required = document.get("extensionsRequired", [])
    unknown = [name for name in required if name not in UNDERSTOOD and not str(name).startswith("KHR_materials_")]
    if unknown:
        raise ValueError(f"it requires {', '.join(map(str, unknown))}, which is not read; export it without")
    return GltfFile(path, document, binary)


def _referenced(value: Any) -> set[int]:
    """Numbers of the buffer views that a part of a document names."""
    if isinstance(value, list):
        return set().union(*map(_referenced, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    own = {value["bufferView"]} if whole(value.get("bufferView")) else set()
    return own.union(*map(_referenced, value.values()))


def _chunks(content: bytes) -> tuple[bytes, bytes]:
    """JSON and binary chunk of a GLB file."""
    if len(content) < 20:
        raise ValueError("it is cut off")
    version, length = struct.unpack_from("<II", content, 4)
    if version != 2:
        raise ValueError(f"it is GLB {version}, and only GLB 2 is read")
    if length > len(content):
        raise ValueError(f"it is cut off: {len(content)} of {length} bytes are there")
    chunks, start = {}, 12
    while start + 8 <= length:
        size, kind = struct.unpack_from("<II", content, start)
        if start + 8 + size > length:
            raise ValueError("one of its chunks is cut off")
        chunks.setdefault(kind, content[start + 8 : start + 8 + size])
        start += 8 + size
    if JSON_CHUNK not in chunks:
        raise ValueError("it has no JSON chunk")
    return chunks[JSON_CHUNK], chunks.get(BINARY_CHUNK, b"")


def objects(values: Any, what: str) -> list[dict[str, Any]]:
    """`values` when it is a list of JSON objects."""
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"its {what} are no list of objects")
    return values


def numbers(values: Any, count: int, default: tuple[float, ...], what: str) -> np.ndarray:
    """(count,) finite floats of a JSON array; `default` where there is none."""
    if values is None:
        return np.array(default, dtype=np.float64)
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.empty(0)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError(f"{what} must be {count} numbers, got {str(values)[:80]}")
    return found


def whole(value: Any) -> bool:
    """Whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _dtype(component: Any) -> np.dtype:
    if not whole(component) or component not in COMPONENTS:
        raise ValueError(f"an accessor has the component type {component!r}")
    return np.dtype(COMPONENTS[component])
