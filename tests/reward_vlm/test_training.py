"""Checkpoints of trainings with TRL after kills."""

from __future__ import annotations

import json
from pathlib import Path

from reward_vlm.training import last_checkpoint


def checkpoint(folder: Path, step: int, state: str | None = '{"global_step": 1}') -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").touch()
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_its_log(tmp_path):
    checkpoint(tmp_path, 9)
    whole = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 11, None)  # killed while it was written
    checkpoint(tmp_path, 12, '{"global_st')
    (tmp_path / "checkpoint-8").mkdir()  # killed while it was deleted
    (tmp_path / "log.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(13)) + '{"ste')
    assert last_checkpoint(tmp_path) == str(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "log.jsonl"]
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()] == list(range(11))


def test_a_run_without_a_whole_checkpoint_begins_anew(tmp_path):
    checkpoint(tmp_path, 1, None)
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    assert last_checkpoint(tmp_path) is None
    assert (tmp_path / "log.jsonl").read_text() == "" and not (tmp_path / "checkpoint-1").exists()
