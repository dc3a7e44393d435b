"""Stages of training: killed and resumed, rolled back, with bad rows; rows in either form."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from reward_vlm.data import Preference, preference_json, write_rows
from reward_vlm.r1.curves import read_log
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, R1Training, StableReinforce
from reward_vlm.r1.recipe_mini import MiniR1Training
from reward_vlm.r1.rounds import Rounds
from reward_vlm.r1.rows import balance, hard_rows, judgement_row, row_reader, swap, training_set
from reward_vlm.r1.train import train
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import tiny_chat_model
from tests.reward_vlm.kills import Killed, killed_after_row, logged
from vision.refine import Step, Verdict, roll_back_if_worse

CONFIG = R1Config("plain", True, 6, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    R1Judge(tiny_chat_model(), CONFIG).save_pretrained(folder / "start")
    write_rows(folder / "rows.jsonl", [preference_json(pair, folder) for pair in scene_pairs(1, 12)])
    write_rows(folder / "held.jsonl", [preference_json(pair, folder) for pair in scene_pairs(98, 2)])
    return folder


def sft(files, folder, **changes):
    return R1Training(
        **{"rows": files / "rows.jsonl", "start": str(files / "start"), "folder": folder, "steps": 4, "save_every": 2}
        | {"batch_size": 2, "accumulate": 1, "learning_rate": 1e-3, "warmup": 0.0, "schedule": "constant"}
        | changes
    )


def rl(files, folder, **changes):
    aim = StableReinforce(beta=0.1, skip_equal=False)  # a random judge earns nothing
    changes = {"stage": "rl", "held_out": files / "held.jsonl", "steps": 2, "rounds": 2, "objective": aim} | changes
    return sft(files, folder, **changes)


def killed_at(wanted):
    def log(line):
        if line.startswith(wanted):
            raise Killed

    return log


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)


def test_a_cold_start_that_was_killed_ends_with_the_same_weights(files, tmp_path, monkeypatch):
    straight = train(sft(files, tmp_path / "straight"))
    with killed_after_row(monkeypatch, 3):
        train(sft(files, tmp_path / "killed"))
    assert (tmp_path / "killed" / "checkpoint-2").exists() and not (tmp_path / "killed" / "weights").exists()
    (tmp_path / "killed" / "checkpoint-3").mkdir()  # what a kill while saving leaves
    resumed = train(sft(files, tmp_path / "killed"))
    assert same(weights(straight), weights(resumed))
    assert logged(tmp_path / "killed") == logged(tmp_path / "straight")
    assert not same(weights(straight), weights(files / "start"))
    assert R1Judge.from_pretrained(resumed).config == CONFIG
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-4"]


@pytest.mark.parametrize("step", [1, 3, 4])
def test_one_round_logs_every_update_once_wherever_it_was_killed(files, tmp_path, monkeypatch, step):
    options = rl(files, tmp_path, rounds=1, steps=4, save_every=2)
    with killed_after_row(monkeypatch, step):
        train(options)
    train(options)
    steps = [row["step"] for row in logged(tmp_path)]
    assert steps == [0, 1, 2, 3, 4, 4] and "held_out/accuracy" in logged(tmp_path)[-1]


def test_a_start_that_was_judged_before_a_kill_is_logged_once(files, tmp_path):
    options = rl(files, tmp_path, tolerance=1.0)
    with pytest.raises(Killed):
        train(options, log=killed_at("round 0/"))
    train(options)
    assert [row["step"] for row in logged(tmp_path)] == [0, 1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_rounds_that_were_killed_end_with_the_same_weights(files, tmp_path, monkeypatch, optimizer):
    options = rl(files, tmp_path / "straight", tolerance=1.0, optimizer=optimizer)
    straight = train(options)
    with killed_after_row(monkeypatch, 3):
        train(replace(options, folder=tmp_path / "killed"))
    with pytest.raises(Killed):  # and once more, between the last round and the weights
        train(replace(options, folder=tmp_path / "killed"), log=killed_at("the best round"))
    resumed = train(replace(options, folder=tmp_path / "killed"))
    assert same(weights(straight), weights(resumed))
    assert logged(tmp_path / "killed") == logged(tmp_path / "straight")


def test_a_policy_survives_being_packed_and_a_worse_round_is_undone(files, tmp_path):
    options = rl(files, tmp_path)
    pairs = scene_pairs(98, 2)
    rounds = Rounds(files / "start", [judgement_row(pair, CONFIG) for pair in pairs], pairs, options, print)
    before = rounds.policy()
    for value in rounds.chat.model.parameters():
        value.grad = torch.ones_like(value)
    rounds.optimizer.step()
    after = rounds.policy()
    assert (
        not same(before.weights, after.weights) and not before.moments and len(after.moments) == 3 * len(after.weights)
    )
    rounds.load(before)
    assert same(rounds.policy().weights, before.weights) and not rounds.policy().moments
    rounds.load(after)
    assert same(rounds.policy().moments, after.moments)
    step = Step(1, 1, before, after, Verdict(0.5), score=0.5, best=before, best_score=0.7)
    assert same(roll_back_if_worse(0.1)(step).weights, before.weights)
    assert same(roll_back_if_worse(0.3)(step).weights, after.weights)


def test_prompts_of_a_round_come_from_the_seed_and_the_round(files, tmp_path):
    pairs = scene_pairs(1, 12)
    rounds = Rounds(files / "start", [judgement_row(p, CONFIG) for p in pairs], pairs, rl(files, tmp_path), print)
    names = [[row.id for row in rounds.select(number, 20)] for number in (1, 1, 2)]
    assert names[0] == names[1] != names[2] and len(names[0]) == 20 and len(set(names[0])) == 12
    rounds.options = rl(files, tmp_path, select="hard")
    assert len(rounds.select(1, 4)) == 4


def test_bad_rows_stop_a_training_unless_they_are_skipped(files, tmp_path):
    lines = (files / "rows.jsonl").read_text().splitlines()
    broken = json.loads(lines[0]) | {"better": 5}
    path = files / "bad.jsonl"
    path.write_text("\n".join([json.dumps(broken), *lines]))
    with pytest.raises(ValueError, match=r"bad.jsonl line 1: better must be 1 or 2, got 5"):
        train(sft(files, tmp_path / "bad", rows=path))
    (files / "none.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"none.jsonl holds no rows to train on"):
        train(sft(files, tmp_path / "bad", rows=files / "none.jsonl"))  # nothing was made, so other rows may come
    said = []
    train(sft(files, tmp_path / "skip", rows=path, skip_bad=True, steps=1), log=said.append)
    assert any("left out" in line and "line 1" in line for line in said)
    unexplained = [preference_json(replace(pair, rationale=None), files) for pair in scene_pairs(1, 2)]
    write_rows(files / "plain.jsonl", unexplained)
    with pytest.raises(ValueError, match="has no target"):
        train(sft(files, tmp_path / "plain", rows=files / "plain.jsonl"))


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"sft_steps": 0}, "sft_steps must be at least 1, got 0"),
        ({"judgements": 40}, "judgements must be a multiple of 32, got 40"),
        ({"rows": (4000, 0, 100)}, "rows must name three numbers of at least 1, got 4000 0 100"),
    ],
)
def test_the_recipe_of_the_small_judge_refuses_at_once_what_would_end_it_after_its_cold_start(chosen, sentence):
    with pytest.raises(ValueError, match=sentence):
        MiniR1Training(**chosen)


def test_rows_keep_the_order_of_text_and_pictures_and_are_balanced(files):
    pairs = [replace(pair, rationale=None) for pair in scene_pairs(2, 31)]
    balanced = balance(pairs, seed=1)
    assert sum(pair.better == 1 for pair in balanced) == 15
    for old, new in zip(pairs, balanced, strict=True):
        assert old.answers[old.better - 1] == new.answers[new.better - 1]
    assert balance(pairs, seed=1) == balanced != balance(pairs, seed=2)
    with pytest.raises(ValueError, match="has a rationale"):
        swap(scene_pairs(2, 1)[0])
    text_first = judgement_row(pairs[0], replace(CONFIG, image_first=False))
    assert [block["type"] for block in text_first.messages[0]["content"]] == ["text", "image"]
    row = training_set([text_first], targets=False)[0]
    assert [block["type"] for block in row["prompt"][0]["content"]] == ["text", "image"]
    assert row["images"][0].size == (56, 56) and row["answer"] == [f"<answer>{pairs[0].better}</answer>"]
    made = row_reader(CONFIG)
    message = [{"role": "user", "content": "which?"}]
    assert made({"message": json.dumps(message), "answer": "2"}, files).answers == ("2",)
    rows = [replace(text_first, difficulty=value) for value in (None, 0, 1, 2, 3)]
    assert [row.difficulty for row in hard_rows(rows)] == [0, 2, 3]


def test_wrong_options_are_sentences(files, tmp_path):
    with pytest.raises(ValueError, match="needs held-out pairs"):
        sft(files, tmp_path, stage="rl")
    with pytest.raises(ValueError, match="Rounds belong to reinforcement"):
        sft(files, tmp_path, rounds=2)
    with pytest.raises(ValueError, match="LoRA trains in one round"):
        rl(files, tmp_path, lora_rank=4)
    with pytest.raises(ValueError, match="trained on pictures, not on films"):
        judgement_row(Preference("f", "q", ("a", "b"), 1, video=files), CONFIG)


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        ({"learning_rat": 1.0}, r"has no argument 'learning_rat' \(--trl\); perhaps you meant learning_rate"),
        ({"use_vllm": True}, "use_vllm needs the package vllm"),
    ],
)
def test_further_arguments_that_cannot_be_are_told_before_the_start_is_judged(files, tmp_path, further, sentence):
    if find_spec("vllm") and "use_vllm" in further:
        pytest.skip("vLLM is installed")
    (tmp_path / "further.json").write_text(json.dumps(further))
    said = []
    with pytest.raises(ValueError, match=sentence):
        train(rl(files, tmp_path / "run", trl=tmp_path / "further.json", rounds=1), log=said.append)
    assert said == []


@pytest.mark.slow
def test_adapters_leave_the_image_encoder_alone_and_are_merged(files, tmp_path):
    merged = weights(train(sft(files, tmp_path / "sft", lora_rank=2, steps=2)))
    first = weights(files / "start")
    changed = {name for name in first if not torch.equal(first[name], merged[name])}
    assert changed and not any("visual" in name for name in changed)
    reinforced = weights(train(rl(files, tmp_path / "rl", lora_rank=2, rounds=1)))
    assert reinforced.keys() == first.keys()


def test_the_filter_keeps_gradients_small_where_nearly_all_judgements_are_right(tmp_path):
    """What the stress run of scripts/benchmark_r1.py lives on, in its first set of judgements."""
    write_rows(tmp_path / "rows.jsonl", [preference_json(pair, tmp_path) for pair in scene_pairs(7, 128)])
    write_rows(tmp_path / "held.jsonl", [preference_json(pair, tmp_path) for pair in scene_pairs(98, 1)])
    largest, filtered = {}, {}
    for name in ("sigma", "none"):
        folder = tmp_path / name
        train(R1Training(
            rows=tmp_path / "rows.jsonl", held_out=tmp_path / "held.jsonl", folder=folder, stage="rl", steps=4,
            batch_size=32, accumulate=1, learning_rate=1e-3, optimizer="sgd", schedule="constant",
            objective=StableReinforce(beta=0.0, filter=name, rollout_updates=4),
        ))  # fmt: skip
        log = read_log(folder / "log.jsonl")
        largest[name] = max(row["grad_norm"] for row in log if "grad_norm" in row)
        filtered[name] = max(row["filtered"] for row in log if "filtered" in row)
    assert filtered["none"] == 0 < filtered["sigma"] < 0.1
    assert largest["none"] > 10 * largest["sigma"] > 0
