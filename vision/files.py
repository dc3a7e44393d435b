"""Writing files whole: a temporary name in the same folder, then a rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well.

    The folder is made when it is missing. If the block fails, the temporary file is removed and `path` is as
    before; a killed process leaves at most one hidden `.NAME.part`, which the next attempt overwrites.

    Raises:
        ValueError: the folder or the file cannot be written; the sentence says why.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        yield part
        os.replace(part, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"Cannot write {path}: {reason}.") from error
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder itself is missing or unwritable: there is nothing to remove
        return
