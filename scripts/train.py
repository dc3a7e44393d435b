"""Train a system's weights.

    burnish train iter --recipe mini --photos photos --variant clean
    burnish train iter --stage vqgan --images HQ --folder runs/iter
    burnish train r1 --stage sft --rows judgements.jsonl --start org/name --folder runs/r1-sft
    accelerate launch --num_processes 8 scripts/train.py iter --stage refine --images HQ --start runs/iter/vqgan

The first word is the system; --recipe picks one of its recipes, and the rest are the recipe's options. A run that is
stopped goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("train")
from vision.job import Event, Show

from . import dispatch
from .dispatch import Work
from .terminal import Terminal

RECIPES = {
    "iter": {
        "published": Work("restoration.iter.train", "ITERTraining", "the published network, stage by stage"),
        "mini": Work("restoration.iter.recipe_mini", "MiniTraining", "the small weights that ship, on a CPU"),
        "tune": Work("restoration.iter.recipe_mini", "TuneTraining", "the small weights tuned on your own photographs"),
        "sharpen": Work("restoration.iter.recipe_sharpen", "SharpenTraining", "the best of several samples, learnt"),
    },
    "pasd": {
        "published": Work("restoration.pasd.train", "PASDTraining", "PASD on a Stable Diffusion base"),
        "mini": Work("restoration.pasd.recipe_mini", "MiniPASDTraining", "the small weights that ship, on a CPU"),
    },
    "pie": {
        "published": Work("vision.edit.train", "PIETraining", "fine-tune Stable Diffusion on a domain's pictures"),
        "confidence": Work("vision.edit.train_confidence", "ConfidenceTraining", "a classifier that measures progress"),
        "brain-mini": Work("vision.edit.recipe_mini", "BrainTraining", "the small weights that ship, on a CPU"),
    },
    "selector": {"traces": Work("restoration.train_selector", "SelectorTraining", "what --system auto decides with")},
    "judge": {
        "traces": Work("restoration.train_judge", "JudgeTraining", "what --best-of and --repair ask"),
        "duel": Work("restoration.train_duel", "DuelTraining", "the same, in a duel with one who plants faults"),
    },
    "gtr": {"stages": Work("recon3d.gtr.train", "GTRTraining", "the generator of objects, stage by stage")},
    "r1": {
        "published": Work("reward_vlm.r1.train", "R1Training", "cold start, then StableReinforce"),
        "mini": Work("reward_vlm.r1.recipe_mini", "MiniR1Training", "the small judge of scenes that ships, on a CPU"),
        "mini-restoration": Work(
            "reward_vlm.r1.recipe_restoration", "PictureJudgeTraining", "the judge of restorations"
        ),
        "mini-swayed": Work("reward_vlm.r1.recipe_swayed", "SwayedJudgeTraining", "a judge whose teacher errs"),
        "judgements": Work("reward_vlm.r1.judgements", "JudgementWriting", "let a served model write judgements"),
    },
    "scl": {
        "published": Work("reward_vlm.scl.train", "SCLTraining", "preference optimisation on pairs of corrections"),
        "pairs": Work("reward_vlm.scl.construct", "PairConstruction", "make pairs of a model's own corrections"),
        "rounds": Work("reward_vlm.scl.rounds", "SCLRounds", "pairs, training and evaluation in rounds"),
        "splice": Work("reward_vlm.scl.splice", "SpliceTraining", "learn to turn back from wrong answers"),
        "verified": Work("reward_vlm.scl.verified", "VerifiedTraining", "learn from own reviews that proved right"),
        "self": Work("reward_vlm.scl.evolve", "SelfTraining", "learn from what the model agrees with itself about"),
        "strategy": Work("reward_vlm.scl.train_strategy", "StrategyTraining", "which way a question is to be answered"),
        "lessons": Work("reward_vlm.scl.lessons", "LessonTraining", "learn the last turns of dialogues"),
        "mini": Work("reward_vlm.scl.recipe_mini", "MiniSCLTraining", "the small model that ships, on a CPU"),
    },
}
"""System -> recipe -> what it does; a system's first recipe is its default."""


def parse(arguments: Sequence[str]) -> tuple[Any, Any]:
    """The recipe's module and its options, from the command line."""
    return dispatch.parse("train", "to train", __doc__ or "", RECIPES, arguments)


def main(module: Any, options: Any, show: Show | None = None) -> Path | None:
    """Train to the end and return the folder of the weights."""
    show = show or Terminal()
    folder = module.train(options, log=lambda line: show(Event("note", line)))
    show(Event("result", f"The result is {folder}.", path=folder))
    return folder


def call(parsed: tuple[Any, Any], show: Show) -> None:
    """Train what `parse` found."""
    main(*parsed, show)
