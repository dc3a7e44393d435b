"""Judging as a job: one question, files of them, resumption, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reward_vlm.data import write_rows
from reward_vlm.judges import Vote, tally
from reward_vlm.photo_pairs import QUESTION
from reward_vlm.r1.job import JudgeOptions, judge_question, judge_rows, query_row
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Options
from reward_vlm.scenes import QUESTION as SCENES
from reward_vlm.vlm import Reply
from scripts.judge import main
from tests.reward_vlm.rows import ends_after_a_batch, read, refused
from vision.faults import spoil

CAT = Path(__file__).parents[3] / "examples" / "cat.jpg"
QUICK = R1Options(max_new_tokens=3, batch_size=2)


@pytest.fixture
def rows(tmp_path):
    """Five questions about pictures, one of them with pictures as answers and one with three answers."""
    folder = tmp_path / "rows"
    folder.mkdir()
    Image.new("RGB", (60, 60), "red").save(folder / "red.png")
    red = {"image": "red.png"}
    questions = [{"question": "q", "answers": ["a", "b"], "image": "red.png", "id": str(n)} for n in range(3)]
    questions += [{"question": "q", "answers": [red, red]}, {"question": "q", "answers": ["a", "b", "c"]}]
    write_rows(folder / "rows.jsonl", questions)
    return folder / "rows.jsonl"


def command(rows, out, **changes):
    return JudgeOptions(**{"rows": rows, "out": out, "source": "builtin:tiny", "options": QUICK} | changes)


def test_a_file_of_questions_is_continued_where_it_stopped(rows, tmp_path):
    sampled = R1Options(max_new_tokens=3, batch_size=2, temperature=1.0)
    assert judge_rows(command(rows, tmp_path / "straight.jsonl", options=sampled)).code == 0
    straight = read(tmp_path / "straight.jsonl")
    assert [row["row"] for row in straight] == [0, 1, 2, 3, 4]
    assert [row["id"] for row in straight[:3]] == ["0", "1", "2"]
    assert [len(row["votes"]) for row in straight] == [2, 2, 2, 2, 6]
    out = tmp_path / "killed.jsonl"
    with ends_after_a_batch(R1Judge, out):
        judge_rows(command(rows, out, options=sampled))
    events = []
    assert len(judge_rows(command(rows, out, options=sampled), events.append).items) == 5
    assert "5 questions (2 done before)" in events[-1].text
    assert [event.done for event in events if event.kind == "progress"] == [4, 5]
    for first, second in zip(read(out), straight, strict=True):
        assert [vote["text"] for vote in first["votes"]] == [vote["text"] for vote in second["votes"]]
    judge_rows(command(rows, out, options=sampled), events.append)
    assert "5 questions (5 done before)" in events[-1].text
    assert json.loads((tmp_path / "killed.run.json").read_text())["questions"] == 5
    with pytest.raises(ValueError, match="begun with other options"):
        judge_rows(command(rows, out, options=replace(sampled, max_new_tokens=4)))
    rows.write_text(rows.read_text().replace('"a"', '"z"', 1))
    with pytest.raises(ValueError, match="begun with other options or data: rows"):
        judge_rows(command(rows, out, options=sampled))


def test_a_file_that_somebody_else_wrote_is_not_continued(rows, tmp_path):
    (tmp_path / "notes.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="was not made by this job"):
        judge_rows(command(rows, tmp_path / "notes.jsonl"))
    assert (tmp_path / "notes.jsonl").read_text() == "{}\n"


def test_a_row_that_cannot_be_judged_costs_a_sentence_and_its_own_result(rows, tmp_path, monkeypatch):
    whole = R1Judge.batch

    def narrow(self, queries, options):
        if any(query.media == () and len(query.answers) == 2 for query in queries):  # the fourth row
            raise ValueError("a picture is too narrow.")
        return whole(self, queries, options)

    monkeypatch.setattr(R1Judge, "batch", narrow)
    events = []
    outcome = judge_rows(command(rows, tmp_path / "out.jsonl"), events.append)
    assert outcome.code == 2 and [row["row"] for row in read(tmp_path / "out.jsonl")] == [0, 1, 2, 4]
    refused = [event.text for event in events if event.kind == "refused"]
    assert refused == [f"{rows} question 4: a picture is too narrow."]
    monkeypatch.setattr(R1Judge, "batch", whole)
    assert judge_rows(command(rows, tmp_path / "out.jsonl")).code == 0
    assert [row["row"] for row in read(tmp_path / "out.jsonl")] == [0, 1, 2, 4, 3]


def test_a_full_disk_ends_the_job_with_one_sentence(rows, tmp_path, monkeypatch):
    events = []
    judge_rows(command(rows, tmp_path / "out.jsonl"))
    (tmp_path / "out.jsonl").write_text("")
    (tmp_path / "out.jsonl").chmod(0o444)
    monkeypatch.setattr("builtins.open", _full(tmp_path / "out.jsonl"))
    with pytest.raises(ValueError, match=r"Cannot write .*out.jsonl: No space left on device."):
        judge_rows(command(rows, tmp_path / "out.jsonl"), events.append)
    assert not [event for event in events if event.kind == "refused"]


def _full(path):
    own = open

    def opened(name, mode="r", **settings):
        if Path(str(name)) == path and "a" in mode:
            raise OSError(28, "No space left on device")
        return own(name, mode, **settings)

    return opened


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "answers": ["a", "b"], "better": 2, "category": "c", "rationale": "r", "difficulty": 1},
        {"query": "q", "response": ["a", "b"], "human_ranking": [1, 0]},
        {"Text": "q", "Output1": "a", "Output2": "b", "Better": "Output1", "ID": "7", "Category": "c"},
        {"question": "q", "chosen": "a", "rejected": "b", "ds_name": "d"},
        {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}],
         "rejected": [{"role": "assistant", "content": "b"}]},
    ],
    ids=["own", "VL-RewardBench", "Multimodal RewardBench", "RLAIF-V", "TRL"],
)  # fmt: skip
def test_rows_of_preferences_are_judged_without_their_labels(row, rows, tmp_path):
    row = row | {"Image" if "Text" in row else "image": "red.png"}
    write_rows(rows, [row])
    found = query_row(row, rows.parent)
    assert found.question == "q" and sorted(found.answers) == ["a", "b"] and len(found.images) == 1
    assert judge_rows(command(rows, tmp_path / "out.jsonl")).code == 0
    assert len(read(tmp_path / "out.jsonl")) == 1


def test_bad_rows_and_bad_commands_cost_one_sentence(rows, tmp_path, monkeypatch, capsys):
    rows.write_text(rows.read_text() + '{"question": "q", "answers": ["a"]}\n')
    with pytest.raises(ValueError, match="line 6: answers must be a list of two or more"):
        judge_rows(command(rows, tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()
    assert main(command(rows, tmp_path / "out.jsonl", skip_bad=True)) == 2
    told = capsys.readouterr()
    assert told.err.startswith("Left out: ") and len(read(tmp_path / "out.jsonl")) == 5
    assert "5 questions, 1 refused" in told.out
    two = ["--question", "q", "--answers", "a", "b"]
    (tmp_path / "empty.jsonl").write_text("\n")
    empty = ["--rows", str(tmp_path / "empty.jsonl"), "--out", str(tmp_path / "x.jsonl")]
    bad = [
        (empty, "holds no rows"),
        ([*empty, "--audit"], "holds no rows"),
        (["--rows", str(rows)], "needs a file --out"),
        (["--question", "q", "--answers", "a"], "two or more --answers"),
        ([*two, "--pictures", "a.png", "b.png"], "two or more --answers, or two or more --pictures"),
        ([], "Give either one --question with its --answers"),
        ([*two, "--out", "o"], "--out belongs to --rows"),
        ([*two, "--skip-bad"], "--skip-bad belongs to --rows"),
        (["--rows", str(rows), "--out", "o", "--answers", "a", "b"], "--answers belong to one --question"),
        ([*two, "--windows", "4"], "give --pictures too"),
        ([*two, "--max-new-tokens", "0"], "max_new_tokens must be at least 1, got 0"),
        ([*two, "--top-p", "0"], "top_p must lie in (0, 1], got 0.0"),
        ([*two, "--source", "builtin:tiny", "--variant", "scenes"], "leave out --source"),
        ([*two, "--source", "./missing"], "There is no folder or file missing."),
        ([*two, "--image", "none.png", "--source", "builtin:tiny"], "There is no file"),
        ([*two, "--device", "abacus"], "There is no device 'abacus'"),
    ]
    for words, sentence in bad:
        assert sentence in refused("judge", words, monkeypatch, capsys)


def test_pictures_are_compared_pixel_for_pixel(tmp_path):
    good = Image.open(CAT).convert("RGB")
    good.save(tmp_path / "good.png")
    spoil(good, "noise", 0.7, np.random.default_rng(0)).save(tmp_path / "noisy.png")
    pictures = (tmp_path / "noisy.png", tmp_path / "good.png")
    options = JudgeOptions(question=QUESTION, pictures=pictures, variant="restoration")
    found = judge_question(options)
    assert found.choice == 1 and found.scores[1] > 0.9 and len(found.votes) == 4 * 2
    assert len(judge_question(replace(options, windows=0)).votes) == 2


def test_what_a_small_judge_was_not_taught_costs_a_sentence_instead_of_a_guess(tmp_path):
    def asked(**changes):
        return JudgeOptions(
            **{"question": SCENES, "answers": ("a red object on white", "a blue object on black")} | changes
        )

    with pytest.raises(ValueError, match=r"know one question, 'what is in the image \?', and cannot judge"):
        judge_question(asked(question="is the zebra red ?"))
    with pytest.raises(ValueError, match="never saw 'zebra' and cannot judge such answers"):
        judge_question(asked(answers=("a zebra", "a red object on white")))
    with pytest.raises(ValueError, match="compare texts, not pictures"):
        judge_question(asked(answers=(), pictures=(CAT, CAT)))
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, [{"question": q, "answers": ["a red object on white"] * 2} for q in (SCENES, "who ?")])
    events = []
    outcome = judge_rows(JudgeOptions(rows=rows, out=tmp_path / "out.jsonl", options=QUICK), events.append)
    assert outcome.code == 2 and [row["row"] for row in read(tmp_path / "out.jsonl")] == [0]
    refused = [event.text for event in events if event.kind == "refused"]
    assert len(refused) == 1 and refused[0].startswith(f"{rows} question 2: These weights know one question")


def test_replies_that_cannot_be_read_give_a_sentence_and_no_scores(rows, tmp_path, capsys):
    assert main(JudgeOptions(question="q", answers=("a", "b"), source="builtin:tiny", options=QUICK)) == 0
    told = capsys.readouterr()
    assert "No reply of the judge could be read" in told.err and "0.5" not in told.out
    judge_rows(command(rows, tmp_path / "out.jsonl"))
    assert all(row["scores"] is None and "could be read" in row["doubt"] for row in read(tmp_path / "out.jsonl"))
    run = json.loads((tmp_path / "out.run.json").read_text())
    assert run["judge"]["readable"] == 0 and "replies of the judge could be read" in run["judge"]["warning"]


def test_one_question_prints_reasons_and_scores(monkeypatch, capsys):
    votes = [Vote((0, 1), winner, Reply(f"<think>because {winner}</think>", -1.0, 3, True)) for winner in (1, 1, 1, 0)]
    monkeypatch.setattr("scripts.judge.judge_question", lambda *_: tally(2, votes))
    assert main(JudgeOptions(question="q", answers=("one", "two"))) == 0
    assert capsys.readouterr().out == "because 1\n  0.25  one\n* 0.75  two\n"
