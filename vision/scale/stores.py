"""Files on this machine and on others, named by path or URL (s3://, gs://, hf://, file://, memory://, ...).

The library fsspec opens them; a kind of store that it knows but has no package for is refused in its sentence. Results
appear whole or not at all: by a rename on this machine's file systems, by one upload elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from vision.config import is_url, one_line
from vision.files import RECORDS, atomic_path

STAMPS = ("ETag", "etag", "checksum", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
"""What stores call a file's checksum or time of change; the first that there is tells whether it was changed."""
MAX_BYTES = 1 << 32
"""Larger pictures are refused before they are fetched."""


@dataclass(frozen=True)
class Found:
    """A file that a store holds."""

    url: str
    """Where it is: a URL, or an absolute path of this machine."""
    place: str
    """Its place below what was named, with "/" between folders."""
    size: int
    """Bytes."""
    stamp: str
    """Size with checksum or time of change: another one when the file was changed."""


def find(url: str, endings: Iterable[str], out: str | Path) -> list[Found]:
    """The files that a URL names: one file, those that match a pattern, or those of a folder that end as asked.

    Hidden files, folders of results, and what lies below `out` are passed over.

    Raises:
        ValueError: nothing is there, or it cannot be listed.
    """
    with told(url):
        system, root = _system(url)
        system.invalidate_cache()
        if "*" in root:
            listed, top = system.glob(root, detail=True), root[: root.index("*")].rpartition("/")[0]
        elif (info := system.info(root))["type"] == "file":
            listed, top = {root: info}, root.rpartition("/")[0]
        else:
            listed, top = system.find(root, detail=True), root
        skipped = _system(out)[1]
    found, ends, local = [], tuple(endings), isinstance(system, LocalFileSystem)
    results = {path.partition(f"/{RECORDS}/")[0] for path in listed if f"/{RECORDS}/" in path}
    for path, info in sorted(listed.items()):
        place = PurePosixPath(path.removeprefix(top).lstrip("/"))
        hidden = any(part.startswith(".") for part in place.parts)
        left_out = any(path.startswith(f"{folder}/") for folder in (results | {skipped}) - {top})
        alone = len(listed) == 1 and path == root
        if info["type"] == "file" and (alone or (place.suffix.lower() in ends and not hidden and not left_out)):
            where = path if local else system.unstrip_protocol(path)
            found.append(Found(where, str(place), int(info.get("size") or 0), _stamp(info)))
    if not found:
        raise ValueError(f"{url} names no images.")
    return found


def found(path: Path, place: PurePosixPath) -> Found:
    """A file of this machine.

    Raises:
        OSError: there is none.
    """
    about = path.stat()
    return Found(str(path.absolute()), place.as_posix(), about.st_size, f"{about.st_size}-{about.st_mtime_ns}")


@contextmanager
def opened(url: str) -> Iterator[BinaryIO]:
    """A file to read, from its beginning to its end.

    Raises:
        ValueError: it cannot be read.
    """
    with told(url), fsspec.open(url if is_url(url) else f"file://{url}", "rb") as file:
        yield file


def fetch(source: Found, target: Path) -> None:
    """Copy a file to a path of this machine.

    Raises:
        ValueError: it cannot be read, or is too large.
    """
    if source.size > MAX_BYTES:
        raise ValueError(f"{source.url} has {source.size} bytes; pictures have at most {MAX_BYTES}.")
    with opened(source.url) as file, open(target, "wb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


class Store:
    """A folder of results on this machine or another.

    Args:
        url: its URL or path.

    Raises:
        ValueError: there is no such kind of store here.
    """

    def __init__(self, url: str | Path):
        self.url = str(url)
        with told(self.url):
            self.system, self.root = _system(url)

    @property
    def folder(self) -> Path | None:
        """Where it is, if on this machine."""
        return Path(self.root) if isinstance(self.system, LocalFileSystem) else None

    def address(self, name: str) -> str:
        """The URL of one of its files; an absolute path on this machine."""
        path = f"{self.root}/{name}"
        return path if self.folder is not None else str(self.system.unstrip_protocol(path))

    def sizes(self, below: str = "") -> dict[str, int]:
        """Bytes of every file in it (or in a folder in it), by name.

        Raises:
            ValueError: it cannot be listed.
        """
        with told(self.url):
            self.system.invalidate_cache()
            listed = self.system.find(f"{self.root}/{below}".rstrip("/"), detail=True)
        return {path.removeprefix(f"{self.root}/"): int(info["size"] or 0) for path, info in listed.items()}

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when it is not there."""
        with told(self.url):
            try:
                self.system.invalidate_cache(f"{self.root}/{name}")
                return int(self.system.info(f"{self.root}/{name}")["size"])
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            ValueError: it cannot be read.
        """
        with told(self.address(name)):
            return self.system.cat_file(f"{self.root}/{name}")

    def publish(self, file: Path, name: str) -> None:
        """Copy a file of this machine into the store; it appears there whole.

        Raises:
            ValueError: it cannot be written.
        """
        if self.folder is not None:
            with atomic_path(self.folder / name) as part:
                shutil.copyfile(file, part)
            return
        with told(self.address(name), "write"):
            self.system.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
            self.system.put_file(str(file), f"{self.root}/{name}")

    def remove(self, names: Iterable[str]) -> None:
        """Remove files.

        Raises:
            ValueError: one cannot be removed.
        """
        with told(self.url, "write"):
            for name in names:
                self.system.rm_file(f"{self.root}/{name}")


@contextmanager
def told(url: str, verb: str = "read") -> Iterator[None]:
    """What goes wrong inside is one sentence about the URL.

    Raises:
        ValueError: with the sentence.
    """
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"There is no file or folder {url}.") from None
    except ImportError as error:
        raise ValueError(f"Cannot {verb} {url}: {one_line(str(error)).rstrip('.')}.") from error
    except OSError as error:
        reason = error.strerror or one_line(str(error)) or type(error).__name__
        raise ValueError(f"Cannot {verb} {url}: {reason.rstrip('.')}.") from error


def _system(url: str | Path) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL or path, and the place in it."""
    try:
        system, root = fsspec.url_to_fs(url if is_url(url) else str(Path(url).absolute()))
    except ValueError as error:
        raise ValueError(f"Cannot open {url}: {error}.") from error
    return system, root.rstrip("/")


def _stamp(info: dict[str, Any]) -> str:
    changed = next((info[name] for name in STAMPS if info.get(name) is not None), "")
    return f"{info.get('size') or 0}-{changed}"
