"""The chosen option out of a model's reply. Nothing here raises, whatever the text holds.

`strict` is ours: every mark ## ... ## that holds an option must hold the same one. `construction` and `evaluation` are
the two extractors of the published code, kept for comparison. Both take the first mark; they differ in when they look
for a letter before a full stop ("B. matches"): the construction of pairs does so before any mark but ## A ##, so that a
sentence about an option beats the marked answer ## 1 ##, ## (C) ## or ## E ##. Source: ivy3h/SCL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

Variant = Literal["strict", "construction", "evaluation"]

_LETTER = re.compile(r"##\s*([A-D])\s*##")
_ANYTHING = re.compile(r"##(.*?)##")
_DIGIT = re.compile(r"##\s*([0-3])\s*##")
_SENTENCE = re.compile(r"([A-D])\.")

_OPTION = re.compile(r"[\s*_`\[(]*([A-Za-z]|\d{1,2})(?:[\s*_`\])]*$|\s*[])]?[.:)]\**(?:\s.*)?$)")


def construction(text: str) -> str | None:
    """What the published code's construction of pairs reads; None when it finds nothing."""
    return _first(text, _LETTER, _SENTENCE, _ANYTHING, _DIGIT)


def evaluation(text: str) -> str | None:
    """What the published code's inference script reads; None when it finds nothing."""
    return _first(text, _LETTER, _ANYTHING, _DIGIT, _SENTENCE)


def recorded(text: str) -> str:
    """What the published code's inference script stores and compares: the whole reply where `evaluation` finds
    nothing."""
    return evaluation(text) or text


def strict(text: str, letters: Sequence[str] = ()) -> str | None:
    """The option that a reply marks: ## C ##, also dressed as (C), c, C. or "C. cat".

    Args:
        letters: the question's options; what stands between two ## and is none of them is passed over (a heading
            "## Answer" is no answer). Empty: the first, third, ... ## opens a mark, any letter or number is an option,
            and a mark that holds anything else counts as it stands.

    Returns:
        None when nothing is marked or marks disagree.
    """
    parts = text.split("##")[1:-1] if letters else text.split("##")[1:-1:2]
    marked = [part.strip("#").strip() for part in parts]
    found = {choice for content in marked if (choice := _option(content, letters)) is not None}
    return found.pop() if len(found) == 1 else None


EXTRACTORS: dict[Variant, Callable[[str, Sequence[str]], str | None]] = {
    "strict": strict,
    "construction": lambda text, letters: construction(text),
    "evaluation": lambda text, letters: recorded(text),
}
"""By name; each takes a reply and the letters of the question's options."""


def extract(text: str, variant: Variant = "strict", letters: Sequence[str] = ()) -> str | None:
    """The answer that a reply gives, as one of the `EXTRACTORS` reads it."""
    return EXTRACTORS[variant](text, letters)


def _first(text: str, *patterns: re.Pattern[str]) -> str | None:
    found = next((match for pattern in patterns if (match := pattern.search(text))), None)
    return None if found is None else found[1].strip()


def _option(content: str, letters: Sequence[str]) -> str | None:
    match = _OPTION.match(content)
    named = None if match is None else match[1]
    if not letters:
        return (content or None) if named is None else named.upper()
    return next((letter for letter in letters if named is not None and letter.upper() == named.upper()), None)
