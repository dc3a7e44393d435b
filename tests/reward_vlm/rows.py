"""What tests of jobs over rows share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reward_vlm.data import question_json, write_rows
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.options import SCLConfig
from reward_vlm.scl.scene_questions import scene_questions
from reward_vlm.tiny import tiny_chat_model
from scripts.main import start


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


def started(folder: Path, questions: int, held_out: int, config: SCLConfig) -> Path:
    """A folder with a random model, start, and rows to ask it: questions.jsonl and held_out.jsonl."""
    SCLCorrector(tiny_chat_model(), config).save_pretrained(folder / "start")
    for name, seed, count in (("questions", 7, questions), ("held_out", 98, held_out)):
        write_rows(folder / f"{name}.jsonl", [question_json(row, folder) for row in scene_questions(seed, count)])
    return folder


def refused(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which a command line is refused."""
    monkeypatch.setattr("sys.argv", [f"{command}.py", *words])
    with pytest.raises(SystemExit) as stop:
        start(command)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error
