"""The border between pictures (files, PIL, arrays) and tensors; padding, masks and colour.

Inside the project colour tensors are (batch, 3, height, width) RGB float32 in [0, 1]. Whatever the file holds
becomes that here: orientation from EXIF is applied, palette, grey, 16-bit and CMYK become 8-bit RGB,
transparency is kept apart. (Of 16-bit colour, 8 bits are kept.) A colour profile that describes RGB is kept
to be saved with the result; pixels with any other profile (CMYK, grey) are converted to sRGB.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageColor
import torch
import torch.nn.functional as F
from PIL import UnidentifiedImageError
from torch import Tensor

from vision.files import atomic_path
from vision.png import write_png

MAX_PIXELS = 100_000_000
READ_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .tif .tiff .gif .ppm .pgm .jp2 .avif".split())
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "quality": 95},
    ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".bmp": {"format": "BMP"},
}
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
"""Format -> pixels per side that its encoder takes at most; the others have no limit that pictures reach."""
OPAQUE = frozenset(("JPEG", "BMP"))
"""Formats without transparency."""
# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
_pixel_limit_lock = threading.Lock()


class BadImage(ValueError):
    """A picture that cannot be used; the message is a sentence that says why and what to do."""


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


ImageLike = str | Path | PIL.Image.Image | LoadedImage | np.ndarray | Tensor


def load_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> LoadedImage:
    """Read a picture; its content decides about the format, not its name.

    Args:
        path: a PNG, JPEG, WebP, BMP, TIFF, GIF, PPM, JPEG 2000 or AVIF file with one frame.
        max_pixels: refuse larger pictures before they are decoded (a small file can hold a huge one).

    Raises:
        FileNotFoundError: there is no such file.
        BadImage: it is empty, damaged, no image, animated or too large.
    """
    path = Path(path)
    if path.is_dir():
        raise BadImage(f"{path} is a folder, not an image.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except OSError as error:
        raise BadImage(f"Cannot read {path}: {error.strerror}.") from error
    return read_image(data, str(path), max_pixels=max_pixels)


def read_image(data: bytes, path: str, *, max_pixels: int = MAX_PIXELS) -> LoadedImage:
    """The picture in a file's content, see `load_image`.

    Args:
        data: the content.
        path: what it is called, for the sentences.
        max_pixels: refuse larger pictures before they are decoded.

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
            return from_pil(image)
        except BadImage as error:
            raise BadImage(f"{path}: {error}") from None


def from_pil(image: PIL.Image.Image) -> LoadedImage:
    """A PIL image of any mode as upright RGB, transparency and colour profile.

    Raises:
        BadImage: its numbers cannot be understood as colours.
    """
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) and profile[36:40] == b"acsp" else None
    image = _upright(image)
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


def to_tensor(image: ImageLike) -> Tensor:
    """(1, 3, height, width) float32 RGB in [0, 1] of one picture; transparency is left out (see
    `LoadedImage.on`).

    Args:
        image: a path, PIL image, `LoadedImage`, (height, width, 3) or (height, width) uint8 array, or a
            tensor (3, height, width) or (batch, 3, height, width) in [0, 1], which passes through as float32.

    Raises:
        ValueError: an array or tensor has another shape or type.
    """
    if isinstance(image, Tensor):
        if image.ndim not in (3, 4) or image.shape[-3] != 3 or not image.is_floating_point():
            raise ValueError(f"An image tensor must be (batch, 3, h, w) floats in [0, 1], got {_kind(image)}.")
        return image.float() if image.ndim == 4 else image.float()[None]
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(f"An image array must be (h, w, 3) or (h, w) uint8, got {_kind(image)}.")
        array = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    else:
        array = np.asarray(as_loaded(image).rgb)
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float().div_(255)


def as_loaded(image: str | Path | PIL.Image.Image | LoadedImage) -> LoadedImage:
    """A picture with its transparency and profile, from a path or PIL image."""
    if isinstance(image, LoadedImage):
        return image
    if isinstance(image, PIL.Image.Image):
        return from_pil(image)
    if isinstance(image, (str, Path)):
        return load_image(image)
    raise TypeError(f"An image must be a path, a PIL image, an array or a tensor, got {type(image).__name__}.")


def to_uint8(image: Tensor, *, truncate: bool = False) -> Tensor:
    """[0, 1] as uint8 of the same shape: clamped, times 255, rounded (or cut off, as torchvision's ToPILImage does).

    Raises:
        ValueError: the picture holds NaN or infinite values.
    """
    if not image.isfinite().all():
        raise ValueError("The picture holds numbers that are no colours (NaN or infinite); compute in float32.")
    scaled = image.float().clamp(0, 1).mul_(255)
    return (scaled if truncate else scaled.round_()).to(torch.uint8)


def to_pil(image: Tensor, *, truncate: bool = False) -> PIL.Image.Image:
    """A PIL image of one picture: (1, c, h, w) or (c, h, w) in [0, 1] or uint8; c = 3 gives RGB, c = 1 gives
    L."""
    image = image[0] if image.ndim == 4 and len(image) == 1 else image
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"One picture (1, 3, h, w) or (3, h, w) is needed, got {_kind(image)}.")
    pixels = image.detach() if image.dtype == torch.uint8 else to_uint8(image.detach(), truncate=truncate)
    array = pixels.permute(1, 2, 0).cpu().contiguous().numpy()
    return PIL.Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def check_format(path: str | Path, width: int, height: int, *, transparent: bool = False) -> None:
    """Refuse a picture that a file of this name cannot hold; to be asked before the picture is computed.

    Args:
        path: its suffix chooses the format.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        transparent: whether it has transparency.

    Raises:
        ValueError: the suffix is unknown, a side is too long for the format, or it has no transparency.
    """
    path = Path(path)
    if path.suffix.lower() not in _SAVE_OPTIONS:
        raise ValueError(f"Cannot save as {path.suffix or 'a name without suffix'!r}; use {', '.join(_SAVE_OPTIONS)}.")
    kind = _SAVE_OPTIONS[path.suffix.lower()]["format"]
    if transparent and kind in OPAQUE:
        raise ValueError(f"{kind} has no transparency; save {path.name} as PNG or choose a background.")
    if max(width, height) > LONGEST_SIDE.get(kind, max(width, height)):
        raise ValueError(
            f"{kind} holds at most {LONGEST_SIDE[kind]:,} pixels per side, {path.name} would have {width} x {height}; "
            "save it as PNG."
        )


def save_image(
    image: PIL.Image.Image | Tensor,
    path: str | Path,
    *,
    icc: bytes | None = None,
    alpha: PIL.Image.Image | None = None,
    before_rename: Callable[[Path], object] | None = None,
) -> None:
    """Write a picture, whole or not at all; the suffix of `path` chooses the format.

    Args:
        image: PIL image, or tensor as in `to_pil`.
        path: .png, .jpg, .webp, .tif or .bmp.
        icc: colour profile of the pixels.
        alpha: transparency, resized (bicubic) to the picture.
        before_rename: called with the complete temporary file, before it takes the name `path`.

    Raises:
        ValueError: the suffix is unknown, the format has no transparency, or the file cannot be written.
    """
    path = Path(path)
    picture = to_pil(image) if isinstance(image, Tensor) else image
    check_format(path, *picture.size, transparent=alpha is not None)
    options = _SAVE_OPTIONS[path.suffix.lower()]
    if alpha is not None:
        picture = picture.copy()
        picture.putalpha(alpha.resize(picture.size, PIL.Image.Resampling.BICUBIC))
    if icc is not None and options["format"] != "BMP":
        options = {**options, "icc_profile": icc}
    with atomic_path(path) as part:
        picture.save(part, **options)
        if before_rename is not None:
            before_rename(part)


def save_bands(
    bands: Iterable[Tensor],
    path: str | Path,
    *,
    width: int,
    height: int,
    icc: bytes | None = None,
    alpha: PIL.Image.Image | None = None,
    before_rename: Callable[[Path], object] | None = None,
) -> None:
    """Write horizontal bands (1, 3, rows, width) uint8 as a picture, whole or not at all.

    A PNG is written while the bands come and never exists in memory (its transparency does); for other formats they are
    collected. Arguments and errors as in `save_image`.
    """
    if Path(path).suffix.lower() != ".png":
        save_image(torch.cat(list(bands), dim=2), path, icc=icc, alpha=alpha, before_rename=before_rename)
        return
    resized = None if alpha is None else np.asarray(alpha.resize((width, height), PIL.Image.Resampling.BICUBIC))

    def rows() -> Iterator[np.ndarray]:
        top = 0
        for band in bands:
            array = band[0].permute(1, 2, 0).cpu().contiguous().numpy()
            if resized is not None:
                array = np.concatenate([array, resized[top : top + len(array), :, None]], axis=2)
            top += len(array)
            yield array

    channels = 3 if alpha is None else 4
    with atomic_path(path) as part:
        write_png(part, rows(), width=width, height=height, channels=channels, icc=icc)
        if before_rename is not None:
            before_rename(part)


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


def pad_to(image: Tensor, height: int, width: int, mode: Literal["symmetric", "reflect"] = "symmetric") -> Tensor:
    """Extend (..., h, w) at the bottom and on the right by mirroring, as often as needed; `crop` undoes it.

    Args:
        image: (..., h, w).
        height: wanted height, at least h.
        width: wanted width, at least w.
        mode: "symmetric" repeats the edge pixel (appending the flipped image), "reflect" does not.
    """
    rows = _mirrored(image.shape[-2], height, mode).to(image.device)
    columns = _mirrored(image.shape[-1], width, mode).to(image.device)
    return image[..., rows, :][..., columns]


def pad_to_multiple(image: Tensor, multiple: int, mode: Literal["symmetric", "reflect"] = "symmetric") -> Tensor:
    """`pad_to` the next multiples of `multiple`; an image that has them already is unchanged."""
    height, width = (math.ceil(side / multiple) * multiple for side in image.shape[-2:])
    return image if (height, width) == tuple(image.shape[-2:]) else pad_to(image, height, width, mode)


def crop(image: Tensor, height: int, width: int) -> Tensor:
    """The top left `height` x `width` of (..., h, w)."""
    return image[..., :height, :width]


def composite(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """`inside` where the mask is 1, `outside` where it is 0, a blend between; shapes broadcast."""
    mask = mask.to(inside.dtype)
    return mask * inside + (1 - mask) * outside


def to_y(rgb: Tensor) -> Tensor:
    """Luma (batch, 1, h, w) of RGB in [0, 1] as MATLAB's rgb2ycbcr defines it (ITU-R BT.601), in [16/255,
    235/255]."""
    weights = rgb.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return ((rgb * weights).sum(dim=-3, keepdim=True) + 16) / 255


def keep_grey(image: Tensor, finish: Callable[[Tensor], Tensor] | None = None) -> Callable[[Tensor], Tensor]:
    """What finishes the results of a picture (b, 3, h, w): the items that are grey get back to grey, then `finish`.

    A network answers grey with a little colour. An item is grey when its three channels are equal; its result's are the
    weighted mean that its luma is made of.
    """
    grey = (image[:, :1] == image[:, 1:]).flatten(1).all(1)
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1) / 219

    def finished(piece: Tensor) -> Tensor:
        if grey.any():
            mean = (piece.float() * weights.to(piece.device)).sum(1, keepdim=True).to(piece.dtype)
            piece = torch.where(grey.to(piece.device).view(-1, 1, 1, 1), mean, piece)
        return piece if finish is None else finish(piece)

    return finished


def match_color(image: Tensor, reference: Tensor, method: Literal["wavelet", "adain"] = "wavelet") -> Tensor:
    """Give `image` the colours of `reference` and keep its details.

    "wavelet" takes the low frequencies from the reference and the high ones from the image (StableSR, section
    3.3); "adain" moves mean and standard deviation of every channel to the reference's (Huang and Belongie
    2017, equation 8).

    Args:
        image: (batch, 3, h, w) in [0, 1].
        reference: the same shape.
        method: see above.

    Returns:
        (batch, 3, h, w); values may leave [0, 1] a little.
    """
    if image.shape != reference.shape:
        raise ValueError(f"image and reference must have one shape, got {_kind(image)} and {_kind(reference)}.")
    if method == "wavelet":
        return split_frequencies(image)[0] + split_frequencies(reference)[1]
    if method == "adain":
        (mean, std), (wanted_mean, wanted_std) = _statistics(image), _statistics(reference)
        return (image - mean) / std * wanted_std + wanted_mean
    raise ValueError(f"method must be 'wavelet' or 'adain', got {method!r}.")


def split_frequencies(image: Tensor, levels: int = 5) -> tuple[Tensor, Tensor]:
    """(high, low) of (batch, c, h, w) by repeated `blur` of radius 1, 2, 4, ...; their sum is the image."""
    low = image
    for level in range(levels):
        low = blur(low, 2**level)
    return image - low, low


def blur(image: Tensor, radius: int) -> Tensor:
    """(batch, c, h, w) weighted 1 2 1 in both directions with neighbours `radius` pixels away; edges are
    repeated."""
    weights = image.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(weights, weights).expand(image.shape[1], 1, 3, 3)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(padded, kernel, groups=image.shape[1], dilation=radius)


def _statistics(image: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    mean = image.mean(dim=(2, 3), keepdim=True)
    return mean, (image.var(dim=(2, 3), keepdim=True) + eps).sqrt()


def _mirrored(length: int, wanted: int, mode: str) -> Tensor:
    """Indices (wanted,) that walk to and fro over `length` pixels."""
    if wanted < length:
        raise ValueError(f"Cannot pad {length} pixels to {wanted}.")
    steps = torch.arange(wanted)
    if mode == "symmetric":
        phase = steps % (2 * length)
        return torch.minimum(phase, 2 * length - 1 - phase)
    if mode == "reflect":
        period = max(2 * length - 2, 1)
        phase = steps % period
        return torch.minimum(phase, period - phase) if length > 1 else torch.zeros_like(steps)
    raise ValueError(f"mode must be 'symmetric' or 'reflect', got {mode!r}.")


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


def _kind(array: Tensor | np.ndarray) -> str:
    return f"{tuple(array.shape)} {array.dtype}"


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
