"""Rows of questions, judgements and benchmarks, and JSON-lines files of them.

A row that cannot be used (missing or truncated picture, wrong label, unknown field, no JSON) is reported with its
number. Reading stops with the first ones unless it is told to skip them; then the sentences come back with the rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import PIL.Image

from reward_vlm.dialogue import Dialogue, Video, from_messages
from reward_vlm.parse import choice
from vision.files import atomic_path
from vision.images import SUFFIXES, load_image

T = TypeVar("T")
Picture = PIL.Image.Image | Path


@dataclass(frozen=True)
class Preference:
    """A question with two answers of which one is better, in the order in which they are stored."""

    id: str
    question: str
    answers: tuple[str, str] | tuple[Picture, Picture]
    """Texts, or pictures."""
    better: int
    """1 or 2."""
    images: tuple[Picture, ...] = ()
    """Pictures or their paths."""
    video: Path | None = None
    """Folder of a film's frames."""
    category: str = ""
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
    question: str
    options: tuple[tuple[str, str], ...]
    """(letter, text) in order; empty when the question's text holds the options."""
    answer: str | None
    """The letter of the right option; None when it is not known."""
    images: tuple[Picture, ...] = ()
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
    messages: tuple[Mapping[str, Any], ...]
    """{role, content} messages; image blocks hold no pictures."""
    images: tuple[Picture, ...]
    answers: tuple[str, ...]
    """Accepted answers, such as "<answer>2</answer>"."""
    target: str | None = None
    """The whole reply to be learnt in the cold start."""
    difficulty: int | None = None

    def dialogue(self) -> Dialogue:
        """The prompt with its pictures."""
        return from_messages(self.messages, [open_picture(image) for image in self.images])


def open_picture(image: Picture) -> PIL.Image.Image:
    """A picture as upright RGB; paths are read."""
    return load_image(image).rgb if isinstance(image, Path) else image


def read_video(folder: Path, frames: int = 32) -> Video:
    """At most `frames` pictures of a folder, evenly spaced in the order of their names.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: it holds no pictures.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} of frames.")
    names = re.compile(r"(\d+)")
    paths = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES),
        key=lambda path: [int(part) if part.isdigit() else part for part in names.split(path.name)],
    )
    if not paths:
        raise ValueError(f"The folder {folder} holds no pictures.")
    count = min(frames, len(paths))
    places = [int(i * (len(paths) - 1) / max(count - 1, 1)) for i in range(count)]
    return Video(tuple(load_image(paths[place]).rgb for place in places))


def read_rows(
    path: Path, make: Callable[[Mapping[str, Any], Path], T], *, skip_bad: bool = False
) -> tuple[list[T], list[str]]:
    """The rows of a JSON-lines file.

    Args:
        path: one JSON object per line; empty lines are passed over.
        make: turns an object into a row, see `preference`, `question`, `judgement`; its second argument is the folder
            that pictures are relative to.
        skip_bad: leave out rows that cannot be used instead of stopping.

    Returns:
        The rows, and a sentence with the line's number for each row that was left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: rows cannot be used; the first three are named with their numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    rows, problems = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            if not isinstance(data, dict):
                raise ValueError(f"a row must be a JSON object, got {type(data).__name__}.")
            rows.append(make(data, path.parent))
        except (ValueError, TypeError, OSError) as error:  # JSON and UTF-8 errors are ValueErrors
            problems.append(f"{path} line {number}: {' '.join(str(error).split())}")
        except RecursionError:
            problems.append(f"{path} line {number}: the JSON is nested too deeply.")
    if problems and not skip_bad:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{' '.join(problems[:3])}{more} Repair the rows, or skip them (--skip-bad).")
    return rows, problems


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects, one per line."""
    with atomic_path(path) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def preference(data: Mapping[str, Any], folder: Path) -> Preference:
    """A row {question, answers: [a, b], better: 1 | 2, id?, image? | images? | video?, category?, rationale?,
    difficulty?}; an answer is a text, or {"image": path}."""
    allowed = "id question answers better image images video category rationale difficulty".split()
    check_fields(data, allowed, ("question", "answers", "better"))
    answers = data["answers"]
    if not isinstance(answers, list) or len(answers) != 2:
        raise ValueError(f"answers must be a list of two texts or pictures, got {answers!r}.")
    return Preference(
        id=str(data.get("id", "")),
        question=text_of(data, "question"),
        answers=(answer_of(answers[0], folder), answer_of(answers[1], folder)),
        better=data["better"],
        images=pictures_of(data, folder),
        video=video_of(data, folder),
        category=text_of(data, "category"),
        rationale=None if data.get("rationale") is None else text_of(data, "rationale"),
        difficulty=data.get("difficulty"),
    )


def answer_of(value: Any, folder: Path) -> str | Picture:
    """An answer: a text, or a picture {"image": path}."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value.keys() == {"image"}:
        return picture_of(value["image"], folder)
    raise ValueError(f'an answer must be a text or {{"image": path}}, got {value!r}.')


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

    A picture that is no file is written to the folder's `images` as PNG.
    """
    if isinstance(image, Path):
        path, root = image.resolve(), folder.resolve()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)
    path = folder / "images" / f"{re.sub('[^A-Za-z0-9_.-]', '_', name)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=1)
    return str(path.relative_to(folder))


def judgement(data: Mapping[str, Any], folder: Path) -> JudgementRow:
    """A row of the published RL set: {message: JSON text of the messages, answer: ["<answer>2</answer>"], question?,
    image?}.

    Pictures lie at the paths inside the message, or at `image` (a path, or base64 text of the file).
    """
    check_fields(data, ("id", "message", "question", "answer", "image", "target", "difficulty"), ("message", "answer"))
    messages = json.loads(data["message"]) if isinstance(data["message"], str) else data["message"]
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages
    ):
        raise ValueError("message must be (the JSON text of) a list of {role, content} objects.")
    images, plain = [], []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            for block in content:
                if isinstance(block, dict) and block.get("type") == "image" and data.get("image") is None:
                    images.append(existing(folder, block.get("image")))
            content = [
                {"type": "image"} if isinstance(block, dict) and block.get("type") == "image" else block
                for block in content
            ]
        plain.append({"role": message["role"], "content": content})
    if data.get("image") is not None:
        images.append(picture_of(data["image"], folder))
    answers = data["answer"] if isinstance(data["answer"], list) else [data["answer"]]
    if not answers or not all(isinstance(answer, str) and _accepted(answer) for answer in answers):
        raise ValueError(f'answer must be a list of texts like "<answer>2</answer>", got {data["answer"]!r}.')
    row = JudgementRow(
        str(data.get("id", "")), tuple(plain), tuple(images), tuple(answers), data.get("target"), data.get("difficulty")
    )
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
    options = data.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
        raise ValueError(f"options must be an object of letters and texts, got {options!r}.")
    return Question(
        id=str(data.get("id", "")),
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


@dataclass(frozen=True)
class Benchmark:
    """How the rows of a published benchmark are read; the better answer is always stored first."""

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)
    """Names of id, question, image, video, category in its files."""


VL_REWARDBENCH = Benchmark("vl_rewardbench", {"id": "id", "question": "prompt", "image": "image"})
MM_RLHF_REWARDBENCH = Benchmark(
    "mm_rlhf_rewardbench", {"id": "id", "question": "prompt", "image": "image", "video": "video"}
)
MULTIMODAL_REWARDBENCH = Benchmark(
    "multimodal_rewardbench", {"id": "ID", "question": "Text", "image": "Image", "category": "Category"}
)
BENCHMARKS = {bench.name: bench for bench in (VL_REWARDBENCH, MM_RLHF_REWARDBENCH, MULTIMODAL_REWARDBENCH)}


def benchmark_row(benchmark: Benchmark) -> Callable[[Mapping[str, Any], Path], Preference]:
    """A reader, for `read_rows`, of the benchmark's file. Categories that a file does not hold follow its own rules."""

    def make(data: Mapping[str, Any], folder: Path) -> Preference:
        names = benchmark.fields
        if "Better" in data:
            if data["Better"] not in ("Output1", "Output2"):
                raise ValueError(f'Better must be "Output1" or "Output2", got {data["Better"]!r}.')
            answers = (text_of(data, "Output1"), text_of(data, "Output2"))
            answers = answers if data["Better"] == "Output1" else answers[::-1]
        else:
            check_fields(data, data.keys(), ("chosen", "rejected"))
            answers = (text_of(data, "chosen"), text_of(data, "rejected"))
        check_fields(data, data.keys(), (names["id"], names["question"]))
        id, media = str(data[names["id"]]), data.get(names["image"]) or data.get(names.get("video", "")) or ""
        if "category" in names:
            category = text_of(data, names["category"])
        else:
            category = mm_rlhf_category(str(media)) if "video" in names else vl_category(id)
        image, video = data.get(names["image"]), data.get(names.get("video", ""))
        return Preference(
            id=id,
            question=text_of(data, names["question"]),
            answers=answers,
            better=1,
            images=(existing(folder, image),) if image else (),
            video=None if not video else existing(folder, video, kind="folder"),
            category=category,
        )

    return make


def vl_category(id: str, rule: str = "benchmark") -> str:
    """The class of a row of VL-RewardBench.

    Args:
        rule: "benchmark": hallucination (POVID, RLAIF-V, RLHF-V), reasoning or general; "release": R1-Reward's script,
            whose lower-case names send RLAIF-V and RLHF-V to general.
    """
    name = id.lower() if rule == "benchmark" else id
    if "mmmu" in name or "mathverse" in name:
        return "reasoning"
    return "hallucination" if any(word in name for word in ("hallucination", "rlhf", "rlaif")) else "general"


def mm_rlhf_category(media: str) -> str:
    """The class of a row of the MM-RLHF reward bench: the first of these words that its picture's path holds."""
    return next((word for word in ("mcq", "long", "short", "safety", "video") if word in media), "other")


def check_fields(data: Mapping[str, Any], allowed: Iterable[str], needed: Iterable[str]) -> None:
    """Refuse unknown and missing fields."""
    allowed = list(allowed)
    unknown = [name for name in data if name not in allowed]
    missing = [name for name in needed if name not in data]
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(allowed)}.")
    if missing:
        raise ValueError(f"the field {missing[0]!r} is missing.")


def text_of(data: Mapping[str, Any], name: str) -> str:
    """A text field, empty when it is absent."""
    value = data.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}.")
    return value


def pictures_of(data: Mapping[str, Any], folder: Path) -> tuple[Picture, ...]:
    """The pictures under `image` or `images`."""
    names = data.get("images", [] if data.get("image") is None else [data["image"]])
    if not isinstance(names, list):
        raise ValueError(f"images must be a list of paths, got {names!r}.")
    return tuple(picture_of(name, folder) for name in names)


def picture_of(value: Any, folder: Path) -> Picture:
    """A picture by its path relative to `folder`, or by the base64 text of its file."""
    if (
        isinstance(value, str)
        and len(value) > 512
        and re.fullmatch(r"(data:image/\w+;base64,)?[A-Za-z0-9+/=\s]+", value)
    ):
        import base64
        import io

        data = base64.b64decode(value.split(",")[-1])
        try:
            return PIL.Image.open(io.BytesIO(data)).convert("RGB")
        except (OSError, SyntaxError) as error:
            raise ValueError(f"the encoded picture cannot be read: {error}.") from error
    return existing(folder, value)


def video_of(data: Mapping[str, Any], folder: Path) -> Path | None:
    """The folder of frames under `video`."""
    return None if data.get("video") is None else existing(folder, data["video"], kind="folder")


def existing(folder: Path, name: Any, kind: str = "picture") -> Path:
    """The path of a picture that can be read, or of a folder, relative to `folder`."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"a {kind} must be named by its path, got {name!r}.")
    path = folder / name
    if kind == "folder":
        if not path.is_dir():
            raise FileNotFoundError(f"there is no folder {path}.")
    else:
        load_image(path)
    return path
