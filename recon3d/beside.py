"""Files that a mesh file names: looked up in its own folder, however the name was written, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from recon3d.named_files import NamedFiles


class OutsideFolder(ValueError):
    """A name that leads out of the folder of the file that holds it."""


def find_beside(path: Path, name: str) -> Path | None:
    """The regular file in the folder of `path` that it calls `name`; None: there is none.

    The name may be quoted, percent-encoded, of Windows, of another machine (then only its last part counts), or in
    other letter case. What leads out of the folder, links included, is not found.
    """
    files = NamedFiles(path.parent.resolve())
    plain = name.strip().strip("\"'").strip()
    for spelled in dict.fromkeys((plain, unquote(plain))):
        for whole in (spelled, spelled.replace("\\", "/").rpartition("/")[2]):
            found = files.find(whole)
            if found is not None and found.resolve().is_relative_to(files.folder):
                return found
    return None


def missing(path: Path, name: str) -> FileNotFoundError | OutsideFolder:
    """The error for a name that `find_beside` does not find."""
    if ".." in name.replace("\\", "/").split("/"):
        return OutsideFolder(f"{path.name} names a file outside its own folder: {name}. It is not read.")
    return FileNotFoundError(f"{path.name} names {name}, which is missing in its folder.")
