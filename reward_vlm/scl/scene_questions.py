"""Multiple-choice questions about rendered scenes, and replies that are right or wrong by construction.

Endless data for the small demonstration: item i of a seed depends on (seed, i) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from reward_vlm.data import Question
from reward_vlm.scenes import GROUNDS, OBJECTS, Scene, draw_scene, render

KINDS = {
    "colour": ("what colour is the object ?", tuple(OBJECTS)),
    "ground": ("what colour is the ground ?", tuple(GROUNDS)),
}
"""Attribute of a scene -> its question and all possible answers."""
TEST_SEED = 99
"""Of questions that no training sees."""


def scene_item(seed: int, index: int) -> tuple[Question, Scene]:
    """A picture with a question about one attribute, whose options stand in random order, and what is in the
    picture."""
    rng = np.random.default_rng((seed, index))
    scene = draw_scene(rng)
    picture = render(scene, rng)
    kind = list(KINDS)[rng.integers(len(KINDS))]
    text, values = KINDS[kind]
    options = tuple(zip("ABCD", (values[place] for place in rng.permutation(len(values))), strict=False))
    question = Question(f"{seed}-{index}", text, options, None, (picture,), f"scenes-{kind}")
    return replace(question, answer=letter_of(question, getattr(scene, kind))), scene


def scene_questions(seed: int, count: int) -> list[Question]:
    """The first `count` questions of a seed."""
    return [scene_item(seed, index)[0] for index in range(count)]


def scene_reply(question: Question, scene: Scene, letter: str) -> str:
    """A reply that chooses an option, step by step: what is seen, which option is that, the marked letter.

    Args:
        scene: what is in the picture; for a wrong letter the reply claims to see what that option says.
    """
    seen = replace(scene, **{kind_of(question): dict(question.options)[letter]})
    checked = " ".join(f"{other} {text} {'yes' if other == letter else 'no'}" for other, text in question.options)
    return f"{seen.describe()} . {checked} . ## {letter} ##"


def kind_of(question: Question) -> str:
    """The attribute that a question is about."""
    return question.source.removeprefix("scenes-")


def letter_of(question: Question, value: str) -> str:
    """The letter of the option that says `value`."""
    return next(letter for letter, text in question.options if text == value)


def other_letter(question: Question, letter: str, rng: np.random.Generator) -> str:
    """The letter of another option."""
    others = [other for other, _ in question.options if other != letter]
    return others[rng.integers(len(others))]


def question_corpus(count: int = 200) -> Iterator[str]:
    """Sentences of the task, for a tokenizer."""
    for index in range(count):
        question, scene = scene_item(0, index)
        yield f"{question.question} {' '.join(text for _, text in question.options)}"
        yield scene_reply(question, scene, str(question.answer))
