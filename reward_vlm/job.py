"""Questions to a model, one or a file of them: what judge, answer and their evaluations share as jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch

from reward_vlm.chat import WithChat, listed, spelled
from reward_vlm.data import read_rows
from reward_vlm.results import Results
from reward_vlm.vlm import ChatModel
from vision.config import Dtype
from vision.job import Job, Outcome, Show, Unusable, choose_device

Row = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class AskOptions:
    """One question to a model, or a file of them."""

    question: str | None = None
    """What is asked about the image."""
    image: tuple[Path, ...] = ()
    """Pictures that the question is about."""
    rows: Path | None = None
    """JSON lines of questions, instead of one."""
    out: Path | None = None
    """JSON lines of results (with rows); a file that this command made is continued."""
    skip_bad: bool = False
    """Leave out rows that cannot be used."""
    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Dtype = "float32"
    """Numbers that the model computes with; bfloat16 halves the memory of large ones."""

    def __post_init__(self) -> None:
        given = " and ".join(f"--{name}" for name in ("image", *self.asked_with()) if getattr(self, name))
        if (self.rows is None) == (self.question is None):
            also = " and ".join(f"--{name}" for name in self.asked_with()[:1])
            raise ValueError(f"Give either one --question with its {also}, or a file of --rows.")
        if self.question is not None and not self.question.strip():
            raise ValueError("The question is an empty text; is a variable of the shell unset?")
        if self.rows is not None and self.out is None:
            raise ValueError("A file of --rows needs a file --out for the results.")
        if self.rows is not None and given:
            raise ValueError(f"{given} belong to one --question; rows hold their own.")
        if self.question is not None and (self.out is not None or self.skip_bad):
            name = "--skip-bad" if self.out is None else "--out"
            raise ValueError(f"{name} belongs to --rows; the result of one --question is shown.")

    def asked_with(self) -> tuple[str, ...]:
        """Names of the fields that belong to one question, besides its pictures."""
        return ()


def place(device: str, dtype: Dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` that say where a model is, and the numbers that it computes with."""
    return {"device": choose_device(device), "dtype": getattr(torch, dtype)}


def read_asked(options: AskOptions, make: Callable[[Row, Path], T]) -> tuple[list[T], list[str]]:
    """The rows of --rows, and a sentence for each that was left out; arguments and errors as `read_rows`.

    Raises:
        ValueError: there are none that can be used.
    """
    assert options.rows is not None
    rows, problems = read_rows(options.rows, make, skip_bad=options.skip_bad)
    if not rows:
        raise ValueError(f"{options.rows} holds no rows{': ' + problems[0] if problems else '.'}")
    return rows, problems


def note_unknown_words(model: WithChat, text: str, job: Job) -> None:
    """Tell which words the small weights that come with the project never saw: they read those letter by letter."""
    if not isinstance(model.chat, ChatModel):
        return
    words = spelled(model.chat.tokenizer, text)
    if words:
        told = f"These weights never saw {listed(words)}: what they say means little."
        job.note(f"{told} --source takes other weights.")


class RowJob(Job):
    """A job that makes one row of results, {"row": its number, ...}, of every row of its input.

    Args:
        path: of the results; NAME.run.json will lie beside NAME.jsonl.
        options: a dataclass, told in run.json.
        facts: everything that decides about results, as JSON values: options, the digest of the input.
        show: gets the events.

    Raises:
        ValueError: results are there already that were made with other options or from other rows.
    """

    def __init__(self, path: Path, options: Any, facts: Mapping[str, Any], show: Show):
        super().__init__(path.parent, options, show=show)
        self.results = Results(path, {name: value for name, value in facts.items() if name not in ("out", "device")})
        self.earlier = len(self.results.rows)

    def waiting(self, total: int) -> list[int]:
        """Numbers of the rows, of `total`, that have no result yet."""
        done = {row["row"] for row in self.results.rows}
        return [number for number in range(total) if number not in done]

    def grow(
        self, text: str, names: Sequence[str], size: int, make: Callable[[Sequence[int]], Sequence[Row]]
    ) -> list[dict[str, Any]]:
        """Make what is missing, and return all results in the order of the rows.

        Args:
            text: what is done, for those who watch.
            names: of the rows, for sentences about them.
            size: rows that are made together, at most.
            make: the results of rows whose numbers follow each other. What it refuses of several rows is tried row by
                row, so that one that cannot be used costs its own result alone.

        Raises:
            ValueError: another process works on the same results.
        """
        with self.results.alone():
            for part in _consecutive(self.waiting(len(names)), size):
                try:
                    self._add(part, make)
                except Unusable:
                    raise
                except (ValueError, OSError):
                    for number in part:
                        with self.attempt(Path(names[number])):
                            self._add([number], make)
                self.progress(text, len(self.results.rows), len(names))
        return sorted(self.results.rows, key=lambda row: row["row"])

    def finish(self, noun: str, **facts: Any) -> Outcome:
        """As `Job.finish`; run.json is called after the file of the results, and they are not in it again."""
        rows = {str(row["row"]): row for row in self.results.rows}
        path = self.results.path
        facts = {**facts, noun: len(rows)}
        self.conclude(noun, len(rows), self.earlier, f"{path.stem}.run.json", path, **facts)
        return Outcome(self.out, rows, self.problems)

    def _add(self, part: Sequence[int], make: Callable[[Sequence[int]], Sequence[Row]]) -> None:
        self.results.add(*({"row": number, **row} for number, row in zip(part, make(part), strict=True)))


def _consecutive(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """Increasing numbers in runs without gaps, of at most `size`."""
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield from (run[start : start + size] for start in range(0, len(run), size))
