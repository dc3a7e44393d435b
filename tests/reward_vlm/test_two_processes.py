"""Trainings with TRL that two processes share: held-out pairs are counted once, adapters are gathered by all."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from safetensors.torch import load_file

from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, R1Training
from reward_vlm.r1.rounds import Policy, Rounds
from reward_vlm.r1.rows import judgement_row
from reward_vlm.r1.stages import lora_config
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import tiny_chat_model
from reward_vlm.training import finish
from reward_vlm.vlm import ChatModel
from tests.kills import Work, do
from vision.checkpoints import publish

CONFIG = R1Config("plain", True, 4096, None)


def judging(inputs: Path, out: Path) -> dict[str, float]:
    """The start of a reinforcement is judged; every process writes what it generated."""
    plain, calls = ChatModel.generate, []

    def generate(self, dialogues, sampling=None, **more):
        calls.append([len(dialogues), sampling.max_new_tokens])
        return plain(self, dialogues, sampling, **more)

    ChatModel.generate = generate
    try:
        pairs = scene_pairs(98, 5)
        options = R1Training(inputs, start=str(inputs), folder=out, stage="rl", held_out=inputs, max_new_tokens=3)
        rounds = Rounds(inputs / "start", [judgement_row(pairs[0], CONFIG)], pairs, options, lambda line: None)
        found = rounds.evaluate(Policy({}, {}), None).detail
    finally:
        ChatModel.generate = plain
    (out / f"rank_{os.environ.get('RANK', '0')}.json").write_text(json.dumps([calls, found]))
    return found


def test_held_out_pairs_are_counted_once_though_shares_are_uneven(tmp_path):
    R1Judge(tiny_chat_model(), CONFIG).save_pretrained(tmp_path / "inputs" / "start")
    (tmp_path / "one").mkdir()
    one = judging(tmp_path / "inputs", tmp_path / "one")
    (tmp_path / "two").mkdir()
    assert do(Work(lambda folder: None, judging, processes=2), tmp_path, tmp_path / "two").code == 0
    calls = []
    for rank in range(2):
        called, found = json.loads((tmp_path / "two" / f"rank_{rank}.json").read_text())
        calls.append(called)
        assert found == json.loads(json.dumps(one)) and found["pairs"] == 5
    # five pairs in both orders; the second process judges one more for company, and no reply is longer than asked for
    assert calls[0] == calls[1] and sum(count for count, _ in calls[0]) == 6
    assert {limit for _, limit in calls[0]} == {3}
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 1


class SharedOut:
    """Stands for a trainer whose weights are shared out: they can only be saved by all processes together."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        waits = InitProcessGroupKwargs(timeout=timedelta(minutes=10))
        self.accelerator = Accelerator(cpu=True, kwargs_handlers=[waits])

    def save_model(self, folder: str) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.model.save_pretrained(folder)
        self.accelerator.wait_for_everyone()


def saving(inputs: Path, out: Path) -> Path:
    """Adapters on the start are written as weights."""
    from peft import get_peft_model

    judge = R1Judge.from_pretrained(inputs / "start")
    publish(out / "start", judge.save_pretrained)
    model = get_peft_model(judge.model.model, lora_config(R1Training(inputs, lora_rank=2), judge.model.model))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(value, 0.01)
    return finish(SharedOut(model), judge.model.processor, out / "weights")


def test_adapters_of_shared_out_weights_are_saved_by_all_processes_and_added(tmp_path):
    R1Judge(tiny_chat_model(), CONFIG).save_pretrained(tmp_path / "inputs" / "start")
    assert do(Work(lambda folder: None, saving, processes=2), tmp_path, tmp_path / "out").code == 0
    start, made = (load_file(tmp_path / "out" / name / "model.safetensors") for name in ("start", "weights"))
    changed = {name for name in start if not torch.equal(start[name], made[name])}
    assert start.keys() == made.keys() and changed and not any("visual" in name for name in changed)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["start", "weights"]
