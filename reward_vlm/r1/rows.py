"""From preferences to the rows that judges are trained on, and from rows to TRL's datasets.

Half of the answers should be 1 and half 2, in random order; a judge trained otherwise learns the position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reward_vlm.data import JudgementRow, Preference, judgement, preference
from reward_vlm.forms import judgement_form
from reward_vlm.r1.options import R1Config
from reward_vlm.templates import PAIRS
from reward_vlm.training import message_set


def judgement_row(pair: Preference, config: R1Config) -> JudgementRow:
    """The prompt that shows a pair as it is stored, and what to answer.

    Raises:
        ValueError: the pair has a film, which training does not read.
    """
    if pair.video is not None:
        raise ValueError(f"{pair.id}: judges are trained on pictures, not on films; leave the row out.")
    words, pictures = PAIRS[config.template].show(pair.question, pair.answers, pair.images)
    text, images = {"type": "text", "text": words}, [{"type": "image"} for _ in pictures]
    content = [*images, text] if config.image_first else [text, *images]
    answer = f"<answer>{pair.better}</answer>"
    target = None if pair.rationale is None else f"<think>{pair.rationale}</think>{answer}"
    message = {"role": "user", "content": content}
    return JudgementRow(pair.id, (message,), pictures, (answer,), target, pair.difficulty)


def row_reader(config: R1Config) -> Any:
    """A reader, for `read_rows`, of either form of training rows: preferences or prompts as they are sent."""

    def make(data: Mapping[str, Any], folder: Path) -> JudgementRow:
        if "message" in data:
            return judgement(data, folder)
        if "conversations" in data and "chosen" not in data:
            return judgement(judgement_form(data), folder)
        return judgement_row(preference(data, folder), config)

    return make


def swap(pair: Preference) -> Preference:
    """The pair with its answers in the other order.

    Raises:
        ValueError: its rationale speaks of the stored order.
    """
    if pair.rationale is not None:
        raise ValueError(f"{pair.id} has a rationale for the order of its answers; draw the order before writing it.")
    return replace(pair, answers=(pair.answers[1], pair.answers[0]), better=3 - pair.better)


def balance(pairs: Sequence[Preference], seed: int = 0) -> list[Preference]:
    """The pairs with answers in random order, so that half of the better ones are first (one more second if odd)."""
    first = set(np.random.default_rng(seed).permutation(len(pairs))[: len(pairs) // 2].tolist())
    return [pair if (pair.better == 1) == (number in first) else swap(pair) for number, pair in enumerate(pairs)]


def hard_rows(rows: Sequence[JudgementRow], tries: int = 2) -> list[JudgementRow]:
    """The rows for reinforcement: those that a strong model solved in `tries` or more tries, or never (0)."""
    return [row for row in rows if row.difficulty == 0 or (row.difficulty or 0) >= tries]


def training_set(rows: Sequence[JudgementRow], *, targets: bool, guides: Mapping[str, str] | None = None) -> Any:
    """A `datasets.Dataset` with the columns prompt, images and answer, or completion for the cold start.

    Picture files are read when a batch needs them.

    Args:
        targets: whether the rows are for the cold start.
        guides: whole replies of an expert by the ids of rows, for a column `guide`, empty where there is none.

    Raises:
        ValueError: there are no rows, or a row of the cold start has no target.
    """
    if not rows:
        raise ValueError("There are no rows to train on.")
    messages: dict[str, Any] = {"prompt": [row.messages for row in rows]}
    images = [row.images for row in rows]
    if not targets:
        texts = {"answer": [list(row.answers) for row in rows]}
        if guides is not None:
            texts["guide"] = [[guides.get(row.id, "")] for row in rows]
        return message_set(images, messages, **texts)
    missing = next((row.id or str(i) for i, row in enumerate(rows) if row.target is None), None)
    if missing is not None:
        raise ValueError(f"Row {missing} has no target (rationale) to learn; the cold start needs one in each row.")
    messages["completion"] = [[{"role": "assistant", "content": row.target}] for row in rows]
    return message_set(images, messages)
