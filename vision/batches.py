"""Folders of pictures in, folders of results out: what to read, what to write, and what is done already."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vision.config import read_json, version
from vision.files import atomic_path, digest
from vision.images import image_files


def expand(item: Path) -> list[Path]:
    """The pictures that one input names: a folder's, those listed in a .txt file (paths relative to it), or itself.

    Raises:
        ValueError: it names none, or cannot be read.
    """
    if item.is_dir():
        found = image_files(item)
    elif item.suffix == ".txt" and item.exists():
        try:
            lines = [line.strip() for line in item.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"Cannot read the list {item}: {error}.") from error
        found = [item.parent / line for line in lines if line and not line.startswith("#")]
    else:
        return [item]
    if not found:
        raise ValueError(f"{item} names no images.")
    return found


def plan(inputs: Iterable[Path], out: Path, suffix: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    """What to restore, and what cannot be.

    Args:
        inputs: pictures, folders and lists, see `expand`; a picture that is named twice counts once.
        out: folder of the results.
        suffix: of the results, such as ".png".

    Returns:
        (picture, result) pairs: the result keeps the picture's stem, with its suffix appended (a_jpg.png) where two
        pictures share a stem; and a sentence for each input that cannot be used.
    """
    pictures: dict[Path, Path] = {}
    problems = []
    for item in inputs:
        try:
            pictures = {path.resolve(): path for path in expand(item)} | pictures
        except (ValueError, OSError) as error:
            problems.append(
                f"Cannot read {item}: {error.strerror}." if isinstance(error, PermissionError) else str(error)
            )
    stems = Counter(path.stem for path in pictures.values())
    taken: dict[Path, Path] = {}
    for resolved, path in sorted(pictures.items()):
        stem = path.stem if stems[path.stem] == 1 else f"{path.stem}_{path.suffix[1:]}"
        result = out / f"{stem}{suffix}"
        if result.resolve() == resolved:
            problems.append(f"{path} would be overwritten by its result; choose another output folder.")
        elif result in taken:
            problems.append(f"{path} and {taken[result]} would both become {result.name}; do them apart.")
        else:
            taken[result] = path
    return [(path, result) for result, path in taken.items()], problems


class Done:
    """Records, in `folder`/.done, of which results were made from what.

    A record is written when the result is complete and before it takes its name; it counts while the file of that name
    has the content that was recorded. So a kill at any moment neither loses nor repeats a result.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]):
        """`facts`: everything but the picture that decides about a result, as JSON values."""
        self.folder, self.facts = folder / ".done", facts

    def __call__(self, picture: Path, result: Path) -> bool:
        """Whether `result` was made from this picture (its content, not its name) with these facts."""
        record = self._record(result)
        if not (record.exists() and result.exists()):
            return False
        return read_json(record) == {"made_from": self._made_from(picture), "result": digest(result)}

    def write(self, picture: Path, result: Path, complete: Path) -> None:
        """Record that `complete` is about to become `result`."""
        with atomic_path(self._record(result)) as part:
            part.write_text(json.dumps({"made_from": self._made_from(picture), "result": digest(complete)}))

    def _record(self, result: Path) -> Path:
        return self.folder / f"{result.name}.json"

    def _made_from(self, picture: Path) -> str:
        content = json.dumps([version(), self.facts, digest(picture)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
