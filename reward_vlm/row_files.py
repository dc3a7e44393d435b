"""Rows out of the files in which people keep them: JSON lines, arrays, parquet, folders of these, saved data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".json", ".parquet")
"""Of the files of a folder that are read."""
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON writes half of a character; two of them make one."""


def records(path: Path) -> Iterator[tuple[str, Any]]:
    """Every row with its place, such as "line 3"; what cannot be read as a row is a ValueError in its stead.

    Args:
        path: a file of JSON objects, one per line or in one array; a parquet file; a folder of such files, in the order
            of their names; a folder that the library datasets saved.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the whole cannot be read.
    """
    if path.is_dir():
        yield from _folder(path)
        return
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file.")
    with open(path, "rb") as file:
        start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"PAR1"):
        yield from _parquet(path)
    elif start.startswith(b"["):
        yield from _array(path)
    else:
        yield from _lines(path)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if line.strip():
            yield f"line {number}", _of_whole_characters(_json(line), line)


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    rows = _json(text)
    if isinstance(rows, list):
        for number, row in enumerate(rows, 1):
            yield f"row {number}", _of_whole_characters(row, text)
    elif isinstance(_json(path.read_bytes().splitlines()[0]), list):  # lines that are arrays
        yield from _lines(path)
    else:
        raise ValueError(f"{path} is no JSON array: {rows}")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # JSON and UTF-8
        return ValueError(str(error))
    except RecursionError:
        return ValueError("the JSON is nested too deeply.")


def _of_whole_characters(row: Any, text: bytes) -> Any:
    """The row that was read from a text, unless it holds half of a character, which no tokenizer takes."""
    if not isinstance(row, ValueError) and SURROGATE.search(text):
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return ValueError("a text holds half of a character (a lone surrogate).")
        except RecursionError:
            return ValueError("the JSON is nested too deeply.")
    return row


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"Reading {path} needs the package pyarrow; install it with `pip install pyarrow`.") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    yield f"row {(number := number + 1)}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is no parquet file that can be read: {error}") from error


def _folder(path: Path) -> Iterator[tuple[str, Any]]:
    if (path / "dataset_dict.json").exists():
        parts = sorted(part.name for part in path.iterdir() if (part / "state.json").exists())
        raise ValueError(f"{path} holds several splits ({', '.join(parts)}); name one of these folders.")
    if (path / "state.json").exists():
        try:
            from datasets import load_from_disk
        except ImportError:
            raise ValueError(f"Reading {path} needs the package datasets (`pip install datasets`).") from None
        for number, row in enumerate(load_from_disk(str(path)).to_iterable_dataset().decode(False), 1):
            yield f"row {number}", row
        return
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise ValueError(f"The folder {path} holds no rows: no {', '.join(SUFFIXES)} file and no saved data set.")
    for file in files:
        yield from ((f"{file.name} {place}", row) for place, row in records(file))
