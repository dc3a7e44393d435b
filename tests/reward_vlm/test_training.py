"""Checkpoints of trainings with TRL after kills."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from reward_vlm.training import go_on, last_checkpoint, quiet
from vision.files import Exclusive


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


class Line(torch.nn.Module):
    """A model of one number."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, y):
        return {"loss": ((self.slope * x - y) ** 2).mean()}


@pytest.mark.parametrize("below", ["", "round-1"])
@pytest.mark.parametrize("anew", [False, True])
def test_a_run_whose_folder_is_taken_away_says_so_and_writes_nothing_in_its_place(tmp_path, below, anew):
    run = tmp_path / "run"
    own = Exclusive(run, folder=True)

    class Thief(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            if state.global_step == 1:
                shutil.rmtree(run)
            if state.global_step == 1 and anew:
                run.mkdir()

    arguments = TrainingArguments(str(run / below), max_steps=4, save_steps=1, use_cpu=True, report_to=[])
    rows = [{"x": float(x), "y": 2.0 * x} for x in range(8)]
    trainer = quiet(Trainer(Line(), arguments, train_dataset=rows, callbacks=[Thief()]))
    with pytest.raises(ValueError, match="run was taken away while this worked; start again"):
        go_on(trainer, None)
    assert run.exists() == anew and not any(run.glob("*"))
    own.release()
