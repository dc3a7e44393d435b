"""Search for the prompt that shows the condition in most pictures.

    burnish prompts pie --inputs healthy --masks masks --out runs/prompt
    burnish edit scan.png --mask region.png --out runs/edit @runs/prompt/options.txt

A task is a picture with its region; it is solved when the classifier is at least --sure of the condition in the last
frame. The prompt that the weights were tuned for is the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch

from vision.checkpoints import one_at_a_time
from vision.config import UNNAMED
from vision.edit.options import PIEOptions
from vision.edit.pie import PIEEditor
from vision.images import image_files, load_image, to_tensor
from vision.job import Job, Outcome, Show, choose_device, silent
from vision.prompt_search import PromptSearch, search


@dataclass(frozen=True)
class ConditionSearch(PromptSearch):
    """Search for a prompt."""

    inputs: Path = Path("healthy")
    """Folder of pictures without the condition."""
    masks: Path = Path("masks")
    """Folder of their regions, of the same names."""
    sure: float = 0.5
    """Probability of the condition, in (0, 1), that solves a picture."""
    source: str | None = None
    """Weights with a classifier; None: those that come with the project."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    options: Annotated[PIEOptions, UNNAMED] = field(default_factory=PIEOptions)
    """What the system may change."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sure < 1:
            raise ValueError(f"sure must lie in (0, 1), got {self.sure:g}.")


@one_at_a_time
def prompts(options: ConditionSearch, show: Show = silent) -> Outcome:
    """Search, and show the table.

    Raises:
        ValueError: pictures, weights or the folder cannot be used, or the weights have no classifier.
        FileNotFoundError: a picture has no region.
    """
    job = Job(options.out, options, show=show)
    editor = PIEEditor.from_pretrained(options.source, device=choose_device(options.device))
    if editor.classifier is None:
        raise ValueError("A prompt is searched by what a classifier says; these weights come without one.")
    paths = image_files(options.inputs)
    given = [
        (to_tensor(path), to_tensor(load_image(options.masks / path.name)).amax(1, keepdim=True)) for path in paths
    ]

    def solves(prompt: str, numbers: Sequence[int]) -> list[bool]:
        found = []
        for number in numbers:
            image, mask = given[number]
            last = editor.simulate(editor.start(image, prompt, mask, options.options)).images[-1]
            with torch.no_grad():
                found.append(float(editor.classifier(last.to(editor.device))) >= options.sure)
        return found

    return search(job, options, (editor.config.prompt,), (), len(given), solves, option="--prompt")
