"""Write pictures, whole or not at all; the suffix of a name chooses the format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from vision.files import atomic_path
from vision.images.arrays import to_pil
from vision.png import write_png

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
