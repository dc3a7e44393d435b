"""Files of a folder that another file names, as other programs and machines wrote the names."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath


class NamedFiles:
    """Finds the files of a folder by names that may be absolute, of Windows, in another case or without their ending.

    Nothing outside the folder is looked at, whatever a name says; links in the folder are followed, for they are its
    owner's.

    Args:
        folder: where the files are.
        endings: endings (".png", ...) that a name may lack.
    """

    def __init__(self, folder: Path, endings: Iterable[str] = ()) -> None:
        self.folder, self.endings = folder, sorted(endings, key=lambda ending: (ending != ".png", ending))
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str, within: Sequence[str] = ("",)) -> Path | None:
        """The file that `name` means, or None.

        Args:
            name: a path; of one that leads elsewhere, the longest tail that is here (`/home/x/images/1.png`:
                `images/1.png`).
            within: sub-folders that it may be in, in this order.
        """
        for parts in _spellings(name, self.folder):
            for start in range(len(parts) if is_foreign(name) else min(1, len(parts))):
                for base in within:
                    found = self._walk(self.folder / base, parts[start:])
                    if found is not None:
                        return found
        return None

    def _walk(self, place: Path, parts: Sequence[str]) -> Path | None:
        for part in parts[:-1]:
            inner = self._entry(place, part)
            if inner is None:
                return None
            place = inner
        found = (self._entry(place, parts[-1] + ending) for ending in ("", *self.endings))
        return next((file for file in found if file is not None and file.is_file()), None)

    def _entry(self, place: Path, name: str) -> Path | None:
        """What a folder calls `name`, or as the only one calls so in another case or form of Unicode."""
        if place not in self._listed:
            listed: dict[str, list[str]] = {}
            for entry in sorted(place.iterdir()) if place.is_dir() else []:
                listed.setdefault(_plain(entry.name), []).append(entry.name)
            self._listed[place] = listed
        alike = self._listed[place].get(_plain(name), [])
        if name in alike:
            return place / name
        return place / alike[0] if len(alike) == 1 else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def is_foreign(name: str) -> bool:
    """Whether a name leads out of its folder: an absolute path, a drive, or more `..` than folders."""
    path = name.replace("\\", "/")
    return path.startswith("/") or path[1:2] == ":" or posixpath.normpath(path).startswith("..")


def _spellings(name: str, folder: Path) -> list[list[str]]:
    """The parts of a path below the folder: as it is, and with the separators of Windows."""
    spellings = []
    for path in dict.fromkeys([name, name.replace("\\", "/")]):
        for home in {str(folder), str(folder.absolute()), str(folder.resolve())}:
            if path.startswith(home.rstrip("/") + "/"):
                path = path[len(home.rstrip("/")) + 1 :]
                break
        parts = PurePosixPath(posixpath.normpath(path)).parts
        spellings.append([part for part in parts if part not in ("/", "//", "..", ".") and part[1:] != ":"])
    return spellings
