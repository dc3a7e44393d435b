"""Preference pairs out of a model's own corrections.

A question is answered twice, before and after review. Compared with the right answer that gives four types: 1 right and
right, 2 wrong and right, 3 right and wrong, 4 wrong and wrong. Types 2 and 3 become pairs: the right reply is chosen,
the wrong one rejected; 1 and 4 teach nothing. Source: arXiv 2410.04055, section 3.2.

Differences from the published code: a pair's prompt is the first turn as it was sent (the published code keeps the bare
question, without options and format; `prompt="bare"` does so), pictures are kept as they are (the published code
compresses them as JPEG twice), and nothing is lost when a run is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reward_vlm.data import Question, stored, write_rows
from reward_vlm.fields import Picture, check_fields, count_of, id_of, open_picture, pictures_of, text_of
from reward_vlm.forms import pair_form
from reward_vlm.results import Results
from reward_vlm.scl.corrector import SCLCorrector, Talk
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.talk import Answer
from reward_vlm.scl.ways import strategy_file
from vision.config import to_dict
from vision.files import atomic_path, digest

PairPrompt = Literal["full", "bare"]
PAIRED = (2, 3)
"""The types that become pairs."""


@dataclass(frozen=True)
class Record:
    """What became of one question."""

    id: str
    """Of the question."""
    source: str
    """Data set of the question."""
    question: str
    """The bare question."""
    turns: tuple[Mapping[str, str], ...]
    """{role, content} of the dialogue that led to the final answer; the first is the question as it was sent."""
    replies: tuple[str, str]
    """The first reply and the one that stands in the end."""
    choices: tuple[str | None, str | None]
    """The options that were read out of them."""
    gold: str
    """The right option."""
    images: tuple[Picture, ...] = ()
    """Pictures of the question, or their paths."""
    confidence: float | None = None
    """Of the first reply, see `Reply.confidence`; None of a draft."""

    @property
    def type(self) -> int:
        """From 1 to 4, see `classify`."""
        return classify(*(choice == self.gold for choice in self.choices))


@dataclass(frozen=True)
class Pair:
    """A prompt with a better and a worse reply."""

    id: str
    """Of the question."""
    source: str
    """Data set of the question."""
    prompt: str
    """What was asked, as text."""
    chosen: str
    """The better reply."""
    rejected: str
    """The worse reply."""
    type: int
    """2: the review corrected the answer; 3: it spoiled it."""
    images: tuple[Picture, ...] = ()
    """Pictures of the question, or their paths."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """Where the replies come from: model, prompts, seed."""

    def row(self) -> dict[str, Any]:
        """The pair as TRL's trainer takes it: pictures, and prompt, chosen and rejected as messages."""
        return {
            "images": [open_picture(image) for image in self.images],
            "prompt": [{"role": "user", "content": self.prompt}],
            "chosen": [{"role": "assistant", "content": self.chosen}],
            "rejected": [{"role": "assistant", "content": self.rejected}],
        }


@dataclass(frozen=True)
class Counts:
    """How many questions are of each type."""

    right_right: int = 0
    """Right before and after review."""
    wrong_right: int = 0
    """Corrected by the review."""
    right_wrong: int = 0
    """Spoiled by the review."""
    wrong_wrong: int = 0
    """Wrong before and after review."""

    @property
    def total(self) -> int:
        """All questions."""
        return self.right_right + self.wrong_right + self.right_wrong + self.wrong_wrong

    @property
    def first_accuracy(self) -> float:
        """Share of right first answers; 0 without questions."""
        return (self.right_right + self.right_wrong) / max(self.total, 1)

    @property
    def final_accuracy(self) -> float:
        """Share of right final answers; 0 without questions."""
        return (self.right_right + self.wrong_right) / max(self.total, 1)


def classify(first_right: bool, final_right: bool) -> int:
    """1 right and right, 2 wrong and right, 3 right and wrong, 4 wrong and wrong."""
    return {(True, True): 1, (False, True): 2, (True, False): 3, (False, False): 4}[first_right, final_right]


def count(records: Iterable[Record]) -> Counts:
    """The numbers of the four types."""
    found = Counter(record.type for record in records)
    return Counts(*(found[type] for type in (1, 2, 3, 4)))


def record_of(talk: Talk) -> Record:
    """What became of a question whose right answer is known.

    Raises:
        ValueError: it is not known.
    """
    question = talk.question
    return Record(
        id=question.id,
        source=question.source,
        question=question.question,
        turns=tuple(talk.dialogue.texts()),
        replies=(talk.first.text, talk.final.text),
        choices=(talk.first.choice, talk.final.choice),
        gold=_known_answer(question),
        images=question.images,
        confidence=None if talk.first.reply is None else talk.first.reply.confidence,
    )


def _known_answer(question: Question) -> str:
    if question.answer is None:
        raise ValueError(f"Question {question.id or question.question!r} has no known answer, which is needed here.")
    return question.answer


def to_pair(record: Record, prompt: PairPrompt = "full", made_by: Mapping[str, Any] | None = None) -> Pair | None:
    """The pair that a record gives, None for types 1 and 4.

    Args:
        prompt: "full" is the first turn as it was sent, "bare" the question alone (the published code).
        made_by: kept with the pair.
    """
    if record.type not in PAIRED:
        return None
    chosen, rejected = record.replies[::-1] if record.type == 2 else record.replies
    text = record.turns[0]["content"] if prompt == "full" else record.question
    return Pair(record.id, record.source, text, chosen, rejected, record.type, record.images, made_by or {})


def build_pairs(
    corrector: SCLCorrector,
    questions: Sequence[Question],
    folder: str | Path,
    options: SCLOptions | None = None,
    *,
    model: str = "",
    evaluation: Iterable[Question] = (),
    prompt: PairPrompt = "full",
    log: Callable[[str], object] | None = None,
) -> list[Pair]:
    """Let a model answer and review questions, and write what can be learnt from it.

    Args:
        folder: gets records.jsonl (see `answer_all`), pairs.jsonl, counts.json and the pictures that are no files.
        options: how the model is asked; the published code samples at temperature 0.7.
        model: name of the weights, kept with every pair; a folder that was begun with another is refused.
        evaluation: questions that the model will be measured with, see `refuse_overlap`.
        prompt: see `to_pair`.
        log: told about progress.

    Raises:
        ValueError: the folder was begun with other questions or options, a question has no known answer, or it is also
            in `evaluation`.
    """
    folder, options = Path(folder), options or SCLOptions()
    refuse_overlap(questions, evaluation)
    say = log or (lambda line: None)
    records = answer_all(
        corrector, questions, folder, options, model=model,
        told=lambda done, found: say(f"{done}/{len(questions)} questions, {found} pairs"),
    )  # fmt: skip
    origin = made_by(corrector, options, model)
    pairs = [pair for record in records if (pair := to_pair(record, prompt, origin)) is not None]
    write_rows(folder / "pairs.jsonl", [pair_json(pair, folder) for pair in pairs])
    found = count(records)
    facts = {**to_dict(found), "first_accuracy": found.first_accuracy, "final_accuracy": found.final_accuracy}
    with atomic_path(folder / "counts.json") as part:
        part.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return pairs


def answer_all(
    corrector: SCLCorrector,
    questions: Sequence[Question],
    folder: str | Path,
    options: SCLOptions | None = None,
    *,
    model: str = "",
    drafts: Sequence[Answer] | None = None,
    told: Callable[[int, int], object] = lambda done, pairs: None,
) -> list[Record]:
    """What becomes of every question, kept in folder/records.jsonl; `drafts` as for `SCLCorrector.batch`.

    The file grows batch by batch, and the same call goes on with it after a kill: what it holds in the end does not
    depend on interruptions, up to the rounding of sums that are padded to another length. `told` hears how many
    questions are answered, and how many of them can become pairs.

    Raises:
        ValueError: the folder was begun with other questions, drafts or options, or a question has no known answer.
    """
    folder, options = Path(folder), options or SCLOptions()
    for question in questions:
        _known_answer(question)
    facts = {"made_by": made_by(corrector, options, model), "questions": _digest(questions)}
    if drafts is not None:
        facts["drafts"] = hashlib.sha256(json.dumps([[each.text, each.choice] for each in drafts]).encode()).hexdigest()
    results = Results(folder / "records.jsonl", facts)
    with results.alone():
        pairs = sum(row["type"] in PAIRED for row in results.rows)
        for start in range(len(results.rows), len(questions), options.batch_size):
            part = slice(start, start + options.batch_size)
            talks = corrector.batch(
                questions[part], replace(options, seed=options.seed + start),
                drafts=None if drafts is None else drafts[part],
            )  # fmt: skip
            new = [record_json(record_of(talk), folder, start + n) for n, talk in enumerate(talks)]
            results.add(*new)
            pairs += sum(row["type"] in PAIRED for row in new)
            told(len(results.rows), pairs)
    return [record_row(row, folder) for row in results.rows]


def made_by(corrector: SCLCorrector, options: SCLOptions, model: str) -> dict[str, Any]:
    """Everything that decides about replies: the name of the weights, the configuration and the options."""
    asked = {name: value for name, value in to_dict(options).items() if name != "batch_size" and value is not None}
    if options.strategy is not None:
        asked["strategy"] = digest(strategy_file(options.strategy))  # its content, wherever it lies
    return {"model": model, **to_dict(corrector.config), **asked}


def refuse_overlap(construction: Iterable[Question], evaluation: Iterable[Question]) -> None:
    """Make sure that no question is in both sets, by data set and id.

    Raises:
        ValueError: there are such questions (three are named), or questions without ids.
    """
    measured = {_key(question) for question in evaluation}
    both = list(dict.fromkeys(key for question in construction if measured and (key := _key(question)) in measured))
    if both:
        names = ", ".join(f"{source} {id}".strip() for source, id in both[:3])
        raise ValueError(
            f"{len(both)} questions are for construction and for evaluation ({names}); a model must not learn from "
            "what it is measured with, so take them out of one of the sets."
        )


def _key(question: Question) -> tuple[str, str]:
    if not question.id:
        raise ValueError(
            f"The question {question.question!r} has no id, so that overlaps cannot be found; give it one."
        )
    return question.source, question.id


def _digest(questions: Iterable[Question]) -> str:
    """Of texts, ids and names of pictures, not of their contents."""
    found = hashlib.sha256()
    for q in questions:
        paths = [str(image.resolve()) for image in q.images if isinstance(image, Path)]
        found.update(json.dumps([q.id, q.source, q.question, q.options, q.answer, paths]).encode())
    return found.hexdigest()


def record_json(record: Record, folder: Path, number: int) -> dict[str, Any]:
    """A record as JSON; pictures that are no files are written below `folder`, `number` in front of their names."""
    stem = f"{number}_{record.source}_{record.id}"
    images = [stored(image, folder, f"{stem}_{n}") for n, image in enumerate(record.images)]
    names = ("id", "source", "question", "turns", "replies", "choices", "gold", "confidence")
    return {**{name: getattr(record, name) for name in names}, "type": record.type, "images": images}


def record_row(data: Mapping[str, Any], folder: Path) -> Record:
    """The inverse of `record_json`; pictures are named, not read."""
    return Record(
        id=data["id"],
        source=data["source"],
        question=data["question"],
        turns=tuple(data["turns"]),
        replies=tuple(data["replies"]),
        choices=tuple(data["choices"]),
        gold=data["gold"],
        images=tuple(folder / name for name in data["images"]),
        confidence=data.get("confidence"),
    )


def pair_json(pair: Pair, folder: Path) -> dict[str, Any]:
    """A pair as JSON; pictures that are no files are written below `folder`."""
    images = [stored(image, folder, f"{pair.source}_{pair.id}_{number}") for number, image in enumerate(pair.images)]
    names = ("id", "source", "type", "prompt", "chosen", "rejected")
    return {**{name: getattr(pair, name) for name in names}, "images": images, "made_by": dict(pair.made_by)}


def pair_row(data: Mapping[str, Any], folder: Path) -> Pair:
    """A row {prompt, chosen, rejected, id?, source?, type?, image? | images?, made_by?}, for `read_rows`, or one in a
    published form (`reward_vlm.forms`)."""
    data = pair_form(data)
    allowed = "id source type prompt chosen rejected image images made_by".split()
    check_fields(data, allowed, ("prompt", "chosen", "rejected"))
    texts = {name: text_of(data, name) for name in ("prompt", "chosen", "rejected")}
    if not texts["chosen"] or texts["chosen"] == texts["rejected"]:
        raise ValueError("chosen and rejected must be two different texts, and chosen must not be empty.")
    kind = 2 if data.get("type") is None else count_of(data, "type")
    if kind not in PAIRED:
        raise ValueError(f"type must be 2 or 3, got {kind}.")
    return Pair(
        id=id_of(data),
        source=text_of(data, "source"),
        type=kind,
        images=pictures_of(data, folder),
        made_by=data.get("made_by") or {},
        **texts,
    )
