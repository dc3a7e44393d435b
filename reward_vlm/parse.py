"""Answers and formats out of text that a model wrote. Nothing here raises, whatever the text holds.

`first_answer` and `choice` are strict; the parsers of the published evaluation scripts, kept for comparison, lie in
`PUBLISHED_PARSERS`. Source: the published inference and reward code of R1-Reward.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

WORDS = re.compile(r"(?:response|answer|image)? ?#? ?([12]) ?(?:is better)? ?\.?", re.IGNORECASE)
"""How a judgement may write its choice, with single spaces."""


def answers(text: str) -> Iterator[str]:
    """What each `<answer>...</answer>` holds, as it stands; in one pass, however many tags are left open."""
    place = 0
    while (start := text.find("<answer>", place)) >= 0 and (end := text.find("</answer>", start + 8)) >= 0:
        yield text[start + 8 : end]
        place = end + 9


def first_answer(text: str) -> str | None:
    """What the first `<answer>...</answer>` holds, stripped; None when there is none."""
    found = next(answers(text), None)
    return None if found is None else found.strip()


def reasoning(text: str) -> str:
    """What the first `<think>...</think>` holds; without one, everything before the first answer tag."""
    _, opened, rest = text.partition("<think>")
    inside, closed, _ = rest.partition("</think>")
    return (inside if opened and closed else text.split("<answer>")[0]).strip()


def well_formed(text: str) -> bool:
    """Whether a text is `<think>...</think><answer>...</answer>`, with one opening tag of each kind.

    The published code's rule to the letter: nothing between the two parts, one trailing newline allowed, closing tags
    are not counted.
    """
    body = text.removesuffix("\n")
    middle = body.find("</think><answer>", len("<think>"))
    return (
        text.startswith("<think>")
        and middle >= 0
        and body.endswith("</answer>")
        and middle + len("</think><answer>") + len("</answer>") <= len(body)
        and text.count("<think>") == 1
        and text.count("<answer>") == 1
    )


def choice(text: str) -> int | None:
    """The response (1 or 2) that a judgement chooses, read strictly: its answer tag holds the digit, or "response 1".

    None when there is no answer tag, when it holds anything else, or when two tags disagree.
    """
    found = {_digit(content) for content in answers(text)}
    return found.pop() if len(found) == 1 else None


def _digit(content: str) -> int | None:
    match = WORDS.fullmatch(" ".join(content.split()))
    return int(match[1]) if match else None


PHRASES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer: ", "Answer: ",
    "The best option is", "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip
"""What the published code removes from an answer before it is compared."""


def lenient_choice(text: str) -> float | None:
    """The number that the published code's comparison would read: of the first answer tag, else of the whole text.

    Introductory phrases, markup, units and words around it are left out; a fraction or a sum of two numbers counts as
    its value; otherwise the last number decides. None when there is no number, and when the text without an answer tag
    holds other tags (the published code reads their brackets as inequalities).
    """
    content = first_answer(text)
    if content is None and ("<" in text or ">" in text):
        return None
    content = text if content is None else content
    for phrase in PHRASES:
        content = content.replace(phrase, "")
    content = re.sub(r"\\boxed\{([^{}]*)\}", r"\1", content)
    content = re.sub(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", content)
    plain = _value(content)
    if plain is not None:
        return plain
    numbers = NUMBER.findall(content)
    return _value(numbers[-1]) if numbers and not re.search(r"\bor\b|#|/", content) else None


NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,2})?")  # one way to match, so linear time
_OPERATION = re.compile(rf"({NUMBER.pattern})\s*([/+])\s*({NUMBER.pattern})")


def _value(text: str) -> float | None:
    """A number, a fraction or a sum of two numbers, in common dress: (2), **2**, $2$, 2%."""
    bare = text.strip().strip("*$()[]{}. %\\").strip()
    operation = _OPERATION.fullmatch(bare)
    try:
        if operation:
            left, right = float(operation[1]), float(operation[3])
            return left + right if operation[2] == "+" else left / right
        return float(bare) if NUMBER.fullmatch(bare) else None
    except (ZeroDivisionError, OverflowError):
        return None


def majority(votes: Sequence[T | None], log_probs: Sequence[float] | None = None) -> T | None:
    """The vote that is cast most often; None when no vote counts.

    Votes that could not be parsed (None) are dropped. A tie goes to the choice whose votes are together more probable
    (the sum of exp(log_prob)) when `log_probs` are given, and then to the one that was cast first.
    """
    cast = [(vote, index) for index, vote in enumerate(votes) if vote is not None]

    def weight(choice: T) -> tuple[int, float]:
        mine = [index for vote, index in cast if vote == choice]
        if log_probs is None:
            return len(mine), 0.0
        top = max(log_probs[index] for index in mine)
        return len(mine), top + math.log(sum(math.exp(log_probs[index] - top) for index in mine))

    return max(dict.fromkeys(vote for vote, _ in cast), key=weight, default=None)


def _released(fallback: Callable[[str], str | None]) -> Callable[[str], tuple[float, float]]:
    """The scores (of response 1, of response 2) that an evaluation script of the published code gives; undecided is [0,
    1]."""

    def scores(text: str) -> tuple[float, float]:
        content = first_answer(text)
        content = fallback(text) if content is None else content
        try:
            first = content is not None and float(content) == 1
        except ValueError:
            first = False
        return (1, 0) if first else (0, 1)

    return scores


def _last_digit(text: str) -> str | None:
    digits = re.findall("[12]", text)
    return digits[-1] if digits else None


def _last_digit_of_a_line(text: str) -> str | None:
    """The last 1 or 2 of the first line that has one."""
    return next((digit for line in text.split("\n") if (digit := _last_digit(line))), None)


def _readme(text: str) -> tuple[float, float]:
    tagged = re.sub(r"<(/?)answer>", r"<\1answer>", text, flags=re.IGNORECASE)  # tags in lower case
    content = first_answer(tagged)
    try:
        number = int((_last_digit_of_a_line(text) or "") if content is None else content)
    except ValueError:
        number = None
    return (1.0, 0.0) if number == 1 else (0.0, 1.0) if number == 2 else (0.5, 0.5)


PUBLISHED_PARSERS: dict[str, Callable[[str], tuple[float, float]]] = {
    "vl_reward_bench": _released(_last_digit),
    "multimodal_reward_bench": _released(_last_digit),
    "mm_rlhf_reward_bench": _released(_last_digit_of_a_line),
    "readme": _readme,
}
"""Scores of response 1 and 2 as the published code's four parsers read them from a text."""
