"""Readers for multiple-choice benchmarks, from local files or the `datasets` library.

Rows become `Question`s with their pictures as files in a folder; they are read one by one, so that a set may be larger
than memory. Unlike the published code, options that are missing or empty are left out, each of MMEvalPro's three
questions of a triplet has an id of its own, and RealWorldQA's request to answer without explanation is cut off;
`published=True` keeps all that. SEED-Bench's films are represented by their first frame, as in the published code.
These sets are made for evaluation: pairs that a model learns from must come from other questions
(`reward_vlm.scl.pairs.refuse_overlap`).
"""

from __future__ import annotations

import ast
import base64
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from reward_vlm.data import Question, refuse_rows
from vision.files import atomic_path
from vision.images import MAX_PIXELS, load_image
from vision.images.read import opened

Row = Mapping[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIRECT = re.compile(r"\s*Please answer directly with[^\n]*$")
"""RealWorldQA's request that contradicts ours to explain."""


@dataclass(frozen=True)
class Benchmark:
    """How the rows of a data set are read."""

    repository: str | None
    """On the hub; None: the set comes as a file of tab-separated values."""
    split: str = "test"
    """The one that the published code uses."""
    id: str | None = None
    """Field of the id; None: the running number."""
    options: Callable[[Row], list[tuple[str, Any]]] = lambda row: []
    """(letter, text) of a row; none when the question's text holds them."""
    pictures: Callable[[Row], Sequence[Any]] = lambda row: [row.get("image")]
    """Of a row, as its file holds them."""
    answer: Callable[[Row], Any] = lambda row: row["answer"]
    """Of a row: a letter or what names the right option."""
    blank: str | None = None
    """What the published code has for an option that is missing; None: its printed form."""
    asked: Callable[[Row], bool] = lambda row: True
    """Whether a row is a multiple-choice question."""


def _columns(letters: str) -> Callable[[Row], list[tuple[str, Any]]]:
    return lambda row: [(letter, row.get(letter)) for letter in letters]


def _list(names: str, field: str) -> Callable[[Row], list[tuple[str, Any]]]:
    def options(row: Row) -> list[tuple[str, Any]]:
        texts = ast.literal_eval(row[field]) if isinstance(row[field], str) else row[field]
        return list(zip(names, texts, strict=False))

    return options


BENCHMARKS = {
    "MMStar": Benchmark("Lin-Chen/MMStar", "val", "index"),
    "MMBench": Benchmark("lmms-lab/MMBench_EN", "dev", "index", _columns("ABCD"), blank=""),
    "SEEDBench": Benchmark(
        "lmms-lab/SEED-Bench",
        "test",
        "question_id",
        lambda row: [(letter, row[f"choice_{letter.lower()}"]) for letter in "ABCD"],
        lambda row: row["image"][:1] if isinstance(row["image"], list) else [row["image"]],
    ),
    "MMTBench": Benchmark(None, "val", "index", _columns("ABCDEFGHI"), blank="nan"),
    "ScienceQA": Benchmark("lmms-lab/ScienceQA-IMG", "test", None, _list("0123456789", "choices")),
    "MMEvalPro": Benchmark("MM-Diagnose/MMEvalPro", "test", "triplet_id", _list(LETTERS, "choices")),
    "RealWorldQA": Benchmark("lmms-lab/RealWorldQA"),
    "AI2D": Benchmark(
        "lmms-lab/ai2d", options=_list(LETTERS, "options"), answer=lambda row: LETTERS[int(row["answer"])]
    ),
    "MMMU": Benchmark(
        "lmms-lab/MMMU",
        "validation",
        "id",
        _list(LETTERS, "options"),
        lambda row: [row[f"image_{number}"] for number in range(1, 8) if row.get(f"image_{number}") is not None],
        asked=lambda row: row.get("question_type") == "multiple-choice",
    ),
}


def read_benchmark(
    name: str,
    source: str | Path | None = None,
    *,
    pictures: Path,
    published: bool = False,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
) -> tuple[list[Question], list[str]]:
    """The questions of a benchmark.

    Args:
        name: see `BENCHMARKS`.
        source: a .tsv, .csv, .parquet or .jsonl file, a folder of .parquet files (whose names begin with the split),
            a folder that `datasets` saved, or a name on the hub; None: where the set was published.
        pictures: folder that gets the pictures; those that are there already are not written again.
        published: keep options, ids and questions as the published code has them.
        split: of the data set; None: the one that the published code uses.
        revision: of a hub source.
        limit: read so many rows.
        skip_bad: leave out rows that cannot be used instead of stopping.

    Returns:
        The questions, and a sentence with the row's number, from 1, for each row that was left out.

    Raises:
        ValueError: there is no such benchmark, the source cannot be read, or rows cannot be used.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}; known are {', '.join(BENCHMARKS)}.")
    benchmark, base = BENCHMARKS[name], Path(source) if source is not None else Path()
    questions, problems = [], []
    for number, row in enumerate(islice(_rows(benchmark, source, split, revision), limit)):
        try:
            if not benchmark.asked(row):
                continue
            asked = benchmark_question(name, row, number, published=published)
            stem = re.sub("[^A-Za-z0-9_.-]", "_", f"{number}_{asked.id}")
            given = [picture for picture in benchmark.pictures(row) if picture is not None]
            if not given:
                raise ValueError("it has no picture.")
            files = [_store(each, base, pictures / name / f"{stem}_{n}") for n, each in enumerate(given)]
            questions.append(benchmark_question(name, row, number, tuple(files), published=published))
        except KeyError as error:
            problems.append(f"{name} row {number + 1}: the field {error} is missing.")
        except (ValueError, TypeError, IndexError, SyntaxError, OSError) as error:
            problems.append(f"{name} row {number + 1}: {' '.join(str(error).split())}")
    if not skip_bad:
        refuse_rows(problems)
    return questions, problems


def benchmark_question(
    name: str, row: Row, number: int, images: tuple[Path, ...] = (), *, published: bool = False
) -> Question:
    """A row of a benchmark as a question.

    Args:
        number: of the row, from 0.
        published: see `read_benchmark`.

    Raises:
        KeyError: a field is missing.
        ValueError: the answer is none of the options.
    """
    benchmark = BENCHMARKS[name]
    options, id, text = (
        benchmark.options(row),
        str(number if benchmark.id is None else row[benchmark.id]),
        row["question"],
    )
    if published:
        blank = benchmark.blank
        options = [(letter, each if each or blank is None else blank) for letter, each in options]
    else:
        options = [(letter, each) for letter, each in options if each is not None and str(each) not in ("", "nan")]
        id = f"{id}-{number}" if name == "MMEvalPro" else id
        text = DIRECT.sub("", text) if name == "RealWorldQA" else text
    given = tuple((letter, str(each)) for letter, each in options)
    return Question(id, str(text), given, str(benchmark.answer(row)), images, name)


def _rows(benchmark: Benchmark, source: str | Path | None, split: str | None, revision: str | None) -> Iterator[Row]:
    """The rows with their pictures not decoded."""
    if source is None and benchmark.repository is None:
        raise ValueError("This benchmark comes as a file; name it (a .tsv file with pictures as base64 text).")
    if importlib.util.find_spec("datasets") is None:
        raise ValueError("Reading benchmarks needs the package datasets; install it with `pip install burnish[train]`.")
    name, part = str(source or benchmark.repository), split or benchmark.split
    path = Path(name)
    if path.suffix in (".tsv", ".csv"):
        yield from _table(path)
        return
    from datasets import load_dataset, load_from_disk

    try:
        if path.is_file():
            kind = "json" if path.suffix in (".json", ".jsonl") else "parquet"
            found = load_dataset(kind, data_files=name, split="train", streaming=True)
        elif (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            saved: Any = load_from_disk(name)
            found = (saved[part] if isinstance(saved, dict) else saved).to_iterable_dataset()
        elif path.is_dir():
            files = [str(file) for file in sorted(path.rglob("*.parquet")) if file.name.startswith(part)]
            if not files:
                raise ValueError(
                    f"the folder holds no .parquet file whose name begins with {part}; name the file, or the split."
                )
            found = load_dataset("parquet", data_files=files, split="train", streaming=True)
        elif source is not None and (path.suffix or path.is_absolute() or name.count("/") != 1):
            raise ValueError("there is no such file or folder.")
        else:
            found = load_dataset(name, split=part, revision=revision, streaming=True)
        yield from found.decode(False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"Cannot read {name}: {' '.join(str(error).split())}") from error


def _table(path: Path) -> Iterator[Row]:
    """The rows of a file of tab- or comma-separated values; empty cells are empty texts."""
    import pandas

    try:
        separator = "\t" if path.suffix == ".tsv" else ","
        with pandas.read_csv(path, sep=separator, dtype=str, keep_default_na=False, chunksize=64) as parts:
            for part in parts:
                yield from part.to_dict("records")
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot read {path}: {' '.join(str(error).split())}.") from error


def _store(value: Any, base: Path, path: Path) -> Path:
    """A row's picture as a file named `path` with the suffix of its format.

    Args:
        value: {bytes, path} of the datasets library, base64 text of a file, or a path relative to the source's folder.
    """
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if isinstance(value, str):
        file = (base if base.is_dir() else base.parent) / value if len(value) < 512 else None
        value = file.read_bytes() if file is not None and file.is_file() else base64.b64decode(value, validate=True)
    with opened(value, "the picture in the row", MAX_PIXELS) as picture:
        path = path.with_name(f"{path.name}.{(picture.image.format or 'png').lower()}")
    if not (path.exists() and path.read_bytes() == value):
        with atomic_path(path) as part:
            part.write_bytes(value)
            load_image(part)  # whole and usable, or it does not get its name
    return path
