"""Photographs to train on: the freely licensed ones of the small default weights, or a folder of one's own.

Debian packages two of the best free sources of sharp photographs: `enlightenment-data` (BSD-2-Clause) and
`lomiri-wallpapers-16.04` (CC-BY-4.0 and one CC0 file). Unpack them anywhere outside the project; nothing has to be
installed:

    apt-get download enlightenment-data lomiri-wallpapers-16.04
    for package in *.deb; do dpkg -x "$package" photos; done

Enlightenment's pictures lie inside `.edj` archives as plain JPEG streams, several sizes of each; the largest one is
read.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vision.images import SUFFIXES, load_image, save_image

TRAINING_PHOTOS = (
    "Bamboo.edj", "Foggy-Trees.edj", "God-Rays.edj", "Green-Maple.edj", "Lichen-Branches.edj", "Mountain.edj",
    "Peaks.edj", "Red-Maple.edj", "Snow-Trees.edj", "Spruce-Needles.edj", "Sunset-Clouds.edj", "Sunset-Hills.edj",
    "Yellow-Flower.edj", "aitzgorri_by_Aitzol_Berasategi.jpg", "friends_by_Aitzol_Berasategi.jpg",
    "life_by_Aitzol_Berasategi.jpg", "Picture_0B_by_freespace.jpg", "Picture_1A_by_freespace.jpg",
    "sunset_by_Aitzol_Berasategi.jpg", "Wine_by_Jakkub_Mede.jpg", "seeding_by_Clements_Engelhardt.jpg",
)  # fmt: skip
"""File names of the photographs whose licence lets the trained weights be shipped and that no evaluation uses."""

HELD_OUT_PHOTOS = ("Sea-of-Lanterns.edj", "White-Flower.edj", "picosdeeuropa_by_Aitzol_Berasategi.jpg")
"""Photographs of the same packages that are for evaluation only: no training sees them."""


def open_photo(path: Path) -> Image.Image:
    """Read a picture file, or the largest JPEG stream inside an `.edj` archive, as RGB."""
    if path.suffix != ".edj":
        return Image.open(path).convert("RGB")
    data = path.read_bytes()
    best: Image.Image | None = None
    for match in re.finditer(b"\xff\xd8\xff", data):
        try:
            stream = Image.open(io.BytesIO(data[match.start() :]))
        except UnidentifiedImageError:
            continue
        if best is None or stream.width * stream.height > best.width * best.height:
            best = stream
    if best is None:
        raise ValueError(f"{path} holds no JPEG stream; is it an unpacked file of the package enlightenment-data?")
    return best.convert("RGB")


def collect_photos(
    source: Path, out: Path, *, names: tuple[str, ...] = TRAINING_PHOTOS, halvings: tuple[int, ...] = (1, 2)
) -> list[Path]:
    """Write the photographs found anywhere below `source` as PNG files into `out` and return their paths.

    Each of the named ones is shrunk by 2 ** n for every n in `halvings` (Lanczos), which removes what JPEG and
    demosaicking left behind. A folder that holds none of them is one's own: all its pictures are taken, halved where
    both sides have at least 1000 pixels. Files that exist already are kept.

    Raises:
        FileNotFoundError: a named photograph is missing below `source`, or there is no picture at all.
        ValueError: a picture of one's own cannot be read.
    """
    files = {path.name: path for path in sorted(source.rglob("*")) if path.name in names}
    own = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if own and not files:
        return _own_photos(own, source, out)
    missing = sorted(set(names) - set(files))
    if not files:
        raise FileNotFoundError(
            f"{source} holds no photographs. Name a folder of your own, or unpack the packages enlightenment-data and "
            "lomiri-wallpapers-16.04 there (see vision/photos.py)."
        )
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} photographs are missing below {source}, the first is {missing[0]}. "
            "Unpack the packages enlightenment-data and lomiri-wallpapers-16.04 there (see vision/photos.py)."
        )
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        targets = {n: out / f"{Path(name).stem}_{2**n}.png" for n in halvings}
        if not all(target.exists() for target in targets.values()):
            photo = open_photo(files[name])
            for n, target in targets.items():
                size = (photo.width // 2**n, photo.height // 2**n)
                save_image(photo.resize(size, Image.Resampling.LANCZOS), target)
        paths.extend(targets.values())
    return paths


def _own_photos(files: list[Path], source: Path, out: Path) -> list[Path]:
    paths = []
    for file in files:
        target = out / f"{file.relative_to(source)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            photo = load_image(file).rgb
            if min(photo.size) >= 1000:
                photo = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.LANCZOS)
            save_image(photo, target)
        paths.append(target)
    return paths
