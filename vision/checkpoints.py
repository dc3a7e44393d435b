"""What a run keeps in its folder: the options and data that it was begun with, its log, and its state.

A state is one safetensors file: tensors, and facts as JSON in its header, with a digest of both. It is written beside
the old one and then takes its name, so that a kill at any moment leaves a whole one; nothing in it is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from os.path import samestat
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vision.config import read_json, to_dict
from vision.files import Exclusive, atomic_folder, atomic_path, digest
from vision.job import keep_to
from vision.libraries import library_errors
from vision.records import remove_empty

Log = Callable[[str], object]
"""Is told in sentences how a training goes."""
BEGUN = "begun.json"
"""File in a run folder: the options and data that the run was begun with."""
LOGS = ("log", "out", "output", "stdout", "stderr", "err", "errors", "train", "training")
"""Names of files without an ending, or with .txt, that users send the output of a run to."""
MAY_CHANGE = (
    "folder", "device", "workers", "trackers", "gradient_checkpointing",  # where and how it is computed
    "log_every", "save_every", "evaluate_every", "measure_every", "validation", "validation_steps",
    "photos", "volumes",  # where files of known content are looked for; the run keeps copies
)  # fmt: skip
"""Options of all trainings that may differ when a run goes on; `steps` may too, until what they lead to is there."""


Training = TypeVar("Training", bound=Callable[..., Any])


def one_at_a_time(train: Training) -> Training:
    """A training or measurement `train(options, ...)` to whose folder (`folder` or `out`) no other process writes
    meanwhile; None: it writes nothing.

    Of several processes that share the work, the first one holds the folder. It also raises ValueError: another
    process works on its folder.
    """

    @wraps(train)
    def run(options: Any, *more: Any, **others: Any) -> Any:
        folder = options.folder if hasattr(options, "folder") else options.out
        if folder is None or int(os.environ.get("RANK", "0")):
            return train(options, *more, **others)
        own = Exclusive(folder, folder=True)
        try:
            return train(options, *more, **others)
        finally:
            own.release()
            remove_empty(folder, folder.parent)

    return cast(Training, run)


def begin_run(
    folder: Path,
    options: Any,
    *,
    data: Sequence[str] = (),
    results: Sequence[Path] = (),
    free: Sequence[str] = (),
    files: Sequence[Path] = (),
) -> None:
    """Begin a training in a folder, or go on with one that was begun with the same options and data.

    Args:
        folder: of the run.
        options: dataclass of the recipe.
        data: names of the options that hold files, folders or sources of weights; their content counts.
        results: what the run, or each of its stages, ends with; `steps` may change until it is there. Empty: never.
        free: further names of options that may change, beside `MAY_CHANGE`.
        files: files and folders that no option names and whose content counts too, such as weights.

    Raises:
        ValueError: the run was begun with other options or data, which the sentence names; or the folder holds files
            and no run. Hidden files and what a user logs into it (`is_log`) count for nothing.
    """
    if int(os.environ.get("RANK", "0")):
        return
    path, facts = folder / BEGUN, {}
    there = folder.iterdir() if folder.is_dir() else ()
    others = sorted(
        file.name for file in there if file.name != BEGUN and not file.name.startswith(".") and not is_log(file)
    )
    if not others:
        path.unlink(missing_ok=True)  # an attempt that failed before it made anything binds nobody
    begun = read_json(path) if path.exists() else {}
    if others and not path.exists():
        told = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise ValueError(f"{folder} is no run: it holds {told}, but no {BEGUN}. Name a new or an empty folder.")
    for name, value in to_dict(options).items():
        if name in data:
            facts[name] = _content(value)
        elif name not in (*MAY_CHANGE, *free):
            facts[name] = value
    if files:
        facts["files"] = _content([str(path) for path in files])
    if results and "steps" in begun:
        one = not isinstance(facts["steps"], list)
        pairs = [(begun["steps"], facts["steps"])] if one else zip(begun["steps"], facts["steps"], strict=True)
        steps = [old if result.exists() else new for (old, new), result in zip(pairs, results, strict=True)]
        with atomic_path(path) as part:
            part.write_text(json.dumps(begun | {"steps": steps[0] if one else steps}, indent=1), encoding="utf-8")
    keep_to(path, facts)


def is_log(file: Path) -> bool:
    """Whether a file holds what a user logs: named so, or where this process's own output goes. No run names a file of
    its own like that."""
    if not file.is_file():
        return False
    named = file.suffix in (".log", ".out", ".err") or (file.stem in LOGS and file.suffix in ("", ".txt"))
    return named or any(samestat(file.stat(), os.fstat(stream)) for stream in (1, 2) if _is_open(stream))


def _is_open(stream: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(stream)
        return True
    return False


def publish(folder: Path, save: Callable[[Path], object]) -> Path:
    """The folder of finished weights, which appears when `save` has written it whole; one that is there stays.

    Of several processes, the first one writes it.

    Raises:
        ValueError: it cannot be written.
    """
    if int(os.environ.get("RANK", "0")) == 0 and not folder.exists():
        with atomic_folder(folder) as part:
            save(part)
    return folder


def save_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a state.

    Args:
        path: a safetensors file.
        tensors: on any device; by name.
        facts: JSON values.

    Raises:
        ValueError: it cannot be written; the old file is left as it was.
    """
    stored = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    text = json.dumps(dict(facts))
    with atomic_path(path) as part:
        save_file(stored, part, {"format": "pt", "facts": text, "digest": _digest(stored, text)})


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the facts that `save_state` wrote; a plain safetensors file has no facts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with library_errors(f"{path} is damaged; remove it to begin anew"), safe_open(path, "pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    text = header.get("facts", "{}")
    if "digest" in header and header["digest"] != _digest(tensors, text):
        raise ValueError(f"{path} is damaged: it does not hold what was written; remove it to begin anew.")
    return tensors, json.loads(text)


def forget_after(path: Path, step: int) -> None:
    """Drop the rows of a log, JSON lines with their `step`, that a kill left behind the last state."""
    keep_rows(path, lambda row: row["step"] <= step)


def keep_rows(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Drop the rows of a log, JSON lines, that are not wanted, and one that a kill cut off."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if (row := _row(line)) is not None and wanted(row)]
    if kept != lines:
        with atomic_path(path) as part:
            part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _row(line: str) -> Mapping[str, Any] | None:
    """A log row; None: a kill cut it off."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _content(value: str | list[str] | None) -> str | list[str] | None:
    """What a file or folder, or each of several, holds; the name itself of a source that is not on this machine."""
    if isinstance(value, list):
        return [_content(one) for one in value]
    path = None if value is None else Path(value.removeprefix("folder:")).expanduser()
    if path is None or not path.exists():
        return value
    count = sum(file.is_file() for file in path.rglob("*")) if path.is_dir() else 1
    return f"{count} {'file' if count == 1 else 'files'}, {digest(path)[:16]}"


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()
