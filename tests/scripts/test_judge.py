"""scripts/judge.py and scripts/evaluate.py r1: one question, files of them, resumption, bad input."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reward_vlm.data import preference_json, write_rows
from reward_vlm.photo_pairs import QUESTION, spoil
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Options
from reward_vlm.scenes import scene_pairs
from scripts import evaluate_r1
from scripts import judge as script
from scripts.evaluate_r1 import R1Evaluation
from scripts.judge import JudgeOptions, main
from scripts.main import start
from vision.job import silent

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
QUICK = R1Options(max_new_tokens=3, batch_size=2)


@pytest.fixture
def rows(tmp_path):
    """Five questions about pictures, one of them with pictures as answers and one with three answers."""
    folder = tmp_path / "rows"
    Image.new("RGB", (60, 60), "red").save(_made(folder) / "red.png")
    red = {"image": "red.png"}
    questions = [{"question": "q", "answers": ["a", "b"], "image": "red.png", "id": str(n)} for n in range(3)]
    questions += [{"question": "q", "answers": [red, red]}, {"question": "q", "answers": ["a", "b", "c"]}]
    write_rows(folder / "rows.jsonl", questions)
    return folder / "rows.jsonl"


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def command(rows, out, **changes):
    return JudgeOptions(**{"rows": rows, "out": out, "source": "builtin:tiny", "options": QUICK} | changes)


def test_a_file_of_questions_is_continued_where_it_stopped(rows, tmp_path, monkeypatch):
    straight = main(command(rows, tmp_path / "straight.jsonl"))
    assert [row["row"] for row in straight] == [0, 1, 2, 3, 4] and [row["id"] for row in straight[:3]] == [
        "0",
        "1",
        "2",
    ]
    assert [len(row["scores"]) for row in straight] == [2, 2, 2, 2, 3] and len(straight[4]["votes"]) == 6
    whole, calls = R1Judge.batch, []

    def killed(self, *arguments):
        calls.append(1)
        return whole(self, *arguments) if len(calls) < 2 else 1 / 0

    out = tmp_path / "killed.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(R1Judge, "batch", killed)
        with pytest.raises(ZeroDivisionError):
            main(command(rows, out))
    with open(out, "a") as file:
        file.write('{"row": 2, "cut')
    assert [row["row"] for row in main(command(rows, out))] == [2, 3, 4]
    read = [[json.loads(line) for line in path.read_text().splitlines()] for path in (out, tmp_path / "straight.jsonl")]
    for first, second in zip(*read, strict=True):
        assert first["row"] == second["row"] and first["choice"] == second["choice"]
    assert main(command(rows, out)) == []
    with pytest.raises(ValueError, match="made with other options"):
        main(command(rows, out, options=R1Options(max_new_tokens=4)))
    rows.write_text(rows.read_text().replace('"a"', '"z"', 1))
    with pytest.raises(ValueError, match="made with other options or rows"):
        main(command(rows, out))


def test_bad_rows_and_bad_commands_cost_one_sentence(rows, tmp_path, monkeypatch, capsys):
    rows.write_text(rows.read_text() + '{"question": "q", "answers": ["a"]}\n')
    with pytest.raises(ValueError, match="line 6: answers must be a list of two or more"):
        main(command(rows, tmp_path / "out.jsonl"))
    assert len(main(command(rows, tmp_path / "out.jsonl", skip_bad=True))) == 5
    assert "Left out: " in capsys.readouterr().err
    bad = [
        (["--rows", str(rows)], "needs a file --out"),
        (["--question", "q", "--answers", "a"], "two or more --answers"),
        ([], "Give either one --question"),
        (["--question", "q", "--answers", "a", "b", "--source", "./missing"], "There is no folder or file missing."),
        (
            ["--question", "q", "--answers", "a", "b", "--image", "none.png", "--source", "builtin:tiny"],
            "There is no file",
        ),
    ]
    for words, sentence in bad:
        monkeypatch.setattr(sys, "argv", ["judge.py", *words])
        with pytest.raises(SystemExit) as stop:
            start("judge")
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_pictures_are_compared_pixel_for_pixel(tmp_path):
    good = Image.open(CAT).convert("RGB")
    good.save(tmp_path / "good.png")
    spoil(good, "noise", 0.7, np.random.default_rng(0)).save(tmp_path / "noisy.png")
    pictures = (tmp_path / "noisy.png", tmp_path / "good.png")
    options = JudgeOptions(question=QUESTION, pictures=pictures, variant="restoration")
    (found,) = main(options)
    assert found["choice"] == 1 and found["scores"][1] > 0.9 and len(found["votes"]) == 4 * 2
    (scaled,) = main(replace(options, windows=0))
    assert len(scaled["votes"]) == 2
    with pytest.raises(ValueError, match="Windows are cut from pictures"):
        JudgeOptions(question="q", answers=("a", "b"), windows=4)


def test_the_evaluation_counts_both_orders_and_continues(tmp_path, monkeypatch):
    pairs = scene_pairs(5, 6)
    write_rows(tmp_path / "pairs.jsonl", [preference_json(pair, tmp_path) for pair in pairs])
    options = R1Evaluation(
        out=tmp_path / "out",
        rows=tmp_path / "pairs.jsonl",
        source="builtin:tiny",
        options=R1Options(batch_size=4, max_new_tokens=3),
    )
    assert evaluate_r1.main(options) == 0
    table = json.loads((tmp_path / "out" / "categories.json").read_text())
    assert table[0]["pairs"] == 6 and table[0]["readable"] == 0 and table[0]["accuracy"] == 0
    assert Image.open(tmp_path / "out" / "categories.png").format == "PNG"
    judged = (tmp_path / "out" / "judged.jsonl").read_text().splitlines()
    assert len(judged) == 6 and len(json.loads(judged[0])["votes"]) == 2
    (tmp_path / "out" / "judged.jsonl").write_text("\n".join(judged[:4]) + "\n")
    assert evaluate_r1.main(options) == 0
    assert len((tmp_path / "out" / "judged.jsonl").read_text().splitlines()) == 6


def test_benchmark_files_in_the_releases_way(tmp_path):
    Image.new("RGB", (60, 60), "red").save(tmp_path / "red.png")
    row = {"prompt": "q", "chosen": "c", "rejected": "r", "image": "red.png"}
    write_rows(tmp_path / "vl.jsonl", [{"id": f"RLHF-V-{n}", **row} for n in range(2)] + [{"id": "mathverse_1", **row}])
    options = R1Evaluation(
        out=tmp_path / "out", benchmark="vl_rewardbench", rows=tmp_path / "vl.jsonl", release=True, rule="release",
        source="builtin:tiny", options=R1Options(batch_size=4, max_new_tokens=3),
    )  # fmt: skip
    assert evaluate_r1.main(options) == 0
    table = {row["category"]: row for row in json.loads((tmp_path / "out" / "categories.json").read_text())}
    assert table["all"]["samples"] == 3 and table["general"]["samples"] == 2 and table["reasoning"]["samples"] == 1
    predictions = [{"id": "RLHF-V-1", "rewards": [1, 0]}, {"id": "mmmu_2", "rewards": [0, 1]}]
    write_rows(tmp_path / "predictions.jsonl", predictions)
    counted = R1Evaluation(
        out=tmp_path / "counted", benchmark="vl_rewardbench", predictions=tmp_path / "predictions.jsonl"
    )
    assert evaluate_r1.main(counted) == 0
    table = {row["category"]: row for row in json.loads((tmp_path / "counted" / "categories.json").read_text())}
    assert table["hallucination"]["accuracy"] == 1 and table["all"]["accuracy"] == 0.5
    with pytest.raises(ValueError, match="needs its file of --rows"):
        R1Evaluation(out=tmp_path, benchmark="vl_rewardbench")


def test_one_question_prints_reasons_and_scores(monkeypatch, capsys):
    def said(options):
        return [{"choice": 1, "scores": [0.25, 0.75], "reasoning": "because", "votes": []}]

    monkeypatch.setattr(script, "main", said)
    monkeypatch.setattr(sys, "argv", ["judge.py", "--question", "q", "--answers", "one", "two"])
    script.call(sys.argv[1:], silent)
    assert capsys.readouterr().out == "because\n  0.25  one\n* 0.75  two\n"
