"""What a picture carries besides its pixels, and how much of that a format of files can hold."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import PIL.Image

from vision import png

MOST_BYTES = 64 << 20
"""A profile, or all texts together, may have so many bytes; what has more is left out, and said."""
TAKEN = frozenset((b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf"))
DISPLAY = frozenset((b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI"))
"""PNG's chunks about how its numbers are shown."""
HIGH_RANGE = {16: "PQ", 18: "HLG"}
"""Transfer functions of pictures with a high range of brightness, by their numbers in cICP."""

_XMP = "XML:com.adobe.xmp"
_ORIENTATION, _XMP_TAG, _EXIF_PART, _GPS_PART = 0x0112, 700, 0x8769, 0x8825
# Tags of TIFF and EXIF about how one file stores its pixels, or what we keep elsewhere.
_STORAGE = {
    *range(254, 260), 262, 263, 264, 265, 266, 273, _ORIENTATION, 277, 278, 279, 282, 283, 284, *range(288, 293), 296,
    301, *range(317, 326), 330, 332, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533), _XMP_TAG, 34377,
    34675, 0xA002, 0xA003, 0xA005,
}  # fmt: skip
_HELD = {
    "PNG": {"exif", "xmp", "dpi", "texts", "display"},
    "JPEG": {"exif", "xmp", "dpi", "comment"},
    "WEBP": {"exif", "xmp"},
    "TIFF": {"exif", "xmp", "dpi"},
    "BMP": {"dpi"},
}
_LONGEST_IN_JPEG = 65_500
_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
)


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels and its colour profile."""

    exif: bytes | None = None
    """EXIF with its leading "Exif", of an upright picture; without sizes, preview and storage."""
    xmp: bytes | None = None
    """XMP, of an upright picture."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down; kept as it is, so that larger results are printed larger."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Keyword -> text, as PNG has them; the comments of JPEG and GIF are "Comment"."""
    display: tuple[tuple[bytes, bytes], ...] = ()
    """PNG's chunks (kind, content) about how its numbers are shown: gamma, primaries, HDR."""

    @classmethod
    def of(cls, image: PIL.Image.Image, display: tuple[tuple[bytes, bytes], ...] = ()) -> Metadata:
        """Of a PIL image; damaged parts are left out."""
        info = image.info
        xmp = info.get("xmp") or info.get(_XMP)
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        dpi = info.get("dpi")
        texts = {key: str(value) for key, value in info.items() if isinstance(value, str) and key not in _NO_TEXTS}
        if isinstance(comment := info.get("comment"), bytes):
            texts["Comment"] = comment.rstrip(b"\0").decode("utf-8", "replace")
        return cls(
            _exif(image),
            _upright_xmp(xmp) if isinstance(xmp, bytes) else None,
            (float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 and dpi != (1, 1) else None,
            texts,
            display,
        )

    def fitting(self, name: str) -> tuple[Metadata, list[str]]:
        """What a format (by Pillow's name) can hold of this, and what it cannot, in words."""
        held, kept, lost = _HELD[name], self, []
        longest = _LONGEST_IN_JPEG if name == "JPEG" else MOST_BYTES
        for part, words in (("exif", "EXIF"), ("xmp", "XMP")):
            value = getattr(self, part)
            if value is not None and (part not in held or len(value) > longest):
                kept, lost = replace(kept, **{part: None}), [*lost, words]
        if self.dpi is not None and "dpi" not in held:
            kept, lost = replace(kept, dpi=None), [*lost, f"resolution ({self.dpi[0]:.0f} dpi)"]
        fits = {
            key: text
            for key, text in self.texts.items()
            if "texts" in held or ("comment" in held and key == "Comment" and len(text.encode()) <= longest)
        }
        if len(fits) < len(self.texts):
            words = ", ".join(key for key in self.texts if key not in fits)
            kept, lost = replace(kept, texts=fits), [*lost, f"texts ({words})"]
        if self.display and "display" not in held:
            words = ", ".join(kind.decode() for kind, _ in self.display)
            kept, lost = replace(kept, display=()), [*lost, f"tags of gamma and colours ({words})"]
        return kept, lost

    def chunks(self, icc: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """For a PNG, in the order in which they must stand."""
        found = list(self.display)
        if icc is not None:
            found.append(png.profile_chunk(icc))
        if self.dpi is not None:
            found.append((b"pHYs", struct.pack(">IIB", *(round(number / 0.0254) for number in self.dpi), 1)))
        if self.exif is not None:
            found.append((b"eXIf", self.exif.removeprefix(b"Exif\0\0")))
        if self.xmp is not None:
            found.append((b"iTXt", _XMP.encode() + b"\0\0\0\0\0" + self.xmp))
        return found + [png.text_chunk(key, text) for key, text in self.texts.items()]

    def save_options(self, name: str) -> dict[str, Any]:
        """For Pillow's `save` in a format that can hold all of this."""
        options: dict[str, Any] = {"exif": self.exif, "xmp": self.xmp, "dpi": self.dpi}
        options["comment"] = self.texts.get("Comment")
        if name == "TIFF" and (self.exif or self.xmp):
            tags = PIL.Image.Exif()
            if self.exif is not None:
                tags.load(self.exif)
                options["compression"] = "raw"  # libtiff, which compresses, cannot write parts of EXIF
            if self.xmp is not None:
                tags[_XMP_TAG] = self.xmp
            options["exif"] = tags
        return {key: value for key, value in options.items() if value is not None}


def take_from_png(data: bytes) -> tuple[bytes, dict[str, Any], tuple[tuple[bytes, bytes], ...], list[str]]:
    """A PNG without its profile and texts, whose lengths Pillow limits, and what they say.

    Returns:
        (the rest, what Pillow would have put into `info`, chunks about display, sentences about what is left out).
    """
    rest, chunks = png.read_chunks(data, TAKEN | DISPLAY)
    info: dict[str, Any] = {}
    left, long = MOST_BYTES, []
    for kind, content in chunks:
        if kind == b"iCCP":
            info["icc_profile"] = png.profile_of(content, MOST_BYTES)
        elif kind == b"eXIf":
            info["exif"] = b"Exif\0\0" + content.removeprefix(b"Exif\0\0")
        elif kind in TAKEN:
            pair = png.text_of(kind, content, left)
            if pair is None:
                long.append(content.partition(b"\0")[0][:79].decode("latin-1"))
            elif pair[0].startswith("Raw profile type "):
                if pair[0].endswith((" exif", " APP1")):
                    info.setdefault("exif", _unpacked(pair[1]))
            else:
                info[pair[0]] = pair[1]
                left -= len(pair[1])
    sentences = [f"Its texts {', '.join(long)} are damaged or too long and are left out."] if long else []
    display = tuple(pair for pair in chunks if pair[0] in DISPLAY)
    for kind, content in display:
        if kind == b"cICP" and content[1:2] and content[1] in HIGH_RANGE:
            sentences.append(
                f"Its brightness is coded for a high range ({HIGH_RANGE[content[1]]}); it is taken as it is coded, and "
                "only a PNG keeps the tag that says so."
            )
    return rest, {key: value for key, value in info.items() if value}, display, sentences


_NO_TEXTS = frozenset((_XMP, "xmp", "exif", "icc_profile", "compression", "photoshop"))


def _exif(image: PIL.Image.Image) -> bytes | None:
    """EXIF as it holds for an upright picture of another size."""
    try:
        found, kept = image.getexif(), PIL.Image.Exif()
        for tag, value in found.items():
            if tag not in _STORAGE and tag not in (_EXIF_PART, _GPS_PART):
                kept[tag] = value
        for part in (_EXIF_PART, _GPS_PART):
            inner = {tag: value for tag, value in found.get_ifd(part).items() if tag not in _STORAGE}
            if inner:
                kept[part] = inner
        if not len(kept):
            return None
        data = kept.tobytes()
        return data if data.startswith(b"Exif\0\0") else b"Exif\0\0" + data
    except _ERRORS:
        return None


def _upright_xmp(xmp: bytes) -> bytes:
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>))[0-9]", rb"\g<1>1", xmp)


def _unpacked(text: str) -> bytes | None:
    """The content of a "Raw profile" text: a name and a length, then hexadecimal digits."""
    try:
        data = bytes.fromhex("".join(text.split()[2:]))
    except ValueError:
        return None
    return b"Exif\0\0" + data.removeprefix(b"Exif\0\0")
