"""A judge as a reward of ms-swift's GRPO. `swift_plugin.py` beside this file registers it as `burnish_judge`:

    swift rlhf --rlhf_type grpo --external_plugins .../reward_vlm/rl/swift_plugin.py --reward_funcs burnish_judge ...

BURNISH_JUDGE names the weights (a folder, or org/name on the model hub), BURNISH_TEMPLATE how they are asked and
BURNISH_DEVICE where they are: ms-swift has no way to give arguments to a plugin. Without them the embedded judge of
scenes ranks, on the CPU. Signature: swift/rewards/orm.py, August 2026.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

from reward_vlm.judge_reward import JudgeReward
from reward_vlm.open_judge import open_judge

NAME = "burnish_judge"


class SwiftJudge:
    """As ms-swift makes and calls rewards: with its arguments, then with completions and the columns of the rows."""

    def __init__(self, args: Any = None, **others: Any):
        device = os.environ.get("BURNISH_DEVICE", "cpu")
        template: Any = os.environ.get("BURNISH_TEMPLATE")
        self.args, self.reward = args, JudgeReward(open_judge(os.environ.get("BURNISH_JUDGE"), template, device=device))

    def __call__(self, completions: list[Any], **columns: Any) -> list[float]:
        """Rewards in [0, 1]; the prompts are the messages without the answer at their end."""
        messages = [
            turns[:-1] if turns and turns[-1].get("role") == "assistant" else turns for turns in columns.pop("messages")
        ]
        return self.reward(completions, prompts=messages, **columns)


def register(orms: MutableMapping[str, Any]) -> None:
    """Add the reward to ms-swift's registry of rewards."""
    orms[NAME] = SwiftJudge
