"""Read pictures: paths, the content of files and PIL images; one frame or page of several.

What a picture is made of in memory says `vision.images.loaded`.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from PIL import UnidentifiedImageError

from vision.files import read_file
from vision.images.formats import SUFFIXES, readable
from vision.images.loaded import DECODER_ERRORS, BadImage, LoadedImage, check_grey, from_pil, loaded_from, turn_of
from vision.images.metadata import take_from_png

MAX_PIXELS = 100_000_000


_pixel_limit_lock = threading.Lock()


Source = str | Path | bytes | BinaryIO | PIL.Image.Image
"""A path, a file's content or an open binary file, or a PIL image."""


def load_image(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, frame: int | None = None, upright: bool = True
) -> LoadedImage:
    """Read a picture; its content decides about the format, not its name.

    Args:
        path: a PNG, JPEG, WebP, BMP, TIFF, GIF, PPM, JPEG 2000 or AVIF file; HEIC and JPEG XL with their plug-ins.
        max_pixels: refuse larger pictures before they are decoded (a small file can hold a huge one).
        frame: which frame of an animation or page of a document, from 1 on; None: the file must have only one.
        upright: turn the picture as EXIF says; False takes its pixels as they are stored.

    Raises:
        FileNotFoundError: there is no such file.
        BadImage: it is no regular file, empty, damaged, no image or too large; it has several frames and none was
            chosen, or not so many.
    """
    try:
        data = read_file(path)
    except ValueError as error:
        raise BadImage(str(error)) from error
    return read_image(data, str(path), max_pixels=max_pixels, frame=frame, upright=upright)


def content_format(path: str | Path) -> str | None:
    """The format, by Pillow's name, that a picture's content has; errors as `load_image`."""
    with opened(read_file(path), str(path), sys.maxsize) as file:
        return file.image.format


def read_image(
    data: bytes, path: str, *, max_pixels: int = MAX_PIXELS, frame: int | None = None, upright: bool = True
) -> LoadedImage:
    """The picture in a file's content, see `load_image`.

    Args:
        data: the content.
        path: what it is called, for the sentences.
        max_pixels: refuse larger pictures before they are decoded.
        frame: see `load_image`.
        upright: see `load_image`.

    Raises:
        BadImage: see `load_image`.
    """
    with opened(data, path, max_pixels) as file:
        if frame is None and len(file.pages) > 1:
            raise BadImage(
                f"{path} is animated or has several pages ({len(file.pages)}); restore takes one (--frames 1) or all "
                "(--frames all), everything else a picture alone."
            )
        return file.read(1 if frame is None else frame, upright)


@contextlib.contextmanager
def opened(data: bytes, path: str, max_pixels: int) -> Iterator[OpenFile]:
    """A file's content, of which frames or pages can be read until the block ends; arguments as in `read_image`.

    Raises:
        BadImage: it is empty, damaged, no image or too large.
    """
    if not data:
        raise BadImage(f"{path} is an empty file.")
    info: dict[str, Any] = {}
    display: tuple[tuple[bytes, bytes], ...] = ()
    sentences: list[str] = []
    if data.startswith(b"\x89PNG"):
        data, info, display, sentences = take_from_png(data)
    with _without_warnings(), _open(data, path) as image:
        image.info.update(info)
        _widen_hidden_grey(image)
        _check_size(path, image.size, max_pixels)
        with _decoding(path):
            pages = _pages(image, lambda: _check_size(path, image.size, max_pixels))
        if not pages:
            raise BadImage(f"{path} holds only a reduced copy of its picture; convert it with the program it is from.")
        yield OpenFile(image, data, path, pages, info, display, tuple(sentences), max_pixels)


def _check_size(path: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadImage(
            f"{path} has {width} x {height} pixels, more than the limit of {max_pixels:,}; "
            "make it smaller, or raise max_pixels (--max-pixels of restore and edit) if it is genuine."
        )
    if not width * height:
        raise BadImage(f"{path} has no pixels ({width} x {height}).")


@dataclass(frozen=True)
class OpenFile:
    """A file whose frames or pages can be read."""

    image: PIL.Image.Image
    """Pillow's view of it."""
    data: bytes
    """What Pillow reads."""
    path: str
    """What it is called, for the sentences."""
    pages: list[int]
    """Pillow's numbers of its frames, or of its pages without reduced copies."""
    info: dict[str, Any]
    """What was taken from a PNG before Pillow reads it."""
    display: tuple[tuple[bytes, bytes], ...]
    """See `Metadata`."""
    remarks: tuple[str, ...]
    """See `LoadedImage`."""
    max_pixels: int
    """Refuse larger frames; those of a GIF may grow after the first."""

    def read(self, frame: int, upright: bool = True, fill: bool = True) -> LoadedImage:
        """A frame or page, from 1 on.

        Args:
            frame: its number.
            upright: see `load_image`.
            fill: whether visible colours flow into what transparency hides.

        Raises:
            BadImage: there is no such frame, or it is damaged.
        """
        if not 1 <= frame <= len(self.pages):
            raise BadImage(f"{self.path} has {len(self.pages)} frames or pages; there is no number {frame}.")
        place, image = self.pages[frame - 1], self.image
        with _decoding(self.path):
            if place or image.tell() != place:
                image.seek(place)
                image.info.update(self.info)
                _check_size(self.path, image.size, self.max_pixels)
            stored = _raw_mode(image)  # unknown when it is loaded, which a look at the EXIF of a PNG does
            turn = turn_of(image, upright)
            deep = self._sixteen_bits(stored)
            image.load()
        if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0 and image.mode in ("I;16", "I;16B", "F"):
            _turn_negative(image)  # 0 is white, which Pillow heeds in 8 bits alone
        remarks = self.remarks + _unread_channels(image)
        sixteen = ";16" in stored and not stored.startswith(("I", "BGR"))  # BGR;16 has 5, 6 and 5 bits
        if deep is None and (sixteen or _has_more_bits(image, self.data)):
            remarks += ("Of its more than 8 bits per channel, 8 are read.",)
        with _decoding(self.path):
            try:
                kind = image.tag_v2.get(_SAMPLES, (_UNSIGNED,))[0] if image.format == "TIFF" else None
                if image.mode == "I" and kind == _UNSIGNED:
                    check_grey(np.asarray(image).view(np.uint32), 65535)  # Pillow takes them for signed ones
                if image.mode == "L" and kind == _SIGNED:
                    check_grey(np.asarray(image).view(np.int8), 255)  # and these for unsigned ones
                loaded = loaded_from(image, deep, self.display, remarks, turn, fill)
            except BadImage as error:
                raise BadImage(f"{self.path}: {error}") from None
        moving = len(self.pages) > 1 and image.format != "TIFF"
        return replace(loaded, duration=float(image.info.get("duration") or 100)) if moving else loaded

    def _sixteen_bits(self, stored: str) -> np.ndarray | None:
        """(h, w, 2), (h, w, 3) or (h, w, 4) uint16: 16-bit colours of an image that is not decoded yet; None: no such.

        Pillow keeps the upper bytes of colours. Decoded a second time as if its bytes were swapped, it gives the lower.
        """
        image = self.image
        if image.format not in ("PNG", "TIFF") or len(self.pages) > 1:
            return None
        form, _, order = stored.partition(";")
        if image.format == "TIFF" and image.tag_v2.get(_PLANES) == 2 and max(image.tag_v2.get(_BITS, (8,))) > 8:
            raise BadImage(f"{self.path} has its 16-bit colours in separate planes; save it with interleaved ones.")
        if form not in ("RGB", "RGBA", "RGBX", "LA") or order not in _SWAPPED:
            return None
        with _open(self.data, self.path) as again:
            again.seek(image.tell())
            # Four bytes of a grey value and its opacity look like one RGBA.
            wanted = "RGBA" if form == "LA" else f"{form};{_SWAPPED[order]}"
            again.tile = [tile._replace(args=_with_raw_mode(tile.args, wanted)) for tile in again.tile]
            again.load()
            lower = np.asarray(again).astype(np.uint16)
        if form == "LA":
            return lower[..., 0::2] << 8 | lower[..., 1::2]
        image.load()
        return np.asarray(image).astype(np.uint16) << 8 | lower


def as_loaded(image: Source | LoadedImage) -> LoadedImage:
    """A picture with its transparency and profile.

    Args:
        image: a path, the content of a file (bytes, or a file opened for reading them), or a PIL image. Of an animated
            PIL image the current frame counts, with a warning.

    Raises:
        FileNotFoundError, BadImage: as `load_image` and `from_pil`.
        TypeError: it is something else.
    """
    if isinstance(image, LoadedImage):
        return image
    if isinstance(image, PIL.Image.Image):
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            warnings.warn(f"The picture has {frames} frames; frame {image.tell() + 1} is taken.", stacklevel=2)
        return from_pil(image)
    if isinstance(image, (str, Path)):
        return load_image(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return read_image(bytes(image), "the picture")
    if isinstance(image, (io.BufferedIOBase, io.RawIOBase)):
        return read_image(image.read() or b"", str(getattr(image, "name", "the picture")))
    raise TypeError(
        "An image must be a path, a PIL image, the content of a file, an array or a tensor, "
        f"got {type(image).__name__}."
    )


def image_files(folder: str | Path) -> list[Path]:
    """The files of a folder whose names end like pictures, sorted by name; hidden ones are left out.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it cannot be listed.
    """
    try:
        entries = sorted(Path(folder).iterdir())
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no folder {folder}.") from None
    except OSError as error:
        raise ValueError(f"Cannot list the folder {folder}: {error.strerror}.") from error
    return [path for path in entries if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]


def _pages(image: PIL.Image.Image, check: Callable[[], object]) -> list[int]:
    """Pillow's numbers of an image's frames; of a TIFF, of the pages that are no reduced copies of others.

    `check` looks at the size of the current page.
    """
    if image.format in ("MPO", "HEIF"):  # further pictures beside the one that is meant
        return [image.tell()]
    pages = list(range(getattr(image, "n_frames", 1)))
    if image.format != "TIFF":
        return pages
    sizes = {}
    for number in pages:
        image.seek(number)
        check()
        if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & 1:
            sizes[number] = image.size
    largest = max(sizes, key=lambda number: sizes[number][0], default=0)
    pages = [number for number in sizes if not _is_copy(image, number, largest, sizes)]
    image.seek(pages[0] if pages else 0)
    return pages


_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _CHANNELS, _PLANES, _SAMPLES = 254, 258, 262, 277, 284, 339  # tags of TIFF
_UNSIGNED, _SIGNED = 1, 2  # what numbers are, by the last of them


def _unread_channels(image: PIL.Image.Image) -> tuple[str, ...]:
    """A sentence on the channels of a TIFF that are neither colours nor opacity, such as selections that were saved."""
    bands = [band for band in image.getbands() if band != "X"]
    channels = int(image.tag_v2.get(_CHANNELS, 1)) if image.format == "TIFF" else 0
    return (f"Not all of its channels are read: {len(bands)} of {channels}.",) if channels > len(bands) else ()


_MOST_DIFFERENT = 12  # of 255, in the mean, between a picture and its reduced copy


def _is_copy(image: PIL.Image.Image, number: int, other: int, sizes: dict[int, tuple[int, int]]) -> bool:
    """Whether a page that does not say so is another one shrunk: half as large or less, of one shape and content."""
    (width, height), (whole_width, whole_height) = sizes[number], sizes[other]
    if 2 * width > whole_width or abs(whole_height * width / whole_width - height) > 1:
        return False
    seen = []
    for page in (number, other):
        image.seek(page)
        seen.append(np.asarray(image.convert("RGB").resize((width, height), PIL.Image.Resampling.BOX)).astype(np.int16))
    return float(np.abs(seen[0] - seen[1]).mean()) <= _MOST_DIFFERENT


_SWAPPED = {"16B": "16L", "16L": "16B", "16N": "16B" if np.little_endian else "16L"}


def _widen_hidden_grey(image: PIL.Image.Image) -> None:
    """Say the transparent grey of a PNG of 2 or 4 bits in the 8 bits that Pillow gives its pixels."""
    bits, hidden = {"L;2": 2, "L;4": 4}.get(_raw_mode(image)), image.info.get("transparency")
    if bits is not None and isinstance(hidden, int):
        image.info["transparency"] = hidden * 255 // (2**bits - 1)


def _turn_negative(image: PIL.Image.Image) -> None:
    """Exchange black and white of a grey picture of more than 8 bits."""
    values = np.asarray(image)
    image.frombytes(((1 if image.mode == "F" else 65535) - values).astype(values.dtype).tobytes())


def _has_more_bits(image: PIL.Image.Image, data: bytes) -> bool:
    """Whether the colours of a PPM or JPEG 2000 file have more bits than the 8 that Pillow keeps."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "PPM":
        words = re.sub(rb"#[^\n]*\n", b" ", data[:1024]).split(maxsplit=4)
        return len(words) > 3 and words[3].isdigit() and int(words[3]) > 255
    size = data.find(b"\xff\x51") if image.format == "JPEG2000" else -1  # the marker SIZ; a component is 3 bytes
    depths = data[size + 40 : size + 40 + 3 * len(image.getbands()) : 3] if size >= 0 else b""
    return any((depth & 127) + 1 > 8 for depth in depths)


def _raw_mode(image: PIL.Image.Image) -> str:
    """How the numbers of an image lie in its file, in Pillow's words; "" where its parts differ."""
    modes = {tile.args[0] if isinstance(tile.args, tuple) else tile.args for tile in image.tile}
    mode = modes.pop() if len(modes) == 1 else ""
    return mode if isinstance(mode, str) else ""


def _with_raw_mode(args: Any, mode: str) -> Any:
    return mode if isinstance(args, str) else (mode, *args[1:])


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Pillow remarks on damaged metadata; what matters becomes an error of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _decoding(path: str) -> Iterator[None]:
    """What a decoder raises is a sentence about the file."""
    try:
        yield
    except (BadImage, UnidentifiedImageError):
        raise
    except (*DECODER_ERRORS, MemoryError) as error:
        raise BadImage(f"{path} is damaged or cut off: {_reason(error)}.") from error


@contextlib.contextmanager
def _open(data: bytes, path: str) -> Iterator[PIL.Image.Image]:
    """Pillow's view of a file's content; only its header is read. The size is checked by the caller, not by Pillow."""
    try:
        formats = readable(data)
    except ImportError as error:
        raise BadImage(f"{path} {error}") from None
    with _pixel_limit_lock:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            with _decoding(path):
                image = PIL.Image.open(io.BytesIO(data), formats=formats)
        except UnidentifiedImageError:
            if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                raise BadImage(
                    f"{path} is a TIFF that is damaged, or whose numbers are of a kind that is not read (8 or 16 bits, "
                    "or grey floats of 32 bits are); convert it."
                ) from None
            raise BadImage(f"{path} is not an image: its content has no known format (PNG, JPEG, WebP, ...).") from None
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
