"""Observers: they see steps and change nothing. Progress bar, trace, preview pictures, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision.checkpoints import load_state, save_state
from vision.refine.items import PerItem
from vision.refine.step import Step

VERSION = 5
"""Of saved steps; in those before 3, some runs counted the judged start as a step, and they were several files."""
SAVED = "step.safetensors"
"""Name of the file."""
KEPT = ("score", "best_score", "gain", "start_score", "steps_since_best", "active")
"""What a saved step holds besides its place, time and states."""


class ProgressBar:
    """A progress bar with the time left, for as long as its context lasts: `with ProgressBar("restore", 20) as bar:`.

    Args:
        label: what is going on.
        total: steps; None when they are unknown.
    """

    def __init__(self, label: str, total: int | None = None):
        self.label, self.total = label, total

    def __enter__(self) -> ProgressBar:
        from rich.progress import Progress, SpinnerColumn, TimeRemainingColumn

        self.bar = Progress(SpinnerColumn(), *Progress.get_default_columns()[:-1], TimeRemainingColumn())
        self.task = self.bar.add_task(self.label, total=self.total)
        self.bar.start()
        return self

    def __call__(self, step: Step) -> None:
        self.bar.update(self.task, completed=step.index + 1)

    def __exit__(self, *error: object) -> None:
        self.bar.stop()


class Trace:
    """Rows of index, seconds and score; `row(step)` adds columns. Tensors reach the host once, in `rows`."""

    def __init__(self, row: Callable[[Step], Mapping[str, Any]] | None = None):
        self.row, self.kept = row, []

    def __call__(self, step: Step) -> None:
        score = step.score.detach() if isinstance(step.score, Tensor) else step.score
        extra = dict(self.row(step)) if self.row else {}
        self.kept.append({"index": step.index, "seconds": step.seconds, "score": score, **extra})

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Plain numbers and lists."""
        return [{k: v.tolist() if isinstance(v, Tensor) else v for k, v in row.items()} for row in self.kept]


def previews(folder: Path | str, render: Callable[[Any], Any], every: int = 1) -> Callable[[Step], None]:
    """Save `render(state)`, a PIL image, every few steps as step_0000.png and so on."""
    folder = Path(folder)

    def observe(step: Step) -> None:
        if step.index % every == 0:
            folder.mkdir(parents=True, exist_ok=True)
            render(step.state).save(folder / f"step_{step.index:04d}.png")

    return observe


def checkpoints(folder: Path | str, every: int = 1, pack: Callable[[Any], Any] | None = None) -> Callable[[Step], None]:
    """Save the step every few steps, so that `load_checkpoint` can resume the run after a kill at any moment.

    It is one file, see `vision.checkpoints`, which is replaced whole.
    `pack(state)` turns states that are no trees of tensors (a module with its optimiser) into one; it is applied to
    `best` as well.
    """
    folder = Path(folder)

    def observe(step: Step) -> None:
        if (step.index + 1) % every:
            return
        tensors: dict[str, Tensor] = {}
        convert = pack or (lambda tree: tree)
        record = {
            "version": VERSION,
            "index": step.index,
            "seconds": step.seconds,
            "state": _flatten(convert(step.state), "state", tensors),
            "best": None if step.best is None else _flatten(convert(step.best), "best", tensors),
        }
        for name in KEPT:
            record[name] = _flatten(getattr(step, name), name, tensors)
        save_state(folder / SAVED, tensors, record)

    return observe


def load_checkpoint(
    folder: Path | str,
    like: Any = None,
    unpack: Callable[[Any], Any] | None = None,
    types: tuple[type, ...] = (),
    device: torch.device | str = "cpu",
) -> Step | None:
    """The step that `checkpoints` saved last, for `resume`; None when the folder holds none.

    Args:
        like: a state of the same kind: its dataclasses (and `types`) may occur in the file, no others.
        unpack: the inverse of `pack`.
        device: where the tensors are wanted.

    Raises:
        ValueError: another version saved the step, it is damaged, or it holds a dataclass that was not named.
    """
    folder = Path(folder)
    if (folder / "step.json").exists():
        raise ValueError(f"{folder} holds a run that an earlier version saved in another form; begin anew.")
    if not (folder / SAVED).exists():
        return None
    saved, record = load_state(folder / SAVED)
    if record.get("version") != VERSION:
        raise ValueError(f"{folder} holds a run that another version saved; begin anew.")
    tensors = {name: value.to(device) for name, value in saved.items()}
    known = {kind.__qualname__: kind for kind in (*_dataclasses(like), *types)}
    convert = unpack or (lambda tree: tree)
    state = convert(_rebuild(record["state"], tensors, known))
    best = None if record["best"] is None else convert(_rebuild(record["best"], tensors, known))
    rest = {name: _rebuild(record[name], tensors, known) for name in KEPT}
    return Step(record["index"], None, state, state, best=best, seconds=record["seconds"], **rest)


def _flatten(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A JSON description of the tree; its tensors and generators are put into `tensors` under the path's name."""
    if isinstance(tree, torch.Generator):
        tensors[name] = tree.get_state()
        return {"generator": name}
    if isinstance(tree, Tensor):
        tensors[name] = tree
        return {"tensor": name}
    if is_dataclass(tree) and not isinstance(tree, type):
        parts = {f.name: _flatten(getattr(tree, f.name), f"{name}.{f.name}", tensors) for f in fields(tree)}
        return {"dataclass": type(tree).__qualname__, "fields": parts}
    if isinstance(tree, dict):
        return {"dict": [[key, _flatten(value, f"{name}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        kind = "per_item" if isinstance(tree, PerItem) else "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [_flatten(value, f"{name}.{i}", tensors) for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, (str, int, float, bool)):
        return {"value": tree}
    raise TypeError(
        f"{name} is a {type(tree).__name__}, which a checkpoint cannot hold; give `checkpoints` a pack function."
    )


def _rebuild(record: Any, tensors: dict[str, Tensor], known: dict[str, type]) -> Any:
    def again(part: Any) -> Any:
        return _rebuild(part, tensors, known)

    if "value" in record:
        return record["value"]
    if "tensor" in record:
        return tensors[record["tensor"]]
    if "generator" in record:
        generator = torch.Generator()
        generator.set_state(tensors[record["generator"]].cpu())
        return generator
    if "dict" in record:
        return {key: again(value) for key, value in record["dict"]}
    for kind, make in (("per_item", PerItem), ("tuple", tuple), ("list", list)):
        if kind in record:
            return make(again(value) for value in record[kind])
    name = record["dataclass"]
    if name not in known:
        raise ValueError(
            f"The checkpoint holds a {name}; pass a state of that kind as `like`, or the class in `types`."
        )
    return known[name](**{key: again(value) for key, value in record["fields"].items()})


def _dataclasses(tree: Any) -> set[type]:
    """Every dataclass that occurs in a tree."""
    if is_dataclass(tree) and not isinstance(tree, type):
        return {type(tree)}.union(*[_dataclasses(getattr(tree, f.name)) for f in fields(tree)])
    if isinstance(tree, dict):
        return set().union(*map(_dataclasses, tree.values()))
    if isinstance(tree, (list, tuple)):
        return set().union(*map(_dataclasses, tree))
    return set()
