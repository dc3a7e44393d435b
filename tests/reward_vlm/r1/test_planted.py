"""Torn judgements planted among a judge's own undo it, unless spans blame their answers as well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reward_vlm.parse import choice
from reward_vlm.r1 import trainer as module
from reward_vlm.r1.benchmark_strategies import COMPARISONS, StrategyBenchmark, training
from reward_vlm.r1.curves import read_log
from reward_vlm.r1.recipe_mini import train as train_recipe
from reward_vlm.r1.train import train

TORN = 4
"""Of 512 judgements, that get the right digit behind their reasoning for the other answer."""
ARMS = {
    "one reward": None,
    "right digits": ("think=consistency", "answer=result"),
    "consistent digits": ("think=consistency", "answer=consistency"),
}
"""What their spans earn."""


class Planted(module.StableReinforceTrainer):
    """Gives the first wrong judgements of a set the right digit."""

    def _generate_single_turn(self, *given, **named):
        said, log_probs = super()._generate_single_turn(*given, **named)
        digits = {digit: self._tokenizer(digit, add_special_tokens=False)["input_ids"][0] for digit in "12"}
        left = TORN
        for ids, row in zip(said, self._rows, strict=True):
            right = row["answer"][0][8]
            if left and choice(self._tokenizer.decode(ids)) == 3 - int(right):
                other = digits["2" if right == "1" else "1"]
                ids[max(place for place, token in enumerate(ids) if token == other)] = digits[right]
                left -= 1
        assert left == 0
        return said, log_probs


@pytest.mark.slow
def test_four_torn_judgements_undo_a_judge_unless_their_digits_are_blamed_too(tmp_path, monkeypatch):
    start = replace(COMPARISONS["spans"].start, folder=tmp_path / "start-0")
    train_recipe(start)
    monkeypatch.setattr(module, "StableReinforceTrainer", Planted)
    ends = {}
    for arm, spans in ARMS.items():
        run = training(StrategyBenchmark(tmp_path, "spans", rounds=1), start, "one reward")
        run = replace(run, spans=spans, folder=tmp_path / arm)
        train(run)
        ends[arm] = [row for row in read_log(run.folder / "log.jsonl") if "held_out/accuracy" in row]
    for arm in ("one reward", "right digits"):
        before, after = ends[arm]
        assert after["held_out/both_orders"] < before["held_out/both_orders"] - 0.3
    assert ends["one reward"][1]["held_out/format"] < 0.9 < ends["right digits"][1]["held_out/format"]
    before, after = ends["consistent digits"]
    assert after["held_out/both_orders"] > before["held_out/both_orders"] - 0.05
