"""Iterative refinement: a move folded over a schedule, with rules to judge, accept and stop."""

from vision.refine.items import PerItem, clone_items, item_generators, put_items, take_items, where_items
from vision.refine.loop import drain, observed, refine, refine_steps
from vision.refine.observe import ProgressBar, Trace, checkpoints, load_checkpoint, previews
from vision.refine.rules import (
    any_of,
    composite_outside,
    go_on_from_best,
    max_seconds,
    no_progress,
    reaches,
    roll_back_if_worse,
)
from vision.refine.step import Observer, Observers, Refined, Step, Verdict

__all__ = [
    "Observer",
    "Observers",
    "PerItem",
    "ProgressBar",
    "Refined",
    "Step",
    "Trace",
    "Verdict",
    "any_of",
    "checkpoints",
    "clone_items",
    "composite_outside",
    "drain",
    "go_on_from_best",
    "item_generators",
    "load_checkpoint",
    "max_seconds",
    "no_progress",
    "observed",
    "previews",
    "put_items",
    "reaches",
    "refine",
    "refine_steps",
    "roll_back_if_worse",
    "take_items",
    "where_items",
]
