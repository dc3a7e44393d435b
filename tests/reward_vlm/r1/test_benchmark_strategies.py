"""The comparisons of strategies: arms differ in the strategy alone, and runs that ended are not repeated."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reward_vlm.data import preference_json, write_rows
from reward_vlm.r1 import benchmark_strategies as module
from reward_vlm.r1.benchmark_strategies import COMPARISONS, StrategyBenchmark, average, benchmark, training
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, StableReinforce
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import tiny_chat_model
from vision.config import to_dict


@pytest.mark.parametrize("strategy", COMPARISONS)
def test_arms_differ_in_the_strategy_alone(strategy, tmp_path):
    options = StrategyBenchmark(tmp_path, strategy)
    arms = list(COMPARISONS[strategy].arms)
    start = replace(COMPARISONS[strategy].start, folder=tmp_path / "start-1", seed=1)
    plain, *others = (to_dict(training(options, start, arm)) for arm in arms)
    strategies = {"oversample", "spans", "progress", "curriculum", "guide", "reset"}
    assert not any(plain[name] for name in strategies)
    for other in others:
        changed = {name for name in plain if plain[name] != other[name]}
        assert changed - {"folder"} and changed <= strategies | {"folder"}


def test_runs_are_measured_once_and_averaged(tmp_path, monkeypatch):
    small = {"objective": StableReinforce(samples=2), "max_new_tokens": 6}
    comparison = COMPARISONS["downsampling"]
    monkeypatch.setitem(COMPARISONS, "downsampling", replace(comparison, shared={**comparison.shared, **small}))
    for seed in (0, 1):
        start = tmp_path / f"start-{seed}"
        R1Judge(tiny_chat_model(), R1Config("plain", True, 6, None)).save_pretrained(start / "sft" / "weights")
        for name, number, count in (("rl", 7, 8), ("held_out", 98, 2), ("test", 99, 2)):
            rows = [preference_json(pair, start / "data") for pair in scene_pairs(number, count)]
            write_rows(start / "data" / f"{name}.jsonl", rows)
        (start / "report.json").write_text(json.dumps({"sft": {"accuracy": 0.5, "both_orders": 0.25}}))
    options = StrategyBenchmark(tmp_path, "downsampling", seeds=(0, 1), rounds=2, steps=2, judgements=2)
    assert benchmark(options).code == 0
    rows = json.loads((tmp_path / "downsampling.json").read_text())
    assert [(row["arm"], row["seed"]) for row in rows] == [
        (arm, seed) for seed in (0, 1) for arm in comparison.arms
    ] + [(arm, "mean") for arm in comparison.arms]
    assert all(row["accuracy_before"] == 0.5 and row["tokens"] > 0 for row in rows)
    monkeypatch.setattr(module, "train", None)
    assert benchmark(options).code == 0 and json.loads((tmp_path / "downsampling.json").read_text()) == rows
    with pytest.raises(ValueError, match="was begun with other options"):
        benchmark(replace(options, rate=0.5))
    with pytest.raises(ValueError, match="other options or data: arms"):
        benchmark(replace(options, arms=("as drawn",)))
    assert json.loads((tmp_path / "downsampling.json").read_text()) == rows
    assert benchmark(replace(options, arms=tuple(comparison.arms))).code == 0  # all of them, by their names


def test_the_spread_is_that_of_the_seeds():
    rows = [{"arm": "a", "seed": seed, "accuracy": 0.5 + seed / 10, "both": 0.2} for seed in (0, 2)]
    found = average(rows)
    assert found["seed"] == "mean" and found["accuracy"] == pytest.approx(0.6)
    assert found["accuracy_spread"] == pytest.approx(0.1) and found["both_spread"] == 0


def test_options_that_cannot_be_run_are_refused(tmp_path):
    with pytest.raises(ValueError, match="spans compares one reward, by spans, got 'plain'"):
        StrategyBenchmark(tmp_path, "spans", arms=("plain",))
    for wrong in ({"seeds": ()}, {"rounds": 0}):
        with pytest.raises(ValueError, match="There must be a seed, and rounds, steps"):
            StrategyBenchmark(tmp_path, "spans", **wrong)
