"""Trainings find the language part of every family, take rows with and without pictures, and write models that load."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from reward_vlm.data import preference_json, write_rows
from reward_vlm.language import language_linears, language_parameters
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, R1Training, StableReinforce
from reward_vlm.r1.train import train as train_judge
from reward_vlm.scenes import scene_pairs
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.options import DPO, LoRA, SCLConfig, SCLTraining
from reward_vlm.scl.train import train as train_corrector
from tests.reward_vlm.families import build

FAMILIES = ["qwen2.5-vl", "llava", "gemma3", "idefics3"]
ODD = "say <|im_end|>, </s>, <image> or <|image_pad|> ?"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows and pairs, every third without pictures, one with the names of special tokens in its texts."""
    folder = tmp_path_factory.mktemp("data")
    rows = scene_pairs(1, 6)
    rows[0] = replace(rows[0], question=ODD)
    rows[2], rows[5] = replace(rows[2], images=()), replace(rows[5], images=())
    written = [preference_json(pair, folder) for pair in rows]
    write_rows(folder / "rows.jsonl", written)
    write_rows(folder / "held.jsonl", [preference_json(pair, folder) for pair in scene_pairs(98, 2)])
    pairs = [
        {"prompt": row["question"], "chosen": row["answers"][0], "rejected": row["answers"][1], "images": row["images"]}
        for row in written
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    return folder


def start_of(family, folder, kind):
    subject = {"judge": lambda chat: R1Judge(chat, R1Config("plain", True, 6, None))}
    subject["corrector"] = lambda chat: SCLCorrector(chat, SCLConfig("plain", max_new_tokens=6))
    subject[kind](build(family)).save_pretrained(folder / "begin")
    return folder / "begin"


def moved(start, weights):
    first, last = load_file(start / "model.safetensors"), load_file(weights / "model.safetensors")
    assert first.keys() == last.keys()
    return {name for name in first if not torch.equal(first[name], last[name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_language_part_is_found_by_structure(family):
    model = build(family).model
    names = {name for name, _ in language_parameters(model)}
    others = [name for name, _ in model.named_parameters() if name not in names]
    assert others and all(any(word in name for word in ("vis", "connector", "projector")) for name in others)
    assert not any("vis" in name for name in names) and len(names) > 15
    linears = language_linears(model, "q_proj", "k_proj", "v_proj")
    assert len(linears) == 6 and set(linears) < set(language_linears(model))
    with pytest.raises(ValueError, match=r"no modules c_attn; .* called down_proj, gate_proj"):
        language_linears(model, "c_attn")


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("family", ["idefics3", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES[:3])])
def test_preferences_train_the_language_part(family, rank, data, tmp_path):
    start = start_of(family, tmp_path, "corrector")
    dpo = DPO(epochs=1, batch_size=3, accumulate=1, learning_rate=1e-2, lora=LoRA(rank=rank))
    weights = train_corrector(SCLTraining(data / "pairs.jsonl", dpo, folder=tmp_path / "run", start=str(start)))
    changed = moved(start, weights)
    assert not any("vis" in name or "connector" in name for name in changed)
    assert len([name for name in changed if "q_proj.weight" in name]) == 2
    assert len(changed) > 15 if rank == 0 else all(name.split(".")[-2][1:] == "_proj" for name in changed)
    SCLCorrector.from_pretrained(weights)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    "family", ["qwen2.5-vl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llava", "gemma3", "idefics3"))]
)
def test_reinforcement_takes_rows_with_and_without_pictures(family, rank, data, tmp_path):
    start = start_of(family, tmp_path, "judge")
    options = R1Training(
        rows=data / "rows.jsonl", held_out=data / "held.jsonl", start=str(start), folder=tmp_path / "run", stage="rl",
        steps=6, batch_size=1, accumulate=2, learning_rate=1e-3, schedule="constant", warmup=0.0, lora_rank=rank,
        objective=StableReinforce(beta=0.1, skip_equal=False),
    )  # fmt: skip
    weights = train_judge(options)
    changed = moved(start, weights)
    assert any("q_proj" in name for name in changed)
    assert rank == 0 or not any("vis" in name for name in changed)
    R1Judge.from_pretrained(weights)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_rollouts_with_equal_rewards_move_no_weights(optimizer, data, tmp_path):
    start = start_of("qwen2.5-vl", tmp_path, "judge")
    options = R1Training(
        rows=data / "rows.jsonl", held_out=data / "held.jsonl", start=str(start), folder=tmp_path / "run", stage="rl",
        steps=6, batch_size=2, accumulate=1, learning_rate=1e-2, schedule="constant", warmup=0.0, optimizer=optimizer,
        rounds=2, objective=StableReinforce(beta=1e-3),
    )  # fmt: skip
    assert moved(start, train_judge(options)) == set()
