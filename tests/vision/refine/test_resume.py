"""A run that was stopped, or killed, and goes on ends as the run that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vision.checkpoints import load_state, save_state
from vision.refine import (
    PerItem,
    Verdict,
    checkpoints,
    clone_items,
    go_on_from_best,
    item_generators,
    load_checkpoint,
    reaches,
    refine,
    refine_steps,
)

PROJECT = Path(__file__).resolve().parents[3]
STEPS = 30


@dataclass(frozen=True)
class Walk:
    place: Tensor
    noise: PerItem[torch.Generator]
    words: PerItem[tuple[str, ...]]


def start() -> Walk:
    return Walk(torch.zeros(3, 2), item_generators(7, 3), PerItem([()] * 3))


def move(walk: Walk, at: int) -> Walk:
    noise = torch.cat([torch.randn(1, 2, generator=g) for g in walk.noise])
    words = PerItem((*said, str(at)) for said in walk.words)
    return replace(walk, place=walk.place * 0.95 + noise, words=words)


RULES = {
    "evaluate": lambda walk, at: Verdict(walk.place.sum(1)),
    "keep_best": clone_items,
    "stop": reaches(5.5),
}


def equal(a, b) -> bool:
    same = torch.equal(a.state.place, b.state.place) and torch.equal(a.best.place, b.best.place)
    noise = [torch.equal(x.get_state(), y.get_state()) for x, y in zip(a.state.noise, b.state.noise, strict=True)]
    numbers = [torch.equal(getattr(a, n), getattr(b, n)) for n in ("score", "best_score", "steps_since_best")]
    return same and all(noise) and all(numbers) and a.state.words == b.state.words


@pytest.mark.parametrize("accept", [None, go_on_from_best])
@pytest.mark.parametrize("cut", [1, 2, 9, STEPS])
def test_resumed_equals_straight(tmp_path, cut, accept):
    rules = RULES if accept is None else {**RULES, "accept": accept, "stop": None}
    straight = refine(start(), move, range(STEPS), **rules).last
    first = refine(start(), move, range(cut), observers=[checkpoints(tmp_path)], **rules).last
    resumed = refine(start(), move, range(STEPS), resume=load_checkpoint(tmp_path, like=start()), **rules).last
    if cut < STEPS and first.index + 1 == cut:
        assert resumed.index == straight.index and equal(straight, resumed)


@pytest.mark.parametrize("cut", [0, 1, 9])
def test_a_resumed_run_knows_the_score_of_its_judged_start(tmp_path, cut):
    rules = {**RULES, "evaluate_start": True}
    straight = list(refine_steps(start(), move, range(STEPS), **rules))
    assert torch.equal(straight[-1].start_score, straight[0].score) and len(straight) > cut
    refine(start(), move, range(cut), observers=[checkpoints(tmp_path)], **rules)
    resumed = refine(start(), move, range(STEPS), resume=load_checkpoint(tmp_path, like=start()), **rules).last
    assert equal(straight[-1], resumed) and torch.equal(resumed.start_score, straight[0].score)


def test_a_finished_run_stays_finished(tmp_path):
    rules = {**RULES, "stop": lambda step: step.index >= 4}
    straight = refine(start(), move, range(STEPS), observers=[checkpoints(tmp_path)], **rules)
    again = refine(start(), move, range(STEPS), resume=load_checkpoint(tmp_path, like=start()), **rules)
    assert again.steps == straight.steps == 5 and equal(straight.last, again.last)


def test_killed_between_two_steps_equals_straight(tmp_path):
    straight = refine(start(), move, range(STEPS), **{**RULES, "stop": None}).last
    command = [sys.executable, __file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    while not (tmp_path / "step.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = load_checkpoint(tmp_path, like=start())
    assert 0 <= step.index < STEPS - 1
    resumed = refine(start(), move, range(STEPS), resume=step, **{**RULES, "stop": None}).last
    assert equal(straight, resumed)


def test_a_run_goes_on_from_its_judged_start(tmp_path):
    rules = {**RULES, "stop": None, "evaluate_start": True}
    straight = refine(start(), move, range(4), **rules).last
    next(steps := refine_steps(start(), move, range(4), **rules))
    checkpoints(tmp_path)(refine(start(), move, range(0), **rules).last)
    steps.close()
    step = load_checkpoint(tmp_path, like=start())
    assert step.index == -1 and step.best_score is not None
    assert equal(straight, refine(start(), move, range(4), resume=step, **rules).last)


def test_a_rule_that_reads_the_schedule_ends_a_resumed_run_too(tmp_path):
    rules = {"stop": lambda step: step.at == 2}
    refine(start(), move, range(STEPS), observers=[checkpoints(tmp_path)], **rules)
    again = refine(start(), move, range(STEPS), resume=load_checkpoint(tmp_path, like=start()), **rules)
    assert again.steps == 3


def test_what_does_not_fit_the_run_is_refused(tmp_path):
    refine(start(), move, range(5), observers=[checkpoints(tmp_path)])
    step = load_checkpoint(tmp_path, like=start())
    with pytest.raises(ValueError, match="made 5 steps, but the schedule has only 4"):
        refine(start(), move, range(4), resume=step)
    tensors, record = load_state(tmp_path / "step.safetensors")
    save_state(tmp_path / "step.safetensors", tensors, record | {"version": 3})
    with pytest.raises(ValueError, match="another version"):
        load_checkpoint(tmp_path, like=start())
    (tmp_path / "step.json").write_text("{}")
    with pytest.raises(ValueError, match="an earlier version saved in another form"):
        load_checkpoint(tmp_path, like=start())


@pytest.mark.parametrize("place", [3, 0.5, 0.999])
def test_a_damaged_checkpoint_is_refused(tmp_path, place):
    refine(start(), move, range(5), observers=[checkpoints(tmp_path)])
    path = tmp_path / "step.safetensors"
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if place < 1 else place] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        load_checkpoint(tmp_path, like=start())


def test_only_the_newest_checkpoint_is_kept_and_every_counts(tmp_path):
    assert load_checkpoint(tmp_path) is None
    refine(start(), move, range(7), observers=[checkpoints(tmp_path, every=3)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step.safetensors"]
    assert load_checkpoint(tmp_path, like=start()).index == 5


def test_states_that_are_no_trees_need_pack(tmp_path):
    module = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="pack"):
        refine(module, lambda m, at: m, range(1), observers=[checkpoints(tmp_path)])
    refine(module, lambda m, at: m, range(1), observers=[checkpoints(tmp_path, pack=lambda m: m.state_dict())])

    def unpack(state):
        other = torch.nn.Linear(2, 2)
        other.load_state_dict(state)
        return other

    assert torch.equal(load_checkpoint(tmp_path, unpack=unpack).state.weight, module.weight)


def test_unknown_dataclasses_in_a_checkpoint_are_refused(tmp_path):
    refine(start(), move, range(1), observers=[checkpoints(tmp_path)])
    with pytest.raises(ValueError, match="Walk"):
        load_checkpoint(tmp_path)


if __name__ == "__main__":
    save = checkpoints(sys.argv[1])
    for step in refine_steps(start(), move, range(STEPS), **{**RULES, "stop": None}):
        save(step)
        time.sleep(0.05)
