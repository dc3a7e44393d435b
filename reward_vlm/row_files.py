"""Rows out of the files in which people keep them: JSON lines, arrays, parquet, folders of these, saved data sets."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vision.files import in_utf8

SUFFIXES = (".jsonl", ".json", ".parquet")
"""Of the files of a folder that are read."""
TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".ods")
"""Endings of tables that are not read."""
PACKED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"(\xb5": "zstd"}
"""First bytes -> how a file is packed; no JSON begins so."""
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON writes half of a character; two of them make one."""


def records(path: Path) -> Iterator[tuple[str, Any]]:
    """Every row with its place, such as "line 3"; what cannot be read as a row is a ValueError in its stead.

    Args:
        path: a file of JSON objects, one per line, in one array, or in the list `data` of an object without other
            fields; a parquet file; a folder of such files, in the order of their names; a folder that the library
            datasets saved.

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
    if path.suffix.lower() in TABLES:
        raise ValueError(
            f"{path} is a table ({path.suffix.lower()}), which is not read; save it as .jsonl or .parquet."
        )
    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        yield from _parquet(path)
        return
    if start[:2] in PACKED:
        raise ValueError(f"{path} is packed ({PACKED[start[:2]]}); unpack it first.")
    text = _text(path)
    yield from {b"[": _array, b"{": _objects}.get(text.lstrip()[:1], _lines)(path, text)


def _text(path: Path) -> bytes:
    """The text of a file in UTF-8 without a byte order mark."""
    try:
        return in_utf8(path.read_bytes())
    except UnicodeError as error:
        raise ValueError(f"{path} is no text in UTF-16, as its first two bytes say: {error}.") from None


def _lines(path: Path, text: bytes) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"line {number}", _of_whole_characters(_json(line), line)


def _array(path: Path, text: bytes) -> Iterator[tuple[str, Any]]:
    rows = _json(text)
    if isinstance(rows, list):
        yield from _numbered(rows, text)
    elif isinstance(_json(text.lstrip().splitlines()[0]), list):  # lines that are arrays
        yield from _lines(path, text)
    else:
        raise ValueError(f"{path} cannot be read: {rows}")


def _objects(path: Path, text: bytes) -> Iterator[tuple[str, Any]]:
    line = io.BytesIO(text.lstrip()).readline()
    first = _json(line)
    whole = _json(text) if isinstance(first, ValueError) or list(first) == ["data"] else first
    if isinstance(whole, dict) and list(whole) == ["data"] and isinstance(whole["data"], list):
        yield from _numbered(whole["data"], text)
    elif isinstance(first, ValueError) and (isinstance(whole, dict) or line.strip() == b"{"):
        raise ValueError(
            f"{path} holds an object over several lines; rows are objects on a line each, or in one array."
        )
    else:
        yield from _lines(path, text)


def _numbered(rows: list[Any], text: bytes) -> Iterator[tuple[str, Any]]:
    half = SURROGATE.search(text)  # once, not for every row
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row if half is None else _of_whole_characters(row, half[0])


class _TwiceError(ValueError):
    """A field is there twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a row."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(f"the field {twice!r} is there twice.")
    return made


def _json(text: bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except _TwiceError as error:
        return ValueError(str(error))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if b"\n" in text else f"column {error.colno}"
        return ValueError(f"it is no JSON ({place}: {error.msg}).")
    except UnicodeError as error:
        return ValueError(f"it is no text in UTF-8 ({error}).")
    except ValueError:  # Python's limit of digits
        return ValueError("it holds a number that is too long to be read.")
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
