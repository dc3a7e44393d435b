"""The recipe that makes pairs: from files and benchmarks, with the overlap guard and the published code's way."""

from __future__ import annotations

import json

import pytest

from reward_vlm.data import question_json, write_rows
from reward_vlm.scl.construct import PairConstruction, train
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.options import SCLConfig, SCLOptions
from reward_vlm.scl.scene_questions import scene_questions
from tests.reward_vlm.scl.test_pairs import Fickle
from tests.reward_vlm.scl.test_sources import ROWS, saved


@pytest.fixture
def fickle(monkeypatch):
    """A model whose replies depend on the question alone."""
    chat = Fickle()
    monkeypatch.setattr(SCLCorrector, "from_pretrained", lambda *_, **__: SCLCorrector(chat, SCLConfig("plain")))
    return chat


def rows(folder, seed=2, count=6):
    write_rows(folder / f"{seed}.jsonl", [question_json(each, folder) for each in scene_questions(seed, count)])
    return folder / f"{seed}.jsonl"


def test_pairs_from_a_file_of_questions(tmp_path, fickle):
    questions, told = rows(tmp_path), []
    options = PairConstruction(questions=questions, held_out=rows(tmp_path, 3), folder=tmp_path / "out", start="m")
    path = train(options, log=told.append)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found and all(row["made_by"]["model"] == "m" for row in found)
    assert told[-1] == f"{len(found)} pairs of 6 questions are in {path}"
    fickle.calls = 0  # everything is there already
    assert train(options) == path
    with pytest.raises(ValueError, match="6 questions are for construction and for evaluation"):
        train(PairConstruction(questions=questions, held_out=questions, folder=tmp_path / "other"))


def test_pairs_from_a_benchmark_in_the_releases_way(tmp_path, fickle):
    asked = ROWS["SEEDBench"] | {"answer": "A"}
    saved(tmp_path / "set", "SEEDBench", asked, ["red", "blue"])
    options = PairConstruction(
        benchmark="SEEDBench", data=str(tmp_path / "set"), folder=tmp_path / "out", published="minicpm",
        asking=SCLOptions((1,), batch_size=2),
    )  # fmt: skip
    train(options)
    kept = json.loads((tmp_path / "out" / "Preference_Data_minicpm_SEEDBench_1.jsonl").read_text())
    pairs = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert len(kept) == 2
    assert [row["chosen"] for row in kept] == [row["chosen"] for row in pairs]
    assert all(row["prompt"] == "What?" and row["image"] == "s1.jpg" for row in kept)
    record = json.loads((tmp_path / "out" / "records.jsonl").read_text().splitlines()[0])
    assert record["turns"][0]["content"].startswith("What? A. a. B. b. C. c. D. d. Explain your reasoning")


def test_wrong_options_are_sentences(tmp_path):
    for changes, sentence in [
        ({}, "either a file of --questions or a --benchmark"),
        ({"benchmark": "X"}, "There is no benchmark 'X'; known are MMStar"),
        ({"questions": tmp_path, "limit": 3}, "belong to a --benchmark"),
        ({"questions": tmp_path, "asking": SCLOptions(())}, "Pairs come from reviews"),
        ({"questions": tmp_path, "published": "gpt"}, "The published code asks minicpm"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            PairConstruction(**changes)
