"""A picture in memory: PIL images of every mode become upright RGB with what else they carry.

Orientation from EXIF is applied, palette, grey and CMYK become RGB, transparency is kept apart, numbers of more than 8
bits are kept beside. A colour profile that describes RGB is kept to be saved with the result; pixels with any other
profile (CMYK, grey) are converted to sRGB.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import PIL.Image
import PIL.ImageColor

from vision.images.metadata import Metadata
from vision.images.transparency import bleed, enlarge_alpha

# What Pillow's decoders raise on damaged files.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError,
    RuntimeError, AssertionError, struct.error, zlib.error, PIL.Image.DecompressionBombError,
)  # fmt: skip


class BadImage(ValueError):
    """A picture that cannot be used; the message is a sentence that says why and what to do."""


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

    @property
    def darkness(self) -> str | None:
        """A sentence about a picture that uses so few of 16 bits that it is almost black at its own brightness."""
        if self.deep is None or self.deep.dtype.kind != "u" or not 0 < (highest := int(self.deep.max())) < 1 << 13:
            return None
        return (
            f"Its highest value is {highest} of 65535, so it is almost black; if it holds {highest.bit_length()} bits, "
            "multiply its values first."
        )

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


def from_pil(image: PIL.Image.Image, *, upright: bool = True) -> LoadedImage:
    """A PIL image of any mode as RGB (upright unless not wanted) with what else it carries.

    Raises:
        BadImage: it has no pixels, or its numbers cannot be understood as colours.
    """
    if 0 in image.size:
        raise BadImage(f"The picture has no pixels ({image.width} x {image.height}).")
    turn = turn_of(image, upright)
    image.load()
    return loaded_from(image, None, (), (), turn)


def loaded_from(
    image: PIL.Image.Image,
    deep: np.ndarray | None,
    display: tuple[tuple[bytes, bytes], ...],
    remarks: tuple[str, ...],
    turn: int,
    fill: bool = True,
) -> LoadedImage:
    """A PIL image as `LoadedImage`.

    Args:
        deep: (h, w, 2), (h, w, 3) or (h, w, 4) uint16, as they are stored, of a picture that Pillow has in 8 bits.
        display: see `Metadata`.
        remarks: see `LoadedImage`.
        turn: the orientation, in EXIF's numbers, out of which it is turned.
        fill: whether visible colours flow into what transparency hides.
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
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
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
    if alpha is not None:
        alpha = _plain(alpha)
    if alpha is not None and fill:
        opacity = np.asarray(alpha)
        rgb = PIL.Image.fromarray(bleed(np.asarray(rgb), opacity))
        deep = None if deep is None else bleed(deep, opacity)
    return LoadedImage(rgb, alpha, profile, deep, metadata, remarks)


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
    except DECODER_ERRORS:
        return 1


def turn_of(image: PIL.Image.Image, upright: bool) -> int:
    """The orientation out of which an image must be turned when it is loaded."""
    orientation = _orientation(image)
    if image.format == "TIFF":  # Pillow turns it while it loads
        return 1 if upright else {6: 8, 8: 6}.get(orientation, orientation)
    return orientation if upright else 1


def _to_8_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey pictures with 16-bit integers (0 to 65535) or floats (0 to 1) as mode L."""
    values = np.asarray(image)
    highest = 1.0 if image.mode == "F" else 65535
    check_grey(values, highest)
    return PIL.Image.fromarray(np.round(values / highest * 255).astype(np.uint8))


def check_grey(values: np.ndarray, highest: float) -> None:
    """Refuse grey values (height, width) outside [0, highest].

    Raises:
        BadImage: a value is outside, NaN or infinite; the sentence names no file.
    """
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= highest):
        raise BadImage(f"its grey values must lie in [0, {highest:g}], got {values.min():g} to {values.max():g}.")


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
