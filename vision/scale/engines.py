"""Where pieces of work are done: in this process, or by actors of a Ray cluster (Ray Data, in the extra `ray`)."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from vision.config import from_dict, one_line, to_dict
from vision.job import Unusable
from vision.scale.manifest import Row
from vision.scale.units import Unit, processors
from vision.scale.worker import Worker

MAX_BLOCKS = 4096
"""Into so many tasks Ray Data shares the pieces of work at most; what is done of a task that is repeated is kept."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the sentences on the terminal are ours
}
"""Settings of Ray; a user's own are kept."""
OBJECT_BYTES = 128 << 20
"""Memory for what actors of a local cluster send each other: a few rows."""

Pieces = Sequence[Sequence[Unit]]


def in_process(pieces: Pieces, make: Callable[[], Worker]) -> Iterator[list[Row]]:
    """The rows of every piece of work, done here."""
    worker = None
    for units in pieces:
        worker = worker or make()
        yield worker(units)


@dataclass(frozen=True)
class Cluster:
    """Actors on a Ray cluster that is connected."""

    actors: int
    """How many."""
    gpus: int
    """GPUs of each: 0 or 1."""

    def run(self, pieces: Pieces, make: Callable[[], Worker]) -> Iterator[list[Row]]:
        """The rows of every piece of work, in the order in which they are done.

        An actor takes the next piece when it has done one, so that nothing piles up. A piece whose actor was lost is
        done by another one.

        Raises:
            Unusable: weights or the output folder are unusable.
        """
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        work = ray.data.from_items(
            [{"units": _packed(units)} for units in pieces], override_num_blocks=min(len(pieces), MAX_BLOCKS)
        )
        done = work.map_batches(
            _Actor,
            batch_size=1,
            fn_constructor_args=[make],
            compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(pieces)), max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=self.gpus,
        )
        for batch in done.iter_batches(batch_size=None):
            for told in map(json.loads, batch["told"]):
                if isinstance(told, str):
                    raise Unusable(told)
                yield [Row(**row) for row in told]


@contextmanager
def cluster(address: str | None, actors: int | None, gpus: bool) -> Iterator[Cluster]:
    """Connect to a Ray cluster, or start one on this machine and end it afterwards.

    Args:
        address: of the cluster; "auto" finds the one that this machine belongs to; None starts one unless RAY_ADDRESS
            names one.
        actors: how many; None: one for each GPU, or for each processor where there are none.
        gpus: whether actors take GPUs where there are some.

    Raises:
        ValueError: the cluster cannot be reached, or has no room for so many actors.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    local = address is None and "RAY_ADDRESS" not in os.environ
    own: dict[str, Any] = {}
    if local:
        room = max(actors or 0, processors())
        own = {"num_cpus": room, "object_store_memory": OBJECT_BYTES, "include_dashboard": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = "on this machine" if local else f"at {address or os.environ['RAY_ADDRESS']}"
        raise ValueError(f"Cannot connect to a Ray cluster {where}: {one_line(str(error))}") from error
    try:
        for number, handler in handlers.items():  # Ray sets its own
            signal.signal(number, handler)
        there = ray.cluster_resources()
        each = int(gpus and there.get("GPU", 0) >= 1)
        room = int(there.get("GPU" if each else "CPU", 0))
        if (actors or 1) > room:
            kind = "GPUs" if each else "processors"
            raise ValueError(f"{actors or 1} actors need as many {kind}; the cluster has {room}.")
        yield Cluster(actors or room, each)
    finally:
        ray.shutdown()


class _Actor:
    """A worker in a process of the cluster; it is made when its first piece of work comes."""

    def __init__(self, make: Callable[[], Worker]):
        self.make, self.worker = make, None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        try:
            self.worker = self.worker or self.make()
            rows = [asdict(row) for units in batch["units"] for row in self.worker(_unpacked(units))]
            return {"told": [json.dumps(rows)]}
        except Unusable as error:
            return {"told": [json.dumps(str(error))]}


def _packed(units: Sequence[Unit]) -> str:
    return json.dumps([to_dict(unit) for unit in units])


def _unpacked(text: str) -> list[Unit]:
    return [from_dict(Unit, unit) for unit in json.loads(text)]
