"""Rounds of construct, train and evaluate: killed and resumed, undone when they do harm; the recipe of the small
model, in small."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from reward_vlm.scl import loop, recipe_mini
from reward_vlm.scl import rounds as module
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.extract import extract
from reward_vlm.scl.options import DPO, LoRA, SCLConfig, SCLOptions
from reward_vlm.scl.recipe_mini import ColdStart, MiniSCLTraining
from reward_vlm.scl.rounds import SCLRounds, train
from reward_vlm.scl.scene_questions import scene_questions
from reward_vlm.tiny import SMALLEST
from tests.reward_vlm.kills import Killed
from tests.reward_vlm.rows import started

CONFIG = SCLConfig("plain", max_new_tokens=8)
QUICK = DPO(epochs=1, batch_size=4, accumulate=1, learning_rate=1e-3, warmup=0.0, lora=LoRA(rank=0))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return started(tmp_path_factory.mktemp("files"), 12, 4, CONFIG)


def options(files, folder, **changes):
    asking = SCLOptions(temperature=1.0, batch_size=4)
    return replace(
        SCLRounds(files / "questions.jsonl", files / "held_out.jsonl", 2, folder=folder, start=str(files / "start")),
        **{"asking": asking, "dpo": QUICK, "tolerance": 1.0, "per_round": 8} | changes,
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)


def logged(folder):
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_rounds_that_were_killed_anywhere_end_with_the_same_weights(files, tmp_path, monkeypatch, guessing):
    straight = train(options(files, tmp_path / "straight"))
    killed = options(files, tmp_path / "killed")
    for wanted in ("4/8 questions", "8 pairs", "round 1/2", "8/8 questions", "the best weights"):

        def log(line, wanted=wanted):
            if line.startswith(wanted) or (wanted == "8 pairs" and "pairs; of" in line):
                raise Killed

        with pytest.raises(Killed):
            train(killed, log=log)
    resumed = train(killed)
    rows = logged(tmp_path / "killed")
    assert rows == logged(tmp_path / "straight") and [row["step"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert same(weights(tmp_path / "straight" / row["weights"]), weights(tmp_path / "killed" / row["weights"]))
    assert same(weights(straight), weights(resumed))
    assert not same(weights(tmp_path / "killed" / rows[2]["weights"]), weights(files / "start"))
    assert train(killed) == resumed


def test_a_round_that_does_harm_is_undone(files, tmp_path, monkeypatch, guessing):
    scores = iter([0.75, 0.25, 0.5])

    def summary(records):
        return dict.fromkeys(("refined", "wrong_to_right", "right_to_wrong"), 0.0) | {"first": next(scores)}

    def copy(options, *, log):
        return shutil.copytree(options.start, options.folder / "weights")

    monkeypatch.setattr(loop, "summary", summary)
    monkeypatch.setattr(module.training, "train", copy)
    said = []
    result = train(options(files, tmp_path, tolerance=0.0), log=said.append)
    assert same(weights(result), weights(files / "start"))
    pairs = [json.loads(line) for line in (tmp_path / "round-2/pairs/pairs.jsonl").read_text().splitlines()]
    assert pairs and all(pair["made_by"]["model"] == "start" for pair in pairs)  # round 1 was undone
    assert said[-1] == "the best weights are start: 0.750 of the held-out questions right at the first answer"


def test_questions_of_a_round_come_from_the_seed_and_the_round(files, tmp_path):
    questions = scene_questions(7, 12)
    rounds = module.PairRounds(options(files, tmp_path), questions, [], print)
    names = [[row.id for row in rounds.select(number)] for number in (1, 1, 2)]
    assert names[0] == names[1] != names[2] and len(set(names[0])) == 8
    everything = module.PairRounds(options(files, tmp_path, per_round=None), questions, [], print)
    assert sorted(row.id for row in everything.select(1)) == sorted(row.id for row in questions)


def test_a_later_round_without_pairs_changes_nothing(files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "build_pairs", lambda *given, **named: [])
    rounds = module.PairRounds(options(files, tmp_path), scene_questions(7, 12), [], print)
    assert rounds.propose(rounds.start(), 2) == "start"


def test_what_cannot_be_learnt_from_is_refused(files, tmp_path, monkeypatch):
    both = options(files, tmp_path / "both", held_out=files / "questions.jsonl")
    with pytest.raises(ValueError, match="are for construction and for evaluation"):
        train(both)
    with pytest.raises(ValueError, match="holds no pairs: no answer changed between right and wrong"):
        train(options(files, tmp_path / "none"))  # the model says nothing that can be read
    with pytest.raises(ValueError, match="Pairs come from reviews"):
        options(files, tmp_path, asking=SCLOptions(reviews=()))
    with pytest.raises(ValueError, match="rounds and per_round must be at least 1, got 0 and 8"):
        options(files, tmp_path, rounds=0)
    (files / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no questions"):
        train(options(files, tmp_path / "empty", questions=files / "empty.jsonl"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="Rounds run in one process"):
        train(options(files, tmp_path / "two"))


def test_the_recipe_of_the_small_model_runs_and_goes_on(tmp_path, guessing):
    recipe = MiniSCLTraining(
        folder=tmp_path, rounds=1, questions=8, dpo=QUICK,
        cold=ColdStart(answers=4, until=0.0, look=2, reviews=2, batch_size=4),
        asking=SCLOptions(temperature=1.0, batch_size=8), validation=4, tests=6, size=SMALLEST,
    )  # fmt: skip
    said = []
    result = recipe_mini.train(recipe, log=said.append)
    assert result == tmp_path / "seed-0" / "learnt" / "weights"
    assert SCLCorrector.from_pretrained(result).config.style == "plain"
    assert any(line.startswith("seed 0: 2: ") for line in said) and not any(": 4: " in line for line in said)
    report = json.loads((tmp_path / "seed-0" / "report.json").read_text())
    assert report.keys() == {"start", "round 1", "control"} and report["start"]["questions"] == 6
    assert (tmp_path / "curves.png").stat().st_size > 1000
    asked = {
        name: {json.loads(line)["id"] for line in (tmp_path / "data" / f"{name}.jsonl").read_text().splitlines()}
        for name in ("construction", "validation")
    }
    assert not asked["construction"] & asked["validation"]
    assert recipe_mini.train(recipe, log=print) == result


def test_the_teacher_is_careless_and_its_reviews_correct_and_spoil():
    cold = ColdStart(reviews=20, batch_size=32)
    rows = recipe_mini.cold_rows(cold, "reviews", 0)
    kinds, said = Counter(), Counter()
    for index, row in enumerate(rows):
        question, scene = recipe_mini.scene_item(recipe_mini.SEEDS["reviews"], index)
        replies = [
            turn["content"][0]["text"] for turn in [*row["prompt"], *row["completion"]] if turn["role"] == "assistant"
        ]
        letters = [extract(reply, "strict", "ABCD") for reply in replies]
        assert len(replies) == 1 + index % 2
        assert replies[-1] == recipe_mini.scene_reply(question, scene, letters[-1])
        value = getattr(scene, recipe_mini.kind_of(question))
        said[value, dict(question.options)[letters[-1]]] += 1
        if len(letters) == 2:
            kinds[tuple(letter == question.answer for letter in letters)] += 1
    assert sum(kinds.values()) == 320 and min(kinds.values()) > 20 and len(kinds) == 4
    for true, taken in recipe_mini.CONFUSED.items():
        assert said[true, taken] > said[true, true] > 0
        assert said[taken, taken] > 4 * said[taken, true]
