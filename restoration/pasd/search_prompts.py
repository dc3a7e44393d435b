"""Search for the words that PASD adds to every prompt.

    burnish prompts pasd --hr photos --out runs/words
    burnish restore pictures --system pasd --out restored @runs/words/options.txt

A task is a good photograph, degraded here; it is solved when the restoration has a smaller texture distance to the
truth than plain enlargement, and at most --near decibels less PSNR of luma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from restoration.kinds import PHOTOGRAPHS, items
from restoration.pasd.options import PASDConfig, PASDOptions, Preset
from restoration.pasd.restorer import PASDRestorer
from vision.checkpoints import one_at_a_time
from vision.job import Job, Outcome, Show, choose_device, silent
from vision.metrics import psnr, texture_distance
from vision.prompt_search import PromptSearch, search
from vision.resize import imresize


@dataclass(frozen=True)
class WordSearch(PromptSearch):
    """Search for added words."""

    hr: Path = Path("photos")
    """Folder of good photographs."""
    kind: str = "blind"
    """What happens to them: bicubic, blind, jpeg, noise or grey."""
    limit: int = 12
    """So many photographs, half of which are searched on."""
    size: int = 128
    """Side of the truth, in pixels."""
    near: float = 1.0
    """Decibels that a restoration may lie below plain enlargement."""
    source: str | None = None
    """Weights; None: those that come with the project."""
    preset: Preset | None = None
    """Of PASD."""
    steps: int | None = None
    """Denoising steps."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in PHOTOGRAPHS:
            raise ValueError(f"kind must be one of {', '.join(PHOTOGRAPHS)}, got {self.kind}.")


@one_at_a_time
def prompts(options: WordSearch, show: Show = silent) -> Outcome:
    """Search, and show the table.

    Raises:
        ValueError: photographs, weights or the folder cannot be used.
        FileNotFoundError: the weights, or those of the texture distance, are missing.
    """
    job = Job(options.out, options, show=show)
    restorer = PASDRestorer.from_pretrained(options.source, device=choose_device(options.device))
    scale = max(2, round(restorer.config.scale))
    given = {"cuts_each": 1, "size": options.size, "scale": scale, "seed": options.search_seed}
    pictures = list(items(options.hr, (options.kind,), **given))[: options.limit]

    asked = PASDOptions(options.preset, float(scale), steps=options.steps, seed=options.search_seed)

    def solves(prompt: str, numbers: Sequence[int]) -> list[bool]:
        found = []
        for number in numbers:
            item = pictures[number]
            made = restorer(item.low, replace(asked, added_prompt=prompt)).float().cpu()
            plain = imresize(item.low, size=tuple(item.high.shape[-2:])).clamp(0, 1)
            lost = float(psnr(plain, item.high, border=4) - psnr(made, item.high, border=4))
            nearer = float(texture_distance(made, item.high)) < float(texture_distance(plain, item.high))
            found.append(nearer and lost <= options.near)
        return found

    words = (*PASDConfig().added_prompt.split(", "), "sharp", "detailed", "photograph", "good photo")
    return search(job, options, (restorer.config.added_prompt,), words, len(pictures), solves, option="--added-prompt")
