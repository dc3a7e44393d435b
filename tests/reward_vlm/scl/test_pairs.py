"""Pairs out of corrections: types, properties, files, kill and resumption, overlap."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reward_vlm.data import Question, open_question, question, question_json, read_rows, write_rows
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.extract import extract
from reward_vlm.scl.options import SCLConfig, SCLOptions
from reward_vlm.scl.pairs import (
    answer_all,
    build_pairs,
    classify,
    count,
    pair_json,
    pair_row,
    record_of,
    refuse_overlap,
    to_pair,
)
from reward_vlm.scl.prompts import ask
from reward_vlm.scl.published import asked_as_published, preference_list
from reward_vlm.scl.scene_questions import scene_questions
from reward_vlm.vlm import Reply
from tests.reward_vlm.scl.test_corrector import PLAIN, Scripted

RED = Image.new("RGB", (56, 56), "red")
LETTERS = "ABCD"
REPLIES = st.one_of(
    st.sampled_from(LETTERS).map(lambda letter: f"because ## {letter} ##"),
    st.sampled_from(LETTERS).map(lambda letter: f"{letter}. it is"),
    st.text(max_size=20),
)


def record(replies, gold, variant="strict"):
    """What a record holds when the model says these two replies."""
    options = tuple((letter, f"option {letter}") for letter in LETTERS)
    subject = SCLCorrector(Scripted(lambda _, turn: replies[turn]), SCLConfig("full", variant))
    asked = Question("7", "What is it?", options, gold, (RED,), "set")
    return record_of(subject.batch([asked], SCLOptions((0,)))[0])


def test_the_four_types():
    assert [classify(*right) for right in ((True, True), (False, True), (True, False), (False, False))] == [1, 2, 3, 4]
    found = count([record((f"## {a} ##", f"## {b} ##"), "A") for a, b in ("AA", "BA", "CA", "AB", "BC", "BB", "DC")])
    assert (found.right_right, found.wrong_right, found.right_wrong, found.wrong_wrong) == (1, 2, 1, 3)
    assert (found.total, found.first_accuracy, found.final_accuracy) == (7, 2 / 7, 3 / 7)
    assert count([]).first_accuracy == 0


def test_the_right_reply_is_chosen_and_the_prompt_is_what_was_sent():
    corrected, spoiled = record(("## B ##", "## A ##"), "A"), record(("## A ##", "## B ##"), "A")
    first, second = to_pair(corrected, made_by={"model": "m"}), to_pair(spoiled, "bare")
    assert (first.type, first.chosen, first.rejected) == (2, "## A ##", "## B ##")
    assert (second.type, second.chosen, second.rejected) == (3, "## A ##", "## B ##")
    options = tuple((letter, f"option {letter}") for letter in LETTERS)
    assert first.prompt == ask(Question("", "What is it?", options, None))
    assert second.prompt == "What is it?" and first.images == (RED,) and first.made_by == {"model": "m"}
    assert first.row() == {
        "images": [RED],
        "prompt": [{"role": "user", "content": first.prompt}],
        "chosen": [{"role": "assistant", "content": "## A ##"}],
        "rejected": [{"role": "assistant", "content": "## B ##"}],
    }


@given(REPLIES, REPLIES, st.sampled_from(LETTERS), st.sampled_from(["strict", "construction", "evaluation"]))
def test_types_1_and_4_never_become_pairs_and_the_chosen_reply_gives_the_right_answer(first, second, gold, variant):
    found = record((first, second), gold, variant)
    pair = to_pair(found)
    right = [extract(text, variant, LETTERS) == gold for text in (first, second)]
    assert (pair is None) == (right[0] == right[1]) == (found.type in (1, 4))
    if pair is not None:
        assert extract(pair.chosen, variant, LETTERS) == gold != extract(pair.rejected, variant, LETTERS)
        assert {pair.chosen, pair.rejected} == {first, second}


@pytest.mark.parametrize(("first", "second"), permutations(LETTERS, 2))
def test_swapping_the_right_answer_swaps_chosen_and_rejected(first, second):
    replies = (f"## {first} ##", f"no, ## {second} ##")
    one, other = (to_pair(record(replies, gold)) for gold in (first, second))
    assert (one.chosen, one.rejected) == (other.rejected, other.chosen) == replies
    assert {one.type, other.type} == {2, 3}
    neither = next(letter for letter in LETTERS if letter not in (first, second))
    assert to_pair(record(replies, neither)) is None


class Fickle:
    """A chat whose replies depend on the question and turn alone; after so many calls it is killed."""

    def __init__(self, calls=None):
        self.calls = calls

    def generate(self, dialogues, sampling=None, *, generators=None):
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
        texts = [dialogue.turns[0].text + str(len(dialogue.turns)) for dialogue in dialogues]
        return [Reply(f"## {LETTERS[sum(map(ord, text)) % 3]} ##", -1.0, 3, True) for text in texts]


OPTIONS = SCLOptions(("x",), batch_size=3)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("calls", [0, 1, 3, 7])
def test_a_killed_construction_goes_on_to_the_same_files(calls, tmp_path):
    questions = scene_questions(1, 11)
    straight = build_pairs(SCLCorrector(Fickle(), PLAIN), questions, tmp_path / "straight", OPTIONS, model="m")
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        build_pairs(SCLCorrector(Fickle(calls), PLAIN), questions, folder, OPTIONS, model="m")
    if calls > 1:
        with open(folder / "records.jsonl", "a") as file:
            file.write('{"id": "cut of')
    chat = Fickle()
    continued = build_pairs(SCLCorrector(chat, PLAIN), questions, folder, replace(OPTIONS, batch_size=2), model="m")
    assert files(folder) == files(tmp_path / "straight")
    assert [replace(pair, images=()) for pair in continued] == [replace(pair, images=()) for pair in straight]
    told = []
    again = build_pairs(SCLCorrector(Fickle(0), PLAIN), questions, folder, OPTIONS, model="m", log=told.append)
    assert again == continued and told == []


def test_replies_with_any_sign_survive_a_kill(tmp_path):
    odd = Scripted(lambda _, turn: "a\u2028b\x85c\x0bd\re\nf")
    questions = scene_questions(1, 4)
    first = answer_all(SCLCorrector(odd, PLAIN), questions, tmp_path, OPTIONS)
    again = answer_all(SCLCorrector(Fickle(0), PLAIN), questions, tmp_path, OPTIONS)
    assert again == first and first[3].replies == ("a\u2028b\x85c\x0bd\re\nf",) * 2


def test_what_a_construction_writes(tmp_path):
    questions = scene_questions(1, 9)
    pairs = build_pairs(SCLCorrector(Fickle(), PLAIN), questions, tmp_path, OPTIONS, model="org/name")
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [row["id"] for row in records] == [asked.id for asked in questions]
    assert len(pairs) == sum(row["type"] in (2, 3) for row in records) > 0
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert sum(counts[name] for name in ("right_right", "wrong_right", "right_wrong", "wrong_wrong")) == 9
    read, problems = read_rows(tmp_path / "pairs.jsonl", pair_row)
    assert not problems and [pair.row() for pair in read] == [pair.row() for pair in pairs]
    assert read[0].made_by["model"] == "org/name" and read[0].made_by["reviews"] == ["x"]
    assert Image.open(read[0].images[0]).size == (56, 56)
    for changes in ({"model": "other"}, {"options": SCLOptions(("y",))}, {"questions": questions[:8]}):
        given = {"questions": questions, "folder": tmp_path, "options": OPTIONS, "model": "org/name"} | changes
        with pytest.raises(ValueError, match="begun with other options"):
            build_pairs(SCLCorrector(Fickle(), PLAIN), **given)


def test_questions_for_construction_and_evaluation_stay_apart(tmp_path):
    questions = scene_questions(1, 4)
    with pytest.raises(ValueError, match=r"2 questions are for construction and for evaluation .*1-2"):
        build_pairs(SCLCorrector(Fickle(), PLAIN), questions[:3], tmp_path, evaluation=questions[1:])
    assert not any(tmp_path.iterdir())
    refuse_overlap(questions[:2], questions[2:])
    refuse_overlap([replace(questions[0], source="another set")], questions)
    with pytest.raises(ValueError, match="has no id"):
        refuse_overlap(questions, [replace(questions[0], id="")])


def test_questions_without_a_known_answer_make_no_pairs(tmp_path):
    unknown = replace(scene_questions(1, 1)[0], answer=None)
    with pytest.raises(ValueError, match="no known answer"):
        answer_all(SCLCorrector(Fickle(), PLAIN), [unknown], tmp_path)


def test_pictures_of_questions_without_ids_do_not_overwrite_each_other(tmp_path):
    colours = ["red", "blue"]
    asked = [Question("", "q", (("A", "a"), ("B", "b")), "A", (Image.new("RGB", (8, 8), c),)) for c in colours]
    records = answer_all(SCLCorrector(Fickle(), PLAIN), asked, tmp_path, OPTIONS)
    assert [Image.open(found.images[0]).getpixel((0, 0)) for found in records] == [(255, 0, 0), (0, 0, 255)]


def test_rows_of_questions_and_pairs_that_cannot_be_used_are_named(tmp_path):
    RED.save(tmp_path / "red.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    good = {"question": "q", "options": {"A": "a", "B": "b"}, "answer": "A", "image": "red.png"}
    rows = [good, good | {"answer": "C"}, good | {"image": "cut.png"}, good | {"image": "none.png"}, good | {"x": 1}]
    rows += [{name: value for name, value in good.items() if name != "answer"}, good | {"answer": None}]
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=r"line 2: answer must be one of A, B, got 'C'.*and 3 more"):
        read_rows(tmp_path / "rows.jsonl", question)
    found, problems = read_rows(tmp_path / "rows.jsonl", question, skip_bad=True)
    assert len(found) == 1 and [text.split("line ")[1][0] for text in problems] == list("234567")
    found, problems = read_rows(tmp_path / "rows.jsonl", open_question, skip_bad=True)
    assert [row.answer for row in found] == ["A", None, None] and len(problems) == 4
    assert open_question(question_json(found[0], tmp_path), tmp_path) == found[0]

    pair = {"prompt": "p", "chosen": "c", "rejected": "r", "image": "red.png"}
    bad = [pair | {"chosen": "r"}, pair | {"chosen": ""}, pair | {"type": 1}, pair | {"rejected": 3}, pair | {"y": 1}]
    write_rows(tmp_path / "pairs.jsonl", [pair, *bad])
    found, problems = read_rows(tmp_path / "pairs.jsonl", pair_row, skip_bad=True)
    assert len(problems) == 5 and pair_row(pair_json(found[0], tmp_path), tmp_path) == found[0]


def test_the_releases_list_and_its_models():
    pair = to_pair(record(("## B ##", "## A ##"), "A"), "bare")
    assert preference_list([pair]) == [
        {"image": "7.jpg", "prompt": "What is it?", "chosen": "## A ##", "rejected": "## B ##"}
    ]
    config, options = asked_as_published("llava13b", "construction", 1)
    assert config.image_each_turn and options.max_new_tokens is None and config.max_new_tokens == 256
    with pytest.raises(ValueError, match="minicpm, internlm, llava7b and llava13b; got 'gpt'"):
        asked_as_published("gpt", "evaluation")
