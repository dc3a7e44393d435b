"""Rows that teach a critic by the improvement that its words cause.

Source: "ReARTeR: Retrieval-Augmented Reasoning with Trustworthy Process Rewarding" (arXiv 2501.07861), section 4.3, and
its published code: an explanation is good when the refined step scores more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CriticRow:
    """An explanation for training with KTO."""

    text: str
    """The explanation."""
    label: bool
    """Whether what was refined by it scores more than before."""
    weight: float
    """exp(old - new): what made things worse, or hardly better, counts more."""


def critic_rows(old: Sequence[float], new: Sequence[float], texts: Sequence[str]) -> list[CriticRow]:
    """A row per explanation.

    Args:
        old: score of each step before.
        new: score of each step as refined.
        texts: the explanations that it was refined by.
    """
    return [
        CriticRow(text, after > before, math.exp(before - after))
        for before, after, text in zip(old, new, texts, strict=True)
    ]
