"""A judge as the reward of other trainings: answers to one prompt are ranked among each other.

A judge that compares gives no number for one answer; a group of answers to the same prompt, which GRPO draws anyway,
gives each its share of wins. People ask how a pairwise judge becomes a scalar; this is the answer that needs nothing
but the judge. `JudgeReward` is called as TRL calls reward functions (ms-swift does the same); `group_rewards` is the
function below it, and what `reward_vlm.rl.for_verl` calls.

Equal answers are judged once and earn the same. With several processes all of them see all groups, each group is judged
by one process, and the rewards are those of a single one: nothing depends on the order of the rows.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from reward_vlm.audit import Watched
from reward_vlm.dialogue import Part, as_part
from reward_vlm.judges import Judge, Query
from reward_vlm.r1.options import R1Options

NEUTRAL = 0.5
"""The reward of an answer that is alone with its copies, or about which nothing could be read."""


@dataclass(frozen=True)
class Prompt:
    """What was answered."""

    question: str
    """Its words."""
    media: tuple[Part, ...] = ()
    """Its pictures."""

    @property
    def key(self) -> str:
        """Equal for equal words and pictures, in all processes."""
        told = hashlib.sha256(self.question.encode("utf-8", "replace"))
        for part in self.media:
            told.update(part.encode("utf-8", "replace") if isinstance(part, str) else part.tobytes())
        return told.hexdigest()


def group_rewards(
    judge: Judge, groups: Sequence[tuple[Prompt, Sequence[str]]], options: R1Options | None = None
) -> list[dict[str, float]]:
    """Rewards, in [0, 1], of the different answers to each prompt, by answer: the share of wins against the others.

    Args:
        groups: prompts with answers, of which copies count once.
        options: see `R1Options`; a sampled judgement draws from the group, not from its place.
    """
    options = options or R1Options(batch_size=32)
    answers = [sorted(set(said)) for _, said in groups]
    found = [dict.fromkeys(said, NEUTRAL) for said in answers]
    disputed = [place for place, said in enumerate(answers) if len(said) > 1]
    queries = [Query(groups[n][0].question, tuple(answers[n]), groups[n][0].media) for n in disputed]
    if options.votes > 1 or options.temperature or options.orders == "random":
        seeds = [options.seed + zlib.crc32(groups[n][0].key.encode()) % 2**30 for n in disputed]
        asked = zip(queries, seeds, strict=True)
        judged = [judge.batch([query], replace(options, seed=seed))[0] for query, seed in asked]
    else:
        judged = judge.batch(queries, options) if queries else []
    for place, each in zip(disputed, judged, strict=True):
        found[place] = dict(zip(answers[place], each.scores.tolist(), strict=True))
    return found


@dataclass
class JudgeReward:
    """A reward function for TRL and ms-swift.

        trainer = GRPOTrainer(model, reward_funcs=[JudgeReward(R1Judge.from_pretrained(device="cuda"))], ...)

    The columns `images` or `image` of the data set are shown to the judge. What the judge was worth in a batch is
    logged (`judge/readable`, `judge/says_first`, `judge/agrees`).
    """

    judge: Judge
    """Ranks the answers."""
    options: R1Options | None = None
    """How it is asked; None: greedily, in both orders, every answer against every other."""
    read: Callable[[str], str] = str.strip
    """The answer in a completion: takes reasoning away, for example."""
    reference: str | None = None
    """Column of an answer to compare each completion with, instead of with the others: for one sample a prompt."""

    def __post_init__(self) -> None:
        self.__name__ = "judge"  # what TRL calls it in its log; a field of this name would get the class's

    def __call__(
        self, completions: Sequence[Any], prompts: Sequence[Any] = (), log_metric: Any = None, **columns: Any
    ) -> list[float]:
        """Rewards in [0, 1], one per completion.

        Args:
            completions: texts, or conversations [{role, content}] whose last content is the text.
            prompts: texts, or conversations; without them the column `messages` (ms-swift).
            log_metric: called with (name, value).

        Raises:
            ValueError: there are no prompts, or the column of the references is missing.
        """
        given = prompts or columns.get("messages")
        if not given:
            raise ValueError("A judge ranks answers to prompts, and there are neither prompts nor messages.")
        said = [self.read(text_of(completion)) for completion in completions]
        asked = [
            Prompt(question_of(each), media) for each, media in zip(given, media_of(columns, len(said)), strict=True)
        ]
        watched = Watched(self.judge)
        if self.reference is None:
            rewards = _shared(watched, asked, said, self.options)
        else:
            rewards = self._against(watched, asked, said, columns)
        if log_metric is not None:
            for name in ("readable", "says_first", "agrees"):
                if (value := watched.figures()[name]) is not None:
                    log_metric(f"judge/{name}", value)
        return rewards

    def _against(
        self, judge: Judge, asked: Sequence[Prompt], said: Sequence[str], columns: Mapping[str, Any]
    ) -> list[float]:
        if self.reference not in columns:
            raise ValueError(f"The data set has no column {self.reference!r} with answers to compare with.")
        others = [str(other) for other in columns[self.reference]]
        found = group_rewards(judge, [(p, (a, b)) for p, a, b in zip(asked, said, others, strict=True)], self.options)
        return [rewards[answer] for rewards, answer in zip(found, said, strict=True)]


def text_of(completion: Any) -> str:
    """The text of a completion or message content, a string, blocks, or a conversation whose last turn it is."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Mapping):
        return text_of(completion["content"])
    if completion and isinstance(completion[-1], Mapping) and "content" in completion[-1]:
        return text_of(completion[-1])
    return "".join(block.get("text") or "" for block in completion if block.get("type") == "text")


def question_of(prompt: Any) -> str:
    """The words of a prompt's last turn of the user."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in prompt if turn.get("role") == "user"]
    if not turns:
        raise ValueError("A prompt must have a turn of the user for a judge to read.")
    return text_of(turns[-1]).replace("<image>", "").strip()


def media_of(columns: Mapping[str, Any], rows: int) -> list[tuple[Part, ...]]:
    """The pictures of each row: its column `images` (lists) or `image`; ms-swift's {bytes, path} too."""
    given = columns.get("images") or columns.get("image") or [None] * rows
    return [tuple(_picture(part) for part in _listed(row)) for row in given]


def _listed(row: Any) -> Sequence[Any]:
    return () if row is None else row if isinstance(row, (list, tuple)) else (row,)


def _picture(part: Any) -> Part:
    if isinstance(part, Mapping):
        part = part.get("bytes") or part["path"]
    return as_part(Path(part) if isinstance(part, str) else part)


def _shared(judge: Judge, asked: Sequence[Prompt], said: Sequence[str], options: R1Options | None) -> list[float]:
    """Rewards of this process's rows, whose groups may lie in several."""
    keys = [prompt.key for prompt in asked]
    mine = dict(zip(keys, asked, strict=True))
    everyone = _gathered(list(zip(keys, said, strict=True)))
    answers: dict[str, set[str]] = {}
    owner: dict[str, int] = {}
    for rank, rows in enumerate(everyone):
        for key, answer in rows:
            answers.setdefault(key, set()).add(answer)
            owner.setdefault(key, rank)
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    own = sorted(key for key, first in owner.items() if first == rank)
    found = group_rewards(judge, [(mine[key], sorted(answers[key])) for key in own], options)
    told = {key: rewards for part in _gathered(dict(zip(own, found, strict=True))) for key, rewards in part.items()}
    return [told[key][answer] for key, answer in zip(keys, said, strict=True)]


def _gathered(value: Any) -> list[Any]:
    """The value of every process, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
