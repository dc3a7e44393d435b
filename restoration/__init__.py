"""Image restoration: degradations to train and measure with, and the systems that undo them."""

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
    "PairedImages",
    "degrade",
    "recipe",
]
