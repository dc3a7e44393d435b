"""Answers of more than one try: verified samples, turns, votes where tries disagree; and how a verifier is measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from reward_vlm.data import Question, write_rows
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.evaluate_verifier import VerifierEvaluation, evaluate
from reward_vlm.scl.job import answer_rows
from reward_vlm.scl.options import SCLConfig, SCLOptions
from reward_vlm.scl.pairs import Record
from reward_vlm.scl.rank_reviews import rank_reviews, ranked_reviews, verdict
from reward_vlm.vlm import Reply
from scripts.answer import parse

CONFIG = SCLConfig("plain", max_new_tokens=9, reviews=(0,))


class Scripted:
    """A model that knows what it says by the question's text: greedily, when it is sampled, and about an answer."""

    def __init__(self, greedy, sampled=(), confirms=()):
        self.greedy, self.sampled, self.confirms = greedy, list(sampled), set(confirms)
        self.asked = []

    def generate(self, dialogues, sampling=None, *, generators=None):
        self.asked += dialogues
        return [Reply(f"## {self.letter(each, sampling, draw)} ##", -1.0, 3, True)
                for each, draw in zip(dialogues, generators, strict=True)]  # fmt: skip

    def letter(self, dialogue, sampling, generator):
        options = dict(part.split(". ") for part in dialogue.turns[0].text.removeprefix("q ").split(" | "))
        if len(dialogue.turns) > 1:  # a review: the answer again where it is confirmed, else another one
            said = dialogue.turns[1].text.strip("# ")
            return said if options[said] in self.confirms else next(letter for letter in options if letter != said)
        if sampling.temperature:
            wanted = self.sampled[int(torch.randint(len(self.sampled), (1,), generator=generator))]
        else:
            wanted = self.greedy(options) if callable(self.greedy) else self.greedy
        return next(letter for letter, text in options.items() if text == wanted)


class Corrector(SCLCorrector):
    """Asks with its options between bars, so that a script can read them."""

    def ask(self, talk, at):
        listed = " | ".join(f"{letter}. {text}" for letter, text in talk.question.options)
        return talk.dialogue.user(f"q {listed}" if at is None else "sure ?")


def question(texts=("red", "green", "blue"), answer="A"):
    return Question("1", "q", tuple(zip("ABC", texts, strict=False)), answer)


def text_of(talk):
    return dict(talk.question.options).get(talk.final.choice)


def test_the_majority_of_the_verified_answers_decides():
    chat = Scripted("green", ["red", "green", "blue"], confirms=["red"])
    talk = Corrector(chat, CONFIG).batch([question()], SCLOptions(verify=12))[0]
    assert len(talk.tried) == 12 and talk.first.choice == "B" and text_of(talk) == "red" and talk.settled
    assert len(chat.asked) == 24  # every sample and its review
    assert talk.dialogue.turns[-1].text == talk.final.text == "## A ##"
    nobody = Corrector(Scripted("green", ["green"]), CONFIG).batch([question()], SCLOptions(verify=3))[0]
    assert text_of(nobody) == "green" and not nobody.settled  # the majority of all


def test_turns_end_with_the_first_answer_that_is_verified():
    chat = Scripted("green", ["red"], confirms=["red"])
    found = Corrector(chat, CONFIG).batch([question()], SCLOptions(turns=6))[0]
    assert [answer.choice for answer in found.tried] == ["B", "A"] and found.settled and len(chat.asked) == 4
    always = Scripted("green", ["red"], confirms=["red", "green"])
    talk = Corrector(always, CONFIG).batch([question()], SCLOptions(turns=6))[0]
    assert len(talk.tried) == 1 and text_of(talk) == "green"  # who always says yes answers in a single turn
    never = Corrector(Scripted("green", ["red"]), CONFIG).batch([question()], SCLOptions(turns=3))[0]
    assert len(never.tried) == 3 and text_of(never) == "red" and not never.settled


def test_only_questions_that_do_not_stand_another_order_are_asked_more():
    sure = Scripted("red")
    talk = Corrector(sure, CONFIG).batch([question()], SCLOptions(effort="auto", votes=9))[0]
    assert len(talk.tried) == 2 and talk.settled and text_of(talk) == "red" and len(sure.asked) == 2

    def first_letter(options):  # reads what stands first, whatever it is, unless that is blue
        return options["A"] if options["A"] != "blue" else "red"

    asked = [question(("green", "red", "blue")), question(("red", "green", "blue"))]
    options = SCLOptions(effort="auto", votes=30, seed=1)
    found = Corrector(Scripted(first_letter), CONFIG).batch(asked, options)
    assert len(found[0].tried) == 32 and found[0].first.choice == "A" and text_of(found[0]) == "red"
    for talk in found:
        assert set(answer.choice for answer in talk.tried) <= {"A", "B"}  # letters of the question as it was given


def test_tries_depend_on_the_seed_and_the_place_alone():
    questions = [question(), question(("blue", "red", "green"))] * 3
    chats = [Scripted("green", ["red", "green", "blue"], confirms=["red"]) for _ in range(2)]
    found = []
    for chat, size in zip(chats, (1, 64), strict=True):
        talks = Corrector(chat, CONFIG).batch(questions, SCLOptions(turns=5, batch_size=size))
        found.append([[answer.choice for answer in talk.tried] for talk in talks])
    assert found[0] == found[1]


def test_wrong_ways_cost_a_sentence():
    for changes, sentence in (
        ({"verify": 4, "turns": 3}, "verify and turns are two ways"),
        ({"verify": 1}, "verify must be 2 or more"),
        ({"effort": "auto"}, "say how often they are asked"),
        ({"turns": 3, "votes": 2}, "turns and votes are two ways"),
        ({"turns": 3, "accept": "better"}, "turns goes without rounds, accept"),
    ):
        with pytest.raises(ValueError, match=sentence):
            SCLOptions(**changes)
    corrector = SCLCorrector.from_pretrained("builtin:tiny")
    with pytest.raises(ValueError, match="have no steps of reviews"):
        list(corrector.steps(None, "q", ["a", "b"], SCLOptions(verify=2)))
    with pytest.raises(ValueError, match="verified by a review"):
        corrector(None, "q", ["a", "b"], SCLOptions((), verify=2))


def test_a_command_answers_in_every_way_and_goes_on(tmp_path):
    rows = [{"question": "q", "options": {"A": "a", "B": "b"}, "answer": "A"}] * 3
    write_rows(tmp_path / "rows.jsonl", rows)
    for way in (["--verify", "2"], ["--turns", "2"], ["--effort", "auto", "--votes", "2"]):
        out = tmp_path / f"{way[0]}.jsonl"
        words = ["--rows", str(tmp_path / "rows.jsonl"), "--out", str(out), "--source", "builtin:tiny"]
        words += ["--max-new-tokens", "3"]
        outcome = answer_rows(parse([*words, *way]))
        assert outcome.code == 0 and len(outcome.items) == 3
        assert len(json.loads(out.read_text().splitlines()[0])["tried"]) >= 1


def test_a_verifier_is_measured_and_one_without_worth_is_told(tmp_path, monkeypatch):
    def corrector(chat):
        monkeypatch.setattr(SCLCorrector, "from_pretrained", lambda *_, **__: Corrector(chat, CONFIG))

    rows = [{"question": "q", "options": {"A": "red", "B": "green"}, "answer": "A", "id": str(n)} for n in range(6)]
    write_rows(tmp_path / "rows.jsonl", rows)
    options = VerifierEvaluation(tmp_path / "good", rows=tmp_path / "rows.jsonl", options=SCLOptions(verify=5))
    corrector(Scripted("green", ["red", "green"], confirms=["red"]))
    found = evaluate(options).items
    assert found["first"]["right"] == 0 and found["majority of the verified"]["right"] == 1
    assert found["majority"]["replies"] == 5 and found["majority of the verified"]["replies"] == 10
    assert json.loads((tmp_path / "good" / "run.json").read_text())["warning"] is None
    corrector(None)
    assert evaluate(options).items == found  # counted again without the model
    corrector(Scripted("green", ["red", "green"], confirms=["red", "green"]))
    events = []
    evaluate(replace(options, out=tmp_path / "bad"), events.append)
    assert any("always says right" in event.text for event in events)
    with pytest.raises(ValueError, match="2 or more samples"):
        VerifierEvaluation(tmp_path, options=SCLOptions())


def test_the_review_that_improves_most_is_chosen_and_held_to_other_questions(tmp_path):
    def record(first, final):
        return Record("", "", "q", (), ("", ""), (first, final), "A")

    helps = [record("B", "A"), record("A", "A"), record("B", "A"), record("A", "A")]  # ranks: 0, 2; held out: 1, 3
    spoils = [record("A", "B"), record("B", "A"), record("B", "B"), record("A", "A")]
    rows = rank_reviews({0: spoils, "look": helps})
    assert [row["review"] for row in rows] == ["look", 0]
    assert (rows[0]["net_gain"], rows[0]["held_out"], rows[1]["net_gain"], rows[1]["held_out"]) == (1.0, 0.0, -0.5, 0.5)
    assert (rows[1]["corrected"], rows[1]["spoiled"]) == (0.25, 0.25)
    assert "Review 'look' is chosen" in verdict(rows) and "where another has +0.500" in verdict(rows)
    assert "no review at all is better" in verdict(rank_reviews({0: [record("A", "B")] * 2}))
    questions = [question(), question(("green", "red", "blue"))]
    corrector = Corrector(Scripted("red", confirms=["red"]), CONFIG)
    found = ranked_reviews(corrector, questions, tmp_path, SCLOptions())
    assert [row["review"] for row in found] == [0, 1, 2, 3] and all(row["net_gain"] == 0 for row in found)
    assert (tmp_path / "review-3" / "records.jsonl").exists()
    with pytest.raises(ValueError, match="answer without reviews"):
        ranked_reviews(corrector, questions, tmp_path, SCLOptions(turns=2))
