"""Write PNG files band by band, so that a large picture never has to exist as a whole.

Pillow reads PNG for us; it cannot write one from pieces. Format: PNG (W3C, third edition), sections 5, 7, 9
and 11.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
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
    icc: bytes | None = None,
    level: int = 6,
) -> None:
    """Write 8-bit bands as one PNG; `path` is written in place (see `files.atomic_path` for a
    whole-or-nothing write).

    Args:
        path: the file.
        bands: (rows, width, channels) uint8 arrays from top to bottom, `height` rows together.
        width: pixels per row.
        height: rows.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        icc: colour profile of the pixels, kept in the file.
        level: zlib's compression level.

    Raises:
        ValueError: the bands do not add up to `height` x `width`.
    """
    compressor = zlib.compressobj(level)
    written = 0
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)))
        if icc is not None:
            file.write(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
        above = np.zeros((1, width * channels), np.uint8)
        for rows in _row_groups(bands, width, channels):
            written += len(rows)
            data = compressor.compress(_filter(rows, above, channels).tobytes())
            if data:
                file.write(_chunk(b"IDAT", data))
            above = rows[-1:].copy()
        if written != height:
            raise ValueError(f"The bands have {written} rows together, but the picture has {height}.")
        file.write(_chunk(b"IDAT", compressor.flush()))
        file.write(_chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _row_groups(bands: Iterable[np.ndarray], width: int, channels: int) -> Iterator[np.ndarray]:
    """Flat rows (n, width * channels) of the bands, a few at a time."""
    for band in bands:
        if band.dtype != np.uint8 or band.ndim != 3 or band.shape[1:] != (width, channels):
            raise ValueError(f"A band must be (rows, {width}, {channels}) uint8, got {band.shape} {band.dtype}.")
        for start in range(0, len(band), _ROWS):
            rows = band[start : start + _ROWS]
            yield np.ascontiguousarray(rows).reshape(len(rows), -1)


def _filter(rows: np.ndarray, above: np.ndarray, channels: int) -> np.ndarray:
    """Rows with their filter bytes (n, 1 + width * channels): per row the filter with the smallest sum of
    |residual|."""
    raw = rows.astype(np.int16)
    up = np.concatenate([above, rows[:-1]]).astype(np.int16)
    left, corner = np.zeros_like(raw), np.zeros_like(raw)
    left[:, channels:], corner[:, channels:] = raw[:, :-channels], up[:, :-channels]
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
