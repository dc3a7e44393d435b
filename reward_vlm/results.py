"""Files of results, one JSON object per line, that grow row by row and are continued after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vision.files import Exclusive, append, atomic_path
from vision.job import Unusable, keep_to
from vision.signals import uninterrupted


class Results:
    """The results in a file, and a way to add more.

    Beside the file lies `.NAME.options.json` with the facts that decide about results; a file that was made with others
    is not continued. A last line that a kill cut off is removed. Rows are added inside `alone()`.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]):
        """
        Raises:
            ValueError: the file was made with other facts, another process works on it, or it cannot be read or
                written.
        """
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.made_with = made_with = path.with_name(f".{path.name}.options.json")
        with self._locked():
            if not path.exists():
                made_with.unlink(missing_ok=True)
            elif not made_with.exists():
                raise ValueError(f"{path} was not made by this job; name another file, or remove it.")
            keep_to(made_with, facts)
            self.rows = self._read()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process adds rows meanwhile; `rows` are those that are in the file.

        Raises:
            ValueError: another process works on the file, or it was taken away.
        """
        with self._locked():
            self._check_there()
            self.rows = self._read()
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(f".{self.path.name}.lock")
        own = Exclusive(lock, self.path)
        try:
            yield
        finally:
            with uninterrupted():
                lock.unlink(missing_ok=True)
                own.release()

    def _check_there(self) -> None:
        if not self.made_with.exists():
            raise ValueError(f"{self.made_with} was taken away while this worked; start again.")

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().splitlines(keepends=True)  # texts may hold other signs that end a line
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) < len(lines):
            with atomic_path(self.path) as part:
                part.write_bytes(b"".join(whole))
        return [json.loads(line) for line in whole]

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Append rows to the file at once.

        Raises:
            Unusable: they cannot be written, or the file was taken away.
        """
        try:
            self._check_there()
            append(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        except ValueError as error:
            raise Unusable(str(error)) from error
        self.rows += [dict(row) for row in rows]
