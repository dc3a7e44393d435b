"""Tar shards in the form of WebDataset: members that share a name up to its first dot are one sample.

    000001.jpg 000001.json 000002.jpg 000002.json ...

Plain tar files, read from the beginning to the end and written the same way; nothing is ever unpacked to a path that a
shard names. A shard may come from anybody: members with paths out of it, links, devices, sparse files, doubled names,
and more or larger members than the limits say are refused.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vision.images import SUFFIXES

ENDINGS = (".tar",)
MAX_MEMBERS = 1_000_000
"""More members make a shard unusable."""
MAX_SAMPLE_BYTES = 1 << 30
"""A sample of more bytes makes a shard unusable."""
MAX_HEADER_BYTES = 1 << 20
"""So much may stand between two members."""
MAX_NAME_BYTES = 1024
"""A longer name does too."""
_SAMPLE = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")


@dataclass
class Sample:
    """Members that belong together, in their order."""

    key: str
    """What their names share: folder, and name up to the first dot."""
    members: dict[str, bytes] = field(default_factory=dict)
    """Content by ending, without the first dot: {"jpg": ..., "json": ...}."""

    def pictures(self) -> list[str]:
        """The endings of its pictures."""
        return [ending for ending in self.members if f".{ending.rpartition('.')[2].lower()}" in SUFFIXES]


def read_samples(file: BinaryIO, name: str) -> Iterator[Sample]:
    """The samples of a shard, one after the other; one is in memory at a time.

    Args:
        file: read once, from where it stands.
        name: of the shard, for sentences.

    Raises:
        ValueError: it is no plain tar file, is cut off, or holds what no shard may hold.
    """
    sample, seen, count, metered = None, set(), 0, _Metered(file, name)
    try:
        with tarfile.open(fileobj=metered, mode="r|") as tar:
            for member in tar:
                count, metered.left = count + 1, MAX_HEADER_BYTES
                if member.isdir():
                    continue
                key, ending = _checked(member, count, name)
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    if key in seen:
                        raise ValueError(f"{name} holds {member.name!r} apart from the rest of its sample; sort it.")
                    seen.add(key)
                    sample = Sample(key)
                if ending in sample.members:
                    raise ValueError(f"{name} holds {member.name!r} twice.")
                if (size := member.size + sum(map(len, sample.members.values()))) > MAX_SAMPLE_BYTES:
                    raise ValueError(
                        f"{name} holds {size} bytes or more of {key!r}; at most {MAX_SAMPLE_BYTES} are read."
                    )
                metered.left += member.size
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                sample.members[ending] = content.read()
                tar.members.clear()  # type: ignore[attr-defined]  # a long shard would be remembered member by member
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{name} is no tar file, or is damaged or cut off ({error}).") from error
    if sample is None:
        raise ValueError(f"{name} holds no samples.")
    yield sample


class _Metered:
    """A file of which only so many bytes are read as were allowed: headers of tar files may claim any length."""

    def __init__(self, file: BinaryIO, name: str):
        self.file, self.name, self.left = file, name, MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""
        found = self.file.read(size)
        self.left -= len(found)
        if self.left < 0:
            raise ValueError(f"{self.name} holds a header of more than {MAX_HEADER_BYTES} bytes.")
        return found


def _checked(member: tarfile.TarInfo, count: int, name: str) -> tuple[str, str]:
    """Key and ending of a member.

    Raises:
        ValueError: no shard may hold it.
    """
    if count > MAX_MEMBERS:
        raise ValueError(f"{name} holds more than {MAX_MEMBERS} members; split it.")
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or len(member.name.encode(errors="replace")) > MAX_NAME_BYTES:
        rule = f"names are relative paths without '..' of at most {MAX_NAME_BYTES} bytes"
        raise ValueError(f"{name} holds {member.name[:80]!r}; {rule}.")
    if not member.isreg() or member.issparse():
        raise ValueError(f"{name} holds {member.name!r}, which is a link, a device or a sparse file.")
    parts = _SAMPLE.fullmatch(path.as_posix())
    if parts is None:
        raise ValueError(f"{name} holds {member.name!r}; members of samples are called NAME.ENDING.")
    return parts[1], parts[2]


class ShardWriter:
    """Writes a shard; equal members give equal bytes. Use it in a `with` block."""

    def __init__(self, path: Path):
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._tar.close()

    def add(self, sample: Sample) -> None:
        """Append the members of a sample."""
        for ending, content in sample.members.items():
            member = tarfile.TarInfo(f"{sample.key}.{ending}")
            member.size, member.mode = len(content), 0o644
            self._tar.addfile(member, io.BytesIO(content))
