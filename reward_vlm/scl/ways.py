"""Which way a question is answered: a linear choice among ways, on numbers that the first answer gives away for free.

Every way begins with the plain, most probable answer: `first` lets it stand, `review` asks for a look at it again, and
`votes` asks the question in other orders of its options and lets the majority decide. So the first answer is there
before a way is picked, and its probability is one of the numbers that are looked at. Source: SMART, arXiv 2410.16128;
the policy of the paper is the language model itself, here it is `vision.strategies.StrategySelector`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from reward_vlm.scl.talk import Talk
from vision.config import load_config, save_config
from vision.refine import Verdict
from vision.strategies import Candidate, Choice, Cost, StrategySelector, regret_lessons, relabel_first_attempt

CONFIG = "strategy.json"
FIRST, REVIEW, VOTES = WAYS = ("first", "review", "votes")
"""The ways to answer, the cheapest first."""
OPENINGS = ("what", "which", "where", "who", "how", "is")
"""First words of questions, each a number of its own; "is" stands for every question of yes and no."""
YES_OR_NO = ("is", "are", "was", "were", "do", "does", "did", "can", "could", "has", "have", "will", "would", "should")


@dataclass(frozen=True)
class AnswerStrategy:
    """A choice among ways to answer; saved as strategy.json."""

    selector: StrategySelector
    """Picks among `WAYS` by `answer_facts`."""
    votes: int
    """Times that a question is asked again where votes are picked."""
    review: int | str
    """The request to look again where a review is picked."""

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> AnswerStrategy:
        """Load what `burnish train scl --recipe strategy` wrote.

        Raises:
            FileNotFoundError: the folder has none.
            ValueError: it picks among other ways.
        """
        path = strategy_file(folder)
        found = load_config(cls, path)
        unknown = [name for name in found.selector.strategies if name not in WAYS]
        if unknown:
            raise ValueError(f"{path} picks {', '.join(unknown)}; ways to answer are {', '.join(WAYS)}.")
        return found

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it to `folder`."""
        save_config(self, Path(folder) / CONFIG)

    def pick(self, talk: Talk) -> str:
        """The way to go on from a first answer, one of `WAYS`."""
        return self.selector.pick(answer_facts(talk))


def strategy_file(folder: str | Path) -> Path:
    """The file of the strategy in a folder.

    Raises:
        FileNotFoundError: the folder has none.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; name a folder that train scl --recipe strategy wrote.")
    return path


def answer_facts(talk: Talk) -> dict[str, float]:
    """Numbers about a question and its first answer.

    Args:
        talk: with an own first answer, that is, one with a reply.

    Returns:
        Logarithms of 1 and the words of the question and of its choices, numbers of choices and pictures, 1 for the
        kind of the first word (`OPENINGS`) and 0 for the others, and of the reply: the logarithm of its tokens, of its
        probability and of the geometric mean of its tokens' probabilities, and 1 where no option could be read.
    """
    question, reply = talk.question, talk.first.reply
    if reply is None:
        raise ValueError("A way is picked by the probability of an own first answer, and this one is a draft.")
    words = question.question.lower().split()
    opening = words[0].strip(",.?!:") if words else ""
    opening = "is" if opening in YES_OR_NO else opening
    return {
        "log_question_words": math.log1p(len(words)),
        "log_choice_words": math.log1p(sum(len(text.split()) for _, text in question.options)),
        "num_choices": float(len(question.options)),
        "num_images": float(len(question.images)),
        **{f"asks_{word}": float(word == opening) for word in OPENINGS},
        "log_reply_tokens": math.log1p(reply.tokens),
        "reply_log_prob": reply.log_prob,
        "token_log_prob": reply.log_prob / max(reply.tokens, 1),
        "unread": float(talk.first.choice is None),
    }


def replies(way: str, votes: int) -> int:
    """Replies that a way takes, the first one included."""
    return {FIRST: 1, REVIEW: 2, VOTES: 1 + votes}[way]


def attempts_choice(
    task: str, facts: Mapping[str, float], chosen: Mapping[str, str | None], answer: str, votes: int
) -> Choice:
    """The attempts at one question as a trace: a candidate for every way in the order of `WAYS`, with score 1 where it
    names the right option and 0 where it does not.

    Args:
        task: name of the question.
        facts: of `answer_facts`.
        chosen: way -> option; ways that were not tried are left out.
        answer: the right option.
        votes: of `AnswerStrategy`.
    """
    tried = [way for way in WAYS if way in chosen]
    made = tuple(Candidate(task, chosen[way], way, Cost(calls=replies(way, votes))) for way in tried)
    verdicts = tuple(Verdict(float(chosen[way] == answer)) for way in tried)
    place = next((place for place, verdict in enumerate(verdicts) if solved(verdict)), 0)
    return Choice(task, made, verdicts, place, "the cheapest way that is right", facts)


def solved(verdict: Verdict) -> bool:
    """Whether an attempt names the right option."""
    return float(verdict.score) == 1


def fit_strategy(
    choices: Sequence[Choice], lessons: Literal["regret", "first"], price: float, decay: float
) -> StrategySelector:
    """The selector that attempts teach, of `attempts_choice`.

    Args:
        lessons: regret: every attempt, weighted by how much better it was than the worst, where right answers count 1
            and every reply costs `price`. first: the cheapest right way of every question that has one (SMART).
        price: share of right answers that one more reply must be worth; of no effect on first.
        decay: weight of the squared weights, per lesson.

    Raises:
        ValueError: they teach nothing.
    """
    if lessons == "first":
        made = relabel_first_attempt(choices, solved)
        if not made:
            raise ValueError("No question was answered rightly in any way, so there is nothing to learn from.")
    else:
        made = regret_lessons(_priced(choice, price) for choice in choices)
        if not made:
            raise ValueError("No question tells the ways apart: ask more of them, or harder ones.")
    return StrategySelector.fit(made, decay=decay)


def _priced(choice: Choice, price: float) -> Choice:
    """The attempts with what their replies cost taken from their scores."""
    pairs = zip(choice.candidates, choice.verdicts, strict=True)
    verdicts = tuple(Verdict(float(verdict.score) - price * made.cost.calls) for made, verdict in pairs)
    return replace(choice, verdicts=verdicts)
