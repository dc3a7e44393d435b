"""What judge and corrector share: a chat model with its configuration, kept together in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from typing_extensions import Self

from reward_vlm.dialogue import Dialogue
from reward_vlm.vlm import ChatModel, Generators, Reply, Sampling
from vision.config import save_config
from vision.hub import Pretrained


class Chat(Protocol):
    """What a judge or a corrector needs of a model: `ChatModel`, or one on another engine."""

    def generate(
        self, dialogues: Sequence[Dialogue], sampling: Sampling | None = None, *, generators: Generators | None = None
    ) -> list[Reply]:
        """One reply per dialogue."""
        ...


@dataclass
class WithChat(Pretrained):
    """A chat model and how it was taught to be asked: saving, publishing and moving them."""

    task: ClassVar[str] = "image-text-to-text"
    config_name: ClassVar[str]
    """File of the configuration, beside the weights."""
    chat: Chat
    """The model."""
    config: Any
    """How it was taught to be asked."""

    @property
    def model(self) -> ChatModel:
        """The chat model.

        Raises:
            ValueError: it runs on another engine, which keeps its weights to itself.
        """
        if not isinstance(self.chat, ChatModel):
            raise ValueError(f"{type(self).__name__} runs on another engine; load it with transformers for this.")
        return self.chat

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write model, processor and configuration as `from_pretrained` reads them."""
        self.model.save_pretrained(folder, dtype)
        save_config(self.config, Path(folder) / self.config_name)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the model; returns this object."""
        self.model.to(device, dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device


def spelled(tokenizer: Any, text: str) -> list[str]:
    """Words of a text that a small tokenizer never saw: it reads those letter by letter."""
    return [word for word in dict.fromkeys(text.split()) if len(tokenizer.tokenize(f" {word}")) > len(word)]


def listed(words: Sequence[str]) -> str:
    """At most five words, quoted, and how many more there are."""
    return ", ".join(map(repr, words[:5])) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
