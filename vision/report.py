"""What a run leaves for people to look at: tables, plots, pictures side by side, strips, GIF, MP4, and `run.json`.

Pictures are PIL images; plots need matplotlib and MP4 needs imageio-ffmpeg, imported where they are used.
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from vision.config import one_line, version
from vision.files import atomic_path

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
Picture = PIL.Image.Image


def table(rows: Sequence[Row], title: str | None = None, digits: int = 4) -> Table:
    """Rows as a table for a rich console; columns in order of first appearance, floats with `digits` digits."""
    from rich.table import Table
    from rich.text import Text  # plain: names may hold what rich would obey

    result = Table(title=None if title is None else Text(title))
    names = columns(rows)
    for name in names:
        numeric = all(isinstance(row.get(name, 0.0), (int, float)) for row in rows)
        result.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        result.add_row(*(Text(one_line(_cell(row.get(name), digits))) for name in names))
    return result


def text_table(rows: Sequence[Row], title: str | None = None, digits: int = 4, width: int = 140) -> str:
    """`table` as lines of text, for events and files."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=width).print(table(rows, title, digits))
    return text.getvalue().rstrip()


def columns(rows: Sequence[Row]) -> list[str]:
    """Every key of the rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def wilson(right: float, total: float, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share of `right` in `total` trials (Wilson score)."""
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def write_table(rows: Sequence[Row], json_path: str | Path, csv_path: str | Path) -> None:
    """Write rows as a JSON list and as CSV; a value that is missing, NaN or infinite is null and an empty cell."""
    clean = [{name: _plain(value) for name, value in row.items()} for row in rows]
    with atomic_path(json_path) as part:
        part.write_text(json.dumps(clean, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(csv_path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns(rows), restval="")
        writer.writeheader()
        writer.writerows(clean)


def plot(
    path: str | Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    log: bool = False,
) -> None:
    """Write a picture (PNG, SVG or PDF by suffix) of curves name -> (x values, y values); `log` scales the y axis."""
    figure, (axes,) = _figure(1)
    for name, (xs, ys) in curves.items():
        axes.plot(xs, ys, label=name, marker="o" if len(xs) < 30 else None, markersize=3)
    if log:
        axes.set_yscale("log")
    if len(curves) > 1:
        axes.legend()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    _save_figure(figure, path)


def plot_panels(
    path: str | Path,
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    *,
    columns: int = 4,
    title: str = "",
    xlabel: str = "",
    log: Collection[str] = (),
) -> None:
    """Write a picture with one panel per name, each with curves name -> (x values, y values).

    Args:
        log: names of the panels whose y axis is logarithmic.
    """
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * min(columns, len(panels)), 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, min(columns, len(panels)), squeeze=False).flatten()
    for axes, (name, curves) in zip(grid, panels.items(), strict=False):
        for label, (xs, ys) in curves.items():
            axes.plot(xs, ys, label=label, marker="o" if len(xs) < 30 else None, markersize=3)
        if len(curves) > 1:
            axes.legend(fontsize=7)
        if name in log:
            axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(xlabel, fontsize=8)
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.suptitle(title)
    _save_figure(figure, path)


def plot_bars(path: str | Path, rows: Sequence[Row], label: str, values: Sequence[str], *, title: str = "") -> None:
    """Write a picture with one panel per column of `values` and one bar per row, named by its column `label`."""
    figure, panels = _figure(len(values))
    names = [str(row[label]) for row in rows]
    for axes, value in zip(panels, values, strict=True):
        heights = [row.get(value) for row in rows]
        bars = axes.bar(names, [math.nan if height is None else height for height in heights])
        axes.bar_label(bars, fmt="%.3g", fontsize=8)
        axes.set_title(value)
        axes.tick_params(axis="x", rotation=45)
    figure.suptitle(title)
    _save_figure(figure, path)


def side_by_side(pictures: Sequence[Picture], labels: Sequence[str], *, height: int | None = None) -> Picture:
    """Pictures in one row under their labels, scaled to one height (default: the tallest one's).

    Raises:
        ValueError: there are no pictures, or not one label for each.
    """
    if not pictures or len(pictures) != len(labels):
        raise ValueError(f"Each picture needs one label, got {len(pictures)} pictures and {len(labels)} labels.")
    height = height or max(picture.height for picture in pictures)
    return strip(
        [labelled(_to_height(picture, height), label) for picture, label in zip(pictures, labels, strict=True)]
    )


def labelled(picture: Picture, label: str) -> Picture:
    """A picture under a bar with its label, in letters that fit its width."""
    size = max(10, min(36, picture.height // 24))
    font = PIL.ImageFont.load_default(size)
    while size > 6 and font.getlength(label) > picture.width - size:
        size -= 1
        font = PIL.ImageFont.load_default(size)
    bar = math.ceil(size * 1.8)
    result = PIL.Image.new("RGB", (picture.width, picture.height + bar), "white")
    PIL.ImageDraw.Draw(result).text((picture.width / 2, bar / 2), label, "black", font, anchor="mm")
    result.paste(picture.convert("RGB"), (0, bar))
    return result


def strip(pictures: Sequence[Picture], *, gap: int = 4, vertical: bool = False) -> Picture:
    """Pictures in one row (or column) with a white gap; they keep their sizes.

    Raises:
        ValueError: there are no pictures.
    """
    if not pictures:
        raise ValueError("A strip needs at least one picture.")
    along = [picture.height if vertical else picture.width for picture in pictures]
    across = max(picture.width if vertical else picture.height for picture in pictures)
    length = sum(along) + gap * (len(pictures) - 1)
    result = PIL.Image.new("RGB", (across, length) if vertical else (length, across), "white")
    place = 0
    for picture, extent in zip(pictures, along, strict=True):
        result.paste(picture.convert("RGB"), (0, place) if vertical else (place, 0))
        place += extent + gap
    return result


def save_gif(pictures: Iterable[Picture], path: str | Path, *, fps: float = 8.0) -> None:
    """Write an endless GIF; all pictures have one size.

    Raises:
        ValueError: there are no pictures, or their sizes differ.
    """
    frames = _frames(pictures)
    with atomic_path(path) as part:
        frames[0].save(
            part, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, disposal=2
        )


def save_mp4(pictures: Iterable[Picture], path: str | Path, *, fps: float = 24.0) -> None:
    """Write an H.264 film; all pictures have one size, odd sides lose their last pixel.

    Raises:
        ValueError: imageio-ffmpeg is not installed, there are no pictures, or their sizes differ.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ValueError("MP4 files need the package imageio-ffmpeg; install it, or write a GIF instead.") from None
    frames = _frames(pictures)
    width, height = (side // 2 * 2 for side in frames[0].size)
    with atomic_path(path) as part:
        film = part.with_suffix(".mp4")  # the encoder chooses the container by the name
        writer = imageio_ffmpeg.write_frames(str(film), (width, height), fps=fps, macro_block_size=2)
        try:
            writer.send(None)
            for frame in frames:
                writer.send(np.ascontiguousarray(np.asarray(frame)[:height, :width]))
            writer.close()
            film.replace(part)
        finally:
            film.unlink(missing_ok=True)


def write_run(path: str | Path, **facts: Any) -> None:
    """Write a `run.json`: what was run, with which versions, and whatever `facts` say (options, source, seed, seconds,
    ...)."""
    content = {"finished": datetime.now(timezone.utc).isoformat(timespec="seconds"), "versions": versions(), **facts}
    with atomic_path(path) as part:
        part.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of this project, Python, the platform and the libraries that decide about numbers."""
    found = {"burnish": version(), "python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "diffusers", "transformers", "numpy", "pillow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    """`value` as JSON: numbers of arrays and tensors become Python's, what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _to_height(picture: Picture, height: int) -> Picture:
    if picture.height == height:
        return picture
    width = max(1, round(picture.width * height / picture.height))
    return picture.convert("RGB").resize((width, height), PIL.Image.Resampling.BICUBIC)


def _frames(pictures: Iterable[Picture]) -> list[Picture]:
    frames = [picture.convert("RGB") for picture in pictures]
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        found = ", ".join(f"{width} x {height}" for width, height in sorted(sizes)) or "none"
        raise ValueError(f"A film needs pictures of one size, got {found}.")
    return frames


def _figure(panels: int) -> tuple[Any, list[Any]]:
    """A matplotlib figure without a window, and its axes side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 if panels == 1 else 3.2 * panels, 4.2), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _save_figure(figure: Any, path: str | Path) -> None:
    with atomic_path(path) as part:
        figure.savefig(part, format=Path(path).suffix[1:] or "png", dpi=150)
