"""Parsing never raises, and reads answers as its rules say."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_vlm.parse import (
    PUBLISHED_PARSERS,
    choice,
    first_answer,
    lenient_choice,
    majority,
    reasoning,
    well_formed,
)
from reward_vlm.r1.rewards import JudgementReward, consistency_prompt, rule_consistency
from reward_vlm.scl.extract import extract

PIECES = ("<think>", "</think>", "<answer>", "</answer>", "1", "2", "\n", " ", "response 1 is better", "##", "<", "é")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>x</think><answer>1</answer>", 1),
        ("<answer> 2 </answer>", 2),
        ("<answer>Response 2 is better.</answer>", 2),
        ("<answer>1</answer> again <answer>1</answer>", 1),
        ("<answer>1</answer><answer>2</answer>", None),
        ("<answer>1 or 2</answer>", None),
        ("<answer>12</answer>", None),
        ("<answer>1/2</answer>", None),
        ("<answer></answer>", None),
        ("response 1 is better", None),
        ("", None),
    ],
)
def test_strict_choice(text, expected):
    assert choice(text) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *((text, 2) for text in ("Response 2", "2.0", "4/2", "1+1", "02", "2%", "(2)", "**2**", "1, 2", "٢")),
        *((text, 2) for text in ("\\boxed{2}", "\\frac{4}{2}", "The best answer is 2")),
        *((text, None) for text in ("1 or 2", "two", "#2", "II", "", "tie", "1/0")),
        ("1e0", 1),
        ("1/2", 0.5),
    ],
)
def test_lenient_choice_reads_numbers_in_any_dress(answer, expected):
    assert lenient_choice(f"<answer>{answer}</answer>") == expected


def check(text: str) -> None:
    assert choice(text) in (1, 2, None)
    assert well_formed(text) in (True, False)
    value = lenient_choice(text)
    assert value is None or isinstance(value, float)
    assert first_answer(text) is None or isinstance(first_answer(text), str)
    assert isinstance(reasoning(text), str) and isinstance(consistency_prompt(text), str)
    assert rule_consistency([text]) in ([1], [-1])
    for parser in PUBLISHED_PARSERS.values():
        assert len(parser(text)) == 2
    for mode in ("strict", "lenient"):
        total = JudgementReward(mode=mode)([text], answer=[["<answer>2</answer>"]])[0]
        assert total in (0.0, 0.5, 1.0, 1.5, 2.0)


def test_ten_thousand_random_byte_strings():
    draw = random.Random(0)
    for _ in range(10_000):
        check(draw.randbytes(draw.randrange(60)).decode("utf-8", draw.choice(["replace", "surrogateescape"])))


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_tag_soups(pieces):
    check("".join(pieces))


def test_long_tag_soups_take_linear_time():
    for piece in ("<answer>", "<think>", "</think><answer>", "1 ", "1/", "((((", "\\frac{", "1e"):
        check(piece * 3000)  # minutes when a search begins anew at every open tag


@pytest.mark.parametrize(
    "piece", ["1", " ", "\n", "1 ", " 1", ".", "1.", "1e", "+", "1+", "#", "# ", "*", "\\boxed{", "is ", "A. "]
)
@pytest.mark.parametrize(
    "frame", ["{}", "<answer>{}</answer>", "<answer>1{}x</answer>", "<answer>x{}1/</answer>", "## A{}x ##"]
)
def test_replies_that_repeat_themselves_take_linear_time(piece, frame):
    text = frame.format(piece * (30_000 // len(piece)))  # hours when a pattern can match in many ways
    check(text)
    for variant in ("strict", "construction", "evaluation"):
        extract(text, variant, "ABCD")
        extract(text, variant)


def test_majority_rules_in_their_order():
    assert majority([2, 1, 1, None, None, None]) == 1  # unreadable votes do not count
    assert majority([2, 1]) == 2  # the earliest
    assert majority([2, 1], [-400.0, -300.0]) == 1  # the more probable
    assert majority([2, 2, 1], [-400.0, -400.0, -1.0]) == 2  # more votes win first
    assert majority([None]) is None and majority([]) is None
