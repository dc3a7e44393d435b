"""Files that visitors bring: how many, how large, and what a ZIP may hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from . import WebOptions


def uploaded(files: Sequence[str] | None, options: WebOptions) -> list[Path]:
    """The uploaded pictures.

    Raises:
        gr.Error: there are none, or too many.
    """
    if not files:
        raise gr.Error("Give at least one picture.")
    if len(files) > options.max_files:
        raise gr.Error(f"At most {options.max_files} files at once, got {len(files)}.")
    return [Path(file) for file in files]


def unpacked(upload: str | None, folder: Path, options: WebOptions) -> Path | None:
    """The uploaded file, or the folder that a ZIP was unpacked into.

    Raises:
        gr.Error: the ZIP is damaged, too large, or leads out of its folder.
    """
    if upload is None:
        return None
    path = Path(upload)
    if path.suffix.lower() != ".zip":
        return path
    import zipfile

    most = 8 * options.max_megabytes * 1024**2
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.infolist()
            if len(names) > 2000 or sum(item.file_size for item in names) > most:
                raise gr.Error(f"The ZIP holds more than 2000 files or {most // 1024**2} MB.")
            for item in names:
                if not (folder / item.filename).resolve().is_relative_to(folder.resolve()):
                    raise gr.Error(f"The ZIP names a file outside its folder: {item.filename}.")
            packed.extractall(folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise gr.Error(f"The ZIP cannot be read: {error}.") from error
    return folder


def one_of(path: Path | None, suffixes: Sequence[str]) -> Path | None:
    """The file itself, or the only one of its kind in a folder."""
    if path is None or path.is_file():
        return path
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes)
    if len(found) != 1:
        raise gr.Error(f"The ZIP must hold one mesh ({', '.join(suffixes)}), found {len(found)}.")
    return found[0]


def folder_of_views(path: Path | None) -> Path | None:
    """The folder in a ZIP that holds everything, when there is a single one inside."""
    while path is not None and len(inside := list(path.iterdir())) == 1 and inside[0].is_dir():
        path = inside[0]
    return path
