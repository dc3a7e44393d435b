"""The report of a progression: frames, what changed in them with its scale, curves, and a film."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from vision.edit.progression import Progression
from vision.images import save_image
from vision.report import labelled, plot, save_gif, strip, write_table

LONGEST = 512
"""Pixels of the longest side of a frame in the film."""


def write_report(
    folder: str | Path,
    progression: Progression,
    table: Sequence[Mapping[str, Any]],
    *,
    item: int = 0,
    side: int = 160,
    name: str = "",
    pictures: Sequence[PIL.Image.Image] | None = None,
    title: str = "",
) -> list[Path]:
    """Write the rows (JSON, CSV), one PNG (frames, difference maps, curves) and a GIF of one trajectory.

    Args:
        folder: for the files.
        table: of `rows`.
        item: the trajectory that is shown; the curves show all.
        side: height of a frame in the picture, in pixels; small frames are enlarged by a whole number.
        name: put before the files' names.
        pictures: the frames at their own size, instead of the progression's.
        title: a line over everything, such as the prompt.
    """
    folder = Path(folder)
    paths = [folder / f"{name}{file}" for file in ("frames.json", "frames.csv", "report.png", "progression.gif")]
    write_table(table, paths[0], paths[1])
    shown = list(pictures or progression.pictures(item))
    maps, full = difference_maps(shown)
    confidence = [row.get("confidence") for row in table if row["item"] == item]
    labels = [f"{i}" if c is None else f"{i}: {c:.3f}" for i, c in enumerate(confidence)]
    frames = [_at_height(picture, side) for picture in shown]
    film = [_at_height(x, side) if x.height < side else _at_most(x, LONGEST) for x in shown]
    row = strip([labelled(picture, label) for picture, label in zip(frames, labels, strict=True)])
    what = "frame" if confidence[0] is None else "frame: the classifier's confidence"
    sheet = [_line(f"{title + '   ' if title else ''}({what})", row.width), row]
    sheet += [strip([_at_height(picture, side) for picture in maps]), colour_scale(full, row.width)]
    save_image(strip([*sheet, *_curves(folder, table, row.width)], vertical=True), paths[2])
    save_gif([labelled(picture, label) for picture, label in zip(film, labels, strict=True)], paths[3], fps=2)
    return paths


def difference_maps(shown: Sequence[PIL.Image.Image]) -> tuple[list[PIL.Image.Image], float]:
    """What became darker (blue) and brighter (red) than in the first frame, and the change at which colours are full.

    That is the largest change of all frames, in shares of white, so that no colour saturates.
    """
    grey = [np.asarray(picture.convert("RGB"), np.float32).mean(axis=2) / 255 for picture in shown]
    changes = [frame - grey[0] for frame in grey]
    full = max(0.02, max(float(np.abs(change).max()) for change in changes))
    return [_coloured(change / full) for change in changes], full


def colour_scale(full: float, width: int, height: int = 44) -> PIL.Image.Image:
    """A bar with the colours of `difference_maps` and the changes that they stand for."""
    picture = PIL.Image.new("RGB", (width, height), "white")
    length = min(width - 120, 480)
    left = (width - length) // 2
    bar = _coloured(np.linspace(-1, 1, max(length, 2), dtype=np.float32)[None].repeat(14, axis=0))
    picture.paste(bar, (left, 4))
    draw, font = PIL.ImageDraw.Draw(picture), PIL.ImageFont.load_default(12)
    for place, text in ((0, f"-{full:.2f} darker"), (0.5, "0"), (1, f"brighter +{full:.2f}")):
        draw.text((left + place * length, 32), text, "black", font, anchor="mm")
    return picture


def _coloured(change: np.ndarray) -> PIL.Image.Image:
    """(h, w) in [-1, 1] as white with blue for negative and red for positive."""
    up, down = change.clip(0, 1), (-change).clip(0, 1)
    colours = 1 - np.stack([down, np.maximum(up, down), up], axis=-1)
    return PIL.Image.fromarray(np.round(255 * colours).astype(np.uint8))


def _line(text: str, width: int) -> PIL.Image.Image:
    size = 18
    while size > 8 and PIL.ImageFont.load_default(size).getlength(text) > width - 8:
        size -= 1
    picture = PIL.Image.new("RGB", (width, size + 12), "white")
    font = PIL.ImageFont.load_default(size)
    PIL.ImageDraw.Draw(picture).text((4, size / 2 + 6), text, "black", font, anchor="lm")
    return picture


def _curves(folder: Path, table: Sequence[Mapping[str, Any]], width: int) -> list[PIL.Image.Image]:
    """Plots of the columns over the frames."""
    pictures, temporary = [], folder / ".curves.png"
    for columns, ylabel in ((("confidence",), "confidence"), (("change_inside", "change_outside"), "mean change")):
        curves = {}
        for column in columns:
            for item in sorted({row["item"] for row in table}):
                points = [
                    (row["frame"], row[column]) for row in table if row["item"] == item and row.get(column) is not None
                ]
                if points:
                    label = f"{column.replace('_', ' ')}" + (f" {item}" if item else "")
                    curves[label] = tuple(zip(*points, strict=True))
        if curves:
            plot(temporary, {key: value for key, value in list(curves.items())[:12]}, xlabel="frame", ylabel=ylabel)
            with PIL.Image.open(temporary) as picture:
                pictures.append(picture.convert("RGB"))
            temporary.unlink()
    if not pictures:
        return []
    row = strip(pictures)
    height = round(row.height * width / row.width)
    return [row.resize((width, height), PIL.Image.Resampling.LANCZOS)] if width < row.width else [row]


def _at_height(picture: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """Small frames enlarged by a whole number, so that their pixels are seen; large ones shrunk to `side`."""
    if picture.height > 1.5 * side:
        width = max(1, round(picture.width * side / picture.height))
        return picture.convert("RGB").resize((width, side), PIL.Image.Resampling.LANCZOS)
    factor = max(1, -(-side // picture.height))
    return picture.resize((picture.width * factor, picture.height * factor), PIL.Image.Resampling.NEAREST)


def _at_most(picture: PIL.Image.Image, longest: int) -> PIL.Image.Image:
    factor = min(1.0, longest / max(picture.size))
    if factor == 1:
        return picture
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.convert("RGB").resize(size, PIL.Image.Resampling.LANCZOS)
