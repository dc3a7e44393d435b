"""Write pictures, whole or not at all; the suffix of a name chooses the format."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
from torch import Tensor

from vision.files import atomic_path
from vision.images.arrays import to_pil
from vision.images.formats import DEEP, GREY, LONGEST_SIDE, OPAQUE, SAVE_OPTIONS, format_of
from vision.images.loaded import LoadedImage
from vision.images.metadata import Metadata
from vision.images.transparency import enlarge_alpha
from vision.png import write_png


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
    path, kind = Path(path), format_of(path)
    if transparent and kind in OPAQUE:
        raise ValueError(f"{kind} has no transparency; save {path.name} as PNG or choose a background.")
    if max(width, height) > LONGEST_SIDE.get(kind, max(width, height)):
        raise ValueError(
            f"{kind} holds at most {LONGEST_SIDE[kind]:,} pixels per side, {path.name} would have {width} x {height}; "
            "save it as PNG."
        )


def bits_of(picture: LoadedImage, path: str | Path) -> int:
    """Bits per channel, 8 or 16, of a result of this picture in a file of this name: as many as both have."""
    return 16 if picture.deep is not None and not _eight_bits_because(picture, path) else 8


def left_out(picture: LoadedImage, path: str | Path) -> str | None:
    """A sentence about what this picture carries and a file of this name cannot hold; None: it holds everything."""
    kind = format_of(path)
    lost = picture.metadata.fitting(kind)[1]
    if picture.icc is not None and kind == "BMP":
        lost = ["colour profile", *lost]
    if picture.deep is not None and (reason := _eight_bits_because(picture, path)):
        lost = [*lost, f"more than 8 bits{reason}"]
    elif picture.deep is not None and kind == "TIFF" and picture.metadata.exif is not None:
        lost = [*lost, "EXIF beside 16 bits"]
    return f"{kind} files hold no {', no '.join(lost)}; left out." if lost else None


def save_image(
    image: PIL.Image.Image | Tensor | np.ndarray,
    path: str | Path,
    *,
    icc: bytes | None = None,
    alpha: PIL.Image.Image | None = None,
    metadata: Metadata | None = None,
    before_rename: Callable[[Path], object] | None = None,
) -> None:
    """Write a picture, whole or not at all; the suffix of `path` chooses the format.

    Args:
        image: PIL image, tensor as in `to_pil`, or (h, w) or (h, w, 3) uint8 or uint16 array.
        path: .png, .jpg, .webp, .tif or .bmp.
        icc: colour profile of the pixels.
        alpha: transparency, enlarged or shrunk to the picture.
        metadata: what else the file shall say; what its format cannot hold is left out, see `left_out`.
        before_rename: called with the complete temporary file, before it takes the name `path`.

    Raises:
        ValueError: the suffix is unknown, the format has no transparency, or the file cannot be written.
    """
    kind, picture = format_of(path), to_pil(image) if isinstance(image, Tensor) else image
    size = picture.size if isinstance(picture, PIL.Image.Image) else picture.shape[1::-1]
    check_format(path, *size, transparent=alpha is not None)
    held = (metadata or Metadata()).fitting(kind)[0]
    array = _array(picture)
    if alpha is not None:
        array = _with_alpha(array, np.asarray(enlarge_alpha(alpha, size)))
    with atomic_path(path) as part:
        if array is not None and kind == "PNG":
            _write_png(part, [array], size, icc, held)
        elif array is not None and array.dtype == np.uint16 and array.ndim == 3:
            _write_deep_tiff(part, array, icc, held)
        else:
            options = {**SAVE_OPTIONS[Path(path).suffix.lower()], **held.save_options(kind)}
            if icc is not None and kind != "BMP":
                options["icc_profile"] = icc
            (picture if array is None else PIL.Image.fromarray(array)).save(part, **options)
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
    metadata: Metadata | None = None,
    grey: bool = False,
    before_rename: Callable[[Path], object] | None = None,
) -> None:
    """Write horizontal bands (1, 3, rows, width) uint8 or uint16 as a picture, whole or not at all.

    A PNG is written while the bands come and never exists in memory (its transparency does); for other formats they are
    collected. Arguments and errors as in `save_image`.

    Args:
        grey: all channels are equal; where the format allows and no profile speaks of three, one is written.
    """
    channels = 1 if grey and icc is None and format_of(path) in GREY else 3
    arrays = (band[0, :channels].permute(1, 2, 0).cpu().contiguous().numpy() for band in bands)
    if format_of(path) != "PNG":
        whole = np.concatenate(list(arrays))
        whole = whole[..., 0] if channels == 1 else whole
        save_image(whole, path, icc=icc, alpha=alpha, metadata=metadata, before_rename=before_rename)
        return
    opacity = None if alpha is None else np.asarray(enlarge_alpha(alpha, (width, height)))

    def rows() -> Iterator[np.ndarray]:
        top = 0
        for array in arrays:
            part = None if opacity is None else opacity[top : top + len(array)]
            top += len(array)
            yield array if part is None else _with_alpha(array, part)

    with atomic_path(path) as part:
        _write_png(part, rows(), (width, height), icc, metadata or Metadata())
        if before_rename is not None:
            before_rename(part)


def _eight_bits_because(picture: LoadedImage, path: str | Path) -> str | None:
    """Why a file of this name holds 8 bits, to be put after "more than 8 bits"; None: it holds 16."""
    kind = format_of(path)
    if kind not in DEEP:
        return " per channel"
    if kind == "TIFF" and importlib.util.find_spec("tifffile") is None:
        return " of colours without the package tifffile"
    return None


def _array(picture: PIL.Image.Image | np.ndarray) -> np.ndarray | None:
    """(h, w) or (h, w, c) uint8 or uint16; None: a picture whose mode has no such form, such as F."""
    if isinstance(picture, np.ndarray):
        return picture
    if picture.mode in ("1", "P"):
        picture = picture.convert("L" if picture.mode == "1" else "RGBA" if picture.has_transparency_data else "RGB")
    if picture.mode.startswith("I;16"):
        return np.asarray(picture).astype(np.uint16)
    return np.asarray(picture) if picture.mode in ("L", "LA", "RGB", "RGBA") else None


def _with_alpha(colours: np.ndarray | None, alpha: np.ndarray) -> np.ndarray:
    """(h, w) or (h, w, c) with transparency (h, w) uint8 as one more channel."""
    if colours is None:
        raise ValueError("This kind of picture has no transparency; convert it to RGB first.")
    alpha = alpha.astype(np.uint16) * 257 if colours.dtype == np.uint16 else alpha
    return np.dstack([colours, alpha])


def _write_png(
    path: Path, bands: Iterable[np.ndarray], size: tuple[int, int], icc: bytes | None, metadata: Metadata
) -> None:
    """Bands (rows, w) or (rows, w, c), uint8 or uint16, of a picture of `size` (width, height)."""
    bands = iter(bands)
    first = next(bands)

    def solid() -> Iterator[np.ndarray]:
        for band in itertools.chain([first], bands):
            yield band if band.ndim == 3 else band[..., None]

    channels = 1 if first.ndim == 2 else first.shape[2]
    bits = 8 * first.dtype.itemsize
    write_png(path, solid(), width=size[0], height=size[1], channels=channels, bits=bits, chunks=metadata.chunks(icc))


def _write_deep_tiff(path: Path, array: np.ndarray, icc: bytes | None, metadata: Metadata) -> None:
    """(h, w, 3) or (h, w, 4) uint16, which Pillow cannot write."""
    import tifffile

    extra = [] if metadata.xmp is None else [(700, "B", len(metadata.xmp), metadata.xmp, True)]
    tifffile.imwrite(
        path,
        array,
        photometric="rgb",
        extrasamples=["unassalpha"] if array.shape[2] == 4 else None,
        compression="adobe_deflate",
        iccprofile=icc,
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        metadata=None,
        software=False,
        extratags=extra,
    )
