"""Answers to a question, and the dialogue about it: what correctors return."""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_vlm.data import Question
from reward_vlm.dialogue import Dialogue
from reward_vlm.vlm import Reply


@dataclass(frozen=True)
class Answer:
    """One reply to a question."""

    text: str
    """The whole reply."""
    choice: str | None
    """The option that was read out of it; None when it gives none."""
    reply: Reply | None
    """With its log-probability and length; None of a draft, which another model gave."""


@dataclass(frozen=True)
class Talk:
    """The dialogue about one question so far: the state of the loop."""

    question: Question
    """What it is about."""
    dialogue: Dialogue = field(default_factory=Dialogue)
    """What led to the answer that stands."""
    tried: tuple[Answer, ...] = ()
    """Every answer, in order, also those that the judge did not take."""
    kept: int = 0
    """Index of the answer that stands."""
    settled: bool = False
    """Whether the last review left the chosen option as it was."""

    @property
    def first(self) -> Answer:
        """The answer before any review."""
        return self.tried[0]

    @property
    def final(self) -> Answer:
        """The answer that stands."""
        return self.tried[self.kept]

    def read(self, answer: Answer) -> str:
        """What it chose, such as "A. red"."""
        if answer.choice is None:
            return "no option could be read"
        return f"{answer.choice}. {dict(self.question.options).get(answer.choice, '')}".rstrip(". ")
