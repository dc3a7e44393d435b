"""Vision-language models that judge, and that learn from judgements."""

from reward_vlm.dialogue import Dialogue, Turn, Video
from reward_vlm.r1 import R1Config, R1Judge, R1Options, group_advantages, stable_reinforce_loss
from reward_vlm.scl import SCLConfig, SCLCorrector, SCLOptions, build_pairs
from reward_vlm.vlm import ChatModel, Reply, Sampling

__all__ = [
    "ChatModel",
    "Dialogue",
    "R1Config",
    "R1Judge",
    "R1Options",
    "Reply",
    "SCLConfig",
    "SCLCorrector",
    "SCLOptions",
    "Sampling",
    "Turn",
    "Video",
    "build_pairs",
    "group_advantages",
    "stable_reinforce_loss",
]
