"""The stress runs' table and picture, and that finished runs are not repeated."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from reward_vlm.data import preference_json, write_rows
from reward_vlm.r1 import benchmark as module
from reward_vlm.r1.benchmark import ARMS, R1Benchmark, benchmark
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import tiny_chat_model


def test_every_algorithm_runs_once_from_the_same_start(tmp_path, monkeypatch):
    start = tmp_path / "start-0"
    R1Judge(tiny_chat_model(), R1Config("plain", True, 4, None)).save_pretrained(start / "sft" / "weights")
    for name, seed, count in (("rl", 7, 8), ("test", 99, 2)):
        write_rows(
            start / "data" / f"{name}.jsonl", [preference_json(p, start / "data") for p in scene_pairs(seed, count)]
        )
    options = R1Benchmark(tmp_path, "stress", seeds=1, age=2, rounds=2, batch=2, pairs=2)
    assert benchmark(options).code == 0
    rows = json.loads((tmp_path / "stress.json").read_text())
    assert [row["arm"] for row in rows] == list(ARMS) and {row["ended"] for row in rows} == {"as planned"}
    assert len({row["accuracy_before"] for row in rows}) == 1 and all(row["largest_gradient"] > 0 for row in rows)
    assert Image.open(tmp_path / "curves.png").format == "PNG"
    monkeypatch.setattr(module, "train", None)
    assert benchmark(options).code == 0 and json.loads((tmp_path / "stress.json").read_text()) == rows
    with pytest.raises(ValueError, match="was begun with other options"):
        benchmark(replace(options, rate=0.5))


def test_options_that_cannot_be_run_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at most 32 or a multiple of 32, got 48"):
        R1Benchmark(tmp_path, "stress", batch=48)
    with pytest.raises(ValueError, match="must be at least 1"):
        R1Benchmark(tmp_path, "stress", seeds=0)
