"""Rows are read as they are written, and bad ones are reported by number."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from reward_vlm.benchmarks import BENCHMARKS, benchmark_row, vl_category
from reward_vlm.data import (
    Preference,
    Question,
    judgement,
    preference,
    preference_json,
    question,
    read_rows,
    write_rows,
)
from reward_vlm.fields import picture_of, read_video
from reward_vlm.r1.options import R1Config
from reward_vlm.r1.rows import judgement_row
from reward_vlm.scenes import scene_pairs

RED = Image.new("RGB", (8, 8), "red")


@pytest.fixture
def folder(tmp_path):
    RED.save(tmp_path / "red.png")
    whole = (tmp_path / "red.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) - 30])
    return tmp_path


def good(**changes):
    return {"question": "q", "answers": ["a", "b"], "better": 1, "image": "red.png"} | changes


def test_preferences_survive_writing_and_reading(tmp_path):
    pairs = [*scene_pairs(3, 3), Preference("pictures", "q", (RED, RED.copy()), 2)]
    write_rows(tmp_path / "rows.jsonl", [preference_json(pair, tmp_path) for pair in pairs])
    rows, problems = read_rows(tmp_path / "rows.jsonl", preference)
    assert not problems
    for row, pair in zip(rows, pairs, strict=True):
        assert (row.id, row.question, row.better, row.rationale) == (
            pair.id,
            pair.question,
            pair.better,
            pair.rationale,
        )
        assert row.media() == pair.media() and row.read_answers() == pair.read_answers()


@pytest.mark.parametrize("id", ("", "one", "ы"))
def test_rows_of_one_id_keep_their_own_pictures(tmp_path, id):
    pairs = [replace(pair, id=id) for pair in scene_pairs(3, 3)] + [Preference(f"{id}.", "q", (RED, RED.copy()), 2)]
    pairs.append(Preference(f"{id}ж", "q", ("a", "b"), 1, images=(Image.new("RGB", (9, 9), "blue"),)))
    pairs.append(Preference(f"{id}я", "q", ("a", "b"), 1, images=(Image.new("RGB", (9, 9), "red"),)))
    write_rows(tmp_path / "rows.jsonl", [preference_json(pair, tmp_path) for pair in pairs])
    rows, problems = read_rows(tmp_path / "rows.jsonl", preference)
    assert not problems and [row.media() for row in rows] == [pair.media() for pair in pairs]


BAD = [
    (good(image="missing.png"), "There is no file"),
    (good(image="cut.png"), "damaged or cut off"),
    (good(better=3), "better must be 1 or 2, got 3"),
    (good(better="1"), "better must be a whole number, got '1'"),
    (good(better=True), "better must be a whole number, got True"),
    (good(better=None), "the field 'better' is missing"),
    (good(difficulty="hard"), "difficulty must be a whole number, got 'hard'"),
    (good(image="red.png", images=["red.png"]), "not under both"),
    (good(image="A" * 9_000 + "-"), "got 9,001 signs that are none: AAA"),
    (good(colour="red"), "unknown field 'colour'"),
    (good(video="red.png"), "red.png is a file, and a film must be a folder of its frames"),
    (good(video="none"), "there is no folder"),
    ({"question": "q", "better": 1}, "the field 'answers' is missing"),
    (good(answers=["a"]), "answers must be a list of two"),
    (good(answers=["a", {"image": "red.png"}]), "both be texts or both be pictures"),
    (good(answers=["a", "a"]), "both answers are the same, so that neither is better"),
    (good(answers=[{"image": "red.png"}, {"image": "./red.png"}]), "both answers are the same"),
    ({"question": "q", "chosen": "a", "rejected": "a"}, "both answers are the same"),
    (good(question=7), "question must be a text, got 7"),
    ([1, 2], "a row must be a JSON object, got list"),
]


def test_bad_rows_are_named_by_number_and_skipped_only_when_asked(folder):
    lines = [json.dumps(good())]
    for row, _ in BAD:
        lines += [json.dumps(row), ""]
    lines += ['{"question": "q"', json.dumps(good(image="red.png", id="last"))]
    path = folder / "rows.jsonl"
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n" + b"[" * 100_000 + b"\n")
    with pytest.raises(ValueError, match="line 2: There is no file") as error:
        read_rows(path, preference)
    assert f"and {len(BAD)} more" in str(error.value)
    rows, problems = read_rows(path, preference, skip_bad=True)
    assert [row.id for row in rows] == ["", "last"]
    assert len(problems) == len(BAD) + 3
    for (_, sentence), problem, number in zip(BAD, problems, range(2, 100, 2), strict=False):
        assert f"line {number}: " in problem and sentence in problem


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"question": "q", "answers": ["a", "b"], "better": 1, "better": 2}', "the field 'better' is there twice"),
        (b'{"question": "q", "better": ' + b"1" * 5000 + b"}", "a number that is too long to be read"),
        (b'{"question": "\xe9"}', "no text in UTF-8"),
    ],
)
def test_lines_that_say_nothing_certain_are_refused(folder, line, sentence):
    (folder / "rows.jsonl").write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=f"line 1: .*{sentence}"):
        read_rows(folder / "rows.jsonl", preference)


def test_tables_write_whole_numbers_as_floats_and_leave_cells_empty(folder):
    row = good(better=2.0, difficulty=3.0, **dict.fromkeys(("id", "category", "rationale", "image", "images")))
    found = preference(row, folder)
    assert (repr(found.better), repr(found.difficulty), found.id, found.category) == ("2", "3", "", "")
    assert judgement_row(found, R1Config()).answers == ("<answer>2</answer>",)
    row = {"question": "q", "answer": "A", **dict.fromkeys(("id", "options", "source", "images"))}
    assert question(row, folder) == Question("", "q", (), "A")


def published(**changes):
    content = [{"type": "text", "text": "judge"}, {"type": "image", "image": "red.png"}]
    return {"message": json.dumps([{"role": "user", "content": content}]), "answer": ["<answer>2</answer>"]} | changes


def test_published_rows_with_paths_or_encoded_pictures(folder):
    row = judgement(published(question="q"), folder)
    assert row.dialogue().turns[0].parts == ("judge", RED)
    buffer = io.BytesIO()
    Image.effect_noise((32, 32), 50).save(buffer, "PNG")
    encoded = judgement(published(image=base64.b64encode(buffer.getvalue()).decode()), folder)
    assert encoded.dialogue().images[0].size == (32, 32)
    with pytest.raises(ValueError, match="the encoded picture is not an image"):
        judgement(published(image="A" * 600), folder)
    with pytest.raises(ValueError, match="answer must be a list of texts"):
        judgement(published(answer=["<answer>3</answer>"]), folder)
    with pytest.raises(ValueError, match="message must be"):
        judgement(published(message="3"), folder)


def test_questions(folder):
    row = question({"question": "q", "options": {"A": "x", "B": "y"}, "answer": "B", "image": "red.png"}, folder)
    assert row.options == (("A", "x"), ("B", "y")) and row.media() == [RED]
    with pytest.raises(ValueError, match="answer must be one of A, B, got 'C'"):
        question({"question": "q", "options": {"A": "x", "B": "y"}, "answer": "C"}, folder)


def test_benchmarks_put_the_better_answer_first(folder):
    rows = {
        "vl_rewardbench": {"id": "RLHF-V-3", "prompt": "q", "chosen": "c", "rejected": "r", "image": "red.png"},
        "mm_rlhf_rewardbench": {"id": "7", "prompt": "q", "chosen": "c", "rejected": "r", "image": "red.png"},
        "multimodal_rewardbench": {
            "ID": "x", "Text": "q", "Output1": "r", "Output2": "c", "Better": "Output2", "Category": "vqa",
            "Image": "red.png",
        },
    }  # fmt: skip
    categories = {}
    with pytest.raises(ValueError, match="the field 'Output1' is missing"):
        benchmark_row(BENCHMARKS["multimodal_rewardbench"])(rows["multimodal_rewardbench"] | {"Output1": None}, folder)
    for name, data in rows.items():
        row = benchmark_row(BENCHMARKS[name])(data, folder)
        assert (row.answers, row.better, row.question) == (("c", "r"), 1, "q")
        categories[name] = row.category
    assert categories == {
        "vl_rewardbench": "hallucination", "mm_rlhf_rewardbench": "other", "multimodal_rewardbench": "vqa",
    }  # fmt: skip
    assert vl_category("RLHF-V-3", "published") == "general"


def test_films_are_read_evenly_and_in_the_order_of_their_numbers(tmp_path):
    for number in range(12):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    values = [frame.getpixel((0, 0))[0] for frame in read_video(tmp_path, 4).frames]
    assert values == [0, 3, 7, 11]
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_video(tmp_path / "missing")


def test_a_long_text_of_blanks_is_refused_in_one_pass(tmp_path):
    with pytest.raises((ValueError, OSError)):
        picture_of("a" + " " * 300_000 + "!", tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("message", [{"role": "user", "content": ["which ?"]}]),
        ("message", [{"role": "user", "content": [{"type": "text"}]}]),
        ("message", [{"role": "user", "content": 3}]),
        ("image", {}),
        ("image", {"bytes": None}),
        ("target", ["because"]),
    ],
)
def test_content_of_another_form_is_refused_with_a_sentence(field, value, tmp_path):
    row = {"message": [{"role": "user", "content": "which ?"}], "answer": "1", field: value}
    with pytest.raises(ValueError, match=r"must be|has more image blocks"):
        judgement(row, tmp_path)


@pytest.mark.parametrize("array", [False, True])
def test_half_characters_are_refused_and_pairs_of_them_are_read(tmp_path, array):
    rows = [{"question": text, "answers": ["a", "b"], "better": 1} for text in ("\U0001f600", "x \ud83d", "\udfff x")]
    text = json.dumps(rows) if array else "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    read, problems = read_rows(tmp_path / "rows.jsonl", preference, skip_bad=True)
    assert [row.question for row in read] == ["\U0001f600"]
    assert len(problems) == 2 and all("half of a character (a lone surrogate)" in sentence for sentence in problems)
