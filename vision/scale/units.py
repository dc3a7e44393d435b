"""What a job at scale works on: pictures and shards, wherever they are, and the names of their results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vision.config import is_url
from vision.images import SUFFIXES
from vision.inputs import Inputs
from vision.scale import shards
from vision.scale.stores import Found, find, found


@dataclass(frozen=True)
class Unit:
    """One file to read, and the file that is made of it: a picture, or a shard of pictures."""

    source: Found
    """What is read."""
    result: str
    """Name of the result below the output folder."""

    @property
    def is_shard(self) -> bool:
        """Whether it is a shard."""
        return self.result.endswith(shards.ENDINGS)


@dataclass
class Units:
    """Everything that was named."""

    units: list[Unit] = field(default_factory=list)
    """In the order of their results."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what was left out on purpose."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each input that cannot be used."""

    @classmethod
    def find(cls, named: Iterable[str | Path], out: str | Path, suffix: str) -> Units:
        """All pictures and shards below what is named.

        Args:
            named: as `vision.inputs.Inputs` takes them, and URLs of files, folders and patterns.
            out: folder or URL of the results, which are no inputs.
            suffix: of the results of pictures, such as ".png".
        """
        named = list(named)
        here = Inputs.find([item for item in named if not is_url(item)], None if is_url(out) else out, shards.ENDINGS)
        self = cls(notes=here.notes, problems=here.problems)
        sources: dict[str, Found] = {}
        for path, place in here.pictures:
            try:
                source = found(Path(path), place)
            except OSError as error:
                self.problems.append(f"Cannot read {path}: {error.strerror}.")
            else:
                sources[source.url] = source
        for url in filter(is_url, named):
            try:
                sources |= {source.url: source for source in find(str(url), (*SUFFIXES, *shards.ENDINGS), out)}
            except ValueError as error:
                self.problems.append(str(error))
        tars = [source for source in sources.values() if source.place.lower().endswith(shards.ENDINGS)]
        self._name([source for source in sources.values() if source not in tars], suffix)
        self._name(tars, shards.ENDINGS[0])
        self.units.sort(key=lambda unit: unit.result)
        return self

    def _name(self, sources: Sequence[Found], suffix: str) -> None:
        names = Inputs([(source.url, PurePosixPath(source.place)) for source in sources])
        by_url = {source.url: source for source in sources}
        self.units += [Unit(by_url[str(url)], name) for url, name in names.results(suffix)]
        self.problems += names.problems


def batches(units: Sequence[Unit], workers: int) -> list[list[Unit]]:
    """Units shared out in pieces of work: shards alone, pictures by up to 16, so that every worker gets several."""
    pictures = [unit for unit in units if not unit.is_shard]
    size = max(1, min(16, len(pictures) // (4 * workers)))
    pieces = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    return [*pieces, *([unit] for unit in units if unit.is_shard)]


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
