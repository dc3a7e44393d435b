"""Which way a question is answered: what earlier attempts teach, and that a pick answers as the way that it names."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from reward_vlm.data import Question, write_rows
from reward_vlm.scl import train_strategy
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.deliberate import deliberate
from reward_vlm.scl.job import answer_rows
from reward_vlm.scl.options import SCLConfig, SCLOptions
from reward_vlm.scl.pairs import made_by
from reward_vlm.scl.scene_questions import scene_questions
from reward_vlm.scl.talk import Answer, Talk
from reward_vlm.scl.train_strategy import StrategyTraining, measured
from reward_vlm.scl.ways import AnswerStrategy, answer_facts, attempts_choice, fit_strategy
from reward_vlm.vlm import Reply
from scripts.answer import parse
from scripts.train import parse as parse_training
from tests.reward_vlm.rows import read, refused, started
from vision.strategies import Lesson, StrategySelector, relabel_first_attempt

CONFIG = SCLConfig("plain", max_new_tokens=8, reviews=(0,))
BY_CHOICES = StrategySelector(
    ("first", "review", "votes"), ("num_choices",), (3.0,), (1.0,), ((-1.0, 0.0), (0.0, 0.5), (1.0, 0.0))
)
"""First answers where there are 2 choices, reviews where there are 3, votes where there are 4."""


def attempt(task, fact, first, review, votes):
    return attempts_choice(task, {"x": fact}, {"first": first, "review": review, "votes": votes}, "A", 8)


def test_a_scripted_history_gives_these_rows():
    history = [
        attempt("sure", 1.0, "A", "A", "A"),
        attempt("spoiled", 2.0, "A", "B", "A"),
        attempt("corrected", 3.0, "B", "A", "A"),
        attempt("outvoted", 4.0, None, "B", "A"),
        attempt("lost", 5.0, "B", "C", None),
    ]
    assert [choice.kept.origin for choice in history] == ["first", "first", "review", "votes", "first"]
    assert [[made.cost.calls for made in choice.candidates] for choice in history] == [[1, 2, 9]] * 5
    rows = relabel_first_attempt(history, lambda verdict: verdict.score == 1)
    assert rows == [
        Lesson("sure", {"x": 1.0}, "first"),
        Lesson("spoiled", {"x": 2.0}, "first"),
        Lesson("corrected", {"x": 3.0}, "review"),
        Lesson("outvoted", {"x": 4.0}, "votes"),
    ]
    assert fit_strategy(history, "first", 0.0, 0.3) == StrategySelector.fit(rows, decay=0.3)
    assert fit_strategy(history, "regret", 0.0, 0.3) == StrategySelector.fit(
        [
            Lesson("spoiled", {"x": 2.0}, "first"),
            Lesson("spoiled", {"x": 2.0}, "votes"),
            Lesson("corrected", {"x": 3.0}, "review"),
            Lesson("corrected", {"x": 3.0}, "votes"),
            Lesson("outvoted", {"x": 4.0}, "votes"),
        ],
        decay=0.3,
    )
    dear = fit_strategy(history[:1], "regret", 0.01, 0.3)  # of equal answers the cheap ones teach
    assert dear == StrategySelector.fit(
        [Lesson("sure", {"x": 1.0}, "first", 0.99 - 0.91), Lesson("sure", {"x": 1.0}, "review", 0.98 - 0.91)], decay=0.3
    )
    with pytest.raises(ValueError, match="nothing to learn from"):
        fit_strategy(history[-1:], "first", 0.0, 0.3)
    with pytest.raises(ValueError, match="tells the ways apart"):
        fit_strategy(history[:1], "regret", 0.0, 0.3)


def test_a_pick_is_within_two_points_of_the_oracle_where_numbers_tell_the_way():
    def history(count, start):  # below 0.4 the first answer is right, from 0.6 on votes alone are
        made = []
        for number in range(start, start + count):
            x = number * 0.618 % 1
            said = ("A", "B", "B") if x < 0.4 else ("B", "A", "B") if x < 0.6 else ("B", "B", "A")
            made.append(attempt(str(number), x, *said))
        return made

    selector = fit_strategy(history(300, 0), "first", 0.0, 0.01)
    rows = {row["way"]: row for row in measured(history(200, 1000), selector, 8)}
    assert rows["oracle"]["right"] == 1 and rows["pick"]["right"] >= 0.98
    assert max(rows[way]["right"] for way in ("first", "review", "votes")) < 0.45
    assert abs(rows["oracle"]["replies"] - (0.4 * 1 + 0.2 * 2 + 0.4 * 9)) < 0.2
    assert sum(rows[way]["picked"] for way in ("first", "review", "votes")) == pytest.approx(1)


def test_facts_are_of_the_question_and_its_first_answer():
    question = Question("1", "Are they red ?", (("A", "light red"), ("B", "no")), None)
    facts = answer_facts(Talk(question, tried=(Answer("## A ##", "A", Reply("## A ##", -2.0, 4, True)),)))
    assert facts["log_question_words"] == math.log(5) and facts["log_choice_words"] == math.log(4)
    assert facts["num_choices"] == 2 and facts["asks_is"] == 1 and facts["asks_what"] == 0 and facts["unread"] == 0
    assert facts["reply_log_prob"] == -2 and facts["token_log_prob"] == -0.5
    with pytest.raises(ValueError, match="this one is a draft"):
        answer_facts(Talk(question, tried=(Answer("A", "A", None),)))


def test_a_question_is_answered_as_in_the_way_that_is_picked(tmp_path, guessing):
    AnswerStrategy(BY_CHOICES, 3, 0).save_pretrained(tmp_path)
    corrector = replace(SCLCorrector.from_pretrained("builtin:tiny"), config=CONFIG)
    scenes = scene_questions(5, 3)
    asked = [replace(one, options=one.options[: 2 + place % 3], answer=None) for place, one in enumerate(scenes)]
    found = corrector.batch(asked, SCLOptions(strategy=tmp_path, seed=4, batch_size=2))
    plain = {
        "first": corrector.batch(asked, SCLOptions((), seed=4)),
        "review": corrector.batch(asked, SCLOptions((0,), seed=4)),
        "votes": corrector.batch(asked, SCLOptions(effort="all", votes=3, seed=4)),
    }
    for place, talk in enumerate(found):
        twin = plain[("first", "review", "votes")[place % 3]][place]
        assert len(talk.tried) == (1, 2, 4)[place % 3]
        assert [answer.choice for answer in talk.tried] == [answer.choice for answer in twin.tried]
        assert talk.final.choice == twin.final.choice and talk.dialogue.texts() == twin.dialogue.texts()


def ends_in_call(number):
    """First answers that are not made any more from a call on."""
    plain, calls = train_strategy.answers, []

    def answers(*arguments):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return plain(*arguments)

    return answers


def test_ways_are_learnt_measured_and_used_and_a_killed_run_goes_on(tmp_path, guessing, monkeypatch):
    files = started(tmp_path, 6, 3, CONFIG)
    options = StrategyTraining(
        tmp_path / "whole", questions=files / "questions.jsonl", held_out=files / "held_out.jsonl",
        start=str(files / "start"), asking=SCLOptions(votes=2, batch_size=2), device="cpu",
    )  # fmt: skip
    assert train_strategy.train(options) == tmp_path / "whole"
    killed = replace(options, folder=tmp_path / "killed")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train_strategy, "answers", ends_in_call(3))
        train_strategy.train(killed)
    assert len(read(tmp_path / "killed" / "attempts.jsonl")) == 4
    train_strategy.train(killed)
    for name in ("attempts.jsonl", "held_out.jsonl", "strategy.json", "ways.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    rows = {row["way"]: row for row in json.loads((tmp_path / "whole" / "ways.json").read_text())}
    held_out = read(tmp_path / "whole" / "held_out.jsonl")
    for way in ("first", "review", "votes"):
        assert rows[way]["right"] == sum(row["chosen"][way] == row["answer"] for row in held_out) / 3
    solved = sum(row["answer"] in row["chosen"].values() for row in held_out)
    assert rows["oracle"]["right"] == solved / 3 >= rows["pick"]["right"]
    words = ["--rows", str(files / "held_out.jsonl"), "--source", str(files / "start"), "--device", "cpu"]
    words += ["--strategy", str(tmp_path / "whole"), "--batch-size", "2", "--seed", "42"]
    outcome = answer_rows(parse([*words, "--out", str(tmp_path / "answers.jsonl")]))
    selector = AnswerStrategy.from_pretrained(tmp_path / "whole").selector
    picked = [row["chosen"][selector.pick(row["facts"])] for row in held_out]
    assert [row["final"]["choice"] for row in read(tmp_path / "answers.jsonl")] == picked and outcome.code == 0
    AnswerStrategy(BY_CHOICES, 2, 0).save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="strategy"):  # answers of another strategy are not mixed with these
        answer_rows(parse([*words, "--out", str(tmp_path / "answers.jsonl")]))


def test_wrong_strategies_cost_a_sentence(tmp_path, monkeypatch, capsys):
    for changes, sentence in (
        ({"turns": 3}, "turns and strategy are two ways"),
        ({"votes": 3}, "strategy and votes are two ways"),
        ({"reviews": (1,)}, "leave out reviews"),
        ({"rounds": 2}, "strategy goes without rounds"),
    ):
        with pytest.raises(ValueError, match=sentence):
            SCLOptions(strategy=tmp_path, **changes)
    with pytest.raises(FileNotFoundError, match="train scl --recipe strategy"):
        AnswerStrategy.from_pretrained(tmp_path)
    AnswerStrategy(replace(BY_CHOICES, strategies=("first", "dance", "votes")), 3, 0).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="picks dance"):
        AnswerStrategy.from_pretrained(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"question": "q", "options": {"A": "a", "B": "b"}, "answer": "A"}])
    words = ["--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--source", "builtin:tiny"]
    assert "picks dance" in refused("answer", [*words, "--strategy", str(tmp_path)], monkeypatch, capsys)
    assert "recipe strategy wrote" in refused("answer", [*words, "--strategy", "auto"], monkeypatch, capsys)
    for given, sentence in (
        ({"questions": tmp_path}, "both --questions and --held-out"),
        ({"scenes": 99}, "learn from another seed"),
        ({"limit": 0}, "limits must be at least 1"),
        ({"decay": 0.0}, "decay must be above 0 and price"),
        ({"price": 1.0}, "price in "),
        ({"asking": SCLOptions()}, "say how many votes"),
        ({"asking": SCLOptions(turns=2)}, "no other way"),
    ):
        with pytest.raises(ValueError, match=sentence):
            StrategyTraining(tmp_path / "run", **given)
    _, options = parse_training(["scl", "--recipe", "strategy", "--folder", str(tmp_path / "run"), "--limit", "3"])
    assert options.limit == 3 and options.asking.votes == 8


def test_records_of_another_strategy_are_told_apart(tmp_path):
    corrector, options = SCLCorrector.from_pretrained("builtin:tiny"), SCLOptions(strategy=tmp_path)
    AnswerStrategy(BY_CHOICES, 3, 0).save_pretrained(tmp_path)
    made = made_by(corrector, options, "")
    assert made_by(corrector, options, "") == made and made["strategy"]
    AnswerStrategy(BY_CHOICES, 4, 0).save_pretrained(tmp_path)
    assert made_by(corrector, options, "") != made


def test_strategies_have_no_steps(tmp_path):
    AnswerStrategy(BY_CHOICES, 3, 0).save_pretrained(tmp_path)
    corrector = SCLCorrector.from_pretrained("builtin:tiny")
    with pytest.raises(ValueError, match="have no steps of reviews"):
        list(corrector.steps(None, "q", ["a", "b"], SCLOptions(strategy=tmp_path)))
    assert corrector(None, "q", ["a", "b"], SCLOptions(strategy=tmp_path, max_new_tokens=3)).tried
    assert deliberate(corrector.asking(SCLOptions(strategy=tmp_path)), [], SCLOptions(strategy=tmp_path)) == []
