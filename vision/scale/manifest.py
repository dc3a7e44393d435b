"""The manifest of a folder of results: a table with a row for every picture, `manifest.parquet`.

While a job runs, each piece of work writes its rows into `.done/parts/` before its results take their names, so that a
kill at any moment leaves nothing that no row names. `Manifest.gather` folds the parts into the table.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vision.files import RECORDS
from vision.scale.stores import Store

FILE = "manifest.parquet"
PARTS = f"{RECORDS}/parts"
ORDER = ("result", "member")


@dataclass(frozen=True)
class Row:
    """What became of one picture."""

    result: str
    """File of the result below the output folder; of a picture in a shard, the shard of results."""
    member: str
    """Name of the result inside the shard; "" outside of shards."""
    input: str
    """Path or URL of what was named: the picture, or the shard that holds it."""
    problem: str
    """Why there is no result, in a sentence; "" when there is one."""
    notes: str
    """What is worth knowing about it, a sentence a line."""
    content: str
    """SHA-256 of the picture; "" when it could not be read."""
    digest: str
    """SHA-256 of its result; "" when there is none."""
    size: int
    """Bytes of the file of the result; 0 when there is none."""
    stamp: str
    """Size and time of change (or checksum) of the input."""
    key: str
    """Digest of everything else that decides about the result: options, weights, version."""
    seconds: float
    """Time that it took."""


_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
SCHEMA = pa.schema([(item.name, _TYPES[str(item.type)]) for item in fields(Row)])


def table(rows: Iterable[Row]) -> pa.Table:
    """Rows as a table."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)


def rows(found: pa.Table) -> Iterator[Row]:
    """The rows of a table, one after the other."""
    for batch in found.to_batches(max_chunksize=4096):
        yield from (Row(**row) for row in batch.to_pylist())


class Manifest:
    """The manifest in a folder of results."""

    def __init__(self, store: Store):
        self.store = store

    def gather(self) -> pa.Table:
        """All rows, a picture once: of several about one result, those of the last piece of work that wrote them.

        The parts are folded into the table, which is in the order of results and members.

        Raises:
            ValueError: it cannot be read or written.
        """
        parts = sorted(self.store.sizes(PARTS))
        there = [FILE] if self.store.size(FILE) is not None else []
        tables = [self._read(name) for name in [*there, *parts]]
        last = {name: number for number, one in enumerate(tables) for name in one["result"].unique().to_pylist()}
        kept = [
            one.filter(pa.array([last[name] == number for name in one["result"].to_pylist()], pa.bool_()))
            for number, one in enumerate(tables)
        ]
        found = pa.concat_tables([SCHEMA.empty_table(), *kept]).sort_by([(name, "ascending") for name in ORDER])
        if parts:
            self._write(FILE, found)
            self.store.remove(parts)
        return found

    def part(self, name: str) -> list[Row]:
        """The rows that a piece of work wrote; none when it has not."""
        file = f"{PARTS}/{name}.parquet"
        return list(rows(self._read(file))) if self.store.size(file) is not None else []

    def write_part(self, name: str, found: Sequence[Row]) -> None:
        """Write the rows of a piece of work.

        Raises:
            ValueError: it cannot be written.
        """
        self._write(f"{PARTS}/{name}.parquet", table(found))

    def _read(self, name: str) -> pa.Table:
        try:
            return pq.read_table(io.BytesIO(self.store.read(name)), schema=SCHEMA)
        except pa.ArrowException as error:
            raise ValueError(f"{self.store.address(name)} is damaged; remove it ({error}).") from error

    def _write(self, name: str, found: pa.Table) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            pq.write_table(found, path)
            self.store.publish(path, name)
