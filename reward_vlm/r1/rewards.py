"""Rewards of a judgement: format, result, and consistency of reasoning and answer.

total = 0.5 format + result (1 + 0.5 consistency). Source: R1-Reward, section 3.3, and the published reward server.

Differences from the published code: results are compared strictly (its lenient comparison, for numbers, is `lenient`);
the consistency judge is asked only when the result is right, since it does not matter otherwise, and concurrently; an
answer that cannot be graded earns 0 (the published code gives 1 on any error and grades the prompt when the reply is
empty).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from reward_vlm.dialogue import Dialogue
from reward_vlm.endpoint import Endpoint
from reward_vlm.parse import choice, first_answer, lenient_choice, reasoning, well_formed
from reward_vlm.r1.prompts import fill_consistency
from vision.refine import PerItem, refine

Consistency = Callable[[Sequence[str]], list[int]]
"""Judges texts: +1 reasoning and answer agree, -1 they do not, 0 unknown."""
Ask = Callable[[Sequence[str]], list["str | None"]]
"""Replies of a language model to prompts; None where it gave none."""
Say = Callable[[str], object]

TRIES = 3
"""A judge that answers neither 0 nor 1 is asked again until it was asked so often."""


def format_reward(text: str) -> float:
    """1 when the text is `<think>...</think><answer>...</answer>`, else 0."""
    return float(well_formed(text))


def result_reward(text: str, answers: Sequence[str], mode: Literal["strict", "lenient"] = "strict") -> float:
    """1 when the text chooses one of the accepted answers, else 0.

    Args:
        answers: accepted answers, tagged ("<answer>2</answer>") or bare ("2").
        mode: "strict" wants the answer tag with the digit (or "response 2"); "lenient" compares numbers wherever they
            stand, as the published code does.
    """
    read = choice if mode == "strict" else lenient_choice
    given = read(text)
    if given is None:
        return 0.0
    return float(
        any(read(answer if "<answer>" in answer else f"<answer>{answer}</answer>") == given for answer in answers)
    )


def consistency_prompt(text: str) -> str:
    """What the consistency judge is asked about a text: its last three lines of reasoning, and its answer in words."""
    lines = text.split("<answer>")[0].strip().split("\n")
    content = first_answer(text)
    if content is None:
        return fill_consistency(";".join(lines[-3:]), text.strip())
    try:
        number = int(content)
    except ValueError:
        return fill_consistency(";".join(lines[-3:]), content)
    words = f"response {number} is better" if number in (1, 2) else "two response are the same"
    return fill_consistency(";".join(lines[-3:]), words)


def read_consistency(reply: str) -> int | None:
    """What a judge's reply means: 1, -1, or None when it says neither."""
    said = reply.replace("output:", "").strip()
    return -1 if "0" in said else 1 if "1" in said else None


@dataclass(frozen=True)
class Asked:
    """Texts whose consistency a judge is asked for: the state of the attempts."""

    prompts: PerItem[str]
    """What it is asked about each."""
    scores: PerItem[int | None]
    """+1, -1, 0 where it gave no reply at all, None while its replies say nothing."""


@dataclass(frozen=True)
class AskedConsistency:
    """A language model as the judge; replies that say nothing are asked for again."""

    ask: Ask
    """Sends prompts and gives the replies, None for those that failed."""
    tries: int = TRIES
    """Times that a question is asked."""

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """+1, -1, or 0 when the judge gave no usable reply."""

        def propose(asked: Asked, attempt: int) -> Asked:
            replies = self.ask(asked.prompts)
            # a judge that is down is not asked again in this batch: its own retries are over
            scores = (0 if reply is None else read_consistency(reply) for reply in replies)
            return Asked(asked.prompts, PerItem(scores))

        done = refine(
            Asked(PerItem(map(consistency_prompt, texts)), PerItem([None] * len(texts))),
            propose,
            range(self.tries if texts else 0),
            stop=lambda step: torch.tensor([score is not None for score in step.state.scores]),
            drop_finished=True,
        )
        return [score or 0 for score in done.state.scores]


def endpoint_judge(endpoint: Endpoint, say: Say) -> AskedConsistency:
    """The judge behind an OpenAI-compatible server; failures count 0 and are told to `say`."""

    def ask(prompts: Sequence[str]) -> list[str | None]:
        dialogues = [Dialogue().user(prompt) for prompt in prompts]
        replies = endpoint.complete(dialogues, temperature=0.1, max_tokens=4096)
        failed = [reply for reply in replies if not isinstance(reply, str)]
        if failed:
            say(f"No consistency for {len(failed)} of {len(replies)} answers, which count 0: {failed[0]}")
        return [reply if isinstance(reply, str) else None for reply in replies]

    return AskedConsistency(ask)


CONCLUSION = re.compile(r"response ([12]) is better", re.IGNORECASE)


def rule_consistency(texts: Sequence[str]) -> list[int]:
    """Whether the last "response k is better" of the reasoning names the answer; for the small judges and for tests."""
    scores = []
    for text in texts:
        concluded = CONCLUSION.findall(reasoning(text))
        scores.append(1 if concluded and choice(text) == int(concluded[-1]) else -1)
    return scores


def total_reward(format: float, result: float, consistency: float) -> float:
    """0.5 format + result (1 + 0.5 consistency)."""
    return 0.5 * format + result * (1 + 0.5 * consistency)


@dataclass(frozen=True)
class Parts:
    """What the parts of a judgement earn."""

    format: float
    """1 when it has the form, else 0."""
    result: float
    """1 when it chooses an accepted answer, else 0."""
    consistency: float
    """1 when its reasoning leads to that answer, -1 (or 0) when it does not; 0 where the answer is wrong."""

    @property
    def total(self) -> float:
        """See `total_reward`."""
        return total_reward(self.format, self.result, self.consistency)


@dataclass
class JudgementReward:
    """The reward function that the trainer calls; its parts are logged."""

    consistency: Consistency = rule_consistency
    """Judges texts whose result is right."""
    mode: Literal["strict", "lenient"] = "strict"
    """How results are compared, see `result_reward`."""
    signed: bool = True
    """Inconsistency counts -1 as in the published code; False: 0 as in the paper."""
    __name__: str = field(default="judgement", init=False)
    """For the log."""
    known: dict[tuple[str, ...], Parts] = field(default_factory=dict, init=False, repr=False)
    """Parts of the texts of the last call: what is asked again at once, of a selection, costs nothing."""

    def __call__(
        self, completions: Sequence[Any], answer: Sequence[Sequence[str]], log_metric: Any = None, **columns: Any
    ) -> list[float]:
        """Total rewards.

        Args:
            completions: texts, or conversations [{role, content}] whose last content is the text.
            answer: accepted answers of each row.
            log_metric: called with (name, mean) for each part.
        """
        parts = self.parts(completions, answer)
        if log_metric is not None:
            right = [part.consistency for part in parts if part.result] or [0.0]
            logged = {"format": [p.format for p in parts], "result": [p.result for p in parts], "consistency": right}
            for name, values in logged.items():
                log_metric(f"rewards/{name}", sum(values) / len(values))
        return [part.total for part in parts]

    def parts(self, completions: Sequence[Any], answer: Sequence[Sequence[str]]) -> list[Parts]:
        """The parts of each completion's reward; the arguments are those of a call."""
        texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
        keys = [(text, *accepted) for text, accepted in zip(texts, answer, strict=True)]
        fresh = [key for key in dict.fromkeys(keys) if key not in self.known]
        results = [result_reward(text, accepted, self.mode) for text, *accepted in fresh]
        right = [key for key, result in zip(fresh, results, strict=True) if result]
        said = dict(zip(right, self.consistency([key[0] for key in right]) if right else [], strict=True))
        for key, result in zip(fresh, results, strict=True):
            score = float(said.get(key, 0))
            self.known[key] = Parts(format_reward(key[0]), result, score if self.signed else max(score, 0.0))
        self.known = {key: self.known[key] for key in keys}
        return [self.known[key] for key in keys]
