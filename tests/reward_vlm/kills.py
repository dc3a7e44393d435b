"""What stands for a kill of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
