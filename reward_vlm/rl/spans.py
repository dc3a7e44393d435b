"""Rewards of parts of a completion: by span, by message, by progress.

Shapes: (B, T) are B completions of T tokens, padded on the right.
Sources: "LeDex: Training LLMs to Better Self-Debug and Explain Code" (arXiv 2405.18649), section 3.4: explanation and
code have rewards of their own, each on its own tokens. SPOC (arXiv 2506.06923), section 3.3: solutions and
verifications are rewarded message by message. PAV (arXiv 2410.08146), equation 5: progress under a prover as a reward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from reward_vlm.rl.objective import Estimator, group_advantages
from vision.strategies.progress import progress


def span_advantages(
    rewards: Mapping[str, Tensor], spans: Mapping[str, Tensor], size: int = 1, estimator: Estimator = "reinforce"
) -> Tensor:
    """(B, T) advantages: tokens of a span get what the span's own reward is above its baseline, all others 0.

    Args:
        rewards: (B,) of every named span.
        spans: (B, T) bool, the tokens of every named span; no token lies in two.
        size: samples per prompt, next to each other.
        estimator: the baseline, see `group_advantages`.

    Raises:
        ValueError: names differ, or spans overlap.
    """
    if rewards.keys() != spans.keys():
        raise ValueError(f"Spans {', '.join(spans)} and rewards {', '.join(rewards)} must have the same names.")
    if (sum(mask.long() for mask in spans.values()) > 1).any():
        raise ValueError("A token lies in two spans; each token can earn one reward.")
    return sum(
        torch.where(mask.bool(), group_advantages(rewards[name], size, estimator)[:, None], 0.0)
        for name, mask in spans.items()
    )


def progress_reward(
    values: Sequence[float], final: float, alpha: float, prover: Callable[[float], float] = lambda chance: chance
) -> list[float]:
    """The reward of every step: alpha times its progress under a prover, and the final reward on the last.

    Args:
        values: the policy's chance of success before the first step and after each.
        final: reward of the whole.
        alpha: weight of the progress.
        prover: its chance from the policy's, such as `BestOfKProver`.

    Raises:
        ValueError: there is no step.
    """
    if len(values) < 2:
        raise ValueError(f"A progress reward needs at least one step, got {len(values)} values.")
    rewards = [alpha * gain for gain in progress([prover(value) for value in values])]
    rewards[-1] += final
    return rewards


def message_rewards(right: Sequence[bool], says_right: Sequence[bool]) -> list[float]:
    """Rewards of a run of solution, verification, solution, verification ..., one per message.

    A solution earns 1 when it is right, a verification when its verdict is true.

    Args:
        right: whether each solution is right.
        says_right: what each verification says; the last solution may have none.

    Raises:
        ValueError: the messages do not alternate.
    """
    if len(right) - len(says_right) not in (0, 1):
        raise ValueError(
            f"Solutions and verifications alternate; got {len(right)} solutions and {len(says_right)} verifications."
        )
    rewards = []
    for place, solved in enumerate(right):
        rewards.append(float(solved))
        if place < len(says_right):
            rewards.append(float(says_right[place] == solved))
    return rewards


def token_spans(
    ids: Tensor, mask: Tensor, names: Sequence[str], decode: Callable[[list[int]], str]
) -> dict[str, Tensor]:
    """(B, T) bool of every name: the tokens between its tags, <name> and </name>, in completions.

    Args:
        ids: (B, T) int64.
        mask: (B, T) true on real tokens.
        names: of the tags; the first pair of each counts.
        decode: the text of some tokens, special ones included.
    """
    spans = {name: torch.zeros_like(mask, dtype=torch.bool) for name in names}
    for row, (line, real) in enumerate(zip(ids.tolist(), mask.bool().tolist(), strict=True)):
        places = [place for place, counts in enumerate(real) if counts]
        tokens = [line[place] for place in places]
        text = decode(tokens)
        for name in names:
            found = re.search(rf"<{re.escape(name)}>(.*?)</{re.escape(name)}>", text, re.DOTALL)
            if found and found[1]:
                first, last = (token_at(tokens, char, decode) for char in (found.start(1), found.end(1) - 1))
                spans[name][row, places[first : last + 1]] = True
    return spans


def token_at(tokens: list[int], char: int, decode: Callable[[list[int]], str]) -> int:
    """Place of the token that holds a character of the decoded text, by halving."""
    low, high = 0, len(tokens) - 1
    while low < high:
        middle = (low + high) // 2
        if len(decode(tokens[: middle + 1])) > char:
            high = middle
        else:
            low = middle + 1
    return low
