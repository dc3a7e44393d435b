"""Animations and files with several pages, read and written one frame at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import TiffImagePlugin

from vision.files import atomic_path, read_file
from vision.images.formats import PAGED, SAVE_OPTIONS, format_of
from vision.images.loaded import BadImage, LoadedImage
from vision.images.metadata import Metadata
from vision.images.read import MAX_PIXELS, opened
from vision.png import write_apng

MOST_HELD = 4 << 30
"""Bytes of all frames together that may be held in memory, for the formats that need it."""


@dataclass(frozen=True)
class Frames:
    """The frames of an animation or the pages of a document; iterating reads them one at a time."""

    path: Path
    """The file."""
    count: int
    """How many there are."""
    durations: tuple[float, ...] | None
    """Milliseconds that each frame is shown; None: they are pages."""
    loops: int
    """How often the animation is played; 0: for ever."""
    transparent: bool
    """Whether any of them has transparency."""
    max_pixels: int
    """Larger ones are refused."""

    def __iter__(self) -> Iterator[LoadedImage]:
        with opened(read_file(self.path), str(self.path), self.max_pixels) as file:
            for number in range(self.count):
                yield file.read(number + 1)


def load_frames(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Frames:
    """Look through the frames or pages of a picture's file; one that has only one is told so too.

    Raises:
        FileNotFoundError, BadImage: as `load_image`.
    """
    path = Path(path)
    try:
        data = read_file(path)
    except ValueError as error:
        raise BadImage(str(error)) from error
    with opened(data, str(path), max_pixels) as file:
        if len(file.pages) == 1:
            return Frames(path, 1, None, 0, False, max_pixels)
        seen = [(frame.duration, frame.alpha is not None) for frame in map(file.read, range(1, len(file.pages) + 1))]
        durations = tuple(duration for duration, _ in seen if duration is not None)
        loops = file.image.info.get("loop", 1 if file.image.format == "GIF" else 0)
    return Frames(path, len(seen), durations or None, int(loops), any(alpha for _, alpha in seen), max_pixels)


def check_frames(path: str | Path, frames: Frames, size: tuple[int, int]) -> None:
    """Refuse what a file of this name cannot hold; to be asked before the frames are computed.

    Args:
        path: its suffix chooses the format.
        frames: what was read.
        size: (width, height) of the results.

    Raises:
        ValueError: the format holds no animation, or no pages, or needs too much memory for so many.
    """
    kind = format_of(path)
    if kind not in PAGED[frames.durations is not None]:
        wanted = "an animation is saved as png or webp" if frames.durations else "pages are saved as tif"
        raise ValueError(f"{frames.path} has {frames.count} frames or pages, and {wanted}; choose it with --format.")
    if kind == "WEBP" and frames.count * size[0] * size[1] * 4 > MOST_HELD:
        raise ValueError(f"{frames.count} frames of {size[0]} x {size[1]} pixels are too many for WebP; save as png.")


def save_frames(
    pictures: Iterable[np.ndarray],
    path: str | Path,
    *,
    durations: Sequence[float] | None,
    loops: int = 0,
    icc: bytes | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Write frames or pages as one file, whole or not at all; PNG and TIFF are written while they come.

    Args:
        pictures: (h, w, 3) or (h, w, 4) uint8; those of an animation have one shape.
        path: .png or .webp for animations, .tif for pages.
        durations: milliseconds of each frame, as many as there are; None writes pages.
        loops: how often it is played; 0: for ever.
        icc: colour profile of the pixels.
        metadata: see `save_image`.

    Raises:
        ValueError: the file cannot be written.
    """
    kind = format_of(path)
    held = (metadata or Metadata()).fitting(kind)[0]
    options = {**SAVE_OPTIONS[Path(path).suffix.lower()], **held.save_options(kind), "icc_profile": icc}
    with atomic_path(path) as part:
        if kind == "PNG" and durations is not None:
            write_apng(part, pictures, durations, loops=loops, chunks=held.chunks(icc))
        elif kind == "WEBP" and durations is not None:
            first, *others = (PIL.Image.fromarray(picture) for picture in pictures)
            shown = [round(duration) for duration in durations]
            first.save(part, save_all=True, append_images=others, duration=shown, loop=loops, **options)
        else:
            with TiffImagePlugin.AppendingTiffWriter(part, True) as file:
                for picture in pictures:
                    PIL.Image.fromarray(picture).save(file, **options)
                    file.newFrame()
