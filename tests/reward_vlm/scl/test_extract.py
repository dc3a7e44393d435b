"""Reading the chosen option out of replies, and the prompts that ask for it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_vlm.data import Question
from reward_vlm.scl.extract import EXTRACTORS, construction, evaluation, extract, recorded, strict
from reward_vlm.scl.prompts import REVIEWS, ask, review

PIECES = st.sampled_from(
    ["##", "#", " ", "\n", "A", "B", "2", "E", ".", "(", ")", "**", "because", "A. cat", "é", "\0"]
)
REPLIES = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=20).map("".join))


@pytest.mark.parametrize(
    ("text", "letters", "choice"),
    [
        ("so ## B ##", "ABCD", "B"),
        ("so ##b##.", "ABCD", "B"),
        ("## (C) ##", "ABCD", "C"),
        ("**## [D] ##**", "ABCD", "D"),
        ("## A. cat ##", "AB", "A"),
        ("## A ## that is ## A ##", "AB", "A"),
        ("## A ## no, ## B ##", "AB", None),
        ("## Answer\nI see a cat.\n## B ##", "AB", "B"),
        ("## C ##", "AB", None),
        ("A. is shown; the answer is B.", "AB", None),
        ("## cat ##", "AB", None),
        ("## 1 ##", ("0", "1"), "1"),
        ("## 10 ##", ("0", "1"), None),
        ("## two ##", (), "two"),
        ("## c ##", (), "C"),
        ("## A ##", (), "A"),
        ("## ##", (), None),
        ("", "AB", None),
    ],
)
def test_the_strict_reading(text, letters, choice):
    assert strict(text, letters) == choice


def test_the_two_readings_of_the_release_differ_where_a_sentence_names_an_option():
    text = "A. is shown, so ## (C) ##"
    assert (construction(text), evaluation(text)) == ("A", "(C)")
    assert (construction("?"), evaluation("?"), recorded("?")) == (None, None, "?")


@settings(max_examples=300)
@given(REPLIES, st.sampled_from(["", "AB", "ABCDE", "0123"]))
def test_no_reply_crashes_a_reading(text, letters):
    for variant in EXTRACTORS:
        found = extract(text, variant, letters)
        assert found is None or isinstance(found, str)
    assert recorded(text) == (evaluation(text) or text)
    choice = strict(text, letters)
    assert choice is None or not letters or choice in letters


@given(st.sampled_from("ABCD"), st.text(alphabet=st.characters(exclude_characters="#"), max_size=40))
def test_a_single_mark_is_read_by_everyone_who_looks_at_marks_first(letter, before):
    text = f"{before}## {letter} ##"
    assert strict(text, "ABCD") == construction(text) == evaluation(text) == recorded(text) == letter


@pytest.mark.parametrize("text", ["#" * 40000, "## " * 20000, " " * 40000 + "##", "##" + " \n" * 20000, "A" * 40000])
def test_long_replies_are_read_in_no_time(text):
    started = time.monotonic()
    for variant in EXTRACTORS:
        extract(text, variant, "ABCD")
    assert time.monotonic() - started < 2


QUESTION = Question("1", "What is it?", (("A", "a cat"), ("B", "a dog")), "A")
NUMBERED = Question("1", "What is it?", (("0", "a cat"), ("1", "a dog")), "0")


def test_the_default_prompt_holds_the_options_and_the_format():
    assert ask(QUESTION) == (
        "What is it?\nA. a cat\nB. a dog\nExplain your reasoning step-by-step. Your final answer should be put between "
        "two ##, like ## A ## (if your final answer is A), at the end of your response."
    )
    assert "like ## 0 ## (if your final answer is 0)" in ask(NUMBERED)
    assert ask(QUESTION, "plain") == "What is it? A. a cat B. a dog"


def test_reviews_are_numbers_or_texts_of_ones_own():
    assert review(0, QUESTION).startswith(f"{REVIEWS[0]} Explain your reasoning step-by-step. Your final")
    assert review("Sure ?", QUESTION, "plain") == "Sure ?"
    assert review("", QUESTION, "evaluation").startswith(" Explain")
    with pytest.raises(ValueError, match="a number from 0 to 3 or a text, got 4"):
        review(4, QUESTION)
