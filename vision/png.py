"""PNG files: written band by band, so that a large picture never has to exist as a whole; what they say in chunks.

Pillow decodes the pixels of PNG for us; it cannot write them from pieces, and it refuses files with long texts or
profiles. Format: PNG (W3C, third edition), sections 5, 7, 9 and 11.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

_COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # channels -> grey, RGB, grey + alpha, RGBA
_ROWS = 32  # rows filtered at a time


def write_png(
    path: str | Path,
    bands: Iterable[np.ndarray],
    *,
    width: int,
    height: int,
    channels: int = 3,
    bits: int = 8,
    chunks: Iterable[tuple[bytes, bytes]] = (),
    level: int = 6,
) -> None:
    """Write bands as one PNG; `path` is written in place (see `files.atomic_path` for a whole-or-nothing write).

    Args:
        path: the file.
        bands: (rows, width, channels) arrays from top to bottom, `height` rows together; uint8, or uint16 for 16 bits.
        width: pixels per row.
        height: rows.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        bits: 8 or 16 per channel.
        chunks: (kind, content) to be written before the pixels, see `profile_chunk` and `text_chunk`.
        level: zlib's compression level.

    Raises:
        ValueError: the bands do not add up to `height` x `width`.
    """
    with open(path, "wb") as file:
        file.write(_begin(width, height, channels, bits))
        for kind, content in chunks:
            file.write(_chunk(kind, content))
        for data in _compressed(bands, width, height, channels, bits, level):
            file.write(_chunk(b"IDAT", data))
        file.write(_chunk(b"IEND", b""))


def write_apng(
    path: str | Path,
    frames: Iterable[np.ndarray],
    durations: Sequence[float],
    *,
    loops: int = 0,
    chunks: Iterable[tuple[bytes, bytes]] = (),
    level: int = 6,
) -> None:
    """Write an animated PNG, frame by frame (PNG, third edition, section 11.3.3).

    Args:
        path: the file, written in place.
        frames: (height, width, channels) uint8 arrays of one shape, as many as `durations`.
        durations: milliseconds of each frame.
        loops: how often it is played; 0: for ever.
        chunks: see `write_png`.
        level: see `write_png`.

    Raises:
        ValueError: there are more or fewer frames than durations, or their shapes differ.
    """
    number = 0  # of the chunks of the animation
    with open(path, "wb") as file:
        for place, (frame, duration) in enumerate(zip(frames, durations, strict=True)):
            height, width, channels = frame.shape
            if not place:
                file.write(_begin(width, height, channels, 8))
                file.write(_chunk(b"acTL", struct.pack(">II", len(durations), loops)))
                for kind, content in chunks:
                    file.write(_chunk(kind, content))
                first = frame.shape
            if frame.shape != first:
                raise ValueError(f"The frames of an animation have one shape, got {first} and {frame.shape}.")
            shown = min(round(duration), 65_535)
            file.write(_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, shown, 1000, 0, 0)))
            number += 1
            for data in _compressed([frame], width, height, channels, 8, level):
                if place:
                    file.write(_chunk(b"fdAT", struct.pack(">I", number) + data))
                    number += 1
                else:
                    file.write(_chunk(b"IDAT", data))
        file.write(_chunk(b"IEND", b""))


def profile_chunk(icc: bytes) -> tuple[bytes, bytes]:
    """The chunk of a colour profile."""
    return b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)


def read_chunks(data: bytes, kinds: Collection[bytes]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A PNG without its chunks of certain kinds, and those chunks as (kind, content), in order.

    Damaged ones of these kinds are left out; what else is wrong is left to the decoder.

    Args:
        data: the file.
        kinds: chunks to take out; none that its pixels need.
    """
    rest, found, place = [data[:8]], [], 8
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind not in kinds or end > len(data):
            rest.append(data[place:end])
        elif zlib.crc32(data[place + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]:
            found.append((kind, data[place + 8 : end - 4]))
        place = end
    return b"".join([*rest, data[place:]]), found


def inflate(data: bytes, most: int) -> bytes | None:
    """Decompressed data of at most `most` bytes; None where they are more, or damaged."""
    decompressor = zlib.decompressobj()
    try:
        found = decompressor.decompress(data, most + 1)
    except zlib.error:
        return None
    return found if decompressor.eof and len(found) <= most else None


def profile_of(content: bytes, most: int) -> bytes | None:
    """The colour profile of an iCCP chunk; None where it is damaged or has more than `most` bytes."""
    _, _, rest = content.partition(b"\0")
    return inflate(rest[1:], most)


def text_of(kind: bytes, content: bytes, most: int) -> tuple[str, str] | None:
    """Keyword and text of a tEXt, zTXt or iTXt chunk; None where it is damaged or has more than `most` bytes."""
    keyword, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        flags, (_, _, rest) = rest[:2], rest[2:].partition(b"\0")
        _, _, rest = rest.partition(b"\0")
        packed, code = flags[:1] == b"\1", "utf-8"
    else:
        packed, code = kind == b"zTXt", "latin-1"
        rest = rest[1:] if packed else rest
    text = inflate(rest, most) if packed else rest
    if text is None or len(text) > most:
        return None
    try:
        return keyword.decode("latin-1"), text.decode(code)
    except UnicodeDecodeError:
        return None


def text_chunk(keyword: str, text: str) -> tuple[bytes, bytes]:
    """The chunk of a text, not compressed: decoders refuse texts that become much longer.

    Args:
        keyword: 1 to 79 characters of Latin-1.
        text: any.
    """
    name = keyword.encode("latin-1")
    try:
        return b"tEXt", name + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", name + b"\0\0\0\0\0" + text.encode("utf-8")


def _begin(width: int, height: int, channels: int, bits: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, _COLOUR_TYPES[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)


def _compressed(
    bands: Iterable[np.ndarray], width: int, height: int, channels: int, bits: int, level: int
) -> Iterator[bytes]:
    """The compressed rows of a picture, in pieces."""
    compressor, written, pixel = zlib.compressobj(level), 0, channels * bits // 8
    above = np.zeros((1, width * pixel), np.uint8)
    for rows in _row_groups(bands, width, channels, bits):
        written += len(rows)
        if data := compressor.compress(_filter(rows, above, pixel).tobytes()):
            yield data
        above = rows[-1:].copy()
    if written != height:
        raise ValueError(f"The bands have {written} rows together, but the picture has {height}.")
    yield compressor.flush()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _row_groups(bands: Iterable[np.ndarray], width: int, channels: int, bits: int) -> Iterator[np.ndarray]:
    """Bytes (n, width * channels * bits / 8) of the bands' rows, a few at a time."""
    for band in bands:
        if band.dtype != f"uint{bits}" or band.ndim != 3 or band.shape[1:] != (width, channels):
            raise ValueError(f"A band must be (rows, {width}, {channels}) uint{bits}, got {band.shape} {band.dtype}.")
        for start in range(0, len(band), _ROWS):
            rows = np.ascontiguousarray(band[start : start + _ROWS], dtype=f">u{bits // 8}")
            yield rows.view(np.uint8).reshape(len(rows), -1)


def _filter(rows: np.ndarray, above: np.ndarray, pixel: int) -> np.ndarray:
    """Rows with their filter bytes, (n, 1 + bytes of a row): per row the filter with the smallest sum of |residual|.

    `pixel` is the bytes of one."""
    raw = rows.astype(np.int16)
    up = np.concatenate([above, rows[:-1]]).astype(np.int16)
    left, corner = np.zeros_like(raw), np.zeros_like(raw)
    left[:, pixel:], corner[:, pixel:] = raw[:, :-pixel], up[:, :-pixel]
    predictions = [
        np.zeros_like(raw),
        left,
        up,
        (left + up) >> 1,
        _paeth(left, up, corner),
    ]  # filter types 0 to 4
    residuals = np.stack([(raw - prediction).astype(np.uint8) for prediction in predictions])
    costs = np.abs(residuals.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = costs.argmin(axis=0)
    filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = best
    filtered[:, 1:] = residuals[best, np.arange(len(rows))]
    return filtered


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The neighbour that is closest to left + up - corner; ties prefer left, then up."""
    to_left, to_up, to_corner = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    nearest_up = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest_up)
