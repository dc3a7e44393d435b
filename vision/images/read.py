"""Read pictures: files, bytes and PIL images become upright RGB with what else they carry.

Whatever the file holds becomes that here: orientation from EXIF is applied, palette, grey, 16-bit and CMYK become 8-bit
RGB, transparency is kept apart. (Of 16-bit colour, 8 bits are kept.) A colour profile that describes RGB is kept to be
saved with the result; pixels with any other profile (CMYK, grey) are converted to sRGB.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageColor
from PIL import UnidentifiedImageError

from vision.files import read_file

MAX_PIXELS = 100_000_000
READ_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .tif .tiff .gif .ppm .pgm .jp2 .avif".split())
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
    """Colours, mode RGB, 8 bit."""
    alpha: PIL.Image.Image | None = None
    """Transparency, mode L of the same size; None when the picture is opaque."""
    icc: bytes | None = None
    """Colour profile of `rgb`; None means sRGB."""
    deep: np.ndarray | None = None
    """(height, width) the picture's own grey values when they have more than 8 bit: uint16, or floats in [0, 1]."""

    def on(self, colour: str) -> LoadedImage:
        """This picture on a background of one colour ("white", "#20a0ff"), without transparency.

        Raises:
            ValueError: the colour has no known name or form.
        """
        try:
            background = PIL.Image.new("RGB", self.rgb.size, PIL.ImageColor.getrgb(colour)[:3])
        except ValueError:
            raise ValueError(
                f"{colour!r} is not a colour; give a name such as white or a code such as #20a0ff."
            ) from None
        if self.alpha is None:
            return self
        background.paste(self.rgb, mask=self.alpha)
        return replace(self, rgb=background, alpha=None, deep=None)

    def with_colours(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """`picture`, of any size and made from this one's colours, with its transparency and profile."""
        if self.alpha is not None:
            picture.putalpha(self.alpha.resize(picture.size, PIL.Image.Resampling.BICUBIC))
        if self.icc is not None:
            picture.info["icc_profile"] = self.icc
        return picture


def load_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> LoadedImage:
    """Read a picture; its content decides about the format, not its name.

    Args:
        path: a PNG, JPEG, WebP, BMP, TIFF, GIF, PPM, JPEG 2000 or AVIF file with one frame.
        max_pixels: refuse larger pictures before they are decoded (a small file can hold a huge one).
        upright: turn the picture as EXIF says; False takes its pixels as they are stored.

    Raises:
        FileNotFoundError: there is no such file.
        BadImage: it is no regular file, empty, damaged, no image, animated or too large.
    """
    try:
        data = read_file(path)
    except ValueError as error:
        raise BadImage(str(error)) from error
    return read_image(data, str(path), max_pixels=max_pixels, upright=upright)


def read_image(data: bytes, path: str, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> LoadedImage:
    """The picture in a file's content, see `load_image`.

    Args:
        data: the content.
        path: what it is called, for the sentences.
        max_pixels: refuse larger pictures before they are decoded.
        upright: see `load_image`.

    Raises:
        BadImage: see `load_image`.
    """
    if not data:
        raise BadImage(f"{path} is an empty file.")
    with _without_warnings(), _open(data, path) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise BadImage(
                f"{path} has {width} x {height} pixels, more than the limit of {max_pixels:,}; "
                "raise max_pixels (--max-pixels) if the picture is genuine."
            )
        if not width * height:
            raise BadImage(f"{path} has no pixels ({width} x {height}).")
        try:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            image.load()
        except (*_DECODER_ERRORS, MemoryError) as error:
            raise BadImage(f"{path} is damaged or cut off: {_reason(error)}.") from error
        if frames > 1:
            raise BadImage(f"{path} is animated or has several pages ({frames}); save the wanted one as an image.")
        try:
            return from_pil(image, upright=upright)
        except BadImage as error:
            raise BadImage(f"{path}: {error}") from None


def from_pil(image: PIL.Image.Image, *, upright: bool = True) -> LoadedImage:
    """A PIL image of any mode as RGB (upright unless not wanted), transparency and colour profile.

    Raises:
        BadImage: its numbers cannot be understood as colours.
    """
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) and profile[36:40] == b"acsp" else None
    image = _upright(image) if upright else image
    deep = None
    if image.mode.startswith("I") or image.mode == "F":
        deep, image = np.asarray(image), _to_8_bit(image)
        deep = deep.astype(np.float32 if deep.dtype.kind == "f" else np.uint16)
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        alpha = None if alpha.getextrema() == (255, 255) else alpha
        image = rgba.convert("RGB")
    if profile is not None and profile[16:20] != b"RGB ":
        image, profile = _to_srgb(image, profile), None
    try:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    except ValueError:
        raise BadImage(f"pictures of mode {image.mode} cannot be read.") from None
    return LoadedImage(_plain(rgb), alpha if alpha is None else _plain(alpha), profile, deep)


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


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Pillow remarks on damaged metadata; what matters becomes an error of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _open(data: bytes, path: str) -> Iterator[PIL.Image.Image]:
    """Pillow's view of a file's content; only its header is read. The size is checked by the caller, not by
    Pillow."""
    with _pixel_limit_lock:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            PIL.Image.init()  # registers the formats; builds of Pillow differ in them
            formats = [name for name in READ_FORMATS if name in PIL.Image.OPEN]
            image = PIL.Image.open(io.BytesIO(data), formats=formats)
        except UnidentifiedImageError:
            raise BadImage(f"{path} is not an image: its content has no known format (PNG, JPEG, WebP, ...).") from None
        except _DECODER_ERRORS as error:
            raise BadImage(f"{path} is damaged or cut off: {_reason(error)}.") from error
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image turned as its EXIF orientation says; unreadable EXIF says nothing."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except _DECODER_ERRORS:
        return image
    turn = PIL.Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_270, 7: turn.TRANSVERSE, 8: turn.ROTATE_90,
    }  # fmt: skip
    return image.transpose(turns[orientation]) if orientation in turns else image


def _to_8_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey pictures with 16-bit integers (0 to 65535) or floats (0 to 1) as mode L."""
    values = np.asarray(image)
    highest = 1.0 if image.mode == "F" else 65535
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= highest):
        raise BadImage(f"its grey values must lie in [0, {highest:g}], got {values.min():g} to {values.max():g}.")
    return PIL.Image.fromarray(np.round(values / highest * 255).astype(np.uint8))


def _to_srgb(image: PIL.Image.Image, profile: bytes) -> PIL.Image.Image:
    """Pixels with a profile of another colour space as sRGB; a profile that does not fit is left out of
    account."""
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
