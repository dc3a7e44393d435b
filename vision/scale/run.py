"""A job at scale: pictures and tar shards, named by paths or URLs, made into a folder or a store of results.

The driver finds what is to be done and what is done already (`manifest.parquet`), shares out the rest, and tells.
Workers (`vision.scale.worker`) fetch, make and put results into the store; every picture becomes a row of the manifest.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from vision.config import one_line, to_dict
from vision.files import RECORDS, Exclusive
from vision.job import Event, Outcome, Show
from vision.report import write_run
from vision.scale.engines import cluster, in_process
from vision.scale.manifest import FILE, Manifest, Row, rows
from vision.scale.stores import Store
from vision.scale.units import Unit, Units, batches
from vision.scale.worker import Make, Worker, key_of
from vision.signals import check_signals


def run(
    make: Make,
    options: Any,
    suffix: str,
    show: Show,
    gpus: bool = True,
) -> Outcome:
    """Do what is not done yet.

    Args:
        make: makes what makes results; has to be known on all machines.
        options: of the job, with `inputs`, `out`, `overwrite`, `engine`, `address` and `actors`.
        suffix: of the results of pictures.
        show: gets the events.
        gpus: whether actors take GPUs where there are some.

    Raises:
        Unusable: weights or the output folder are unusable.
        ValueError: the cluster is.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="burnish-") as scratch:
        key = key_of(make(Path(scratch), lambda event: None).job)
    store = Store(options.out)
    with _alone(store):
        found = Units.find(options.inputs, options.out, suffix)
        for sentence in found.notes:
            show(Event("note", one_line(sentence)))
        driver = _Driver(store, show, key, found.problems, options.overwrite)
        ahead = driver.sort(found.units)
        worker = partial(Worker, make, store.url, suffix, key)
        if not ahead:
            pass
        elif options.engine == "ray":
            with cluster(options.address, options.actors, gpus) as reached:
                driver.hear(reached.run(batches(ahead, reached.actors), worker))
        else:
            driver.hear(in_process(batches(ahead, 1), worker))
        return driver.finish(options, time.monotonic() - began)


class _Driver:
    """What is known of all units of a job.

    Args:
        store: of the results.
        show: gets the events.
        key: digest of what decides about results.
        problems: sentences about inputs that cannot be used.
        overwrite: replace files that no row names.
    """

    def __init__(self, store: Store, show: Show, key: str, problems: Sequence[str], overwrite: bool):
        self.store, self.show, self.key, self.overwrite = store, show, key, overwrite
        self.problems: list[str] = []
        for sentence in problems:
            self._refuse(sentence)
        self.items: dict[str, dict[str, Any]] = {}
        self.total = self.pictures = 0

    def sort(self, units: Sequence[Unit]) -> list[Unit]:
        """The units that are still to be done; those whose results would replace somebody's file are refused."""
        known, by_result = Manifest(self.store).gather(), {unit.result: unit for unit in units}
        sizes, inputs = self.store.sizes(), {unit.source.url for unit in units}
        holds: dict[str, bool] = {}
        for row in rows(known):
            unit = by_result.get(row.result)
            holds[row.result] = holds.get(row.result, True) and unit is not None and self._holds(row, unit, sizes)
        ahead, done = [], set()
        for unit in units:
            place = self.store.address(unit.result)
            if place in inputs:
                self._refuse(f"{place} would be overwritten by the result of {unit.source.url}; choose another --out.")
            elif holds.get(unit.result):
                done.add(unit.result)
            elif unit.result in sizes and unit.result not in holds and not self.overwrite:
                how = "choose another output folder, or give --overwrite"
                self._refuse(f"{place} is there already and was not made by this job; {how}.")
            else:
                ahead.append(unit)
        for row in rows(known):
            if row.result in done:
                self._count([row], was_done=True)
        self.total = len(ahead)
        return ahead

    def hear(self, done: Iterator[list[Row]]) -> None:
        """Tell what workers did."""
        finished: set[str] = set()
        for piece in done:
            check_signals()
            self._count(piece, was_done=False)
            finished |= {row.result for row in piece}
            self.show(Event("progress", "restoring", len(finished), self.total))

    def finish(self, options: Any, seconds: float) -> Outcome:
        """Fold the manifest, write run.json, and tell what lies where."""
        Manifest(self.store).gather()
        earlier = sum(facts["was_done"] for facts in self.items.values())
        facts = {"options": to_dict(options), "seconds": round(seconds, 3), "manifest": FILE, "images": self.pictures}
        facts |= {"results": len(self.items), "done_before": earlier, "problems": self.problems}
        with tempfile.TemporaryDirectory() as folder:
            write_run(Path(folder) / "run.json", **facts)
            self.store.publish(Path(folder) / "run.json", "run.json")
        text = f"{self.store.url}: {self.pictures} image{'s' * (self.pictures != 1)}"
        text += f" in {len(self.items)} files" if self.pictures != len(self.items) else ""
        text += f" ({earlier} done before)" if earlier else ""
        text += f", {len(self.problems)} refused" if self.problems else ""
        self.show(Event("result", one_line(f"{text}; {FILE} says how."), path=self.store.folder))
        return Outcome(self.store.folder or self.store.url, self.items, self.problems)

    def _holds(self, row: Row, unit: Unit, sizes: dict[str, int]) -> bool:
        same = (row.key, row.stamp, row.input) == (self.key, unit.source.stamp, unit.source.url)
        return same and row.size > 0 and sizes.get(row.result) == row.size

    def _count(self, found: Sequence[Row], was_done: bool) -> None:
        for row in found:
            if row.problem:
                self._refuse(row.problem)
            else:
                self.pictures += 1
            if row.size:
                self.items[row.result] = {"input": row.input, "was_done": was_done}
            for sentence in row.notes.splitlines() if not was_done else ():
                self.show(Event("note", sentence))

    def _refuse(self, sentence: str) -> None:
        self.problems.append(one_line(sentence))
        self.show(Event("refused", self.problems[-1]))


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """On this machine one process at a time works on a folder of results."""
    if store.folder is None:
        yield
        return
    lock = Exclusive(store.folder / RECORDS, store.folder, folder=True)
    try:
        yield
    finally:
        lock.release()
