"""Image restoration: degradations to train and measure with, and the systems that undo them."""

from restoration.degrade import Draws, degrade
from restoration.recipes import RECIPES, recipe

__all__ = ["RECIPES", "Draws", "degrade", "recipe"]
