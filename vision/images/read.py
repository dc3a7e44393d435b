"""Read pictures: files, bytes and PIL images become upright RGB with what else they carry.

Whatever the file holds becomes that here: orientation from EXIF is applied, palette, grey and CMYK become RGB,
transparency is kept apart, numbers of more than 8 bits are kept beside. A colour profile that describes RGB is kept to
be saved with the result; pixels with any other profile (CMYK, grey) are converted to sRGB.
"""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageColor
from PIL import UnidentifiedImageError

from vision.files import read_file
from vision.images.formats import SUFFIXES, readable
from vision.images.metadata import Metadata, take_from_png
from vision.images.transparency import bleed, enlarge_alpha

MAX_PIXELS = 100_000_000
# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
_pixel_limit_lock = threading.Lock()


class BadImage(ValueError):
    """A picture that cannot be used; the message is a sentence that says why and what to do."""


Source = str | Path | bytes | BinaryIO | PIL.Image.Image
"""A path, a file's content or an open binary file, or a PIL image."""


@dataclass(frozen=True)
class LoadedImage:
    """A picture as it was read, upright."""

    rgb: PIL.Image.Image
    """Colours, mode RGB, 8 bit; where transparency hides them, those of the visible neighbours."""
    alpha: PIL.Image.Image | None = None
    """Transparency, mode L of the same size; None when the picture is opaque."""
    icc: bytes | None = None
    """Colour profile of `rgb`; None means sRGB."""
    deep: np.ndarray | None = None
    """(height, width) grey or (height, width, 3) colours of more than 8 bit: uint16, or floats in [0, 1]."""
    metadata: Metadata = field(default_factory=Metadata)
    """What else the file says."""
    remarks: tuple[str, ...] = ()
    """Sentences about what was left out, or is hardly what a user meant."""
    duration: float | None = None
    """Milliseconds that a frame of an animation is shown; None: it is none."""

    def on(self, colour: str) -> LoadedImage:
        """This picture on a background of one colour ("white", "#20a0ff"), without transparency.

        Raises:
            ValueError: the colour has no known name or form.
        """
        try:
            behind = PIL.ImageColor.getrgb(colour)[:3]
        except ValueError:
            raise ValueError(
                f"{colour!r} is not a colour; give a name such as white or a code such as #20a0ff."
            ) from None
        if self.alpha is None:
            return self
        background = PIL.Image.new("RGB", self.rgb.size, behind)
        background.paste(self.rgb, mask=self.alpha)
        return replace(self, rgb=background, alpha=None, deep=self._deep_on(behind))

    def _deep_on(self, behind: tuple[int, ...]) -> np.ndarray | None:
        """(height, width, 3) `deep` on a background of 8-bit red, green and blue."""
        if self.deep is None:
            return None
        white = 1 if self.deep.dtype.kind == "f" else np.iinfo(self.deep.dtype).max
        colours = self.deep if self.deep.ndim == 3 else np.repeat(self.deep[..., None], 3, axis=2)
        opacity = np.asarray(self.alpha, np.float64)[..., None] / 255
        mixed = opacity * colours + (1 - opacity) * np.array(behind) / 255 * white
        return (mixed if white == 1 else np.round(mixed)).astype(self.deep.dtype)

    def with_colours(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """`picture`, of any size and made from this one's colours, with its transparency, profile and metadata."""
        if self.alpha is not None:
            picture.putalpha(enlarge_alpha(self.alpha, picture.size))
        said = {"icc_profile": self.icc, "exif": self.metadata.exif, "xmp": self.metadata.xmp, "dpi": self.metadata.dpi}
        picture.info.update({key: value for key, value in said.items() if value is not None}, **self.metadata.texts)
        return picture


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
                f"{path} is animated or has several pages ({len(file.pages)}); name one (--frames 1), or take all "
                "(--frames all)."
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
        _check_size(path, image.size, max_pixels)
        with _decoding(path):
            pages = _pages(image, lambda: _check_size(path, image.size, max_pixels))
        if not pages:
            raise BadImage(f"{path} holds only a reduced copy of its picture; convert it with the program it is from.")
        yield OpenFile(image, data, path, pages, info, display, tuple(sentences))


def _check_size(path: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadImage(
            f"{path} has {width} x {height} pixels, more than the limit of {max_pixels:,}; "
            "raise max_pixels (--max-pixels) if the picture is genuine."
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

    def read(self, frame: int, upright: bool = True) -> LoadedImage:
        """A frame or page, from 1 on; `upright` as in `load_image`.

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
            stored = _raw_mode(image)  # unknown when it is loaded, which a look at the EXIF of a PNG does
            turn = _turn(image, upright)
            deep = self._sixteen_bits(stored)
            image.load()
        remarks = self.remarks
        if deep is None and ";16" in stored and not stored.startswith("I"):
            remarks += ("Of its 16 bits per channel, 8 are read.",)
        try:
            loaded = _loaded(image, deep, self.display, remarks, turn)
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


def from_pil(image: PIL.Image.Image, *, upright: bool = True) -> LoadedImage:
    """A PIL image of any mode as RGB (upright unless not wanted) with what else it carries.

    Raises:
        BadImage: its numbers cannot be understood as colours.
    """
    turn = _turn(image, upright)
    image.load()
    return _loaded(image, None, (), (), turn)


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


def _loaded(
    image: PIL.Image.Image,
    deep: np.ndarray | None,
    display: tuple[tuple[bytes, bytes], ...],
    remarks: tuple[str, ...],
    turn: int,
) -> LoadedImage:
    """A PIL image as `LoadedImage`.

    Args:
        deep: (h, w, 2), (h, w, 3) or (h, w, 4) uint16, as they are stored, of a picture that Pillow has in 8 bits.
        display: see `Metadata`.
        remarks: see `LoadedImage`.
        turn: the orientation, in EXIF's numbers, out of which it is turned.
    """
    metadata = Metadata.of(image, display)
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) and profile[36:40] == b"acsp" else None
    hidden = image.info.get("transparency")  # a colour of 16-bit pictures that is transparent
    if turn in _TURNS:
        transpose, turned = _TURNS[turn]
        image, deep = image.transpose(transpose), None if deep is None else np.ascontiguousarray(turned(deep))
    alpha = None
    if image.mode.startswith("I") or image.mode == "F":
        deep, image = np.asarray(image), _to_8_bit(image)
        deep = deep.astype(np.float32 if deep.dtype.kind == "f" else np.uint16)
        if isinstance(hidden, int):
            alpha = PIL.Image.fromarray(np.where(deep == hidden, 0, 255).astype(np.uint8))
    elif deep is not None and isinstance(hidden, tuple):
        alpha = PIL.Image.fromarray(np.where((deep == np.array(hidden)).all(axis=2), 0, 255).astype(np.uint8))
        image.info.pop("transparency", None)
        image = image.convert("RGB")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = rgba.convert("RGB")
    alpha = None if alpha is None or alpha.getextrema() == (255, 255) else alpha
    if profile is not None and profile[16:20] != b"RGB ":
        image, profile, deep = _to_srgb(image, profile), None, deep if deep is not None and deep.ndim == 2 else None
    try:
        rgb = _plain(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError:
        raise BadImage(f"pictures of mode {image.mode} cannot be read.") from None
    if deep is not None:
        deep = deep if deep.ndim == 2 else deep[..., 0] if deep.shape[2] == 2 else deep[..., :3]
        if deep.dtype.kind == "u" and 0 < (highest := int(deep.max())) < 1 << 13:
            remarks += (
                f"Its highest value is {highest} of 65535, so it is almost black; if it holds {highest.bit_length()} "
                "bits, multiply its values first.",
            )
    if alpha is not None:
        opacity = np.asarray(alpha)
        rgb, alpha = PIL.Image.fromarray(bleed(np.asarray(rgb), opacity)), _plain(alpha)
        deep = None if deep is None else bleed(deep, opacity)
    return LoadedImage(rgb, alpha, profile, deep, metadata, remarks)


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


_SUBFILE_TYPE, _BITS, _PLANES = 254, 258, 284  # tags of TIFF
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
    except (*_DECODER_ERRORS, MemoryError) as error:
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
            raise BadImage(f"{path} is not an image: its content has no known format (PNG, JPEG, WebP, ...).") from None
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


_TURNS: dict[int, tuple[PIL.Image.Transpose, Callable[[np.ndarray], np.ndarray]]] = {
    2: (PIL.Image.Transpose.FLIP_LEFT_RIGHT, np.fliplr),
    3: (PIL.Image.Transpose.ROTATE_180, lambda array: np.rot90(array, 2)),
    4: (PIL.Image.Transpose.FLIP_TOP_BOTTOM, np.flipud),
    5: (PIL.Image.Transpose.TRANSPOSE, lambda array: array.swapaxes(0, 1)),
    6: (PIL.Image.Transpose.ROTATE_270, lambda array: np.rot90(array, -1)),
    7: (PIL.Image.Transpose.TRANSVERSE, lambda array: np.rot90(array, 2).swapaxes(0, 1)),
    8: (PIL.Image.Transpose.ROTATE_90, np.rot90),
}
"""EXIF's orientation -> how Pillow and how numpy makes it upright."""


def _orientation(image: PIL.Image.Image) -> int:
    """What EXIF says, 1 for upright; unreadable EXIF says nothing."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except _DECODER_ERRORS:
        return 1


def _turn(image: PIL.Image.Image, upright: bool) -> int:
    """The orientation out of which an image must be turned when it is loaded."""
    orientation = _orientation(image)
    if image.format == "TIFF":  # Pillow turns it while it loads
        return 1 if upright else {6: 8, 8: 6}.get(orientation, orientation)
    return orientation if upright else 1


def _to_8_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey pictures with 16-bit integers (0 to 65535) or floats (0 to 1) as mode L."""
    values = np.asarray(image)
    highest = 1.0 if image.mode == "F" else 65535
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= highest):
        raise BadImage(f"its grey values must lie in [0, {highest:g}], got {values.min():g} to {values.max():g}.")
    return PIL.Image.fromarray(np.round(values / highest * 255).astype(np.uint8))


def _to_srgb(image: PIL.Image.Image, profile: bytes) -> PIL.Image.Image:
    """Pixels with a profile of another colour space as sRGB; a profile that does not fit is left out of account."""
    from PIL import ImageCms

    try:
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted


def _plain(image: PIL.Image.Image) -> PIL.Image.Image:
    """A copy without the metadata, so that nothing (orientation, profile) is applied or saved twice."""
    return PIL.Image.frombytes(image.mode, image.size, image.tobytes())


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
