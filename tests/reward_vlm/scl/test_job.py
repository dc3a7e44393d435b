"""Answering as a job: one question, files of them, resumption, bad input."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from reward_vlm.data import question_json, write_rows
from reward_vlm.r1.judge import R1Judge
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.job import AnswerOptions, answer_rows
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.scene_questions import scene_questions
from reward_vlm.vlm import Reply
from scripts.answer import main, parse
from scripts.main import start
from tests.reward_vlm.rows import ends_after_a_batch, read, refused

QUICK = SCLOptions(("look again",), max_new_tokens=3, batch_size=2)


@pytest.fixture
def rows(tmp_path):
    """Five questions about scenes; the right answer to one is not known."""
    folder = tmp_path / "rows"
    found = [question_json(asked, folder) for asked in scene_questions(3, 5)]
    del found[2]["answer"]
    write_rows(folder / "rows.jsonl", found)
    return folder / "rows.jsonl"


def command(rows, out, **changes):
    return AnswerOptions(**{"rows": rows, "out": out, "source": "builtin:tiny", "options": QUICK} | changes)


def test_a_file_of_questions_is_continued_where_it_stopped(rows, tmp_path):
    assert answer_rows(command(rows, tmp_path / "straight.jsonl")).code == 0
    straight = read(tmp_path / "straight.jsonl")
    assert [row["row"] for row in straight] == [0, 1, 2, 3, 4]
    assert all(row["final"] == row["tried"][-1] and len(row["turns"]) == 4 for row in straight)
    assert ["answer" in row for row in straight] == [True, True, False, True, True]
    out = tmp_path / "killed.jsonl"
    with ends_after_a_batch(SCLCorrector, out):
        answer_rows(command(rows, out))
    events = []
    answer_rows(command(rows, out, options=SCLOptions(("look again",), max_new_tokens=3, batch_size=3)), events.append)
    assert "5 questions (2 done before)" in events[-1].text
    again = read(out)
    assert [row["turns"] for row in again] == [row["turns"] for row in straight]
    with pytest.raises(ValueError, match="begun with other options"):
        answer_rows(command(rows, out, options=SCLOptions(max_new_tokens=4)))


def test_rows_that_turn_bad_keep_the_finished_ones(rows, tmp_path, monkeypatch, capsys):
    whole = SCLCorrector.batch

    def later(self, questions, options):
        found = whole(self, questions, options)
        for image in (rows.parent / "images").iterdir():
            image.write_bytes(b"")
        return found

    monkeypatch.setattr(SCLCorrector, "batch", later)
    words = ["--rows", str(rows), "--out", str(tmp_path / "out.jsonl"), "--source", "builtin:tiny"]
    monkeypatch.setattr("sys.argv", ["answer.py", *words, "--batch-size", "2", "--max-new-tokens", "2"])
    with pytest.raises(SystemExit) as stop:
        start("answer")
    told = capsys.readouterr()
    assert stop.value.code == 2 and [f"question {n}: " in told.err for n in (3, 4, 5)] == [True] * 3
    assert len(read(tmp_path / "out.jsonl")) == 2 and "2 questions, 3 refused" in told.out


def test_bad_rows_and_bad_commands_cost_one_sentence(rows, tmp_path, monkeypatch, capsys):
    rows.write_text(rows.read_text() + '{"question": "q", "options": {"A": "a", "B": "b"}, "answer": "C"}\n')
    with pytest.raises(ValueError, match="line 6: answer must be one of A, B"):
        answer_rows(command(rows, tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()
    assert main(command(rows, tmp_path / "out.jsonl", skip_bad=True)) == 2
    assert "Left out: " in capsys.readouterr().err and len(read(tmp_path / "out.jsonl")) == 5
    (tmp_path / "empty.jsonl").write_text("\n")
    one = ["--question", "q", "--choices", "a", "b"]
    bad = [
        ([], "Give either one --question"),
        (["--rows", str(rows)], "needs a file --out"),
        (["--rows", str(rows), "--out", "o", "--choices", "a", "b"], "belong to one --question"),
        ([*one, "--out", "o"], "--out belongs to --rows"),
        ([*one, "--max-new-tokens", "0"], "max_new_tokens must be at least 1, got 0"),
        ([*one, "--judge", "builtin:tiny"], "with --accept better alone"),
        ([*one, "--reviews", "5"], "a number from 0 to 3 or a text, got 5"),
        ([*one, "--reviews", " "], "A review is an empty text"),
        (["--question", "", "--choices", "a", "b"], "The question is an empty text"),
        (["--question", "q", "--choices", "a", ""], "Choices are texts that differ, got 'a', ''"),
        (["--question", "q", "--choices", "a", "b", "a"], "Choices are texts that differ, got 'a', 'b', 'a'"),
        ([*one, "--accept", "never"], "never"),
        ([*one, "--source", "./missing"], "There is no folder or file missing."),
        ([*one, "--image", "none.png", "--source", "builtin:tiny"], "There is no file"),
        (["--question", "q", "--choices", "a", "--source", "builtin:tiny"], "two or more choices"),
        (["--rows", str(tmp_path / "empty.jsonl"), "--out", str(tmp_path / "x.jsonl")], "holds no rows"),
        (["--rows", "none.jsonl", "--out", str(tmp_path / "x.jsonl")], "There is no file none.jsonl"),
    ]
    for words, sentence in bad:
        assert sentence in refused("answer", words, monkeypatch, capsys)


class Says:
    """A model that answers B and, when it is asked to look again, A."""

    def generate(self, dialogues, sampling=None, *, generators=None):
        return [Reply(f"I see. ## {'BA'[len(each.turns) > 1]} ##", -1.0, 3, True) for each in dialogues]


class First:
    """A judge that prefers the first answer in the order it was given."""

    def generate(self, dialogues, sampling=None, *, generators=None):
        texts = [dialogue.turns[0].text for dialogue in dialogues]
        return [Reply(f"<answer>{1 if '1 : I see. ## B' in text else 2}</answer>", -1.0, 3, True) for text in texts]


def test_one_question_shows_first_and_final_answer(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (56, 56), "red").save(tmp_path / "red.png")
    monkeypatch.setattr(SCLCorrector, "from_pretrained", lambda *_, judge=None, **__: SCLCorrector(Says(), judge=judge))
    monkeypatch.setattr(R1Judge, "from_pretrained", lambda *_, **__: R1Judge(First()))
    asked = [
        "--question",
        "what colour ?",
        "--choices",
        "red",
        "blue",
        "--image",
        str(tmp_path / "red.png"),
        "--source",
        "x",
    ]
    assert main(parse(asked)) == 0
    assert capsys.readouterr().out == "first: B. blue\n  I see. ## B ##\nfinal: A. red\n  I see. ## A ##\n"
    assert main(parse([*asked, "--accept", "better"])) == 0
    assert "final: B. blue" in capsys.readouterr().out


def test_right_answers_are_counted_over_the_whole_file(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SCLCorrector, "from_pretrained", lambda *_, **__: SCLCorrector(Says()))
    options = parse(["--rows", str(rows), "--out", str(tmp_path / "out.jsonl")])
    answers = [json.loads(line).get("answer") for line in rows.read_text().splitlines()]
    for earlier in ("", " (5 done before)"):
        assert main(options) == 0
        told = capsys.readouterr()
        assert f"{answers.count('B')} first and {answers.count('A')} final answers of 4 are right." in told.err
        assert f"5 questions{earlier}; out.run.json says how." in told.out
