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
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("restore")
from restoration.job import RestoreOptions, restore
from restoration.restorer import find_system
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
    return cli(options, prog="burnish restore", description=__doc__, args=arguments, embedded=system.config)


def main(options: RestoreOptions[Any], show: Show | None = None) -> int:
    """Restore everything that is not done yet; returns 0, or 2 when something could not be restored."""
    return restore(options, show or Terminal(), _judge).code


def call(arguments: Sequence[str], show: Show) -> int:
    """The command line."""
    return main(parse(arguments), show)


def _judge(source: str | None, device: Any) -> Any:
    from reward_vlm.audit import Watched
    from reward_vlm.r1.pictures import PictureJudge

    judge = PictureJudge.from_pretrained(source, device=device)
    return PictureJudge(Watched(judge.judge), judge.windows)
