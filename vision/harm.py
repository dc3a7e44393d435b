"""What deciding, or working on, gives beside doing nothing: rows of one table, to which every measurement adds its own.

A measurement writes harm.json into its folder (`write_harm`); `burnish benchmark harm --measured FOLDER...` puts the
rows of all of them below its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vision.files import read_text
from vision.report import write_table

FILE = "harm.json"
"""The name of the table in the folder of a measurement."""
COLUMNS = {"job": str, "kind": str, "in": str, "items": int}
"""Of a row: what was done, on what, the unit of the numbers, and how many items there were."""
NUMBERS = ("nothing", "with", "difference", "worse")
"""Of a row: the means without the job and with it, their difference, and the share of items that lost too much."""

Pair = tuple[float, float]
"""A measure of an item without the job and with it; higher is better."""


def harm_rows(job: str, kinds: Mapping[str, Sequence[Pair]], unit: str, slightly: float) -> list[dict[str, Any]]:
    """A row per kind of item, and one of all kinds where there are several.

    Args:
        job: what was done.
        kinds: of items, and the measures of every item.
        unit: of the measures: "dB".
        slightly: what an item may lose before it counts as worse, in this unit.

    Raises:
        ValueError: a kind has no items.
    """
    if empty := [kind for kind, pairs in kinds.items() if not pairs]:
        raise ValueError(f"Harm of {job} needs items of every kind, got none of {', '.join(empty)}.")
    every = dict(kinds)
    if len(kinds) > 1:
        every["all"] = [pair for pairs in kinds.values() for pair in pairs]
    rows = []
    for kind, pairs in every.items():
        before, after = fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs)
        worse = fmean(new < old - slightly for old, new in pairs)
        numbers = dict(zip(NUMBERS, (before, after, after - before, worse), strict=True))
        rows.append({"job": job, "kind": kind, "in": unit, "items": len(pairs), **numbers})
    return rows


def write_harm(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write harm.json and harm.csv."""
    write_table(rows, folder / FILE, (folder / FILE).with_suffix(".csv"))


def read_harm(folder: Path) -> list[dict[str, Any]]:
    """The rows that a measurement wrote into its folder.

    Raises:
        FileNotFoundError: it wrote none.
        ValueError: the file holds something else.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}; evaluate gtr --spoil, pie, scl and sharpened write one into their folder."
        )
    try:
        rows = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from error
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise ValueError(f"{path} holds no table of harm: a list of rows with {', '.join((*COLUMNS, *NUMBERS))}.")
    return rows


def losses(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for every row whose mean is lower with the job than without."""
    for row in rows:
        if row["difference"] < 0:
            lost = f"{-row['difference']:.2g} {row['in']}"
            yield f"{row['job']} on {row['kind']} is {lost} worse than doing nothing."


def _is_row(row: Any) -> bool:
    numbers = [row.get(name) for name in NUMBERS] if isinstance(row, dict) else []
    return (
        bool(numbers)
        and all(isinstance(row.get(name), kind) for name, kind in COLUMNS.items())
        and all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
    )
