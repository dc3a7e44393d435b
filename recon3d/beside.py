"""Files that a mesh file names: looked up in its own folder, however the name was written, and nowhere else."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote


class OutsideFolder(ValueError):
    """A name that leads out of the folder of the file that holds it."""


def find_beside(path: Path, name: str) -> Path | None:
    """The regular file in the folder of `path` that it calls `name`; None: there is none.

    The name may be quoted, percent-encoded, of Windows, of another machine (then only its last part counts), or in
    other letter case. What leads out of the folder, links included, is not found.
    """
    folder = path.parent.resolve()
    plain = name.strip().strip("\"'").strip()
    for spelled in dict.fromkeys((plain, unquote(plain))):
        parts = [part for part in spelled.replace("\\", "/").split("/") if part not in ("", ".")]
        for below in (parts, parts[-1:]):
            found = _descend(folder, below)
            if found is not None and found.resolve().is_relative_to(folder):
                return found
    return None


def missing(path: Path, name: str) -> FileNotFoundError | OutsideFolder:
    """The error for a name that `find_beside` does not find."""
    if ".." in name.replace("\\", "/").split("/"):
        return OutsideFolder(f"{path.name} names a file outside its own folder: {name}. It is not read.")
    return FileNotFoundError(f"{path.name} names {name}, which is missing in its folder.")


def _descend(folder: Path, parts: list[str]) -> Path | None:
    """The file at the end of `parts` below a folder, in any letter case."""
    place = folder
    for part in parts:
        if part == "..":
            return None
        exact = place / part
        try:
            place = exact if os.path.lexists(exact) else _alike(place, part)
        except (OSError, ValueError):  # too long, no folder, not readable, no name of this system
            return None
        if place is None:
            return None
    return place if parts and place.is_file() else None


def _alike(folder: Path, name: str) -> Path | None:
    """The first entry of a folder whose name differs in letter case or Unicode form only."""

    def key(text: str) -> str:
        return unicodedata.normalize("NFC", text).casefold()

    return next((entry for entry in sorted(folder.iterdir()) if key(entry.name) == key(name)), None)
