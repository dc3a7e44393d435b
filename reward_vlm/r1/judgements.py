r"""Judgements for the cold start, written by any model behind an OpenAI-compatible server, and how hard each pair was.

    burnish train r1 --recipe judgements --rows pairs.jsonl --out judged.jsonl \
        --endpoint.url http://host:8000/v1

A model is asked up to three times per pair; the first reply that is well formed and agrees with the label becomes the
rationale, and the number of tries the difficulty (0: it never agreed; such a pair has no rationale but is worth
reinforcing, see `reward_vlm.r1.rows.hard_rows`). Source: R1-Reward, section 3.1 (GPT-4o, temperature 1). Answers are
put into a random, balanced order first. Pairs are written as they come: the same command goes on after a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from reward_vlm.data import Preference, preference, preference_json, told_rows
from reward_vlm.dialogue import Dialogue
from reward_vlm.endpoint import Endpoint
from reward_vlm.judges import Query
from reward_vlm.parse import choice, reasoning, well_formed
from reward_vlm.r1.judge import prompt
from reward_vlm.r1.options import R1Config
from reward_vlm.r1.rows import balance
from reward_vlm.results import Results
from vision.checkpoints import Log
from vision.config import to_dict
from vision.files import digest
from vision.refine import PerItem, refine


@dataclass(frozen=True)
class JudgementWriting:
    """Let a model write judgements of pairs."""

    rows: Path
    """JSON lines of preferences."""
    out: Path
    """JSON lines of the same, with rationale and difficulty."""
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("http://localhost:8000/v1"))
    """Who writes."""
    judge: R1Config = field(default_factory=R1Config)
    """How it is asked."""
    tries: int = 3
    """Times that a pair is asked about."""
    temperature: float = 1.0
    """Of the replies."""
    max_tokens: int = 4096
    """Longest reply."""
    chunk: int = 64
    """Pairs that are asked about at once and written together."""
    seed: int = 0
    """Of the order of the answers."""
    skip_bad: bool = False
    """Leave out rows that cannot be used."""

    def __post_init__(self) -> None:
        if self.tries < 1 or self.chunk < 1:
            raise ValueError(f"tries and chunk must be at least 1, got {self.tries} and {self.chunk}.")


def train(options: JudgementWriting, *, log: Log | None = None) -> Path:
    """Write the judgements that are missing and return the file.

    Raises:
        ValueError: rows cannot be used, or the server gave no reply at all to a chunk.
    """
    say = log or (lambda line: None)
    pairs = told_rows(options.rows, preference, say, skip_bad=options.skip_bad)
    pairs = balance([replace(pair, rationale=None) for pair in pairs], options.seed)
    facts = {name: value for name, value in to_dict(options).items() if name not in ("out", "chunk", "skip_bad")}
    facts["rows"] = digest(options.rows)
    results = Results(options.out, facts)
    with results.alone():
        for start in range(len(results.rows), len(pairs), options.chunk):
            judged = write_judgements(pairs[start : start + options.chunk], options, say)
            results.add(*(preference_json(pair, options.out.parent) for pair in judged))
            solved = sum(bool(row.get("difficulty")) for row in results.rows)
            say(f"{len(results.rows)}/{len(pairs)} pairs, {solved} with a rationale")
    return options.out


@dataclass(frozen=True)
class Written:
    """Pairs that are asked about: the state of the attempts."""

    prompts: PerItem[Dialogue]
    """What is asked about each."""
    pairs: PerItem[Preference]
    """With rationale and difficulty once a reply was right; until then the difficulty is 0."""


def write_judgements(pairs: Sequence[Preference], options: JudgementWriting, say: Log) -> list[Preference]:
    """The pairs with rationale and difficulty."""
    frames = options.judge.frames

    def propose(asked: Written, attempt: int) -> Written:
        replies = options.endpoint.complete(
            asked.prompts, temperature=options.temperature, max_tokens=options.max_tokens
        )
        failed = [reply for reply in replies if not isinstance(reply, str)]
        if failed and len(failed) == len(replies):
            raise failed[0]
        if failed:
            say(f"{len(failed)} of {len(replies)} requests failed, which counts as a try: {failed[0]}")
        texts = [reply.strip() if isinstance(reply, str) else "" for reply in replies]
        right = (
            replace(pair, rationale=reasoning(text), difficulty=attempt)
            if well_formed(text) and choice(text) == pair.better
            else pair
            for pair, text in zip(asked.pairs, texts, strict=True)
        )
        return Written(asked.prompts, PerItem(right))

    start = Written(
        PerItem(prompt(options.judge, Query(p.question, p.read_answers(), tuple(p.media(frames)))) for p in pairs),
        PerItem(replace(pair, difficulty=0) for pair in pairs),
    )
    done = refine(
        start,
        propose,
        range(1, options.tries + 1),
        stop=lambda step: torch.tensor([bool(pair.difficulty) for pair in step.state.pairs]),
        drop_finished=True,
    )
    return list(done.state.pairs)
