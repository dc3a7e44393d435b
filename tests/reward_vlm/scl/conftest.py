"""What tests of SCL's trainings share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reward_vlm.vlm import ChatModel


@pytest.fixture
def guessing(monkeypatch):
    """The model's replies become marked letters that depend on its weights, the dialogue and its generators: a random
    model rarely says one."""
    plain = ChatModel.generate

    def generate(self, dialogues, sampling=None, *, generators=None):
        said = plain(self, dialogues, sampling, generators=generators)
        return [replace(reply, text=f"## {'ABCD'[len(reply.text) % 3]} ##") for reply in said]

    monkeypatch.setattr(ChatModel, "generate", generate)
