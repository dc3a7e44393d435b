"""The recipe of the judge of restorations: both stages of a tiny one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from reward_vlm.data import preference, read_rows
from reward_vlm.photo_pairs import QUESTION
from reward_vlm.r1 import recipe_restoration
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config
from reward_vlm.r1.pictures import PictureJudge
from reward_vlm.r1.recipe_restoration import VALIDATION_PHOTOS, PictureJudgeTraining, train
from reward_vlm.tiny import TinySize
from vision.photos import HELD_OUT_PHOTOS

CAT = Path(__file__).parents[3] / "examples" / "cat.jpg"


def test_both_stages_train_a_judge_that_loads(tmp_path, monkeypatch):
    asked = []

    def photos(source, out, names):
        asked.append(names)
        return [CAT]

    monkeypatch.setattr(recipe_restoration, "collect_photos", photos)
    options = PictureJudgeTraining(
        folder=tmp_path,
        sft_steps=3,
        sft_every=3,
        rounds=1,
        steps=2,
        rows=(40, 40, 2),
        tests=2,
        size=TinySize(hidden=64, layers=2, image_layers=1, image_hidden=32, image_start="spectra"),
    )
    weights = train(options)
    of_training, again, of_rounds, of_test = asked
    assert of_training == again and (of_rounds, of_test) == (VALIDATION_PHOTOS, HELD_OUT_PHOTOS)
    assert not set(of_training) & {*of_rounds, *of_test} and not set(of_rounds) & set(of_test)
    losses = {
        stage: [row["loss"] for row in map(json.loads, (tmp_path / stage / "log.jsonl").open()) if "loss" in row]
        for stage in ("sft", "rl")
    }
    assert len(losses["sft"]) == 3 and losses["sft"][2] < losses["sft"][0] and len(losses["rl"]) == 2
    assert set(json.loads((tmp_path / "report.json").read_text())) == {"sft", "rl"}
    tests, _ = read_rows(tmp_path / "data" / "test.jsonl", preference)
    assert [pair.better for pair in tests] == [options.pairs("test", 2)[n].better for n in range(2)]
    judge = PictureJudge.from_pretrained(weights)
    assert judge.judge.config == R1Config("plain", True, 48, None, question=QUESTION, answers="pictures")
    grey = np.full((60, 60, 3), 99, np.uint8)
    assert 0 <= judge.preference(grey, grey) <= 1
    assert R1Judge.from_pretrained(weights).chat.model.config.vision_config.hidden_size == 32
