"""The trace of choices, `choices.jsonl`: every strategy writes it, every trainer reads it, and a run replays from it.

One line per choice. Values are JSON values, or files below the folder of the trace.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vision.config import from_dict
from vision.files import append, atomic_path
from vision.refine import Verdict
from vision.strategies.values import Candidate, Choice, Cost

NAME = "choices.jsonl"
"""Of the trace, in the folder of a run."""
Decide = Callable[[Sequence[Candidate], Sequence[Verdict]], tuple[int, str]]
"""The place of the candidate to keep, and why."""


def write_choices(folder: Path, choices: Iterable[Choice], *, anew: bool = False) -> Path:
    """Append choices to the trace of a folder; a last line that a kill cut off is removed first.

    Args:
        anew: they take the place of earlier choices of the same tasks, in a file that is replaced whole.

    Raises:
        ValueError: a value is neither a JSON value nor a file below the folder; save it and give its path.
    """
    path, choices = folder / NAME, list(choices)
    folder.mkdir(parents=True, exist_ok=True)
    if anew:
        tasks = {choice.task for choice in choices}
        earlier = read_choices(path) if path.exists() else []
        with atomic_path(path) as part:
            part.write_text(_lines([*(c for c in earlier if c.task not in tasks), *choices], folder), encoding="utf-8")
        return path
    lines = _lines(choices, folder)
    if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
        with atomic_path(path) as part:
            part.write_bytes(data[: data.rfind(b"\n") + 1])
    append(path, lines)
    return path


def _lines(choices: Iterable[Choice], folder: Path) -> str:
    return "".join(json.dumps(_to_json(c, folder), ensure_ascii=False, allow_nan=False) + "\n" for c in choices)


def read_choices(path: Path) -> list[Choice]:
    """The choices of a trace, given as its file or its folder; a last line that a kill cut off is left out.

    Raises:
        FileNotFoundError: there is no trace.
        ValueError: a line is no choice; the sentence says which.
    """
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no trace of choices {path}.")
    choices = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        try:
            choices.append(_from_json(json.loads(line), path.parent))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}, is not a choice: {error}.") from error
    return choices


def replay(choices: Iterable[Choice], decide: Decide) -> list[Choice]:
    """The choices as a rule makes them from the recorded candidates and verdicts, without any model."""
    again = []
    for choice in choices:
        chosen, why = decide(choice.candidates, choice.verdicts)
        again.append(replace(choice, chosen=chosen, why=why))
    return again


def _to_json(choice: Choice, folder: Path) -> dict[str, Any]:
    return {
        "task": choice.task,
        "candidates": [
            {
                "origin": candidate.origin,
                "value": _value(candidate.value, folder, choice.task),
                "seed": candidate.seed,
                "cost": asdict(candidate.cost),
            }
            for candidate in choice.candidates
        ],
        "verdicts": [{"score": _number(v.score), "detail": _plain(v.detail, choice.task)} for v in choice.verdicts],
        "chosen": choice.chosen,
        "why": choice.why,
        "facts": {name: _number(value) for name, value in choice.facts.items()},
    }


def _from_json(row: dict[str, Any], folder: Path) -> Choice:
    candidates = tuple(
        Candidate(
            row["task"],
            folder / given["value"]["file"] if isinstance(given["value"], dict) else given["value"],
            given["origin"],
            from_dict(Cost, given["cost"]),
            given["seed"],
        )
        for given in row["candidates"]
    )
    verdicts = tuple(Verdict(_score(given["score"]), given["detail"]) for given in row["verdicts"])
    facts = {name: _score(value) for name, value in row["facts"].items()}
    return Choice(row["task"], candidates, verdicts, row["chosen"], row["why"], facts)


def _value(value: Any, folder: Path, task: str) -> Any:
    if isinstance(value, Path):
        try:
            return {"file": value.resolve().relative_to(folder.resolve()).as_posix()}
        except ValueError:
            raise ValueError(f"{task}: {value} lies outside {folder}; a trace names files below its folder.") from None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ValueError(f"{task}: a trace cannot hold a {type(value).__name__}; save the candidate and give its path.")


def _plain(detail: Any, task: str) -> Any:
    """A detail as JSON; numbers that JSON lacks as words."""
    if isinstance(detail, Tensor):
        return _plain(detail.tolist(), task)
    if isinstance(detail, float):
        return _number(detail)
    if isinstance(detail, dict):
        return {str(key): _plain(value, task) for key, value in detail.items()}
    if isinstance(detail, (list, tuple)):
        return [_plain(value, task) for value in detail]
    if detail is None or isinstance(detail, (str, int, bool)):
        return detail
    raise ValueError(f"{task}: a trace cannot hold a {type(detail).__name__} as a verdict's detail.")


def _number(value: Tensor | float | None) -> float | str | None:
    """A number as JSON has it; infinities and NaN as words."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _score(value: float | str | None) -> float | None:
    return None if value is None else float(value)
