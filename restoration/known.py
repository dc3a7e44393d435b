"""Restorations whose truth is known, from the folders that `burnish benchmark restorers --keep` writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from restoration.benchmark_restorers import INPUT, TRUTH
from vision.images import load_image, to_tensor
from vision.strategies import Choice, read_choices

PARTS = ("two seeds", "two methods", "spoiled")
"""Kinds of pairs of which the better one is known."""


@dataclass(frozen=True)
class Known:
    """An item of such a folder."""

    choice: Choice
    """The trace: its candidates' values are files."""
    low: Tensor
    """(1, 3, h, w) what was restored."""
    high: Tensor
    """(1, 3, H, W) the truth."""
    made: tuple[Tensor, ...]
    """(1, 3, H, W) each: the candidates, in order."""

    @property
    def photograph(self) -> str:
        """Name of what the item was cut from; items are called PHOTOGRAPH_CUT/KIND."""
        return self.choice.task.rsplit("/", 1)[0].rsplit("_", 1)[0]


def known(folders: Sequence[Path]) -> Iterator[Known]:
    """Every item of the folders.

    Raises:
        FileNotFoundError: a folder has no trace, or a picture is missing.
        ValueError: no pictures were kept.
    """
    for folder in folders:
        for choice in read_choices(folder):
            files = [candidate.value for candidate in choice.candidates]
            if not all(isinstance(file, Path) for file in files):
                raise ValueError(f"{folder} holds no pictures; let benchmark restorers --keep write it.")
            low, high, *made = (to_tensor(load_image(path)) for path in _paths(files))
            yield Known(choice, low, high, tuple(made))


def _paths(files: Sequence[Path]) -> list[Path]:
    return [files[0].parent / INPUT, files[0].parent / TRUTH, *files]
