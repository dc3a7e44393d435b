"""Image restoration: degradations to train and measure with, and the systems that undo them."""

from importlib import import_module
from typing import Any

from restoration.data import DegradedImages, PairedImages
from restoration.degrade import Draws, degrade
from restoration.recipes import RECIPES, recipe

SYSTEMS = {
    "ITERConfig": "restoration.iter",
    "ITEROptions": "restoration.iter",
    "ITERRestorer": "restoration.iter",
    "PASDConfig": "restoration.pasd",
    "PASDOptions": "restoration.pasd",
    "PASDRestorer": "restoration.pasd",
}
"""Names that are imported when they are asked for: their libraries take seconds to load."""

__all__ = ["RECIPES", "DegradedImages", "Draws", "PairedImages", "degrade", "recipe", *SYSTEMS]


def __getattr__(name: str) -> Any:
    if name not in SYSTEMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(SYSTEMS[name]), name)
