"""Files of results, one JSON object per line, that grow row by row and are continued after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision.files import atomic_path
from vision.job import Unusable, keep_to


class Results:
    """The results in a file, and a way to add more.

    Beside the file lies `.NAME.options.json` with the facts that decide about results; a file that was made with others
    is not continued. A last line that a kill cut off is removed.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]):
        """
        Raises:
            ValueError: the file was made with other facts, or cannot be read or written.
        """
        self.path = path
        made_with = path.with_name(f".{path.name}.options.json")
        if not path.exists():
            made_with.unlink(missing_ok=True)
        elif not made_with.exists():
            raise ValueError(f"{path} was not made by this job; name another file, or remove it.")
        keep_to(made_with, facts)
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)  # texts may hold other signs that end a line
            whole = [line for line in lines if line.endswith(b"\n")]
            if len(whole) < len(lines):
                with atomic_path(path) as part:
                    part.write_bytes(b"".join(whole))
            self.rows = [json.loads(line) for line in whole]

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Append rows to the file at once.

        Raises:
            Unusable: they cannot be written.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        except OSError as error:
            raise Unusable(f"Cannot write {self.path}: {error.strerror}.") from error
        self.rows += [dict(row) for row in rows]
