"""What a command's inputs name: pictures, folders with all that is in them, lists; and the names of their results.

The name of a result depends on its own input and on what was named, never on other pictures: its place below the folder
(or beside the list) that was named, its stem, and its ending where that differs from the result's: `cat.png` and
`cat.jpg` become `cat.png` and `cat_jpg.png`. Where several folders are named, each keeps its name: of `june` and `july`
the results lie in `june` and `july`.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vision.files import MAX_NAME, RECORDS, in_utf8, named_path, read_file
from vision.images import SUFFIXES


@dataclass
class Inputs:
    """The pictures that were named, what was left out, and what cannot be used."""

    pictures: list[tuple[Path | str, PurePosixPath]] = field(default_factory=list)
    """(file, place below the folder or beside the list that was named); every file once, links under their own name."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what was left out on purpose."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each input that cannot be used."""

    also: tuple[str, ...] = ()
    """Endings of files in folders that are taken besides those of pictures."""

    @classmethod
    def find(cls, named: Iterable[str | Path], out: str | Path | None = None, also: Iterable[str] = ()) -> Inputs:
        """All pictures below what is named; results are no inputs.

        Args:
            named: pictures; folders, taken with their sub-folders; .txt lists with one path per line, relative to the
                list; patterns such as `photos/*.jpg`.
            out: folder of the results; when it lies inside a named folder it is left out.
            also: see the field.
        """
        self, seen = cls(also=tuple(also)), set()
        skipped = None if out is None else identity(Path(out))
        items = list(_unfold(named))
        several = len({identity(item) for item in items if os.path.isdir(item)}) > 1
        for item in items:
            try:
                before = len(self.problems)
                found = self._expand(item, skipped)
                if several and os.path.isdir(item):
                    found = [(path, identity(item).name / place) for path, place in found]
                if not found and len(self.problems) == before:
                    raise ValueError(f"{item} names no images.")
                for path, place in found:
                    key = identity(path)
                    if key not in seen:
                        seen.add(key)
                        self.pictures.append((path, place))
            except OSError as error:
                self.problems.append(f"Cannot read {item}: {error.strerror or error}.")
            except ValueError as error:
                self.problems.append(str(error))
        self.pictures.sort(key=lambda pair: (pair[1], pair[0]))
        return self

    def results(self, suffix: str) -> list[tuple[Path, str]]:
        """(picture, name of its result below the output folder); a name that cannot be used becomes a problem.

        Args:
            suffix: of the results, such as ".png"; "" gives names of folders, plain for a .png.
        """
        taken: dict[str, Path] = {}
        for path, place in self.pictures:
            name = result_name(place, suffix)
            if name in taken:
                self.problems.append(
                    f"{path} and {taken[name]} would both become {name}. Rename one, or name the folders that they "
                    "lie in, or one above both: folders are kept apart."
                )
            elif (size := len(os.fsencode(PurePosixPath(name).name))) > MAX_NAME:
                self.problems.append(
                    f"The result of {path} would have a name of {size} bytes, more than {MAX_NAME}; shorten it."
                )
            else:
                taken[name] = path
        return [(path, name) for name, path in taken.items()]

    def _expand(self, item: Path, skipped: Path | None) -> list[tuple[Path, PurePosixPath]]:
        """The pictures of one input with their places."""
        if item.is_dir():
            return self._walk(item, skipped)
        if item.suffix.lower() == ".txt" and item.exists():
            return [(path, _place(path, item.parent)) for path in read_list(item)]
        return [(item, PurePosixPath(item.name))]

    def _walk(self, root: Path, skipped: Path | None) -> list[tuple[Path, PurePosixPath]]:
        """The pictures below a folder, without hidden ones, linked folders, and folders of results."""
        found, others = [], Counter()
        for here, folders, files in os.walk(root, onerror=self._unreadable):
            folder = Path(here)
            entered = []
            for name in sorted(folders):
                path = folder / name
                if name.startswith(".") or identity(path) == skipped:
                    continue
                if path.is_symlink():
                    self.notes.append(f"{path} is a link to a folder and was left out.")
                elif (path / RECORDS).is_dir():
                    self.notes.append(f"{path} holds results of an earlier run and was left out.")
                else:
                    entered.append(name)
            folders[:] = entered
            for name in files:
                path = folder / name
                if name.startswith(".") or (name == "run.json" and (root / RECORDS).is_dir()):
                    continue
                if path.suffix.lower() in SUFFIXES or name.lower().endswith(self.also):
                    found.append((path, PurePosixPath(path.relative_to(root).as_posix())))
                else:
                    others[path.suffix.lower() or "without ending"] += 1
        if others:
            kinds = ", ".join(f"{number} {suffix}" for suffix, number in sorted(others.items()))
            self.notes.append(f"{root}: files of other kinds were left out ({kinds}).")
        return found

    def _unreadable(self, error: OSError) -> None:
        self.problems.append(f"Cannot read {error.filename}: {error.strerror}.")


def result_name(place: PurePosixPath, suffix: str) -> str:
    """The result's name for a picture at `place`, with "/" between folders; depends on nothing else."""
    own = place.suffix
    stem = place.stem if own.lower() in ("", suffix or ".png") else f"{place.stem}_{own[1:]}"
    return (place.parent / f"{stem}{suffix}").as_posix()


def read_list(path: Path) -> list[Path]:
    """The paths that a text file lists, one per line, relative to it; quotes around them and comments (#) are left out.

    Raises:
        OSError, ValueError: it cannot be read as text.
    """
    try:
        lines = [line.strip().strip("\"'") for line in in_utf8(read_file(path)).decode().splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"Cannot read the list {path}: {error}.") from error
    paths = [named_path(path.parent, line) for line in lines if line]
    return [found for found in paths if not found.name.startswith("#") or os.path.lexists(found)]


def _unfold(named: Iterable[str | Path]) -> Iterator[Path]:
    """Patterns become the paths that match them."""
    for item in named:
        matches = [] if os.path.lexists(item) or not glob.has_magic(str(item)) else sorted(glob.glob(str(item)))
        yield from map(Path, matches or [item])


def _place(path: Path, folder: Path) -> PurePosixPath:
    """Where a listed file lies beside its list; elsewhere only its name counts."""
    place = Path(os.path.normpath(path))
    base = Path(os.path.normpath(folder))
    return PurePosixPath(place.relative_to(base).as_posix() if place.is_relative_to(base) else place.name)


def identity(path: Path) -> Path:
    """One absolute path for one name of a file, however it was reached; a link is not its target."""
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent)) / path.name
