"""What tests of jobs over rows share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def read(path: Path) -> list[dict[str, Any]]:
    """Its rows."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def ends_after_a_batch(model: type, out: Path) -> Iterator[None]:
    """Work that fails in the second call of `model.batch`, and leaves half a row behind the results."""
    whole, calls = model.batch, []

    def batch(self, *arguments):
        calls.append(1)
        return whole(self, *arguments) if len(calls) < 2 else 1 / 0

    with pytest.MonkeyPatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(model, "batch", batch)
        yield
    with open(out, "a") as file:
        file.write('{"row": 2, "cut')
