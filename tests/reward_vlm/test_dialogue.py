"""Dialogues grow without changing, and keep text and pictures in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from reward_vlm.dialogue import Dialogue, Turn, Video, from_messages

RED, BLUE = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")


def test_a_dialogue_grows_by_appending_and_keeps_the_order_of_parts():
    first = Dialogue().system("rules").user("look", RED, "and", BLUE)
    second = first.assistant("seen").user("again")
    assert [turn.role for turn in second.turns] == ["system", "user", "assistant", "user"]
    assert len(first.turns) == 2
    kinds = [[block["type"] for block in message["content"]] for message in second.messages()]
    assert kinds == [["text"], ["text", "image", "text", "image"], ["text"], ["text"]]
    assert second.images == (RED, BLUE)
    assert second.texts()[1] == {"role": "user", "content": "lookand"}


def test_pictures_of_every_kind_become_rgb(tmp_path):
    BLUE.convert("P").save(tmp_path / "blue.png")
    array = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    tensor = torch.zeros(3, 4, 4)
    tensor[2] = 1.0
    images = Dialogue().user(tmp_path / "blue.png", array, tensor, RED.convert("L")).images
    assert [image.mode for image in images] == ["RGB"] * 4
    assert [image.getpixel((0, 0)) for image in images[:3]] == [(0, 0, 255), (255, 0, 0), (0, 0, 255)]


def test_messages_come_back_with_their_pictures():
    dialogue = Dialogue().user("a", RED, "b").assistant("c").user(BLUE)
    plain = [
        {"role": message["role"], "content": [{**block, "image": None} for block in message["content"]]}
        for message in dialogue.messages()
    ]
    assert from_messages(plain, [RED, BLUE]) == dialogue
    assert from_messages(dialogue.messages()) == dialogue


def test_pictures_without_blocks_come_before_the_first_question():
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert from_messages(messages, [RED]).turns[1].parts == (RED, "q")


def test_pictures_and_blocks_must_match():
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}]
    with pytest.raises(ValueError, match="more image blocks than there are pictures"):
        from_messages(messages, [])
    with pytest.raises(ValueError, match="1 pictures have no image block"):
        from_messages(messages, [RED, BLUE])
    with pytest.raises(ValueError, match="type text or image, got 'audio'"):
        from_messages([{"role": "user", "content": [{"type": "audio"}]}])


def test_wrong_roles_parts_and_empty_films_are_refused():
    with pytest.raises(ValueError, match="role must be one of system, user, assistant, got 'me'"):
        Turn("me", ("hello",))
    with pytest.raises(TypeError, match="got int"):
        Turn("user", (3,))
    with pytest.raises(ValueError, match="at least one frame"):
        Video(())
