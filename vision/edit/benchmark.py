"""Time one edit of PIE beside diffusers' image-to-image on the same networks; called by `burnish benchmark pie`.

Same components, steps, strength and guidance; the pipeline returns one picture without anchoring it to the original.
Also times a batch of four beside four calls. Rounds alternate, and the least CPU time of each is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vision.checkpoints import one_at_a_time
from vision.edit import PIEEditor, PIEOptions
from vision.images import to_pil
from vision.job import Event, Show, silent
from vision.report import text_table, write_table


@dataclass(frozen=True)
class PIEBenchmark:
    """Time PIE beside image-to-image."""

    source: str | None = None
    """Weights; None: the embedded ones."""
    steps: int = 20
    """Steps of the whole schedule."""
    strength: float = 0.5
    """Share of them that is made."""
    guidance_scale: float = 7.5
    """Weight of the guidance."""
    rounds: int = 3
    """Measurements of everything."""
    out: Path | None = None
    """Folder for times.json and times.csv."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}.")


@one_at_a_time
def benchmark(options: PIEBenchmark, show: Show = silent) -> list[dict[str, Any]]:
    """Measure and show; returns the rows.

    Raises:
        ValueError: another process works on the folder `out`.
    """
    from diffusers import StableDiffusionImg2ImgPipeline

    editor = PIEEditor.from_pretrained(options.source)
    editor.classifier = None
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=editor.vae,
        unet=editor.unet,
        text_encoder=editor.text.encoders[0],
        tokenizer=editor.text.tokenizers[0],
        scheduler=editor.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    side = editor.config.resolution
    images = [to_pil(torch.rand(3, side, side, generator=torch.Generator().manual_seed(i))) for i in range(4)]
    mask = torch.ones(1, 1, side, side)
    mask[..., : side // 4] = 0
    settings = PIEOptions(
        frames=1,
        steps=options.steps,
        strength=options.strength,
        guidance_scale=options.guidance_scale,
        beta_2=0.75,
        fixed_noise=False,
        paste_outside=False,
        size="published",
    )
    prompt = editor.config.prompt

    def pie(pictures: list) -> None:
        editor(pictures, prompt, mask=mask, options=settings)

    def image_to_image() -> None:
        pipeline(
            prompt,
            image=images[0],
            strength=options.strength,
            guidance_scale=options.guidance_scale,
            num_inference_steps=options.steps,
            generator=torch.Generator().manual_seed(0),
        )

    jobs: dict[str, Callable[[], None]] = {
        "PIE, one call": lambda: pie(images[:1]),
        "image to image, one call": image_to_image,
        "PIE, batch of four": lambda: pie(images),
        "PIE, four calls": lambda: [pie([image]) for image in images] and None,
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(options.rounds + 1):
        for name, job in jobs.items():
            began = time.process_time()
            job()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - began)
    rows = [{"what": name, "cpu_seconds": min(times)} for name, times in seconds.items()]
    show(Event("result", text_table(rows, digits=3)))
    if options.out is not None:
        write_table(rows, options.out / "times.json", options.out / "times.csv")
    return rows
