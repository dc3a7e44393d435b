"""What one process does at scale: fetch pictures and shards, let a job make results of them, put those into a store."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from vision.config import one_line, sentence_of
from vision.files import digest
from vision.job import Event, Item, Job, Show, Unusable
from vision.scale.manifest import Manifest, Row
from vision.scale.shards import Sample, ShardWriter, read_samples
from vision.scale.stores import Store, fetch, opened
from vision.scale.units import Unit


class Maker(Protocol):
    """Makes one result of one picture; what is loaded for the first serves all."""

    job: Job
    """Its output folder is a scratch folder of this machine."""

    def make(self, item: Item) -> None:
        """Make the result of an item of the job."""


Make = Callable[[Path, Show], Maker]
"""Makes a maker, given a scratch folder for its results and what hears its events; it can be sent to other machines."""


@dataclass(frozen=True)
class Result:
    """A picture's result in the scratch folder."""

    row: Row
    """What became of it; result and size are those of the file that will hold it."""
    path: Path | None
    """The result; None when there is a problem."""


class Worker:
    """Does pieces of work.

    Args:
        make: makes the maker.
        out: path or URL of the output folder.
        suffix: of results, such as ".png".
        key: digest of what decides about results, as the process that shares the work out knows it.

    Raises:
        Unusable: weights are missing here, or it is another one here: other weights, or another version.
    """

    def __init__(self, make: Make, out: str, suffix: str, key: str):
        self.folder = tempfile.TemporaryDirectory(prefix="burnish-")
        self.scratch = Path(self.folder.name)
        self.notes: list[str] = []
        try:
            self.maker = make(self.scratch / "made", self._hear)
        except (ValueError, OSError) as error:
            raise Unusable(sentence_of(error)) from error
        self.store, self.suffix, self.key = Store(out), suffix, key
        if key_of(self.maker.job) != key:
            raise Unusable("A worker has other weights or another version than the process that began the job.")

    def __call__(self, units: Sequence[Unit]) -> list[Row]:
        """The rows of a piece of work, whose results are in the store when it returns.

        Raises:
            Unusable: weights or the output folder are unusable.
        """
        name = hashlib.sha256(
            "\n".join([self.key, *(f"{u.result} {u.source.stamp}" for u in units)]).encode()
        ).hexdigest()
        manifest = Manifest(self.store)
        rows = self._needs(manifest.part, name[:32])
        if rows and all(row.problem or self.store.size(row.result) == row.size for row in rows):
            return rows  # done by a worker that was lost before it could tell
        with self._emptied():
            made = [result for unit in units for result in self._unit(unit)]
            rows = [result.row for result in made]
            self._needs(manifest.write_part, name[:32], rows)
            for path, result in {(result.path, result.row.result) for result in made if result.path is not None}:
                self._needs(self.store.publish, path, result)
        return rows

    def _unit(self, unit: Unit) -> list[Result]:
        if not unit.is_shard:
            path = self.scratch / "in" / PurePosixPath(unit.source.place).name
            return [self._picture(unit, path, "", lambda: fetch(unit.source, path))]
        target = self.scratch / "out" / hashlib.sha256(unit.result.encode()).hexdigest()
        made: list[Result] = []
        try:
            with opened(unit.source.url) as file, ShardWriter(target) as writer:
                for sample in read_samples(file, unit.source.url):
                    results, restored = self._sample(unit, sample)
                    made += results
                    if restored is not None:
                        writer.add(restored)
        except Unusable:
            raise
        except (ValueError, OSError) as error:
            return [Result(self._row(unit, problem=one_line(str(error))), None)]
        size = target.stat().st_size
        return [Result(replace(result.row, size=size), target) for result in made]

    def _sample(self, unit: Unit, sample: Sample) -> tuple[list[Result], Sample | None]:
        """What became of a sample's pictures; the sample with results in their place, None when there is none."""
        restored, made = Sample(sample.key), []
        pictures = sample.pictures()
        for ending, content in sample.members.items():
            if ending not in pictures:
                restored.members[ending] = content
                continue
            changed = str(PurePosixPath(f"_.{ending}").with_suffix(self.suffix)).removeprefix("_.")
            path = self.scratch / "in" / f"picture.{ending.rpartition('.')[2]}"
            result = self._picture(unit, path, f"{sample.key}.{changed}", lambda c=content, p=path: p.write_bytes(c))
            if result.path is not None and changed in restored.members:
                result = _without(result, f"{unit.source.url}: two pictures of {sample.key} would become {changed}.")
            made.append(result)
            if result.path is not None:
                restored.members[changed] = result.path.read_bytes()
                result.path.unlink()
        if not any(result.row.problem for result in made):
            return made, restored
        left_out = f"{unit.source.url}: {sample.key} is left out, for another picture of it has no result."
        return [r if r.row.problem else _without(r, left_out) for r in made], None

    def _picture(self, unit: Unit, path: Path, member: str, get: Callable[[], Any]) -> Result:
        """Restore one picture, which `get` puts at `path`."""
        began, job = time.monotonic(), self.maker.job
        where = f"{unit.source.url}!{member}" if member else unit.source.url
        name = f"{hashlib.sha256(f'{unit.result}/{member}'.encode()).hexdigest()}{self.suffix}"
        item, content = Item(job, path, name), ""
        for earlier in (job.problems, job.made, self.notes):
            earlier.clear()
        with job.attempt(item):
            get()
            content = digest(path)
            self.maker.make(item)
        path.unlink(missing_ok=True)
        problem, notes = (_about(texts, path, where) for texts in (job.problems, self.notes))
        row = self._row(
            unit,
            member=member,
            problem=problem,
            notes=notes.replace(str(item.path), member or unit.result),
            content=content,
            digest="" if problem else digest(item.path),
            size=0 if problem else item.path.stat().st_size,
            seconds=round(time.monotonic() - began, 3),
        )
        return Result(row, None if problem else item.path)

    def _row(self, unit: Unit, **known: Any) -> Row:
        unknown = {"member": "", "problem": "", "notes": "", "content": "", "digest": "", "size": 0, "seconds": 0.0}
        source = unit.source
        return Row(result=unit.result, input=source.url, stamp=source.stamp, key=self.key, **unknown | known)

    def _hear(self, event: Event) -> None:
        if event.kind == "note":
            self.notes.append(event.text)

    @contextmanager
    def _emptied(self) -> Iterator[None]:
        """A scratch folder that is empty before and after."""
        folders = [self.scratch / name for name in ("in", "out", "made")]
        try:
            for folder in folders[:2]:
                folder.mkdir(exist_ok=True)
            yield
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _needs(self, do: Callable[..., Any], *arguments: Any) -> Any:
        """What fails here ends the job: the output folder cannot be used."""
        return self.maker.job.needs(do, *arguments)


def key_of(job: Job) -> str:
    """Digest of everything but the input that decides about results."""
    return hashlib.sha256(json.dumps(job.facts, sort_keys=True).encode()).hexdigest()


def _without(result: Result, problem: str) -> Result:
    return Result(replace(result.row, problem=problem, digest=""), None)


def _about(sentences: Sequence[str], path: Path, where: str) -> str:
    """Sentences about a scratch file, a line each, as sentences about what it was fetched from."""
    told = [sentence.replace(one_line(str(path)), where) for sentence in sentences]
    return "\n".join(text.removeprefix(f"{where}: ") if text.count(where) > 1 else text for text in told)
