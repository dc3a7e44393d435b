"""Learning from own answers: lessons, splices, what a model agrees with itself about, and balanced rounds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reward_vlm.data import read_rows, write_rows
from reward_vlm.scl import evolve, lessons, rounds, splice
from reward_vlm.scl import verified as verified_reviews
from reward_vlm.scl.balance import Tuner
from reward_vlm.scl.balanced import Balance, kept_of, scored
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.evolve import SelfTraining, Try, refined_answer
from reward_vlm.scl.lessons import Lesson, LessonTraining, lesson_row, lesson_set, masked, write_lessons
from reward_vlm.scl.options import LoRA, SCLConfig, SCLOptions, Updates
from reward_vlm.scl.pairs import Record
from reward_vlm.scl.rounds import SCLRounds
from reward_vlm.scl.scene_questions import scene_questions
from reward_vlm.scl.splice import SpliceTraining, spliced
from reward_vlm.scl.verified import VerifiedTraining, verified
from reward_vlm.tiny import tiny_chat_model
from reward_vlm.writers.masks import PastMask
from tests.reward_vlm.kills import killed_after_row
from tests.reward_vlm.rows import started

CONFIG = SCLConfig("plain", max_new_tokens=8, reviews=(0,))
QUICK = Updates(epochs=1, batch_size=4, accumulate=1, learning_rate=1e-3, warmup=0.0, lora=LoRA(rank=0))
ASKING = SCLOptions(temperature=1.0, batch_size=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return started(tmp_path_factory.mktemp("files"), 6, 2, CONFIG)


def turns(*texts):
    return tuple({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts))


def record(first, final, gold="A", name="1"):
    said = [f"{name} says ## {choice} ##" for choice in (first, f"{final}")]
    said[1] += " again"
    return Record(name, "", "q", turns(f"q{name}", said[0], "sure ?", said[1]), tuple(said), (first, final), gold)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_lesson_is_learnt_in_its_last_turn_alone_and_survives_its_file(tmp_path):
    picture = scene_questions(7, 1)[0].images[0]
    made = Lesson("x", turns("look", "red", "sure ?", "green"), (picture,))
    rows, _ = read_rows(write_lessons([made], tmp_path / "lessons.jsonl"), lesson_row)
    assert rows[0].turns == made.turns and rows[0].id == "x" and len(rows[0].images) == 1
    [row] = lesson_set([made])
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "user"] and len(row["images"]) == 1
    assert row["completion"][0]["content"][0]["text"] == "green"
    [each] = lesson_set([made], every_turn=True)
    assert [len(turn["content"]) for turn in each["prompt"]] == [2, 1, 2] and len(each["images"]) == 2
    for wrong in (turns("q"), turns("q", "a", "b"), ({"role": "assistant", "content": "a"}, *turns("q"))):
        with pytest.raises(ValueError, match="those of user and assistant in turn"):
            Lesson("", wrong)


def test_past_masks_hide_a_share_of_earlier_answers_and_nothing_else():
    tokenizer = tiny_chat_model().tokenizer
    draft = "a red object on black . " * 40
    made = [Lesson("", turns("red black", draft, "red ?", draft)), Lesson("", turns("red", "red object"))]
    hidden = masked(made, tokenizer, PastMask(0.25, 3))
    assert hidden[0].turns[0] == made[0].turns[0] and hidden[0].turns[2:] == made[0].turns[2:]
    assert hidden[1] == made[1]  # its only answer is learnt
    count = len(tokenizer(draft)["input_ids"])
    assert 0.15 < hidden[0].turns[1]["content"].count(lessons.MASK) / count < 0.35
    assert masked(made, tokenizer, PastMask(0.25, 3)) == hidden and masked(made, tokenizer, PastMask(0.0)) == made


def test_a_splice_turns_back_at_the_review_and_right_answers_stay_right():
    group = [record("B", "", name="1"), record("A", "", name="2"), record("C", "", name="3"), record("A", "", name="4")]
    joined, kept = (
        [[t["content"] for t in one.turns] for one in made] for made in spliced([group], ["sure ?"], ["no ."])
    )
    assert [row[:3] for row in joined] == [["q1", group[place].replies[0], "sure ?"] for place in (0, 2)]
    ends = [f"no . {group[place].replies[0]}" for place in (1, 3)]
    assert all(row[3] in ends for row in joined)
    right = [group[place].replies[0] for place in (1, 3)]
    assert sorted(kept[:2]) == sorted([["q1", right[0], "sure ?", right[1]], ["q1", right[1], "sure ?", right[0]]])
    assert sorted(kept[2:]) == [["q1", text] for text in sorted(right)]  # first answers are learnt without the thought
    bare, _ = spliced([group], ["sure ?"], [])
    assert bare[0].turns[-1]["content"] in right  # no thought was asked for
    assert spliced([[record("B", "")] * 2], [""]) == spliced([[record("A", "")] * 2], [""]) == ([], [])


def test_a_splice_keeps_every_text_whatever_it_says():
    group = [replace(record("B", ""), replies=("ok.", "")), replace(record("A", ""), replies=("ok. A", ""))]
    (joined,), (kept, alone) = spliced([group], ["ok."], ["ok."])
    assert [turn["content"] for turn in joined.turns] == ["q1", "ok.", "ok.", "ok. ok. A"]
    assert [turn["content"] for turn in kept.turns] == ["q1", "ok. A", "ok.", "ok. A"] and len(alone.turns) == 2


def test_shuffled_splices_end_with_other_questions_answers():
    groups = [[record("B", "", name=name), record("A", "", name=name)] for name in "123456789"]
    made = [spliced(groups, ["?"] * 9, ["no ."], shuffle=shuffle) for shuffle in (False, True)]
    assert [[len(part) for part in parts] for parts in made] == [[9, 18]] * 2
    back = [joined for joined, _ in made]
    own = [[one.turns[-1]["content"] == f"no . {one.id} says ## A ##" for one in made] for made in back]
    assert all(own[0]) and sum(own[1]) < 5
    assert sorted(one.turns[-1]["content"] for one in back[0]) == sorted(one.turns[-1]["content"] for one in back[1])


def test_reviews_that_correct_are_learnt_beside_as_many_that_leave_right_answers_alone():
    kinds = {"wrong": "BB", "corrected": "BA", "spoiled": "AB", "kept": "AA"}
    records = [record(*kind, name=f"{name} {n}") for name, kind in kinds.items() for n in range(3)]
    made = [(one.id.split()[0], [turn["content"] for turn in one.turns]) for one in verified(records)]
    assert [kind for kind, _ in made[:6]] == ["corrected"] * 3 + ["kept"] * 3
    assert all(len(turns) == 4 and turns[3] == turns[1].replace("B", "A") + " again" for _, turns in made[:3])
    assert len(made) == 9 and {kind for kind, _ in made[6:]} <= {"spoiled", "kept"}
    assert all(turns == [f"q{turns[1][:-13]}", turns[1]] and "## A ##" in turns[1] for _, turns in made[6:])
    assert verified([row for row in records if row.type != 2]) == []
    control = verified(records, everything=True)
    assert [len(one.turns) for one in control] == [4] * 6 + [2] * 3
    assert {one.id.split()[0] for seed in range(9) for one in verified(records, seed, everything=True)} == set(kinds)


def test_tries_come_to_the_option_that_most_name():
    tries = [Try(choice, []) for choice in ("B", "A", None, "A")]
    found = refined_answer(tries)
    assert (found.choice, found.agreed) == ("A", 0.5)
    assert refined_answer([Try("B", []), Try("A", [])]).choice == "B"
    assert refined_answer([Try(None, [])]).choice is None


def test_of_every_option_the_likeliest_text_is_kept_however_various_the_others_are():
    said = [("A", "sure", 0.9), ("A", "garbled", 0.2), ("B", "wrong", 0.95), (None, "nothing", 0.5), ("A", "odd", 0.3)]
    records = [
        replace(record(choice, ""), replies=(text, ""), confidence=confidence) for choice, text, confidence in said
    ]
    assert [answer.score for answer in scored(records)] == pytest.approx([1.18, 1.04, 0.19, 0.1, 1.06])
    assert [row.replies[0] for row, _ in kept_of(records, 1.0)] == ["sure"]
    assert [row.replies[0] for row, _ in kept_of(records, 0.0)] == ["sure", "wrong", "nothing"]
    assert kept_of(records[1:], 1.1) == []  # what is right by chance is not learnt where this is asked for


def test_texts_that_differ_in_words_alone_are_no_exploration():
    """Hot samples of one option in many words are worth as much as cold ones of one text: then the colder is taken."""
    cold = [replace(record("A", ""), confidence=0.9)] * 4
    hot = [replace(record("A", "", name=f"{n}"), confidence=0.5) for n in range(4)]
    found = Tuner((0.5, 1.1), (1.0,), n_star=1).tune(lambda heat: [scored(cold if heat == 0.5 else hot)] * 3)
    assert (found.temperature, found.balance) == (0.5, 1.0)
    wrong, rare = (replace(record(choice, "", gold="B"), confidence=0.4) for choice in "AB")
    pools = {0.5: [cold, [wrong] * 4], 1.1: [hot, [wrong, wrong, wrong, rare]]}  # hot samples solve a question more
    found = Tuner((0.5, 1.1), (1.0,), n_star=1).tune(lambda heat: [scored(pool) for pool in pools[heat]])
    assert (found.temperature, found.balance) == (1.1, 1.0)


def test_splices_are_learnt_and_a_killed_run_goes_on(files, tmp_path, guessing, monkeypatch):
    options = SpliceTraining(
        files / "questions.jsonl", files / "held_out.jsonl", folder=tmp_path / "whole", start=str(files / "start"),
        asking=ASKING, attempts=3, revisions=("no .",), updates=QUICK, past_mask=0.2, tolerance=1.0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="give shorter thoughts"):  # and not: the right answers alone are learnt
        splice.train(replace(options, folder=tmp_path / "long", revisions=("a red object on black . A red yes",)))
    monkeypatch.setattr(splice, "short_enough", lambda made, corrector: made)
    whole = splice.train(options)
    with killed_after_row(monkeypatch, 1):
        splice.train(replace(options, folder=tmp_path / "killed"))
    again = splice.train(replace(options, folder=tmp_path / "killed"))
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    log = rows_of(tmp_path / "whole" / "rounds.jsonl")
    assert [row["step"] for row in log] == [0, 1] and rows_of(tmp_path / "whole/round-1/lessons.jsonl")


def test_verified_reviews_are_learnt_and_a_killed_run_goes_on(files, tmp_path, guessing, monkeypatch):
    options = VerifiedTraining(
        files / "questions.jsonl", files / "held_out.jsonl", folder=tmp_path / "whole", start=str(files / "start"),
        asking=ASKING, updates=QUICK, tolerance=1.0,
    )  # fmt: skip
    whole = verified_reviews.train(options)
    with killed_after_row(monkeypatch, 1):
        verified_reviews.train(replace(options, folder=tmp_path / "killed"))
    again = verified_reviews.train(replace(options, folder=tmp_path / "killed"))
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    verified_reviews.train(replace(options, folder=tmp_path / "any", keep="any"))
    learnt = [tmp_path / name / "round-1" for name in ("whole", "any")]
    first, other = (rows_of(folder / "lessons.jsonl") for folder in learnt)
    assert len(first) == len(other) > 0 and first != other
    first, other = ((folder / "training/weights/model.safetensors").read_bytes() for folder in learnt)
    assert first != other


def test_without_a_correction_there_is_nothing_to_verify(files, tmp_path):
    options = VerifiedTraining(
        files / "questions.jsonl", files / "held_out.jsonl", folder=tmp_path, start=str(files / "start"),
        asking=ASKING, attempts=1, updates=QUICK,
    )  # fmt: skip
    with pytest.raises(ValueError, match="No review corrects a wrong answer"):  # a random model names no option
        verified_reviews.train(options)
    with pytest.raises(ValueError, match="name one"):
        replace(options, asking=replace(ASKING, reviews=()))
    with pytest.raises(ValueError, match="attempts must be at least 1, got 0"):
        replace(options, attempts=0)


def test_thoughts_that_replies_cannot_hold_are_refused(files):
    corrector = SCLCorrector.from_pretrained(files / "start")
    short, long = (Lesson("", turns("q", text)) for text in ("red", "a red object on black . A red yes"))
    assert splice.short_enough([short, short, long], corrector) == [short, short]
    with pytest.raises(ValueError, match="replies of these weights end after 8; give shorter thoughts"):
        splice.short_enough([short, long, long], corrector)


def test_no_label_is_read_and_the_control_learns_as_much(files, tmp_path, guessing):
    rows = rows_of(files / "questions.jsonl")
    found = {}
    for name, change in (("without", {"answer": None}), ("wrong", {"answer": "D"})):
        path = files / f"{name}.jsonl"
        write_rows(path, [row | change for row in rows])
        options = SelfTraining(
            unlabelled=path, folder=tmp_path / name, start=str(files / "start"), rounds=2, orders=2, agree=0.5,
            asking=SCLOptions(batch_size=4), updates=QUICK,
        )  # fmt: skip
        found[name] = (evolve.train(options) / "model.safetensors").read_bytes()
        assert evolve.train(options) == tmp_path / name / "weights"
    assert found["without"] == found["wrong"]
    control = evolve.train(replace(options, folder=tmp_path / "all", keep="all", rounds=1))
    assert (control / "model.safetensors").exists()
    first = [rows_of(tmp_path / name / "round-1" / "lessons.jsonl") for name in ("wrong", "all")]
    assert len(first[0]) == len(first[1]) > 0 and first[0] != first[1]
    write_rows(tmp_path / "alone.jsonl", [{"question": "what ?", "options": {"X": "a", "Y": "b"}}])  # nothing is read
    with pytest.raises(ValueError, match="agrees with itself about none"):
        evolve.train(replace(options, folder=tmp_path / "none", unlabelled=tmp_path / "alone.jsonl"))


def test_balanced_rounds_tune_and_learn_right_answers(files, tmp_path, guessing):
    balance = Balance((0.5, 1.5), (0.0, 1.0), tasks=2, samples=3, updates=QUICK)
    options = SCLRounds(
        files / "questions.jsonl", files / "held_out.jsonl", 2, folder=tmp_path / "tuned", start=str(files / "start"),
        asking=ASKING, balance=True, balanced=balance, tolerance=1.0,
    )  # fmt: skip
    rounds.train(options)
    rows = rows_of(tmp_path / "tuned" / "settings.jsonl")
    assert [row["step"] for row in rows] == [1, 2] and all(row["temperature"] in (0.5, 1.5) for row in rows)
    fixed = replace(balance, temperatures=(1.5,), thresholds=(1.0,))
    rounds.train(replace(options, folder=tmp_path / "fixed", balanced=fixed, rounds=1))
    assert not list((tmp_path / "fixed" / "round-1").glob("tune-*"))
    assert rows_of(tmp_path / "fixed" / "settings.jsonl")[0]["right_among_kept"] == 1.0


def test_what_cannot_be_learnt_from_is_refused(files, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no lessons"):
        lessons.train(LessonTraining(tmp_path / "empty.jsonl", folder=tmp_path / "run"))
    with pytest.raises(ValueError, match="share of masked tokens must lie in"):
        LessonTraining(tmp_path / "empty.jsonl", past_mask=1.5)
    with pytest.raises(ValueError, match="attempts must be 2 or more"):
        SpliceTraining(files / "questions.jsonl", files / "held_out.jsonl", attempts=1)
    with pytest.raises(ValueError, match="join answers at a review"):
        SpliceTraining(files / "questions.jsonl", files / "held_out.jsonl", asking=SCLOptions(reviews=()))
    with pytest.raises(ValueError, match="rounds and orders must be at least 1"):
        SelfTraining(unlabelled=files / "questions.jsonl", orders=0)
    with pytest.raises(ValueError, match="agree must lie in"):
        SelfTraining(unlabelled=files / "questions.jsonl", agree=0.0)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        Balance(samples=0)
    with pytest.raises(ValueError, match="at least one temperature"):
        Balance(temperatures=())
