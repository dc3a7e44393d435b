"""What a folder of results holds, for `tests.kills`: compared without times, and whether all of it is whole."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

TIMES = (
    "seconds",
    "finished",
    "was_done",
    "done_before",
    "runtime",
    "per_second",
    "versions",
    "grad_norm_time",
    "flos",
    "threads",
    "step_time",
)
"""Parts of the names of JSON values that differ from run to run."""
UNSTABLE = (".bin", ".pt", ".pth", ".pkl", ".lock", "trainer_state.json")
"""Endings of files, written by other libraries, whose content holds times, paths or counts of one process."""


def contents(out: Path, clocked: tuple[str, ...] = ()) -> dict[str, str]:
    """What every file below a folder holds, without times.

    Args:
        clocked: further names of files, and of values in them, that depend on time or memory.
    """
    root = str(out)
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir():
            found[name + "/"] = ""
        elif path.name.endswith(UNSTABLE) or path.name in clocked:
            found[name] = "?"
        else:
            found[name] = hashlib.sha256(_steady(path, root, (*TIMES, *clocked))).hexdigest()[:16]
    return found


def _steady(path: Path, root: str, times: tuple[str, ...]) -> bytes:
    """The content of a file without times and without the name of its folder; all of it, where it is damaged."""
    data = path.read_bytes()
    if not _is_whole(path):
        return data
    if path.suffix == ".safetensors":
        return _tensors(data)
    if path.suffix in (".json", ".jsonl"):
        texts = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
        data = "\n".join(json.dumps(_without(json.loads(text), times), sort_keys=True) for text in texts).encode()
    if path.suffix == ".csv":
        rows = list(csv.DictReader(data.decode().splitlines()))
        data = json.dumps([_without(row, times) for row in rows]).encode()
    return data.replace(root.encode(), b"OUT").replace(str(Path(root).parent).encode(), b"TOP")


def _tensors(data: bytes) -> bytes:
    """A safetensors file without what stands beside its tensors (a state keeps its seconds there)."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length :]
    parts = [
        f"{name} {at['dtype']} {at['shape']}".encode() + body[slice(*at["data_offsets"])]
        for name, at in sorted(header.items())
    ]
    return b"".join(parts)


def _without(value: Any, times: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(part in k for part in times)}
        return {key: _without(inner, times) for key, inner in kept.items()}
    return [_without(inner, times) for inner in value] if isinstance(value, list) else value


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What is lost, left over or changed."""
    lost = [f"lost {name}" for name in expected if name not in found]
    extra = [f"left over {name}" for name in found if name not in expected]
    return lost + extra + [f"changed {name}" for name in expected if name in found and found[name] != expected[name]]


def halves(out: Path) -> list[str]:
    """Files that are not whole, apart from what is hidden or a library's unfinished checkpoint."""
    found = []
    for path in sorted(out.rglob("*")):
        parts = path.relative_to(out).parts
        hidden = any(part.startswith(".") or part.endswith(".part") for part in parts)
        saving = any(_is_unfinished_checkpoint(folder) for folder in path.parents)
        if path.is_file() and not hidden and not saving and not _is_whole(path):
            found.append("/".join(parts))
    return found


def _is_unfinished_checkpoint(folder: Path) -> bool:
    last = folder / "trainer_state.json"  # which is written last
    return folder.name.startswith("checkpoint-") and not (last.exists() and _is_whole(last))


def _is_whole(path: Path) -> bool:
    """Whether a file is what its name says; of lines, a kill may cut off the last."""
    data = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            _tensors(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return len(data) == 8 + int.from_bytes(data[:8], "little") + max(ends, default=0)
        if path.suffix == ".json":
            json.loads(data)
        if path.suffix == ".jsonl":
            for line in data.splitlines(keepends=True):
                line.endswith(b"\n") and json.loads(line)
        if path.suffix in (".png", ".jpg", ".gif"):
            with Image.open(path) as image:
                image.load()
    except (ValueError, KeyError, OSError):
        return False
    return True
