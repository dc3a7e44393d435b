"""Records of what was made from what, in the folder `.done` beside the results.

A record tells what one item was made from and the digests of its files. It is written before the files take their names
and counts while they have the recorded content: a kill at any moment neither loses nor repeats a result, and a file
that was changed or removed is made again. A file that no record names, or that was made from another input, is not
replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vision.config import from_dict, read_json
from vision.files import RECORDS, Exclusive, digest


@dataclass(frozen=True)
class Origin:
    """What an item was made from."""

    input: str = ""
    """Absolute path of the input."""
    content: str = ""
    """Digest of the input."""
    key: str = ""
    """Digest of everything that decides about the results: the input's content, options, weights, version."""


@dataclass(frozen=True)
class Made:
    """The content of a record."""

    origin: Origin = Origin()
    """What the files were made from."""
    files: dict[str, str] = field(default_factory=dict)
    """Files of the item, below the output folder, and their digests."""
    earlier: dict[str, str] = field(default_factory=dict)
    """Files of an earlier run that may still be there, and their digests."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What run.json tells about the item, as JSON values."""


class Record:
    """The record of one item.

    Args:
        out: folder of the results.
        name: of the item's result below it, with "/" between folders.
        is_folder: whether the result is a folder of files.
    """

    def __init__(self, out: Path, name: str, is_folder: bool = False):
        self.out, self.name, self.is_folder = out, name, is_folder
        self.id = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
        self.path = out / RECORDS / f"{self.id}.json"
        self._lock: Exclusive | None = None
        self._made_out = False

    def read(self) -> Made:
        """What was recorded; a record that is missing or damaged knows of nothing."""
        return _read(self.path)

    def holds(self, key: str) -> bool:
        """Whether all files are there, unchanged, and were made from what `key` stands for."""
        made = self.read()
        if made.origin.key != key or not made.files:
            return False
        return all(has_content(self.out / name, content) for name, content in made.files.items())

    def claim(self, name: str, origin: Origin) -> None:
        """Refuse to replace what this item did not make. (Where its record is damaged, what is there is kept aside.)

        Args:
            name: of a file below the output folder, or of the item.
            origin: what it is to be made from.

        Raises:
            ValueError: something of that name is there that belongs to somebody else.
        """
        target, made = self.out / name, self.read()
        if target.is_dir():
            if self.is_folder and name == self.name:
                return
            raise ValueError(f"Cannot write {target}: it is a folder.")
        if not os.path.lexists(target) or (self.path.exists() and not made.files):
            return
        how = "choose another output folder, or give --overwrite"
        if name not in made.files | made.earlier:
            raise ValueError(f"{target} is there already and was not made by this job; {how}.")
        if origin.content != made.origin.content and origin.input != made.origin.input:
            raise ValueError(f"{target} was made from {made.origin.input}, not from {origin.input}; {how}.")

    def publish(
        self, folder: Path, origin: Origin, facts: Mapping[str, Any], *, keep: bool = False, overwrite: bool = False
    ) -> Iterator[Path]:
        """Move all files of `folder` to their places; the record is true at every moment.

        Files of an earlier run that are not among them are removed. One that somebody changed since is kept below
        `.done/changed`.

        Args:
            keep: leave the item's earlier files beside the new ones.
            overwrite: replace whatever is there.

        Yields:
            The files that are in place, and those that were kept aside.

        Raises:
            ValueError: a file of that name belongs to somebody else, or cannot be written.
        """
        before = self.read()
        new = {path.relative_to(folder).as_posix(): digest(path) for path in folder.rglob("*") if path.is_file()}
        for name in () if overwrite else new:
            self.claim(name, origin)
        files = {**before.files, **new} if keep else new
        there = {}
        for name in sorted({**before.earlier, **before.files, **new}):
            if (self.out / name).is_file() and (name in new or name not in files):
                content = digest(self.out / name)
                if content == new.get(name):
                    continue
                if overwrite or content in (before.files.get(name), before.earlier.get(name)):
                    there[name] = content
                else:
                    yield self._move(self.out / name, self.out / RECORDS / "changed" / content[:16] / Path(name).name)
        record = folder.with_name("record.json")
        record.write_text(json.dumps(asdict(Made(origin, files, there, dict(facts))), indent=1), encoding="utf-8")
        self._move(record, self.path)
        for name in there.keys() - files.keys():
            (self.out / name).unlink(missing_ok=True)
            remove_empty((self.out / name).parent, self.out)
        for name in new:
            yield self._move(folder / name, self.out / name)

    def own(self) -> None:
        """Let no other process work on the item until `release()`.

        Raises:
            OSError: nothing can be written here.
            ValueError: another process works on the item, or its unfinished work was taken away meanwhile.
        """
        if self._lock is not None and not self._lock.is_there():
            self.forget_work()  # what was made since lacks what was taken
            raise ValueError(f"{self.out / self.name} was taken away while this worked; start again.")
        if self._lock is None:
            self._made_out = not self.out.exists()
            self._work.mkdir(parents=True, exist_ok=True)
            self._lock = Exclusive(self._work, self.out / self.name, folder=True)

    def work(self, key: str) -> Path:
        """A hidden folder for unfinished work that outlives an interruption; other work of the item is removed.

        Raises:
            OSError, ValueError: as `own`.
        """
        self.own()
        folder = self._work / key[:16]
        for other in self._work.glob("*"):
            if other != folder:
                shutil.rmtree(other)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def forget_work(self) -> None:
        """Remove all unfinished work of the item, unless it is another process's."""
        if self._lock is not None and not self._lock.is_there():
            self.release()
        if self._lock is None and self._work.exists():
            with contextlib.suppress(ValueError):
                self._lock = Exclusive(self._work, folder=True)
        if self._lock is not None and self._lock.is_there():
            shutil.rmtree(self._work, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let other processes work on the item; what was made for it and is empty is removed."""
        top = self.out.parent if self._made_out else self.out
        if self._lock is not None:
            if self._lock.is_there():
                remove_empty(self._work, top)
            self._lock.release()
        self._lock = None
        remove_empty(self._work.parent, top)

    @property
    def _work(self) -> Path:
        return self.out / RECORDS / "unfinished" / self.id

    def _move(self, path: Path, target: Path) -> Path:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        except OSError as error:
            raise ValueError(f"Cannot write {target}: {error.strerror}.") from error
        return target


def recorded(out: Path) -> dict[str, str]:
    """All files in a folder of results that records name, and their digests."""
    return {name: content for path in (out / RECORDS).glob("*.json") for name, content in _read(path).files.items()}


def has_content(path: Path, content: str) -> bool:
    """Whether a file is there and has this digest."""
    return path.is_file() and digest(path) == content


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it, up to `top`, while they are empty."""
    with contextlib.suppress(OSError):  # not empty, or another process took it away
        while folder != top:
            folder.rmdir()
            folder = folder.parent


def _read(path: Path) -> Made:
    try:
        return from_dict(Made, read_json(path))
    except (FileNotFoundError, ValueError):
        return Made()
