"""The recipe with a biased writer: the bias is in the cold start alone."""

from __future__ import annotations

import pytest

from reward_vlm.data import preference, read_rows
from reward_vlm.r1.recipe_mini import SEEDS, write_data
from reward_vlm.r1.recipe_swayed import SwayedJudgeTraining
from reward_vlm.scenes import scene_pairs


def test_only_the_cold_start_learns_from_the_biased_writer(tmp_path):
    write_data(SwayedJudgeTraining(swayed=1.0, rows=(20, 20, 20), tests=20), tmp_path)
    for name, swayed in {"sft": 1.0, "rl": 0.0, "held_out": 0.0, "test": 0.0}.items():
        rows, _ = read_rows(tmp_path / f"{name}.jsonl", preference)
        wanted = [(pair.better, pair.rationale) for pair in scene_pairs(SEEDS[name], 20, swayed=swayed)]
        assert [(row.better, row.rationale) for row in rows] == wanted
    assert scene_pairs(SEEDS["sft"], 20, swayed=1.0) != scene_pairs(SEEDS["sft"], 20)


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"swayed is a share of the pairs and must be in .0, 1., got 1\.5"):
        SwayedJudgeTraining(swayed=1.5)
