"""Progress of reasoning: what each of its sentences adds to the chance of the right answer, as a reward.

Source: "Rewarding Progress: Scaling Automated Process Verifiers for LLM Reasoning" (arXiv 2410.08146), sections 3 and
5: a step earns its progress under a prover, beside what the whole earns at its end.

Differences from the paper: no verifier is trained. The chance after a sentence is the policy's own probability of the
right digit, if its reasoning ended there, which costs a forward pass a sentence; the prover is the best of four of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from reward_vlm.rl.spans import progress_reward, token_at
from vision.strategies.progress import BestOfKProver

SENTENCE = re.compile(r"[.!?](?=\s|$)|\n+")
STEPS = 8
"""Of a reasoning at most; where it has more sentences, several make a step."""
PROVER = BestOfKProver(4)
"""The best of four samples of the policy."""


def sentence_ends(ids: Tensor, span: Tensor, decode: Callable[[list[int]], str], most: int = STEPS) -> list[list[int]]:
    """Places of the tokens that end the sentences in each row's span, the span's last token among them.

    Args:
        ids: (B, T) int64.
        span: (B, T) bool, the tokens of the reasoning.
        decode: the text of some tokens.
        most: ends of a row; of more, as many at even distances.
    """
    ends = []
    for line, inside in zip(ids.tolist(), span.tolist(), strict=True):
        places = [place for place, counts in enumerate(inside) if counts]
        tokens = [line[place] for place in places]
        closes = [match.end() - 1 for match in SENTENCE.finditer(decode(tokens))]
        found = sorted({*(places[token_at(tokens, char, decode)] for char in closes), *places[-1:]})
        if len(found) > most:
            found = [found[i] for i in np.linspace(0, len(found) - 1, most + 1).round().astype(int)[1:]]
        ends.append(found)
    return ends


def step_rewards(
    ends: Sequence[Sequence[int]],
    chances: Tensor,
    width: int,
    alpha: float,
    prover: Callable[[float], float] = PROVER,
) -> Tensor:
    """(B, width) rewards: at the end of every step alpha times its progress under the prover, else 0.

    Args:
        ends: places that end the steps of each row, see `sentence_ends`.
        chances: (B, 1 + most steps) of the right answer before the first step and after each, in [0, 1]; what a row
            has beyond its steps is not read.
        width: T.
        alpha: weight of the progress.
        prover: its chance from the policy's.
    """
    rewards = torch.zeros(len(ends), width)
    for row, (places, values) in enumerate(zip(ends, chances.tolist(), strict=True)):
        if places:
            rewards[row, list(places)] = torch.tensor(progress_reward(values[: len(places) + 1], 0.0, alpha, prover))
    return rewards
