"""The recipe with a biased writer: the bias is in the cold start alone; both stages run."""

from __future__ import annotations

import json

import pytest

from reward_vlm.data import preference, read_rows
from reward_vlm.r1.train_swayed import SwayedJudgeTraining, train
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import SMALLEST


def test_only_the_cold_start_learns_from_the_biased_writer(tmp_path):
    options = SwayedJudgeTraining(
        folder=tmp_path, swayed=1.0, sft_steps=2, rounds=2, steps=1, judgements=32, rows=(40, 32, 4), tests=2,
        size=SMALLEST,
    )  # fmt: skip
    train(options)
    assert set(json.loads((tmp_path / "report.json").read_text())) == {"sft", "rl"}
    for name, seed, count, swayed in (("sft", 1, 40, 1.0), ("rl", 7, 32, 0.0), ("held_out", 98, 4, 0.0)):
        rows, _ = read_rows(tmp_path / "data" / f"{name}.jsonl", preference)
        wanted = [(pair.better, pair.rationale) for pair in scene_pairs(seed, count, swayed=swayed)]
        assert [(row.better, row.rationale) for row in rows] == wanted
    with pytest.raises(ValueError, match="swayed is a share"):
        SwayedJudgeTraining(swayed=1.5)
