"""Learn the last turn of dialogues: supervised training on words that were found to be worth learning.

Rows are dialogues about pictures. What a model said itself is chosen, joined and filtered by the recipes that write
such rows (`reward_vlm.scl.splice`, `evolve`, `balanced`); here they are kept in files and learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from reward_vlm.data import stored, told_rows, write_rows
from reward_vlm.fields import Picture, check_fields, id_of, pictures_of
from reward_vlm.options import TRLTraining
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.options import CONFIG, Updates
from reward_vlm.scl.train import adapters, check_trained, freeze, kept_corrector, update_arguments
from reward_vlm.training import finish, message_set, supervise
from reward_vlm.writers.masks import PastMask
from vision.checkpoints import Log, begin_run, one_at_a_time
from vision.config import save_config

MASK = "_"
"""What stands in the place of a masked token."""


@dataclass(frozen=True)
class Lesson:
    """A dialogue whose last turn, the model's, is learnt."""

    id: str
    """Of the question."""
    turns: tuple[Mapping[str, str], ...]
    """{role, content} in order."""
    images: tuple[Picture, ...] = ()
    """Pictures of the question, or their paths."""

    def __post_init__(self) -> None:
        roles = [turn.get("role") for turn in self.turns]
        if len(roles) < 2 or roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(
                f"turns must be those of user and assistant in turn, the last the assistant's, got {roles}."
            )


@dataclass(frozen=True)
class LessonTraining(TRLTraining):
    """Learn the last turns of dialogues."""

    lessons: Path
    """JSON lines of {id?, turns: [{role, content}, ...], image? | images?}."""
    folder: Path = field(default=Path("runs/lessons"), kw_only=True)
    """Checkpoints, log.jsonl and the finished `weights`; a run that finds its own state goes on from it."""
    updates: Updates = field(default_factory=Updates)
    """The recipe."""
    past_mask: float = 0.0
    """Share of the tokens of the model's earlier turns that are masked, so that it cannot copy them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        PastMask(self.past_mask)  # its own check


@one_at_a_time
def train(options: LessonTraining, *, log: Log | None = None) -> Path:
    """Train to the end and return the folder of the weights.

    Raises:
        ValueError: lessons cannot be used (they are named by number), there are none, or the run was begun with other
            options or data.
    """
    begin_run(options.folder, options, data=("lessons", "start", "trl"))
    say, weights = log or (lambda line: None), options.folder / "weights"
    if weights.exists():
        return weights
    lessons = told_rows(options.lessons, lesson_row, say, skip_bad=options.skip_bad, needed="lessons")
    start = kept_corrector(options.start, options.folder, options.dtype)
    corrector = SCLCorrector.from_pretrained(start, dtype=getattr(torch, options.dtype))
    chat = corrector.model
    peft = adapters(options.updates.lora, chat.model)
    if peft is None:
        freeze(chat.model, options.updates.parts)
        check_trained(chat.model, options.updates.parts)
    lessons = masked(lessons, chat.tokenizer, PastMask(options.past_mask, options.seed))
    rows = lesson_set(lessons, every_turn=corrector.config.image_each_turn)
    arguments = update_arguments(options, options.updates)
    trainer = supervise(chat, rows, arguments, peft=peft, say=say)
    return finish(trainer, chat.processor, weights, lambda part: save_config(corrector.config, part / CONFIG))


def lesson_set(lessons: Sequence[Lesson], *, every_turn: bool = False) -> Any:
    """A `datasets.Dataset` with the columns images, prompt and completion.

    Args:
        every_turn: show the pictures with every request, or with the first alone.
    """
    images, prompts, completions = [], [], []
    for lesson in lessons:
        *before, last = lesson.turns
        shown = [place for place, turn in enumerate(before) if turn["role"] == "user"][: None if every_turn else 1]
        images.append(lesson.images * len(shown))
        prompts.append([_message(turn, lesson.images if n in shown else ()) for n, turn in enumerate(before)])
        completions.append([_message(last, ())])
    return message_set(images, {"prompt": prompts, "completion": completions})


def masked(lessons: Sequence[Lesson], tokenizer: Any, mask: PastMask) -> list[Lesson]:
    """The lessons with a share of the tokens of the model's earlier turns masked; what is learnt is left as it is."""
    if not mask.share:
        return list(lessons)
    sign = tokenizer(MASK, add_special_tokens=False)["input_ids"][0]

    def hidden(text: str, number: int) -> str:
        tokens = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        return tokenizer.decode(mask(tokens, torch.ones_like(tokens, dtype=torch.bool), sign, first=number)[0].tolist())

    found = []
    for number, lesson in enumerate(lessons):
        *before, last = lesson.turns
        drafts = [
            {**turn, "content": hidden(turn["content"], number)} if turn["role"] == "assistant" else turn
            for turn in before
        ]
        found.append(replace(lesson, turns=(*drafts, last)))
    return found


def write_lessons(lessons: Sequence[Lesson], path: Path) -> Path:
    """The file of the lessons; pictures that are no files are written beside it."""
    rows = []
    for number, lesson in enumerate(lessons):
        images = [stored(image, path.parent, f"{number}_{lesson.id}_{n}") for n, image in enumerate(lesson.images)]
        rows.append({"id": lesson.id, "images": images, "turns": list(lesson.turns)})
    write_rows(path, rows)
    return path


def lesson_row(data: Mapping[str, Any], folder: Path) -> Lesson:
    """A row {id?, turns: [{role, content}, ...], image? | images?}, for `read_rows`."""
    check_fields(data, ("id", "turns", "image", "images"), ("turns",))
    turns = data["turns"]
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns
    ):
        raise ValueError("turns must be a list of {role, content}, with contents that are texts.")
    return Lesson(id_of(data), tuple(turns), pictures_of(data, folder))


def _message(turn: Mapping[str, str], images: Sequence[Picture]) -> dict[str, Any]:
    text = {"type": "text", "text": turn["content"]}
    return {"role": turn["role"], "content": [*({"type": "image"} for _ in images), text]}
