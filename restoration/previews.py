"""What `restore` writes beside a result for people: the input next to it, and the picture after every step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL.Image import Resampling

from restoration.restorer import Restorer
from vision.images import LoadedImage, load_image, save_image, to_grey
from vision.refine import Step
from vision.report import side_by_side


def compare(loaded: LoadedImage, result: Path, path: Path) -> None:
    """Write the input, enlarged bicubically, beside the result that lies in a file."""
    restored = load_image(result, max_pixels=sys.maxsize).rgb
    enlarged = loaded.rgb.resize(restored.size, Resampling.BICUBIC)
    save_image(side_by_side([enlarged, restored], ["input, enlarged", "restored"]), path, icc=loaded.icc)


def write_steps(restorer: Restorer, folder: Path, options: Any, grey: bool) -> Callable[[Step], None]:
    """An observer that writes every step of every tile; a step that is not later than the last begins a new tile."""
    folder.mkdir(parents=True)
    tile, last = 0, -1

    def observe(step: Step) -> None:
        nonlocal tile, last
        tile, last = tile + (step.index <= last), step.index
        shown = restorer.decode(step.state, options)
        save_image(to_grey(shown) if grey else shown, folder / f"tile_{tile:03d}_step_{step.index:02d}.png")

    return observe
