"""Vision-language models that judge, and that learn from judgements."""

from reward_vlm.dialogue import Dialogue, Turn, Video
from reward_vlm.vlm import ChatModel, Reply, Sampling

__all__ = ["ChatModel", "Dialogue", "Reply", "Sampling", "Turn", "Video"]
