"""Frozen dialogues of text, pictures and films: the state of every conversation with a vision-language model.

A dialogue grows by appending and never changes, so that refinement steps, traces and checkpoints may keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import PIL.Image

from vision.images import ImageLike, as_loaded, to_pil

Role = Literal["system", "user", "assistant"]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Video:
    """Frames of a film, evenly spaced, RGB."""

    frames: tuple[PIL.Image.Image, ...]
    """In order, all of one size."""

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("A video needs at least one frame, got none.")


Part = str | PIL.Image.Image | Video


@dataclass(frozen=True)
class Turn:
    """What one side says: texts, pictures and films in the order in which the model reads them."""

    role: Role
    """Who speaks."""
    parts: tuple[Part, ...]
    """What is said and shown."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"A turn's role must be one of {', '.join(ROLES)}, got {self.role!r}.")
        for part in self.parts:
            if not isinstance(part, Part):
                raise TypeError(
                    f"A turn holds strings, PIL images and Videos, got {type(part).__name__}; "
                    "Dialogue.user converts paths, arrays and tensors."
                )

    @property
    def text(self) -> str:
        """All texts, joined without anything between them."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[PIL.Image.Image, ...]:
        """The pictures, in order; frames of films are not among them."""
        return tuple(part for part in self.parts if isinstance(part, PIL.Image.Image))

    @property
    def videos(self) -> tuple[Video, ...]:
        """The films, in order."""
        return tuple(part for part in self.parts if isinstance(part, Video))

    def message(self) -> dict[str, Any]:
        """The turn as chat templates read it: {role, content: [{type, text | image | video}, ...]}."""
        return {"role": self.role, "content": [_block(part) for part in self.parts]}


@dataclass(frozen=True)
class Dialogue:
    """Turns of one conversation."""

    turns: tuple[Turn, ...] = ()
    """In order."""

    def system(self, text: str) -> Dialogue:
        """This dialogue and one more system turn."""
        return Dialogue((*self.turns, Turn("system", (text,))))

    def user(self, *parts: ImageLike | Video) -> Dialogue:
        """This dialogue and one more user turn.

        Args:
            parts: strings are text; PIL images, paths (`pathlib.Path`), arrays and tensors are pictures; Videos.

        Raises:
            FileNotFoundError: a path does not exist.
            ValueError: a picture cannot be read.
        """
        return Dialogue((*self.turns, Turn("user", tuple(map(as_part, parts)))))

    def assistant(self, text: str) -> Dialogue:
        """This dialogue and one more reply of the model."""
        return Dialogue((*self.turns, Turn("assistant", (text,))))

    @property
    def images(self) -> tuple[PIL.Image.Image, ...]:
        """The pictures of all turns, in order."""
        return tuple(image for turn in self.turns for image in turn.images)

    @property
    def videos(self) -> tuple[Video, ...]:
        """The films of all turns, in order."""
        return tuple(video for turn in self.turns for video in turn.videos)

    def messages(self) -> list[dict[str, Any]]:
        """The dialogue as chat templates and TRL read it."""
        return [turn.message() for turn in self.turns]

    def texts(self) -> list[dict[str, str]]:
        """Roles and texts alone, [{role, content}, ...], as JSON records keep them."""
        return [{"role": turn.role, "content": turn.text} for turn in self.turns]


def from_messages(messages: Sequence[Mapping[str, Any]], pictures: Sequence[ImageLike] = ()) -> Dialogue:
    """The dialogue that a list of {role, content} messages describes.

    Args:
        messages: contents are strings or lists of {type: text, text} and {type: image, image?} blocks.
        pictures: fill the image blocks that hold no picture of their own, in order; when there are no image blocks at
            all, they come before the text of the first user turn.

    Raises:
        ValueError: a content or block has another form, or pictures and image blocks do not match.
    """
    waiting = [as_part(picture) for picture in pictures]
    blocks = [_blocks_of(message["content"]) for message in messages]
    if not any(block.get("type") == "image" for content in blocks for block in content):
        for message, content in zip(messages, blocks, strict=True):
            if message["role"] == "user":
                content[:0] = [{"type": "image"} for _ in waiting]
                break
    turns = []
    for message, content in zip(messages, blocks, strict=True):
        parts: list[Part] = []
        for block in content:
            if block.get("type") == "text":
                parts.append(block["text"])
            elif block.get("type") == "image" and block.get("image") is not None:
                parts.append(as_part(block["image"]))
            elif block.get("type") == "image" and waiting:
                parts.append(waiting.pop(0))
            elif block.get("type") == "image":
                raise ValueError("A message has more image blocks than there are pictures.")
            else:
                raise ValueError(f"A message's block must be of type text or image, got {block.get('type')!r}.")
        turns.append(Turn(message["role"], tuple(parts)))
    if waiting:
        raise ValueError(f"{len(waiting)} pictures have no image block in the messages.")
    return Dialogue(tuple(turns))


def _blocks_of(content: Any) -> list[Mapping[str, Any]]:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, (list, tuple)) or not all(isinstance(block, Mapping) for block in blocks):
        raise ValueError(f"A message's content must be a text or a list of blocks, got {content!r}.")
    if not all(isinstance(block.get("text"), str) for block in blocks if block.get("type") == "text"):
        raise ValueError(f"A message's block of type text must be {{type, text}}, got {content!r}.")
    return list(blocks)


def as_part(part: ImageLike | Video) -> Part:
    """Text and films as they are; paths, PIL images of any mode, arrays and tensors as upright RGB pictures."""
    if isinstance(part, (str, Video)):
        return part
    if hasattr(part, "shape"):
        from vision.images import to_tensor

        return to_pil(to_tensor(part))
    return as_loaded(part).rgb


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Video):
        return {"type": "video", "video": list(part.frames)}
    return {"type": "image", "image": part}
