"""R1-Reward: a judge that reasons before it chooses, trained by StableReinforce."""

from reward_vlm.judges import Judged, Query
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, R1Options
from reward_vlm.rl.objective import group_advantages, stable_reinforce_loss, token_returns, whiten_and_filter

__all__ = [
    "Judged",
    "Query",
    "R1Config",
    "R1Judge",
    "R1Options",
    "group_advantages",
    "stable_reinforce_loss",
    "token_returns",
    "whiten_and_filter",
]
