"""Answering and reviewing: the loop, its rules, batches, saving."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reward_vlm.data import Question
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config
from reward_vlm.scl.corrector import SCLCorrector, multiple_choice
from reward_vlm.scl.options import SCLConfig, SCLOptions
from reward_vlm.scl.prompts import REVIEWS, ask
from reward_vlm.scl.scene_questions import scene_questions
from reward_vlm.vlm import Reply

RED = Image.new("RGB", (56, 56), "red")
PLAIN = SCLConfig("plain")


class Scripted:
    """A chat that says what a function makes of a dialogue (or of its question and turn), and keeps the prompts."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def generate(self, dialogues, sampling=None, *, generators=None):
        self.asked.append(list(dialogues))
        texts = [self.rule(dialogue.turns[0].text, len(dialogue.turns) // 2) for dialogue in dialogues]
        return [Reply(text, -1.0, 3, True) for text in texts]


def says(*letters):
    """A chat that marks these letters, one after another."""
    return Scripted(lambda _, turn: f"## {letters[turn]} ##")


def question(text="q", answer="A"):
    return Question(text, text, (("A", "a"), ("B", "b"), ("C", "c")), answer, (RED,))


def test_the_question_then_the_reviews_in_one_dialogue():
    subject = SCLCorrector(says("B", "A", "C"), PLAIN)
    found = subject(RED, "what ?", ["a", "b", "c"], SCLOptions((0, "Sure ?")))
    assert (found.first.choice, found.final.choice) == ("B", "C")
    assert [answer.choice for answer in found.tried] == ["B", "A", "C"]
    assert [turn["content"] for turn in found.dialogue.texts()] == [
        "what ? A. a B. b C. c", "## B ##", REVIEWS[0], "## A ##", "Sure ?", "## C ##",
    ]  # fmt: skip
    assert [len(turn.images) for turn in found.dialogue.turns] == [1, 0, 0, 0, 0, 0]


def test_pictures_with_each_turn_and_the_full_prompt():
    subject = SCLCorrector(says("B", "A"), SCLConfig(image_each_turn=True))
    found = subject(None, question())
    assert [len(turn.images) for turn in found.dialogue.turns] == [1, 0, 1, 0]
    assert found.dialogue.turns[0].text == ask(question())


def test_rounds_go_through_the_reviews_again():
    options = SCLOptions(("x", "y"), rounds=2)
    subject = SCLCorrector(says(*"ABABC"), PLAIN)
    assert subject.schedule(options) == (None, "x", "y", "x", "y")
    assert subject.schedule(SCLOptions()) == (None, *PLAIN.reviews)
    found = subject(None, question(), options=options)
    assert [answer.choice for answer in found.tried] == list("ABABC")
    assert SCLCorrector(says("B"), PLAIN)(None, question(), options=SCLOptions(())).final.choice == "B"


def test_steps_show_every_answer():
    steps = list(SCLCorrector(says("B", "A"), PLAIN).steps(None, question(), options=SCLOptions((3,))))
    assert [(step.at, step.state.talks[0].final.choice) for step in steps] == [(None, "B"), (3, "A")]


def test_a_resumed_dialogue_ends_like_the_straight_one(tmp_path):
    options, seen = SCLOptions((0, "x", "y")), []
    first, second, *_ = SCLCorrector(says(*"ABCA"), PLAIN).steps(None, question(), options=options)
    straight = SCLCorrector(says(*"ABCA"), PLAIN)(None, question(), options=options, observers=[seen.append])
    rest = list(SCLCorrector(says(*"ABCA"), PLAIN).steps(None, question(), options=options, resume=second))
    assert [step.at for step in seen] == [None, 0, "x", "y"] and [step.at for step in rest] == ["x", "y"]
    assert rest[-1].state.talks[0].dialogue.texts() == straight.dialogue.texts()
    assert first.state.talks[0].final.choice == "A"


def test_a_judge_keeps_the_better_answer_and_a_tie_keeps_the_old_one():
    value = {"A": 3.0, "B": 2.0, "C": 1.0}

    def judge(query):
        assert query.question.startswith("q A. a") and len(query.media) == 1
        return [value[text[3]] for text in query.answers]

    letters = iter("BCAA")
    subject = SCLCorrector(Scripted(lambda *_: f"## {next(letters)} ##"), PLAIN, judge)
    found = subject(None, question(), options=SCLOptions(("x",), rounds=3, accept="better"))
    assert [answer.choice for answer in found.tried] == ["B", "C", "A", "A"]
    assert found.final is found.tried[2]
    assert [turn.text for turn in found.dialogue.turns if turn.role == "assistant"] == ["## B ##", "## A ##"]
    assert [len(asked.turns) for (asked,) in subject.chat.asked] == [1, 3, 3, 5]
    with pytest.raises(ValueError, match='accept="better" needs a judge'):
        SCLCorrector(says("B", "C"), PLAIN)(None, question(), options=SCLOptions(accept="better"))


def test_a_judge_may_be_an_r1_judge():
    class Second:
        def generate(self, dialogues, sampling=None, *, generators=None):
            choices = [2 if "1 : ## B" in dialogue.turns[0].text else 1 for dialogue in dialogues]
            return [Reply(f"<answer>{choice}</answer>", -1.0, 3, True) for choice in choices]

    judge = R1Judge(Second(), R1Config("plain", True, 16, None))  # prefers whatever is not "## B ##"
    found = SCLCorrector(says("B", "A", "B"), PLAIN, judge)(
        None, question(), options=SCLOptions(("x", "y"), accept="better")
    )
    assert found.final.choice == "A" and len(found.tried) == 3


class Voting(Scripted):
    """Answers B, says C when it reviews, and votes by a rule of the number of the vote."""

    def __init__(self, vote):
        super().__init__(None)
        self.vote = vote

    def generate(self, dialogues, sampling=None, *, generators=None):
        self.asked.append(list(dialogues))
        texts = ["## C ##" if len(dialogue.turns) > 1 else "## B ##" for dialogue in dialogues]
        if sampling.temperature == 1:
            texts = [f"## {self.vote(number)} ##" for number in range(len(dialogues))]
        return [Reply(text, -1.0, 3, True) for text in texts]


@pytest.mark.parametrize(
    ("vote", "final"),
    [("C", "C"), ("B", "B"), ("A", "B"), ("BCBC", "B"), ("BCCA", "C"), ("?", "B")],
)
def test_votes_decide_where_a_review_changes_the_option_and_a_tie_keeps_the_old_one(vote, final):
    subject = SCLCorrector(Voting(lambda number: vote[number % len(vote)]), PLAIN)
    found = subject(None, question(), options=SCLOptions(votes=4))
    assert found.final.choice == final and [answer.choice for answer in found.tried] == ["B", "C"]
    assert [len(asked) for asked in subject.chat.asked] == [1, 1, 4]
    plain = subject.chat.asked[2][0]
    assert len(plain.turns) == 1 and plain.turns[0].text == subject.chat.asked[0][0].turns[0].text


def test_what_is_confirmed_or_was_unreadable_needs_no_votes():
    same = SCLCorrector(says("B", "B"), PLAIN)
    assert same(None, question(), options=SCLOptions(votes=4)).final.choice == "B" and len(same.chat.asked) == 2
    unread = SCLCorrector(Scripted(lambda _, turn: ["?", "## A ##"][turn]), PLAIN)
    assert unread(None, question(), options=SCLOptions(votes=4)).final.choice == "A" and len(unread.chat.asked) == 2
    lost = SCLCorrector(Scripted(lambda _, turn: ["## A ##", "?"][turn]), PLAIN)
    assert lost(None, question(), options=SCLOptions(votes=4)).final.choice == "A"


def test_votes_of_a_real_model_do_not_depend_on_the_batch():
    subject = SCLCorrector.from_pretrained("builtin:tiny")
    questions, options = scene_questions(3, 4), SCLOptions(votes=3, temperature=1.0, max_new_tokens=6, seed=5)
    whole = [[a.text for a in talk.tried] + [talk.kept] for talk in subject.batch(questions, options)]
    alone = [subject.batch([one], replace(options, seed=5 + number))[0] for number, one in enumerate(questions)]
    assert whole == [[a.text for a in talk.tried] + [talk.kept] for talk in alone]


def test_answers_that_are_confirmed_are_asked_no_more():
    rule = {"early": "BBAC", "late": "BACC", "never": "ABAB"}
    subject = SCLCorrector(Scripted(lambda text, turn: f"## {rule[text.split()[0]][turn]} ##"), PLAIN)
    options = SCLOptions(("x", "y", "z"), stop_when_unchanged=True)
    found = subject.batch([question(name) for name in rule], options)
    assert ["".join(answer.choice for answer in talk.tried) for talk in found] == ["BB", "BACC", "ABAB"]
    assert [len(asked) for asked in subject.chat.asked] == [3, 3, 2, 2]


def test_unreadable_answers_are_confirmed_by_the_same_words_alone():
    words = ["hm", "well", "well", "no"]
    subject = SCLCorrector(Scripted(lambda _, turn: words[turn]), PLAIN)
    found = subject(None, question(), options=SCLOptions(("x",), rounds=3, stop_when_unchanged=True))
    assert [answer.text for answer in found.tried] == ["hm", "well", "well"] and found.final.choice is None


@settings(max_examples=25)
@given(
    st.lists(st.text(alphabet="ABC?", min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from(["last", "better"]),
    st.booleans(),
    st.integers(1, 5),
)
def test_a_batch_is_its_items_one_by_one(scripts, accept, stop, batch_size):
    rule = Scripted(lambda text, turn: f"## {scripts[int(text.split()[0])][turn]} ##")
    subject = SCLCorrector(rule, PLAIN, lambda query: [ord(text[3]) for text in query.answers])
    options = SCLOptions(("x", "y", "z"), accept=accept, stop_when_unchanged=stop, batch_size=batch_size)
    questions = [question(str(number)) for number in range(len(scripts))]
    together = subject.batch(questions, options)
    alone = [subject.batch([each], options)[0] for each in questions]
    for first, second in zip(together, alone, strict=True):
        assert first == second
        assert first.final in first.tried and (accept == "better" or first.final is first.tried[-1])


def test_a_small_real_model_samples_by_item_saves_and_loads(tmp_path):
    subject = SCLCorrector.from_pretrained("builtin:tiny")
    options = SCLOptions(("look again",), temperature=1.0, max_new_tokens=6, batch_size=3, seed=4)
    questions = scene_questions(0, 4)
    first = [talk.dialogue.texts() for talk in subject.batch(questions, options)]
    assert len({str(texts) for texts in first}) == 4
    one = SCLOptions(("look again",), temperature=1.0, max_new_tokens=6, seed=6)
    assert subject.batch(questions[2:3], one)[0].dialogue.texts() == first[2]
    subject.save_pretrained(tmp_path)
    loaded = SCLCorrector.from_pretrained(tmp_path)
    assert loaded.config == subject.config
    assert [talk.dialogue.texts() for talk in loaded.batch(questions, options)] == first


def test_wrong_calls_are_sentences(tmp_path):
    with pytest.raises(ValueError, match="a number from 0 to 3 or a text, got 7"):
        SCLOptions((7,))
    with pytest.raises(ValueError, match="rounds and batch_size must be at least 1"):
        SCLOptions(rounds=0)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        SCLOptions(temperature=-1.0)
    with pytest.raises(ValueError, match="Either votes decide or the judge"):
        SCLOptions(votes=3, accept="better")
    with pytest.raises(ValueError, match="two or more choices"):
        multiple_choice(RED, "q", ["a"])
    with pytest.raises(ValueError, match="A Question holds its own pictures"):
        SCLCorrector(says("A"))(RED, question())
    with pytest.raises(ValueError, match="SCLCorrector runs on another engine"):
        SCLCorrector(says("A")).save_pretrained(tmp_path)
    named = multiple_choice(torch.zeros(3, 8, 8), "q", {"x": "a", "y": "b"})
    assert named.options == (("x", "a"), ("y", "b")) and named.answer is None and named.images[0].size == (8, 8)
