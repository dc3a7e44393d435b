"""Rows of questions, judgements and benchmarks, and JSON-lines files of them.

A row that cannot be used (missing or truncated picture, wrong label, unknown field, no JSON) is reported with its
number. Reading stops with the first ones unless it is told to skip them; then the sentences come back with the rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import PIL.Image

from reward_vlm.dialogue import Dialogue, Video, from_messages
from reward_vlm.fields import (
    Picture,
    answer_of,
    check_fields,
    count_of,
    id_of,
    open_picture,
    picture_of,
    pictures_of,
    read_video,
    text_of,
    video_of,
)
from reward_vlm.forms import preference_form
from reward_vlm.parse import choice
from reward_vlm.row_files import records
from vision.files import atomic_path

T = TypeVar("T")


@dataclass(frozen=True)
class Preference:
    """A question with two answers of which one is better, in the order in which they are stored."""

    id: str
    """As the data set names it; may be empty."""
    question: str
    """What was asked."""
    answers: tuple[str, str] | tuple[Picture, Picture]
    """Texts, or pictures."""
    better: int
    """1 or 2."""
    images: tuple[Picture, ...] = ()
    """Pictures or their paths."""
    video: Path | None = None
    """Folder of a film's frames."""
    category: str = ""
    """Class of the benchmark; empty without one."""
    rationale: str | None = None
    """The reasoning to be learnt, without tags, for the stored order."""
    difficulty: int | None = None
    """Tries that a strong model needed to agree with `better`; None: not measured, 0: it never did."""

    def __post_init__(self) -> None:
        if self.better not in (1, 2):
            raise ValueError(f"better must be 1 or 2, got {self.better!r}.")
        if len(self.answers) != 2:
            raise ValueError(f"answers must be two, got {len(self.answers)}.")
        if isinstance(self.answers[0], str) != isinstance(self.answers[1], str):
            raise ValueError("answers must both be texts or both be pictures.")

    def media(self, frames: int = 32) -> list[PIL.Image.Image | Video]:
        """The pictures, read, and the film with at most that many frames."""
        pictures: list[PIL.Image.Image | Video] = [open_picture(image) for image in self.images]
        return pictures if self.video is None else [*pictures, read_video(self.video, frames)]

    def read_answers(self) -> tuple[str | PIL.Image.Image, str | PIL.Image.Image]:
        """The answers, pictures read."""
        first, second = (answer if isinstance(answer, str) else open_picture(answer) for answer in self.answers)
        return first, second


@dataclass(frozen=True)
class Question:
    """A multiple-choice question."""

    id: str
    """As the data set names it; may be empty."""
    question: str
    """What is asked."""
    options: tuple[tuple[str, str], ...]
    """(letter, text) in order; empty when the question's text holds the options."""
    answer: str | None
    """The letter of the right option; None when it is not known."""
    images: tuple[Picture, ...] = ()
    """Pictures or their paths."""
    source: str = ""
    """Data set that the question belongs to."""

    def __post_init__(self) -> None:
        letters = [letter for letter, _ in self.options]
        if letters and self.answer is not None and self.answer not in letters:
            raise ValueError(f"answer must be one of {', '.join(letters)}, got {self.answer!r}.")

    def media(self) -> list[PIL.Image.Image]:
        """The pictures, read."""
        return [open_picture(image) for image in self.images]


@dataclass(frozen=True)
class JudgementRow:
    """A prompt of a judge as it is sent, and the accepted answers: the rows that judges are trained on."""

    id: str
    """As the data set names it; may be empty."""
    messages: tuple[Mapping[str, Any], ...]
    """{role, content} messages; image blocks hold no pictures."""
    images: tuple[Picture, ...]
    """Pictures or their paths, in the order of the image blocks."""
    answers: tuple[str, ...]
    """Accepted answers, such as "<answer>2</answer>"."""
    target: str | None = None
    """The whole reply to be learnt in the cold start."""
    difficulty: int | None = None
    """Tries that a strong model needed; None: not measured, 0: it never agreed."""

    def dialogue(self) -> Dialogue:
        """The prompt with its pictures."""
        return from_messages(self.messages, [open_picture(image) for image in self.images])


def read_rows(
    path: Path, make: Callable[[Mapping[str, Any], Path], T], *, skip_bad: bool = False
) -> tuple[list[T], list[str]]:
    """The rows of a file, or of a folder of files.

    Args:
        path: JSON lines, a JSON array, parquet, or a saved data set, see `reward_vlm.row_files`.
        make: turns an object into a row, see `preference`, `question`, `judgement`; its second argument is the folder
            that pictures are relative to.
        skip_bad: leave out rows that cannot be used instead of stopping.

    Returns:
        The rows, and a sentence with its place for each row that was left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: rows cannot be used; the first three are named with their numbers.
    """
    rows, problems = [], []
    base = path if path.is_dir() else path.parent
    for place, data in records(path):
        try:
            if isinstance(data, ValueError):
                raise data
            if not isinstance(data, dict):
                raise ValueError(f"a row must be a JSON object, got {type(data).__name__}.")
            rows.append(make(data, base))
        except (ValueError, TypeError, OSError, RecursionError, OverflowError) as error:
            problems.append(f"{path} {place}: {' '.join(str(error).split())}")
    if not skip_bad:
        refuse_rows(problems)
    return rows, problems


def told_rows(
    path: Path,
    make: Callable[[Mapping[str, Any], Path], T],
    say: Callable[[str], object],
    *,
    skip_bad: bool = False,
    needed: str = "",
) -> list[T]:
    """The rows of a file, as `read_rows` finds them; `say` is told of each that is left out.

    Args:
        needed: what there must be some of: "questions"; empty: none are fine.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: rows cannot be used, or there are none.
    """
    rows, problems = read_rows(path, make, skip_bad=skip_bad)
    tell_left_out(problems, say)
    if needed and not rows:
        raise ValueError(f"{path} holds no {needed}.")
    return rows


def tell_left_out(problems: Iterable[str], say: Callable[[str], object]) -> None:
    """Tell of the rows that are left out."""
    for sentence in problems:
        say(f"left out: {sentence}")


def refuse_rows(problems: Sequence[str]) -> None:
    """
    Raises:
        ValueError: there are problems; the first three are told.
    """
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{' '.join(problems[:3])}{more} Repair the rows, or skip them (--skip-bad).")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects, one per line."""
    with atomic_path(path) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def preference(data: Mapping[str, Any], folder: Path) -> Preference:
    """A row {question, answers: [a, b], better: 1 | 2, id?, image? | images? | video?, category?, rationale?,
    difficulty?}, or in a published form (`reward_vlm.forms`); an answer is a text, or {"image": path}. Two equal
    answers are refused: to call one of them better teaches a judge a place."""
    data = preference_form(data)
    allowed = "id question answers better image images video category rationale difficulty".split()
    check_fields(data, allowed, ("question", "answers", "better"))
    answers = data["answers"]
    if not isinstance(answers, list) or len(answers) != 2:
        raise ValueError(f"answers must be a list of two texts or pictures, got {answers!r}.")
    first, second = (answer_of(answer, folder) for answer in answers)
    if first == second:
        raise ValueError("both answers are the same, so that neither is better; leave the row out.")
    return Preference(
        id=id_of(data),
        question=text_of(data, "question"),
        answers=(first, second),
        better=count_of(data, "better") or 0,
        images=pictures_of(data, folder),
        video=video_of(data, folder),
        category=text_of(data, "category"),
        rationale=None if data.get("rationale") is None else text_of(data, "rationale"),
        difficulty=count_of(data, "difficulty"),
    )


def preference_json(row: Preference, folder: Path) -> dict[str, Any]:
    """The inverse of `preference`; pictures that are not files are written below `folder` as PNG."""
    answers = [
        answer if isinstance(answer, str) else {"image": stored(answer, folder, f"{row.id}_answer{number}")}
        for number, answer in enumerate(row.answers, 1)
    ]
    images = [stored(image, folder, f"{row.id}_{number}") for number, image in enumerate(row.images)]
    facts = {"id": row.id, "images": images, "question": row.question, "answers": answers, "better": row.better}
    optional = {"video": row.video and str(row.video), "category": row.category or None}
    optional |= {"rationale": row.rationale, "difficulty": row.difficulty}
    return facts | {name: value for name, value in optional.items() if value is not None}


def stored(image: Picture, folder: Path, name: str) -> str:
    """How a file in `folder` names a picture: relative to it where the picture lies inside, else absolute.

    A picture that is no file is written to the folder's `images` as PNG; what it shows is in its name, so that rows of
    one id, or of none, keep their own.
    """
    if isinstance(image, Path):
        path, root = image.resolve(), folder.resolve()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)
    shown = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()[:12]
    path = folder / "images" / f"{re.sub('[^A-Za-z0-9_.-]', '_', name)}_{shown}.png"
    with atomic_path(path) as part:
        image.save(part, "PNG", compress_level=1)
    return str(path.relative_to(folder))


def judgement(data: Mapping[str, Any], folder: Path) -> JudgementRow:
    """A row of the published RL set: {message: JSON text of the messages, answer: ["<answer>2</answer>"], question?,
    image?}.

    Pictures lie at the paths inside the message, or at `image` (a path, or base64 text of the file).
    """
    known = ("id", "message", "question", "answer", "image", "images", "target", "difficulty")
    check_fields(data, known, ("message", "answer"))
    messages = json.loads(data["message"]) if isinstance(data["message"], str) else data["message"]
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages
    ):
        raise ValueError("message must be (the JSON text of) a list of {role, content} objects.")
    given = data.get("image") is not None or bool(data.get("images"))
    images, plain = [], []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            for block in content:
                if isinstance(block, dict) and block.get("type") == "image" and not given:
                    images.append(picture_of(block.get("image"), folder))
            content = [
                {"type": "image"} if isinstance(block, dict) and block.get("type") == "image" else block
                for block in content
            ]
        plain.append({"role": message["role"], "content": content})
    images += pictures_of(data, folder)
    answers = data["answer"] if isinstance(data["answer"], list) else [data["answer"]]
    if not answers or not all(isinstance(answer, str) and _accepted(answer) for answer in answers):
        raise ValueError(f'answer must be a list of texts like "<answer>2</answer>", got {data["answer"]!r}.')
    target = None if data.get("target") is None else text_of(data, "target")
    difficulty = count_of(data, "difficulty")
    row = JudgementRow(id_of(data), tuple(plain), tuple(images), tuple(answers), target, difficulty)
    row.dialogue()  # pictures and image blocks must match
    return row


def _accepted(answer: str) -> bool:
    return choice(answer if "<answer>" in answer else f"<answer>{answer}</answer>") is not None


def question(data: Mapping[str, Any], folder: Path) -> Question:
    """A row {question, options: {"A": text, ...}, answer: "A", id?, image? | images?, source?}."""
    check_fields(data, data.keys(), ("question", "answer"))
    text_of(data, "answer")
    return open_question(data, folder)


def open_question(data: Mapping[str, Any], folder: Path) -> Question:
    """A row as `question` reads it, whose answer may be unknown (absent or null)."""
    check_fields(data, "id question options answer image images source".split(), ("question",))
    options = {} if data.get("options") is None else data["options"]
    if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
        raise ValueError(f"options must be an object of letters and texts, got {options!r}.")
    return Question(
        id=id_of(data),
        question=text_of(data, "question"),
        options=tuple(options.items()),
        answer=None if data.get("answer") is None else text_of(data, "answer"),
        images=pictures_of(data, folder),
        source=text_of(data, "source"),
    )


def question_json(row: Question, folder: Path) -> dict[str, Any]:
    """The inverse of `open_question`; pictures that are not files are written below `folder` as PNG."""
    images = [stored(image, folder, f"{row.source}_{row.id}_{number}") for number, image in enumerate(row.images)]
    facts = {"id": row.id, "source": row.source, "images": images, "question": row.question}
    return facts | {"options": dict(row.options), "answer": row.answer}
