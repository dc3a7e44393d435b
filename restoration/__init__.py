"""Image restoration: degradations to train and measure with, and the systems that undo them."""

from typing import Any

from restoration.data import DegradedImages, PairedImages
from restoration.degrade import Draws, degrade
from restoration.iter import ITERConfig, ITEROptions, ITERRestorer
from restoration.recipes import RECIPES, recipe

__all__ = [
    "RECIPES",
    "DegradedImages",
    "Draws",
    "ITERConfig",
    "ITEROptions",
    "ITERRestorer",
    "PASDConfig",
    "PASDOptions",
    "PASDRestorer",
    "PairedImages",
    "degrade",
    "recipe",
]


def __getattr__(name: str) -> Any:
    """PASD's names are imported when they are asked for: diffusers takes seconds to load."""
    if name not in ("PASDConfig", "PASDOptions", "PASDRestorer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from restoration import pasd

    return getattr(pasd, name)
