"""Accuracies, rates and ranks; the job that measures models."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace

import pytest

from reward_vlm.data import question_json, write_rows
from reward_vlm.scl import job
from reward_vlm.scl.corrector import PRETRAINED, SCLCorrector
from reward_vlm.scl.evaluate import SCLEvaluation, by_source, evaluate, mean_ranks, measure, summary
from reward_vlm.scl.options import SCLConfig, SCLOptions
from reward_vlm.scl.pairs import Record
from reward_vlm.scl.scene_questions import TEST_SEED, scene_item, scene_questions
from reward_vlm.scl.talk import Answer
from reward_vlm.tiny import tiny_chat_model
from reward_vlm.vlm import Reply
from scripts.evaluate import parse
from vision.harm import read_harm
from vision.report import wilson


def record(choices, gold="A", source=""):
    return Record("id", source, "which ?", (), ("", ""), choices, gold)


def test_rates_and_the_net_gain_keep_their_sign():
    kinds = [("A", "A")] * 5 + [("B", "A")] + [("A", None)] * 3 + [("B", "C")]
    random.Random(0).shuffle(kinds)
    found = summary(record(choices) for choices in kinds)
    assert found == {
        "questions": 10, "first": 0.8, "first_low": wilson(8, 10)[0], "first_high": wilson(8, 10)[1], "refined": 0.6,
        "wrong_to_right": 0.1, "right_to_wrong": 0.3, "net_gain": -0.2,
    }  # fmt: skip
    assert found["net_gain"] == pytest.approx(found["refined"] - found["first"])
    with pytest.raises(ValueError, match="no questions to count"):
        summary([])


def test_one_row_per_benchmark_and_one_for_all():
    rows = by_source([record(("A", "A"), source="x"), record(("B", "A"), source="y"), record(("B", "B"), source="y")])
    assert [(row["benchmark"], row["first"], row["refined"]) for row in rows] == [
        ("all", 1 / 3, 2 / 3), ("x", 1.0, 1.0), ("y", 0.0, 0.5),
    ]  # fmt: skip
    assert [row["benchmark"] for row in by_source([record(("A", "A"))])] == ["questions"]


def test_ranks_of_published_accuracies_and_ties():
    table = {  # LLaVA-1.5-7B on four benchmarks (arXiv 2410.04055)
        "base": (50.90, 32.97, 70.24, 66.64),
        "POVID": (51.50, 33.68, 71.44, 65.52),
        "CSR": (51.03, 32.59, 70.44, 65.12),
        "SIMA": (49.41, 32.40, 71.04, 64.68),
        "SCL": (52.71, 36.11, 71.00, 67.84),
    }
    found = mean_ranks({name: dict(zip("abcd", row, strict=True)) for name, row in table.items()})
    assert found == {"base": 3.5, "POVID": 2.0, "CSR": 3.75, "SIMA": 4.25, "SCL": 1.5}
    assert mean_ranks({"a": {"x": 0.5}, "b": {"x": 0.5}, "c": {"x": 0.4}}) == {"a": 1.5, "b": 1.5, "c": 3.0}
    with pytest.raises(ValueError, match="b was not measured on y"):
        mean_ranks({"a": {"x": 0.5, "y": 0.5}, "b": {"x": 0.5}})


class Reviewer:
    """Answers A at first and, after a review, what is right."""

    def __init__(self, questions):
        self.gold = {question.images[0].tobytes(): question.answer for question in questions}

    def generate(self, dialogues, sampling=None, *, generators=None):
        answers = [self.gold[talk.images[0].tobytes()] if len(talk.turns) > 1 else "A" for talk in dialogues]
        return [Reply(f"## {answer} ##", 0.0, 3, True) for answer in answers]


def test_measured_are_both_turns():
    questions = scene_questions(3, 9)
    corrector = SCLCorrector(Reviewer(questions), SCLConfig("plain"))
    found = summary(measure(corrector, questions, SCLOptions(batch_size=4)))
    assert found["first"] == sum(question.answer == "A" for question in questions) / 9 and found["refined"] == 1
    assert summary(measure(corrector, questions, SCLOptions(reviews=())))["refined"] == found["first"]


def test_questions_about_scenes_are_repeatable_and_their_answers_are_right():
    for index in range(30):
        question, scene = scene_item(5, index)
        again, _ = scene_item(5, index)
        assert question.images[0].tobytes() == again.images[0].tobytes() and question.options == again.options
        kind = question.source.removeprefix("scenes-")
        assert dict(question.options)[question.answer] == getattr(scene, kind)
    assert len({question.options for question in scene_questions(5, 30)}) > 20


def test_models_are_measured_and_the_job_goes_on(tmp_path):
    write_rows(
        tmp_path / "rows.jsonl", [question_json(row, tmp_path) for row in scene_questions(4, 6)] + [{"id": "bad"}]
    )
    sources = ("a=builtin:tiny", "b=builtin:tiny")
    options = SCLEvaluation(tmp_path / "out", sources, tmp_path / "rows.jsonl", skip_bad=True)
    events = []
    assert evaluate(options, events.append).code == 2
    assert ["line 7" in event.text for event in events if event.kind == "refused"] == [True]
    rows = json.loads((tmp_path / "out" / "benchmarks.json").read_text())
    harm = {(row["job"], row["kind"]): row for row in read_harm(tmp_path / "out")}
    for row in rows:
        told = harm[f"reviews of {row['model']}", row["benchmark"]]
        assert (told["nothing"], told["with"]) == pytest.approx((row["first"], row["refined"]))
        assert told["worse"] == pytest.approx(row["right_to_wrong"])
    assert {row["model"] for row in rows} == {"a", "b"} and rows[0]["questions"] == 6
    assert all(row["net_gain"] == pytest.approx(row["refined"] - row["first"]) for row in rows)
    with open(tmp_path / "out" / "ranks.csv", newline="") as file:
        assert [row["rank_first"] for row in csv.DictReader(file)] == ["1.5", "1.5"]
    assert (tmp_path / "out" / "benchmarks.png").stat().st_size > 1000
    before = (tmp_path / "out" / "a" / "records.jsonl").read_bytes()
    assert evaluate(options).code == 2 and (tmp_path / "out" / "a" / "records.jsonl").read_bytes() == before


def test_own_drafts_are_reviewed_as_own_answers_and_others_as_they_stand():
    questions, corrector = scene_questions(4, 5), SCLCorrector(tiny_chat_model(), SCLConfig("plain", max_new_tokens=8))
    options = SCLOptions(reviews=(0, 2), batch_size=2)
    plain = corrector.batch(questions, options)
    again = corrector.batch(questions, options, drafts=[talk.first for talk in plain])
    assert again == plain
    talks = corrector.batch(questions, options, drafts=[Answer(f"draft {n}", "B", None) for n in range(5)])
    for number, (talk, own) in enumerate(zip(talks, plain, strict=True)):
        turns = talk.dialogue.texts()
        assert turns[0] == own.dialogue.texts()[0] and turns[1]["content"] == f"draft {number}"
        assert talk.first.choice == "B" and len(talk.tried) == 3
        assert [said["log_prob"] is None for said in job.record(talk)["tried"]] == [True, False, False]
    for wrong, sentence in (
        (SCLOptions(reviews=()), "name a review"),
        (SCLOptions(verify=2), "begin with own answers"),
        (options, "got 1 for 5"),
    ):
        with pytest.raises(ValueError, match=sentence):
            corrector.batch(questions, wrong, drafts=[plain[0].first])


def test_models_review_the_drafts_of_one(tmp_path):
    options = SCLEvaluation(
        tmp_path / "out", ("a=builtin:tiny", f"own={PRETRAINED}"), limit=6, drafts=str(PRETRAINED),
        options=SCLOptions(reviews=(0,), batch_size=4),
    )  # fmt: skip
    events = []
    assert evaluate(options, events.append).code == 0
    kept = {name: (tmp_path / "out" / name / "records.jsonl").read_text() for name in ("drafts", "a", "own")}
    said = {name: [json.loads(line)["replies"] for line in text.splitlines()] for name, text in kept.items()}
    assert [both[0] for both in said["a"]] == [both[0] for both in said["own"]] == [both[0] for both in said["drafts"]]
    assert [both[1] for both in said["a"]] != [both[1] for both in said["own"]]
    rows = json.loads((tmp_path / "out" / "benchmarks.json").read_text())
    assert len({row["first"] for row in rows if row["benchmark"] == "all"}) == 1
    assert json.loads((tmp_path / "out" / "run.json").read_text())["drafts"] == str(PRETRAINED)
    assert "asking own" in {event.text.split(":")[0] for event in events}
    assert evaluate(options).code == 0
    assert kept == {name: (tmp_path / "out" / name / "records.jsonl").read_text() for name in kept}
    with pytest.raises(ValueError, match="other"):
        evaluate(replace(options, drafts=None))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--drafts", "x", "--effort", "auto", "--votes", "3"],
            "verify, turns, effort and strategy begin with own answers",
        ),
        (["--drafts", "x", "--sources", "x/drafts"], "The drafts are kept as drafts; give the model another name"),
        (["--rows", "x", "--benchmarks", "MMStar"], "Give --rows or --benchmarks, not both."),
        (["--benchmarks", "fog=x"], "There is no benchmark 'fog'; known are MMStar"),
        (["--sources", "x/y", "z/y"], "Models need different names (NAME=SOURCE), got y, y."),
    ],
)
def test_wrong_options_are_sentences(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["scl", "--out", "out", *arguments])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


def test_the_embedded_model_answers():
    records = measure(SCLCorrector.from_pretrained(), scene_questions(TEST_SEED, 40), SCLOptions(reviews=()))
    assert summary(records)["first"] >= 0.8
    assert all(len(record.replies[0]) > 20 for record in records)
