"""Audits: judges of every fault are seen through, good ones are not; figures reach those who read run.json."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from PIL import Image

from reward_vlm.audit import Watched, figures, other_questions, probe
from reward_vlm.judges import Judged, Query
from reward_vlm.r1.audit_rows import audit_rows
from reward_vlm.r1.job import JudgeOptions
from reward_vlm.r1.judge import PRETRAINED, R1Judge
from reward_vlm.r1.options import R1Config, R1Options
from reward_vlm.scenes import scene_pairs
from reward_vlm.vlm import Reply
from scripts.judge import main
from vision.config import read_json


class Sees:
    """A chat that knows each scene by its picture, and chooses by a rule of what it sees and what it is shown."""

    def __init__(self, rule):
        self.rule, self.truth = rule, {}

    def generate(self, dialogues, sampling=None, *, generators=None):
        replies = []
        for dialogue in dialogues:
            question, first, second = dialogue.turns[0].text.replace(" response 1 : ", "|").replace(
                " . response 2 : ", "|").split("|")  # fmt: skip
            true = self.truth.get(dialogue.images[0].tobytes()) if dialogue.images else None
            said = self.rule(true, question, first, second.removesuffix(" ."))
            replies.append(Reply(f"<think>so</think><answer>{said}</answer>", -1.0, 3, True))
        return replies


def audited(rule, count=40, questions=None):
    """The figures of a judge that follows a rule."""
    pairs, chat = scene_pairs(3, count), Sees(rule)
    chat.truth = {pair.images[0].tobytes(): pair.answers[pair.better - 1] for pair in pairs}
    asked = [pair.question if questions is None else questions[i % len(questions)] for i, pair in enumerate(pairs)]
    queries = [Query(question, pair.answers, pair.images) for question, pair in zip(asked, pairs, strict=True)]
    records = probe(R1Judge(chat, R1Config("plain", True, 9, None)), queries, other_questions(asked))
    assert json.loads(json.dumps(records)) == records
    return figures([{**record, "better": pair.better - 1} for record, pair in zip(records, pairs, strict=True)])


def right(true, question, first, second):
    """Chooses what is there; what it cannot see it decides by the texts, whichever comes first."""
    return 1 if first == true or (second != true and first <= second) else 2


def test_nothing_speaks_against_a_judge_that_looks():
    found = audited(right)
    assert found.worth_asking and found.notes == () and (found.readable, found.accuracy, found.agrees) == (1, 1, 1)
    assert found.says_first == 0.5 and found.black_accuracy < 0.75 and found.twice_first == 1


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (lambda *_: 1, "keeps its choice in 0% of 40 pairs"),
        (lambda true, q, first, second: 1 if first <= second else 2, "which may be chance"),
        (lambda *_: "both", "Only 0% of its replies choose an answer"),
        (lambda true, q, first, second: 1 if hash_of(first) < hash_of(second) else 2, "may be chance"),
    ],
    ids=["says 1", "does not look", "says nothing", "by the words"],
)
def test_judges_that_should_not_decide_are_seen_through(rule, sentence):
    found = audited(rule)
    assert not found.worth_asking and any(sentence in told for told in found.against), found


def hash_of(text):
    return sum(map(ord, text)) % 7


def test_a_judge_that_needs_no_picture_is_seen_through_where_words_give_the_answer_away():
    """The better answer is always the one that comes first in the alphabet."""
    pairs = [Query("q", tuple(sorted(p.answers)), p.images) for p in scene_pairs(4, 40)]
    chat = Sees(lambda true, q, first, second: 1 if first <= second else 2)
    records = probe(R1Judge(chat, R1Config("plain", True, 9, None)), pairs, [None] * 40)
    with_truth = figures([{**record, "better": 0} for record in records])
    assert any("it does not need to see" in told for told in with_truth.against)
    assert any("it hardly looks" in told for told in figures(records).against) and figures(records).accuracy is None


def test_being_swayed_by_length_or_deaf_to_the_question_is_noted():
    longer = audited(lambda true, q, first, second: 1 if len(first) > len(second) else 2)
    assert longer.padded == 1 and any("the same said twice" in told for told in longer.notes)
    deaf = audited(right, questions=("what is in the image ?", "what is not in the image ?"))
    assert deaf.question_same == 1 and any("hardly reads it" in told for told in deaf.notes)
    heard = audited(
        lambda true, q, a, b: right(true, q, a, b) if "not" not in q else 3 - right(true, q, a, b),
        questions=("what is in the image ?", "what is not in the image ?"),
    )
    assert heard.question_same == 0
    assert audited(right).question_same is None


def test_a_judge_that_rates_alike_is_undecided_and_never_counts_as_a_choice():
    class Alike:
        def batch(self, queries, options=None):
            return [Judged(torch.full((2,), 0.5), 0, "") for _ in queries]

    found = figures(probe(Alike(), [Query("q", ("a", "b"))], [None]))
    assert (found.readable, found.agrees, found.says_first, found.twice_first) == (0, None, None, None)


def test_what_a_judge_decides_is_counted():
    judge = Watched(R1Judge(Sees(lambda *_: 1), R1Config("plain", True, 9, None)))
    pairs = scene_pairs(3, 10)
    judge.batch([Query(pair.question, pair.answers, pair.images) for pair in pairs])
    judge.batch([Query("q", ("a", "b", "c"))], R1Options(orders="given"))
    assert judge.figures() == {
        "judged": 11, "outside": 0, "undecided": 10, "readable": 1.0, "says_first": 1.0, "agrees": 0.0,
    }  # fmt: skip
    assert "keeps its choice in 0 of 10 comparisons" in judge.warning()
    assert Watched(R1Judge.from_pretrained("builtin:tiny")).warning() is None


@pytest.mark.parametrize("variant", ["scenes", "restoration"])
def test_the_judges_that_ship_carry_their_audit(variant):
    judge = R1Judge.from_pretrained(variant=variant)
    assert judge.audited == read_json(PRETRAINED / variant / "audit.json")
    assert judge.audited["pairs"] >= 40 and judge.audited["accuracy"] > 0.9 and judge.audited["against"] == []


def test_an_audit_goes_on_where_it_stopped_and_tells_its_figures(tmp_path, capsys):
    options = JudgeOptions(audit=True, out=tmp_path / "audit.jsonl", source="builtin:tiny", rows=tmp_path / "r.jsonl",
                           options=R1Options(max_new_tokens=2))  # fmt: skip
    Image.new("RGB", (56, 56), "red").save(tmp_path / "red.png")
    rows = [{"question": f"q {n}", "answers": ["a", "b"], "better": 1 + n % 2, "image": "red.png"} for n in range(3)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(options) == 0
    told = capsys.readouterr().out
    assert "This judge should not decide anything of this kind." in told and "Only 0% of its replies" in told
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["better"] for line in lines] == [0, 1, 0] and lines[0]["plain"] == [None, None]
    run = json.loads((tmp_path / "audit.run.json").read_text())
    assert (
        run["audit"]
        == json.loads((tmp_path / "audit.json").read_text())
        == json.loads(json.dumps(asdict(figures(lines))))
    )
    assert main(options) == 0 and "(3 done before)" in capsys.readouterr().out


def test_wrong_audits_cost_a_sentence(tmp_path):
    out = tmp_path / "a.jsonl"
    for changes, sentence in (
        ({"out": None}, "needs a file --out"),
        ({"question": "q", "answers": ("a", "b")}, "leave out --question"),
        ({"options": R1Options(orders="given")}, "leave out --orders"),
    ):
        with pytest.raises(ValueError, match=sentence):
            JudgeOptions(**{"audit": True, "out": out} | changes)
    (tmp_path / "r.jsonl").write_text(json.dumps({"question": "q", "answers": ["a", "b", "c"]}))
    with pytest.raises(ValueError, match="takes two answers a question, got 3"):
        audit_rows(JudgeOptions(audit=True, rows=tmp_path / "r.jsonl", out=out))
