"""Formats of picture files: what is read, by which names and with which plug-in, and what is written."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import PIL.Image

ENDINGS = {
    "PNG": ".png .apng",
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .pjpeg .pjp .mpo",
    "WEBP": ".webp",
    "BMP": ".bmp .dib",
    "DIB": "",
    "TIFF": ".tif .tiff",
    "GIF": ".gif",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "AVIF": ".avif .avifs",
    "HEIF": ".heic .heif .hif .heics .heifs",
    "JXL": ".jxl",
}
"""Format, by Pillow's name -> endings of its files."""
SUFFIXES = frozenset(" ".join(ENDINGS.values()).split())
PLUGINS = {"HEIF": ("HEIC", "pillow_heif", "pillow-heif"), "JXL": ("JPEG XL", "pillow_jxl", "pillow-jxl-plugin")}
"""Format -> its name for people, the module that reads it, the package that brings the module."""

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "quality": 95},
    ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".bmp": {"format": "BMP"},
}
"""Ending -> how Pillow writes it."""
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
"""Format -> pixels per side that its encoder takes at most; the others have no limit that pictures reach."""
OPAQUE = frozenset(("JPEG", "BMP"))
"""Formats without transparency."""
DEEP = frozenset(("PNG", "TIFF"))
"""Formats that hold 16 bits per channel."""
GREY = frozenset(("PNG", "JPEG"))
"""Formats whose results have one channel where they have no colours."""
PAGED = {True: frozenset(("PNG", "WEBP")), False: frozenset(("TIFF",))}
"""Formats that hold several pictures: frames with durations (True), or pages (False)."""


def format_of(path: str | Path) -> str:
    """The format, by Pillow's name, in which a file of this name is written.

    Raises:
        ValueError: its suffix is unknown.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SAVE_OPTIONS:
        raise ValueError(f"Cannot save as {suffix or 'a name without suffix'!r}; use {', '.join(SAVE_OPTIONS)}.")
    return SAVE_OPTIONS[suffix]["format"]


def readable(data: bytes) -> list[str]:
    """Formats, by Pillow's names, that the content of a file may have.

    Raises:
        ImportError: it has one whose plug-in is missing; the sentence names the package.
    """
    PIL.Image.init()  # registers the formats; builds of Pillow differ in them
    for name, (known, module, package) in PLUGINS.items():
        if _SIGNS[name](data):
            try:
                plugin = importlib.import_module(module)
            except ImportError:
                raise ImportError(f"is a {known} picture; to read it, install {package}.") from None
            if name == "HEIF":
                plugin.register_heif_opener()
    if _is_avif(data) and "AVIF" not in PIL.Image.OPEN:
        raise ImportError("is an AVIF picture; to read it, install Pillow 11.3 or newer.")
    return [name for name in ENDINGS if name in PIL.Image.OPEN]


def _brands(data: bytes) -> set[bytes]:
    """The kinds that an ISO media file says it is of."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12], *(data[place : place + 4] for place in range(16, end, 4))}


def _is_avif(data: bytes) -> bool:
    return bool(_brands(data) & {b"avif", b"avis"})


def _is_heic(data: bytes) -> bool:
    heic = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
    return bool(_brands(data) & heic) and not _is_avif(data)


def _is_jxl(data: bytes) -> bool:
    return data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"))


_SIGNS = {"HEIF": _is_heic, "JXL": _is_jxl}
