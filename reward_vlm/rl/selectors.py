"""Which rollouts are learnt from: more are drawn than kept, and the flawed ones among the right are left out.

Source: "rStar2-Agent: Agentic Reasoning Technical Report" (arXiv 2508.20722), section 3.2 (GRPO-RoC, resample on
correct), and its published code: right rollouts are chosen by their form, wrong ones are not, so that failures stay
various.

Differences from the published code: where the rounded shares do not add up to the number that is kept (which stops it),
the right rollouts get the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TOOL_RESPONSE = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
TURN = "<|im_start|>assistant"


def error_penalty(text: str) -> float:
    """Share of the tools' responses in a rollout that speak of an error, in [0, 1]; 0.5 where no tool was called."""
    responses = TOOL_RESPONSE.findall(text)
    return sum("error" in response.lower() for response in responses) / len(responses) if responses else 0.5


def format_penalty(text: str, turn: str = TURN) -> float:
    """Faults of form of a rollout, in [0, 1]: 1 without a whole answer or without a turn of the model; else the answers
    too many per turn.

    Args:
        turn: what every turn of the model begins with.
    """
    opened, closed, turns = text.count("<answer>"), text.count("</answer>"), text.count(turn)
    if not opened or opened != closed or not turns:
        return 1.0
    return min((opened - 1) / turns, 1.0)


def mixed_groups(groups: Sequence[object], rewards: Sequence[float]) -> list[int]:
    """Places of the rollouts whose group, the prompt, has different rewards; the others teach nothing."""
    seen: dict[object, set[float]] = {}
    for group, reward in zip(groups, rewards, strict=True):
        seen.setdefault(group, set()).add(reward)
    return [place for place, group in enumerate(groups) if len(seen[group]) > 1]


def downsample(
    rewards: Sequence[float], penalties: Sequence[float], keep: int, min_positive: int = 0, min_negative: int = 0
) -> list[int]:
    """Places of the rollouts of one prompt that are kept, in order.

    Right ones (reward above 0) and wrong ones are kept in about the shares in which they were drawn: the right ones
    with the smallest penalties, the first ones of the wrong.

    Args:
        rewards: of each rollout.
        penalties: faults of each rollout, see `error_penalty` and `format_penalty`.
        keep: how many are kept; nothing when fewer were drawn.
        min_positive: right ones that are kept at least, if there are so many.
        min_negative: wrong ones that are kept at least, if there are so many.

    Raises:
        ValueError: keep is below 1, or the minima exceed it.
    """
    if keep < 1 or max(min_positive, 0) + max(min_negative, 0) > keep:
        raise ValueError(
            f"downsample keeps at least 1 rollout and no fewer than its minima, got keep {keep}, "
            f"min_positive {min_positive} and min_negative {min_negative}."
        )
    total = len(rewards)
    if len(penalties) != total:
        raise ValueError(f"Every rollout has a penalty, got {total} rewards and {len(penalties)} penalties.")
    if total <= keep:
        return list(range(total)) if total == keep else []
    positive = [place for place, reward in enumerate(rewards) if reward > 0]
    negative = [place for place, reward in enumerate(rewards) if not reward > 0]
    right, wrong = (round(len(side) * keep / total) for side in (positive, negative))
    if wrong <= min(min_negative, len(negative)):
        wrong = min(min_negative, len(negative))
        right = keep - wrong
    if right <= min(min_positive, len(positive)):
        right = min(min_positive, len(positive))
        wrong = keep - right
    right = min(keep - min(wrong, len(negative)), len(positive))
    best = sorted(positive, key=lambda place: penalties[place])[:right]
    return sorted((*best, *negative[: keep - right]))
