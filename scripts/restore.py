"""Restore images, larger and cleaner.

    burnish restore photo.jpg --out restored                   (four times larger, weights that come with the project)
    burnish restore photos --out restored --compare            (a folder with its sub-folders)
    burnish restore photo.jpg --out restored --best-of 4 --fidelity 0.5       (four seeds; a judge keeps one)
    burnish restore photos --out restored --system pasd --help       (options of the other system)
    accelerate launch --num_processes 8 scripts/restore.py photos --out restored

Finished images are kept: the same command again goes on with the rest. An image that cannot be restored costs one
sentence and exit code 2; the others are done.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("restore")
from restoration.job import RestoreOptions, restore
from restoration.restorer import SYSTEMS, System, find_system
from vision.config import cli, fail
from vision.job import Show

from .terminal import Terminal


def parse(arguments: Sequence[str]) -> RestoreOptions[Any]:
    """Options from the command line; --system decides which there are."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--system=") else [word])]
    name = words[words.index("--system") + 1] if "--system" in words[:-1] else "iter"
    try:
        system = find_system(name)
        options = RestoreOptions[system.options]
    except (ValueError, FileNotFoundError) as error:
        fail(str(error))
    _check_names(arguments, system)
    return cli(options, prog="burnish restore", description=__doc__, args=arguments, embedded=system.config)


def _check_names(arguments: Sequence[str], system: System) -> None:
    """Ends the program where an option is another system's."""

    def known(options: type) -> set[str]:
        return {field.name.replace("_", "-") for field in fields(options)}

    own = known(RestoreOptions) | known(system.options)
    for name in (word[2:].split("=", 1)[0] for word in arguments if word.startswith("--") and word != "--help"):
        others = [
            other for other in ("iter", "pasd", "auto") if name not in own and name in known(SYSTEMS[other].options)
        ]
        if others:
            fail(f"--{name} is an option of --system {' and of '.join(others)}, not of {system.name}.")


def main(options: RestoreOptions[Any], show: Show | None = None) -> int:
    """Restore everything that is not done yet; returns 0, or 2 when something could not be restored."""
    return restore(options, show or Terminal(), _judge).code


call = main


def _judge(source: str | None, device: Any) -> Any:
    from reward_vlm.audit import Watched
    from reward_vlm.r1.pictures import PictureJudge

    judge = PictureJudge.from_pretrained(source, device=device)
    return PictureJudge(Watched(judge.judge), judge.windows)
