"""Simulate how a condition progresses, from one picture: `burnish edit INPUT... --out FOLDER`.

    burnish edit                                               (a brain, the embedded weights: to try it out)
    burnish edit scan.png --mask region.png --prompt "..." --source SD_FOLDER --out runs/scan
    burnish edit scan.png --ellipse 0.4 0.5 0.1 0.1 --feather 5 --trajectories 8 --seed 3

PIE simulates severity; it does not predict a patient's future. Writes, for every input, FOLDER/STEM/: the frames 0.png
(the input), 1.png, ..., mask.png, report.png, frames.json and .csv, a film; and run.json. The same command again after
an interruption goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("edit")
from vision.config import cli, to_dict, version
from vision.edit import PIEEditor, PIEOptions, Progression, evaluate, masks
from vision.edit.difference import prompt_difference
from vision.edit.pictures import resize_and_cut
from vision.edit.progression import Frame
from vision.files import atomic_path, digest
from vision.images import load_image, save_image, to_pil
from vision.inputs import Inputs
from vision.job import Show
from vision.metrics import Clip
from vision.refine import PerItem, Step, checkpoints, load_checkpoint
from vision.report import save_mp4, write_run

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "brain.png"


@dataclass(frozen=True)
class EditOptions:
    """Simulate how a condition progresses."""

    inputs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Pictures, folders of pictures, or .txt lists of paths; none takes the brain that comes with the project."""
    out: Path = Path("runs/edit")
    """Folder for the results."""
    prompt: tuple[str, ...] = ()
    """What the condition looks like; several are spread evenly over the frames. None takes that of the weights."""
    source_prompt: str | None = None
    """What the input shows, for --options.mode inversion and --difference."""
    mask: Path | None = None
    """Picture of the region that may change (white)."""
    box: tuple[float, float, float, float] | None = None
    """Region: left, top, right, bottom, in shares of the sides."""
    ellipse: tuple[float, float, float, float] | None = None
    """Region: x and y of the centre, radii, in shares of the sides."""
    threshold: tuple[float, float] | None = None
    """Region: where the grey value lies between these two, in [0, 1]."""
    difference: bool = False
    """Region: where the predictions for prompt and source prompt differ (DiffEdit)."""
    feather: float = 0.0
    """Softness of the region's edge, in pixels of the input."""
    trajectories: int = 1
    """Progressions of every input, with seeds that follow each other; the report tells their spread."""
    options: Annotated[PIEOptions, tyro.conf.arg(name="")] = field(default_factory=PIEOptions)
    """What the system may change."""
    source: str | None = None
    """Weights: a Stable Diffusion folder, org/name on the model hub, or builtin:tiny; None: the embedded ones."""
    unet: Path | None = None
    """Folder of a fine-tuned UNet to take instead of the source's."""
    clip: str | None = None
    """CLIP model for more measures: local-dir:FOLDER, hf-hub:ORG/NAME, or a name of open_clip."""
    clip_weights: str | None = None
    """Of a name: a file or one of open_clip's tags."""
    film: Literal["gif", "mp4"] = "gif"
    """Format of the film; mp4 is written beside the gif."""
    device: str = "cpu"
    """cpu, cuda, ..."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Numbers that the networks compute with."""

    def __post_init__(self) -> None:
        if self.trajectories < 1:
            raise ValueError(f"trajectories must be at least 1, got {self.trajectories}.")


class Bars:
    """Progress over the frames, and over the steps of the current one."""

    def __init__(self, console: Console):
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(*columns, console=console)
        self.frames, self.steps = self.progress.add_task("frames"), self.progress.add_task("steps", total=None)

    def begin(self, name: str, frames: int, done: int) -> None:
        self.progress.update(self.frames, description=name, total=frames, completed=done)

    def frame(self, step: Step) -> None:
        self.progress.update(self.frames, completed=step.at)
        self.progress.update(self.steps, completed=0)

    def step(self, step: Step) -> None:
        self.progress.update(self.steps, completed=step.index + 1)


def main(options: EditOptions) -> int:
    """Simulate everything that is not done yet; returns 0, or 2 when an input could not be used.

    Raises:
        ValueError: nothing can be done: weights or options are unusable.
    """
    started, console = time.monotonic(), Console(stderr=True, soft_wrap=True, highlight=False)
    editor = PIEEditor.from_pretrained(
        options.source, unet=options.unet, device=options.device, dtype=getattr(torch, options.dtype)
    )
    clip = _clip(options, console)
    named = Inputs.find(options.inputs or (EXAMPLE,), options.out)
    if named.problems:
        raise ValueError(named.problems[0])
    inputs = [path for path, _ in named.pictures]
    if len({path.stem for path in inputs}) < len(inputs):
        raise ValueError("Two inputs have the same name without ending; do them apart, their results share a folder.")
    told, problems, bars = {}, [], Bars(console)
    with bars.progress:
        for path in inputs:
            try:
                told[path.stem] = edit_file(editor, path, options, clip, bars)
            except (ValueError, OSError) as error:
                sentence = " ".join(str(error).split())
                problems.append(sentence if str(path) in sentence else f"{path}: {sentence}")
                console.print(problems[-1], markup=False)
    if told:
        seconds = round(time.monotonic() - started, 2)
        seed = options.options.seed
        write_run(
            options.out,
            options=to_dict(options),
            source=options.source,
            seed=seed,
            seconds=seconds,
            results=told,
            problems=problems,
        )
        console.print(f"{options.out}: {', '.join(told)}. PIE simulates severity; it does not predict a future.")
    return 2 if problems else 0


def edit_file(editor: PIEEditor, path: Path, options: EditOptions, clip: Clip | None, bars: Bars) -> dict[str, Any]:
    """Simulate one input unless that is done; returns what run.json tells about it."""
    folder = options.out / path.stem
    picture = load_image(path).rgb
    picture, region = _region(editor, picture, path, options)
    key = _fingerprint(options, path)
    record = folder / "done.json"
    if record.exists() and json.loads(record.read_text()).get("fingerprint") == key:
        return json.loads(record.read_text())["result"]
    work = folder / f".unfinished-{key[:12]}"
    resume, earlier = _unfinished(work)
    resolved = options.options.resolved(editor.config)
    bars.begin(path.name, resolved.frames, len(earlier) - 1 if earlier else 0)

    def keep(step: Step) -> None:
        _keep(work / f"frame_{step.at:04d}.safetensors", step.state)

    pictures = [picture] * options.trajectories
    common = {"mask": region, "options": options.options, "source_prompt": options.source_prompt}
    if not earlier:
        first = editor.first(editor.start(pictures, options.prompt or None, **common))
        _keep(work / "frame_0000.safetensors", first)
    found = editor.simulate(
        pictures,
        options.prompt or None,
        observers=[keep, checkpoints(work), bars.frame],
        inner=[bars.step],
        resume=resume,
        earlier=earlier,
        **common,
    )
    target = list(options.prompt)[-1] if options.prompt else editor.config.prompt
    source = editor.config.source_prompt if options.source_prompt is None else options.source_prompt
    result = _write(folder, found, clip, target, source, options.film)
    with atomic_path(record) as part:
        part.write_text(json.dumps({"fingerprint": key, "result": result}, indent=2) + "\n")
    shutil.rmtree(work)
    return result


def _write(folder: Path, found: Progression, clip: Clip | None, prompt: str, source: str, film: str) -> dict[str, Any]:
    """The files of one input."""
    for stale in folder.glob("[0-9]*.png"):
        stale.unlink()
    for number, frame in enumerate(found.pictures()):
        save_image(frame, folder / f"{number}.png")
    if found.region is not None:
        save_image(found.region[0], folder / "mask.png")
    table = evaluate.rows(found, clip=clip, prompt=prompt, source_prompt=source)
    evaluate.write_report(folder, found, table)
    if film == "mp4":
        save_mp4(found.pictures(), folder / "progression.mp4", fps=2)
    if found.images.shape[1] > 1:
        save_image(found.mean()[-1], folder / "mean.png")
        spread = found.spread()[-1]
        save_image(spread / spread.max().clamp(min=1e-6), folder / "spread.png")
    return evaluate.summary(table)


def _region(
    editor: PIEEditor, picture: Image.Image, path: Path, options: EditOptions
) -> tuple[Image.Image, Image.Image | None]:
    """The picture and its region, of one size; None edits everywhere."""
    if options.difference:
        resolution = options.options.resolved(editor.config).resolution
        picture = resize_and_cut(picture, resolution) if resolution else picture
    width, height = picture.size
    found = []
    mask = options.mask
    if mask is None and not options.inputs and path == EXAMPLE:
        mask = EXAMPLE.with_name("brain_mask.png")
    if options.box is not None:
        found.append(masks.box(height, width, *options.box))
    if options.ellipse is not None:
        found.append(masks.ellipse(height, width, *options.ellipse))
    if options.threshold is not None:
        found.append(masks.threshold(picture, *options.threshold))
    if options.difference:
        source = editor.config.source_prompt if options.source_prompt is None else options.source_prompt
        target = options.prompt[-1] if options.prompt else editor.config.prompt
        found.append(prompt_difference(editor, picture, source, target, seed=options.options.seed))
    if found:
        joined = masks.feather(masks.join(found), options.feather)
        if options.mask is None:
            return picture, to_pil(joined).convert("RGB")
        raise ValueError("Give a mask as a file or as shapes, not both.")
    return picture, None if mask is None else load_image(mask).rgb


def _clip(options: EditOptions, console: Console) -> Clip | None:
    """The CLIP model; one that cannot be loaded costs a sentence, and its measures."""
    if options.clip is None:
        return None
    try:
        return Clip.load(options.clip, options.clip_weights, device=options.device)
    except (ValueError, OSError) as error:
        console.print(f"Going on without CLIP measures: {error}", markup=False)
        return None


def _fingerprint(options: EditOptions, path: Path) -> str:
    """Of everything that a result depends on."""
    facts = to_dict(replace(options, inputs=(), out=Path(), device="", trajectories=options.trajectories))
    files = [digest(path), *([digest(options.mask)] if options.mask is not None and options.mask.is_file() else [])]
    return hashlib.sha256(json.dumps([version(), facts, files], sort_keys=True).encode()).hexdigest()


def _keep(path: Path, frame: Frame) -> None:
    with atomic_path(path) as part:
        save_file({"images": frame.images.cpu().contiguous(), "latents": frame.latents.cpu().contiguous()}, part)


def _unfinished(work: Path) -> tuple[Step | None, list[Frame]]:
    """The last step of an interrupted run and all its frames, or nothing."""
    nothing = torch.zeros(0)
    like = Frame(nothing, nothing, nothing, nothing, PerItem())
    step = load_checkpoint(work, like=like) if work.is_dir() else None
    if step is None:
        return None, []
    frames = []
    for number in range(step.index + 2):
        kept = load_file(work / f"frame_{number:04d}.safetensors")
        frames.append(Frame(kept["images"], kept["latents"], nothing, nothing, PerItem()))
    return step, frames


def parse(arguments: Sequence[str]) -> EditOptions:
    """Options from the command line."""
    return cli(EditOptions, prog="burnish edit", description=__doc__, args=arguments)


def call(arguments: Sequence[str], show: Show) -> int | None:
    """The command line."""
    code = main(parse(arguments))
    return code if isinstance(code, int) else None
