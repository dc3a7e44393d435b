"""What stands for a kill of a training, and what it must not leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reward_vlm import training


class Killed(Exception):
    """Stands for a kill."""


@contextmanager
def killed_after_row(monkeypatch: Any, step: int) -> Iterator[None]:
    """Kills what trains inside as soon as the row of this step is logged."""
    plain: Callable[..., None] = training.log_row

    def kill(path: Any, row: dict[str, Any]) -> None:
        plain(path, row)
        if row["step"] == step:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(training, "log_row", kill)
        with pytest.raises(Killed):
            yield


def logged(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's log without times; of one that was killed they are those of one that was not."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    clocks = ("time", "seconds", "per_second", "runtime")
    return [{key: value for key, value in row.items() if not any(part in key for part in clocks)} for row in rows]
