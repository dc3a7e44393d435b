"""Train a system's weights.

    python scripts/train.py iter --stage vqgan --images HQ --folder runs/iter
    python scripts/train.py iter --recipe mini --photos photos --variant clean
    python scripts/train.py gtr --stage volume --meshes MESHES --folder runs/gtr
    python scripts/train.py r1 --stage sft --rows judgements.jsonl --start org/name --folder runs/r1-sft
    python scripts/train.py scl --pairs pairs.jsonl --start org/name --folder runs/scl
    accelerate launch --num_processes 8 scripts/train.py iter --stage refine --images HQ --start runs/iter/vqgan

The first word is the system; `--recipe` picks one of its recipes, and the rest are the recipe's options (`--help` after
the recipe lists them). A run that is stopped goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from vision.config import cli, fail

RECIPES = {
    "iter": {
        "published": ("restoration.iter.train", "ITERTraining"),
        "mini": ("restoration.iter.train_mini", "MiniTraining"),
    },
    "pasd": {
        "published": ("restoration.pasd.train", "PASDTraining"),
        "mini": ("restoration.pasd.train_mini", "MiniPASDTraining"),
    },
    "pie": {
        "published": ("vision.edit.train_pie", "PIETraining"),
        "confidence": ("vision.edit.train_confidence", "ConfidenceTraining"),
        "brain-mini": ("vision.edit.train_brain", "BrainTraining"),
    },
    "gtr": {"stages": ("recon3d.gtr.train", "GTRTraining")},
    "r1": {
        "published": ("reward_vlm.r1.train", "R1Training"),
        "mini": ("reward_vlm.r1.train_mini", "MiniR1Training"),
        "mini-restoration": ("reward_vlm.r1.train_pictures", "PictureJudgeTraining"),
        "mini-swayed": ("reward_vlm.r1.train_swayed", "SwayedJudgeTraining"),
        "judgements": ("reward_vlm.r1.judgements", "JudgementWriting"),
    },
    "scl": {
        "published": ("reward_vlm.scl.train", "SCLTraining"),
        "pairs": ("reward_vlm.scl.construct", "PairConstruction"),
        "rounds": ("reward_vlm.scl.rounds", "SCLRounds"),
        "mini": ("reward_vlm.scl.train_mini", "MiniSCLTraining"),
    },
}
"""System -> recipe -> module with a `train` function, and its options. A system's first recipe is its default."""


def parse(arguments: Sequence[str]) -> tuple[Any, Any]:
    """The recipe's module and its options, from the command line."""
    system, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    if system not in RECIPES:
        fail(f"The first word must be the system to train ({', '.join(RECIPES)}), got {system or 'nothing'}.")
    recipe = next(iter(RECIPES[system]))
    if "--recipe" in rest:
        place = rest.index("--recipe")
        recipe = "".join(rest[place + 1 : place + 2])
        del rest[place : place + 2]
    if recipe not in RECIPES[system]:
        fail(f"--recipe must be one of {', '.join(RECIPES[system])} for {system}, got {recipe or 'nothing'}.")
    module_name, options_name = RECIPES[system][recipe]
    module = importlib.import_module(module_name)
    prog = f"train.py {system}" + (f" --recipe {recipe}" if "--recipe" in arguments else "")
    return module, cli(getattr(module, options_name), prog=prog, args=rest)


def main(module: Any, options: Any) -> Path:
    """Train to the end and return the folder of the weights."""
    console = Console(soft_wrap=True)
    folder = module.train(options, log=lambda line: console.print(line, highlight=False))
    console.print(f"The result is {folder}.")
    return folder


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    try:
        main(*chosen)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        fail(str(error))
