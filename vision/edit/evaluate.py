"""Measure PIE on a held-out brain, beside a latent walk and an extrapolation; called by `burnish evaluate pie`.

    burnish evaluate pie --volumes FOLDER --out runs/pie                       (the embedded weights)
    burnish evaluate pie --inputs HEALTHY --masks MASKS --source SD_FOLDER --out runs/mine

Without inputs, healthy slices of Colin27, which was never trained on, get elliptic regions in their white matter;
FOLDER is filled as `vision/edit/brain.py` says. Every input is edited with several seeds. Writes frames.json and .csv
(every trajectory and frame), methods.json and .csv (medians of every method), stops.json and .csv (where `--stop
progress` would end the trajectories, beside as many frames for all; harm.json and .csv have it for `benchmark harm`),
report.png, strips.png, run.json.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from vision.checkpoints import one_at_a_time
from vision.config import UNNAMED, to_dict
from vision.edit import PIEEditor, PIEOptions, Progression
from vision.edit.baselines import extrapolate, latent_direction, latent_walk
from vision.edit.brain import BrainImages, Sample, load_colin, load_mni, render
from vision.edit.editor import by_progress
from vision.edit.masks import ellipse, feather
from vision.edit.measures import bound, rows, summary
from vision.edit.report import write_report
from vision.harm import harm_rows, write_harm
from vision.images import image_files, load_image, save_image, to_pil, to_tensor
from vision.job import Event, Show, choose_device, silent
from vision.refine import Step
from vision.report import strip, text_table, write_run, write_table


@dataclass(frozen=True)
class PIEEvaluation:
    """Measure PIE and what it is compared with."""

    out: Path
    """Folder for the results."""
    volumes: Path = Path("volumes")
    """Folder below which the files of nilearn and mricron-data lie."""
    inputs: Path | None = None
    """Folder of pictures without the condition, instead of slices of the held-out brain."""
    masks: Path | None = None
    """Folder of their regions, of the same names."""
    source: str | None = None
    """Weights; None: the embedded ones."""
    slices: int = 10
    """Slices of the held-out brain."""
    seeds: int = 5
    """Trajectories of every picture."""
    stride: float = 0.5
    """Of the extrapolation's frames, in lengths of the direction from healthy to diseased."""
    baselines: bool = True
    """Also run the latent walk and the extrapolation, with one seed."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    options: Annotated[PIEOptions, UNNAMED] = field(default_factory=PIEOptions)
    """What the system may change."""

    def __post_init__(self) -> None:
        asked = self.options
        if asked.stop != "end" or asked.stop_score is not None or asked.tolerance is not None:
            raise ValueError("Whole progressions are measured, also where progress ends them; leave rules to stop out.")
        for name in ("slices", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not math.isfinite(self.stride):
            raise ValueError(f"stride must be a finite number, got {self.stride}.")


@one_at_a_time
def evaluate(options: PIEEvaluation, show: Show = silent) -> Path:
    """Measure, show and return the folder of the results."""
    began = time.monotonic()
    editor = PIEEditor.from_pretrained(options.source, device=choose_device(options.device))
    if editor.classifier is None:
        raise ValueError("Confidence curves need weights with a classifier; these have none.")
    images, regions = inputs(options)
    many = [images.repeat_interleave(options.seeds, 0), regions.repeat_interleave(options.seeds, 0)]
    methods: dict[str, list[dict[str, Any]]] = {}
    parts = [
        editor.simulate(
            editor.start(some, mask=mask, options=replace(options.options, seed=options.options.seed + 10 * first))
        )
        for first, (some, mask) in enumerate(zip(many[0].split(10), many[1].split(10), strict=True))
    ]
    found = joined(parts)
    methods["pie"] = rows(found)
    pictures = {"pie": found.images[:, :: options.seeds]}
    if options.baselines:
        for name, run in baselines(editor, options).items():
            frames = run(images, regions)
            scores = torch.stack([editor.classifier(frame.to(editor.device)) for frame in frames]).to(frames.device)
            methods[name] = rows(Progression(frames, None, scores, None, found.region[:: options.seeds]))
            pictures[name] = frames
    medians = [{"method": name, **summary(part)} for name, part in methods.items()]
    every = [{"method": name, **row} for name, part in methods.items() for row in part]
    write_table(every, options.out / "frames.json", options.out / "frames.csv")
    write_table(medians, options.out / "methods.json", options.out / "methods.csv")
    ends = stops(found.scores)
    write_table(ends, options.out / "stops.json", options.out / "stops.csv")
    reached = found.scores.gather(0, ends_by_progress(found.scores)[None])[0]
    pairs = list(zip(found.scores[-1].tolist(), reached.tolist(), strict=True))
    write_harm(options.out, harm_rows("edit --stop progress", {"edits": pairs}, "probability", 0.01))
    write_report(options.out, found, methods["pie"], name="pie_")
    shown = [
        strip([to_pil(image) for image in frames[:, i]], gap=1)
        for i in range(len(images))
        for frames in pictures.values()
    ]
    sheet = strip(shown, vertical=True)
    save_image(sheet.resize((2 * sheet.width, 2 * sheet.height), 0), options.out / "strips.png")
    told = bound(found)
    write_run(
        options.out / "run.json",
        options=to_dict(options),
        seconds=round(time.monotonic() - began, 1),
        bound=vars(told),
        medians=medians,
    )
    show(Event("result", text_table(medians, digits=3), path=options.out))
    show(Event("result", text_table(ends, digits=3), path=options.out))
    return options.out


def stops(scores: Tensor) -> list[dict[str, Any]]:
    """Where progress ends trajectories, and what that gives up: a row for all frames, one for progress, and two for as
    many frames for all (the mean of progress, rounded down and up).

    Every row has the mean number of frames and its share of all; the mean and the least probability at the end, and
    the share of trajectories that end at 0.99 or more.

    Args:
        scores: (frames + 1, trajectories) probabilities of whole progressions, the original's first.
    """
    last, frames = len(scores) - 1, ends_by_progress(scores)
    mean = float(frames.double().mean())
    ways = {"at the end": torch.full_like(frames, last), "by progress": frames}
    ways |= {f"after frame {n}": torch.full_like(frames, n) for n in sorted({math.floor(mean), math.ceil(mean)})}
    rows = []
    for name, ends in ways.items():
        reached = scores.gather(0, ends[None])[0]
        made = float(ends.double().mean())
        numbers = {"frames": made, "of all": made / last, "probability": float(reached.mean())}
        sure = float((reached >= 0.99).double().mean())
        rows.append({"ends": name, **numbers, "least": float(reached.min()), "sure": sure})
    return rows


def ends_by_progress(scores: Tensor) -> Tensor:
    """(trajectories,) int64 the frame with which progress ends each, of (frames + 1, trajectories) probabilities."""
    frames = torch.full_like(scores[0], len(scores) - 1, dtype=torch.long)
    going = torch.ones_like(scores[0], dtype=torch.bool)
    for number in range(1, len(scores)):
        gain = None if number == 1 else scores[number] - scores[number - 1]  # the original is not asked about
        ended = by_progress(Step(number - 1, number, None, None, score=scores[number], gain=gain)) & going
        frames[ended], going = number, going & ~ended
    return frames


def inputs(options: PIEEvaluation) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, h, w) and regions (n, 1, h, w), in [0, 1].

    Raises:
        ValueError: pictures come without regions.
    """
    if options.inputs is not None:
        if options.masks is None:
            raise ValueError("Pictures need regions: name a folder of masks.")
        paths = image_files(options.inputs)
        regions = [to_tensor(load_image(options.masks / path.name)).amax(1, keepdim=True) for path in paths]
        return torch.cat([to_tensor(path) for path in paths]), torch.cat(regions)
    samples = held_out(options)
    regions = torch.cat([white_matter_region(sample, number) for number, sample in enumerate(samples)])
    eight = torch.stack([(255 * sample.image).round() / 255 for sample in samples])
    return eight.expand(-1, 3, -1, -1).contiguous(), regions


def held_out(options: PIEEvaluation) -> list[Sample]:
    """Healthy slices of the held-out brain, evenly spread and not augmented."""
    subject = load_colin(options.volumes)
    depths = [(2 * i + 1) * len(subject.t1) // (2 * options.slices) for i in range(options.slices)]
    return [
        render(subject, torch.Generator().manual_seed(depth), severity=0, augment=False, depth=depth)
        for depth in depths
    ]


def white_matter_region(sample: Sample, number: int) -> Tensor:
    """(1, 1, side, side) a soft ellipse where white matter is thickest, on the left and right in turn."""
    white = sample.white[None].clone()
    side = white.shape[-1]
    half = slice(0, side // 2) if number % 2 else slice(side // 2, side)
    white[..., half] = 0
    row, column = divmod(int(feather(white, 4.0).argmax()), side)
    return feather(ellipse(side, side, (column + 0.5) / side, (row + 0.5) / side, 0.1, 0.13), 1.0)


def baselines(editor: PIEEditor, options: PIEEvaluation) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Name -> (pictures, regions) -> frames."""

    def walk(images: Tensor, regions: Tensor) -> Tensor:
        return latent_walk(editor, editor.start(images, options=replace(options.options, mode="inversion")))

    found = {"latent walk": walk}
    if options.inputs is None:
        data, healthy, ill = BrainImages(load_mni(options.volumes), 7), [], []
        for sample in (data[i] for i in range(200)):
            (ill if sample.severity else healthy).append(sample.image.expand(1, 3, -1, -1))
        direction = latent_direction(editor, healthy, ill)

        def move(images: Tensor, regions: Tensor) -> Tensor:
            run = editor.start(images, mask=regions, options=options.options)
            return extrapolate(editor, run, direction, stride=options.stride)

        found["extrapolation"] = move
    return found


def joined(parts: list[Progression]) -> Progression:
    """Batches of progressions as one."""
    return Progression(
        torch.cat([part.images for part in parts], dim=1),
        torch.cat([part.latents for part in parts], dim=1),
        torch.cat([part.scores for part in parts], dim=1),
        torch.cat([part.mask for part in parts]),
        torch.cat([part.region for part in parts]),
    )
