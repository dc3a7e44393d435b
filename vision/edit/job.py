"""Edit every picture or scan that is named, frame by frame: what `burnish edit` does, with PIE or any other editor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image

from vision.checkpoints import load_state, save_state
from vision.config import UNNAMED, Dtype, Positional
from vision.edit import masks
from vision.edit.canvas import Box, Canvas
from vision.edit.confidence import Confidence
from vision.edit.difference import prompt_difference
from vision.edit.diffusers_editor import DiffusersEditor, DiffusersOptions
from vision.edit.editor import Facts, ProgressiveEditor, prompt_entries
from vision.edit.folders import DEFAULT
from vision.edit.measures import rows, summary
from vision.edit.options import PIEOptions, several
from vision.edit.pie import PIEEditor
from vision.edit.progression import Frame, Progression
from vision.edit.report import write_report
from vision.edit.scans import ENDINGS, Dicom, Nifti, Plane, is_scan, is_volume, read_scan
from vision.hub import on_disk
from vision.images import LoadedImage, load_image, save_image, to_pil, to_tensor
from vision.job import Item, Job, Outcome, Show, choose_device, silent
from vision.metrics import Clip
from vision.painted import painted
from vision.refine import PerItem, Step, checkpoints, load_checkpoint
from vision.report import save_mp4

NEUTRAL = ("inputs", "device", "max_pixels")
"""Options that leave a result as it is."""


@dataclass(frozen=True)
class EditOptions:
    """Edit pictures frame by frame, or simulate how a condition progresses."""

    inputs: Positional[tuple[Path, ...]]
    """Pictures, scans (.nii, .nii.gz, .dcm), folders, or .txt lists of paths; none takes an example brain."""
    out: Path
    """Folder for the results."""
    prompt: tuple[str, ...] = ()
    """What the result, or the condition, looks like; several are spread evenly over the frames. None takes that of the
    weights."""
    mask: Path | None = None
    """Picture (or scan) of the region that may change: what is painted, or any label that is not 0."""
    box: tuple[float, float, float, float] | None = None
    """Region: left, top, right, bottom, in shares of the sides."""
    ellipse: tuple[float, float, float, float] | None = None
    """Region: x and y of the centre, radii, in shares of the sides."""
    intensities: tuple[float, float] | None = None
    """Region: where the grey value lies between these two, in [0, 1]."""
    difference: bool = False
    """Region: where the predictions for prompt and source prompt differ (DiffEdit)."""
    feather: float = 0.0
    """Softness of the region's edge, in pixels of the input."""
    trajectories: int = 1
    """Progressions of every input, with seeds that follow each other; the report tells their spread."""
    plane: Plane = "axial"
    """How volumes are cut."""
    slices: tuple[int, ...] = ()
    """Slices of a volume that are edited, counted from 0 as in the file; none takes the one with most of the mask."""
    window: tuple[float, float] | None = None
    """Intensities of a scan that are black and white; None takes the file's own, or its 0.5th and 99.5th percentile."""
    options: Annotated[PIEOptions, UNNAMED] = field(default_factory=PIEOptions)
    """What the system may change."""
    pipeline: str | None = None
    """Edit with a pipeline of diffusers instead of PIE: its folder, or org/name on the model hub. It may change other
    things: --help beside it lists them."""
    source: str | None = None
    """PIE's weights: a Stable Diffusion folder, org/name on the model hub, or builtin:tiny; None: the embedded ones."""
    unet: Path | None = None
    """Folder of a fine-tuned UNet to take instead of the source's."""
    classifier: Path | None = None
    """Folder of a classifier that measures frames (`burnish train pie --recipe confidence` writes one); None takes that
    of the weights, if they come with one."""
    clip: str | None = None
    """CLIP model for more measures: local-dir:FOLDER, hf-hub:ORG/NAME, or a name of open_clip."""
    clip_weights: str | None = None
    """Of a name: a file or one of open_clip's tags."""
    film: Literal["gif", "mp4"] = "gif"
    """Format of the film; mp4 is written beside the gif."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU when there is one."""
    dtype: Dtype = "float32"
    """Numbers that the networks compute with."""
    max_pixels: int = 100_000_000
    """Refuse pictures with more pixels than this."""
    overwrite: bool = False
    """Replace files in --out that this job did not make, or made from other inputs."""

    def __post_init__(self) -> None:
        if self.trajectories < 1:
            raise ValueError(f"trajectories must be at least 1, got {self.trajectories}.")
        if self.mask is not None and (self.box or self.ellipse or self.intensities or self.difference):
            raise ValueError("Give a mask as a file or as shapes, not both.")
        regions = (self.mask, self.box, self.ellipse, self.intensities)
        everywhere = not self.difference and all(region is None for region in regions)
        if self.feather and everywhere:
            raise ValueError("feather softens the edge of a region; give a mask or a shape as well.")
        if isinstance(self.options, DiffusersOptions) and self.options.around and everywhere:
            raise ValueError("around is about a region; give a mask or a shape as well.")
        scales = several(self.options.guidance_scale)
        if isinstance(self.options, PIEOptions) and self.options.negative_prompt and scales and max(scales) <= 1:
            raise ValueError("A negative prompt guides where guidance_scale is above 1; raise that, or leave it out.")
        if isinstance(self.options, PIEOptions) and self.options.source_prompt is not None:
            if self.options.mode != "inversion" and not self.difference and self.clip is None:
                raise ValueError(
                    "A source prompt is for mode inversion, difference or clip; add one of them, or leave it out."
                )
        if self.prompt:
            prompt_entries(self.prompt, "", len(self.prompt))  # its own checks
        if self.clip_weights is not None and self.clip is None:
            raise ValueError("clip_weights belong to a CLIP model; name it as well (--clip).")
        if self.pipeline is not None and (self.source is not None or self.unet is not None):
            raise ValueError("source and unet are weights of PIE; leave them out beside a pipeline.")
        if (self.pipeline is not None) != isinstance(self.options, DiffusersOptions):
            raise ValueError("A pipeline takes DiffusersOptions, and PIE takes PIEOptions.")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window needs a lower and a higher intensity, got {self.window[0]:g} {self.window[1]:g}.")


@dataclass(frozen=True)
class PipelineEditOptions(EditOptions):
    """Edit pictures with a pipeline of diffusers."""

    options: Annotated[DiffusersOptions, UNNAMED] = field(default_factory=DiffusersOptions)
    """What the pipeline may change."""


def edit(options: EditOptions, show: Show = silent) -> Outcome:
    """Edit everything that is not done yet.

    Args:
        options: what to edit, how, and where the results go.
        show: gets the events.

    Raises:
        ValueError: nothing can be done: weights, device or output folder are unusable.
    """
    if not options.inputs:
        raise ValueError("Name at least one picture, scan, folder or .txt list to edit.")
    return _Editing(options, show).run()


class _Editing:
    """One run of `edit`: networks are loaded when the first picture needs them."""

    def __init__(self, options: EditOptions, show: Show):
        source = options.pipeline or options.source
        weights = DEFAULT if source is None else on_disk(source, None)
        files = [
            path
            for path in (weights, options.unet, options.classifier, options.mask)
            if path is not None and path.exists()
        ]
        self.options, self.device = options, choose_device(options.device)
        self.job = Job(options.out, options, neutral=NEUTRAL, files=files, show=show, overwrite=options.overwrite)
        self.editor: ProgressiveEditor | None = None
        self.clip: Clip | None = None

    def run(self) -> Outcome:
        for item in self.job.items(self.options.inputs, "", also=ENDINGS):
            with self.job.attempt(item):
                if not item.done():
                    self.editor = self.editor or self.job.needs(self._load)
                    self._item(item, self.editor)
            self.job.progress("editing", item.number + 1, item.total)
        if self.editor is not None and (note := self._facts(self.editor).note):
            self.job.note(note)
        source, seed = self.options.pipeline or self.options.source, self.options.options.seed
        return self.job.finish("inputs", source=source, seed=seed, device=str(self.device))

    def _facts(self, editor: ProgressiveEditor) -> Facts:
        return editor.facts(self.options.options)

    def _load(self) -> ProgressiveEditor:
        options = self.options
        if options.clip is not None:
            self.clip = Clip.load(options.clip, options.clip_weights, device=self.device)
        dtype = getattr(torch, options.dtype)
        if options.pipeline is not None:
            editor = DiffusersEditor.from_pretrained(options.pipeline, device=self.device, dtype=dtype)
        else:
            editor = PIEEditor.from_pretrained(options.source, unet=options.unet, device=self.device, dtype=dtype)
        if options.classifier is not None:
            editor.classifier = Confidence.from_pretrained(options.classifier)
        return editor.to(self.device)  # a classifier that the editor takes along

    def _item(self, item: Item, editor: ProgressiveEditor) -> None:
        """Edit one input and write its folder."""
        options = self.options
        self._refuse_others(item.input)
        scan = read_scan(item.input, options.plane) if is_scan(item.input) else None
        numbers = [0] if scan is None else self._slices(scan)
        canvases = {}
        for number in numbers:
            plain = self._canvas(item.input) if scan is None else scan.canvas(number, options.window)
            canvases[number] = plain.within(self._region(editor, plain, scan, number))
        if scan is not None:
            low, high = scan.shown_range(options.window)
            item.tell(window=[low, high], slices=numbers, plane=options.plane)
            self.job.note(f"{item.input}: slices {', '.join(map(str, numbers))}; {low:g} is black and {high:g} white.")
        elif canvases[0].values.dtype != np.uint8:
            item.tell(window=[canvases[0].low, canvases[0].high])
            self.job.note(f"{item.input}: its values are shown from {canvases[0].low:g} to {canvases[0].high:g}.")
        for region in [canvas.region for canvas in canvases.values() if canvas.region is not None][:1]:
            for sentence in masks.remarks(Image.fromarray(region)):
                self.job.note(f"{item.input}: {sentence}")
        facts = self._facts(editor)
        boxes = {number: canvas.window(facts.square, facts.around) for number, canvas in canvases.items()}
        found = {
            number: self._simulate(item, editor, canvas.seen(boxes[number]), canvas.seen_region(boxes[number]), number)
            for number, canvas in canvases.items()
        }
        with item.results() as folder:
            self._write(item, editor, folder / item.name, scan, canvases, boxes, found)

    def _refuse_others(self, path: Path) -> None:
        """
        Raises:
            ValueError: an option is given that says nothing about an input of this kind.
        """
        options = self.options
        given = {"plane": options.plane != EditOptions.plane, "slices": options.slices, "window": options.window}
        if is_scan(path):
            given = {"plane": given["plane"] and not is_volume(path)}
        if names := [f"--{name}" for name, asked in given.items() if asked]:
            kind, verb = "NIfTI volumes" if is_scan(path) else "scans (NIfTI, DICOM)", "are" if names[1:] else "is"
            raise ValueError(f"{' and '.join(names)} {verb} for {kind}, and {path} is none; leave one of them out.")

    def _canvas(self, path: Path) -> Canvas:
        picture = self._read(path)
        for sentence in picture.remarks:
            self.job.note(f"{path}: {sentence}")
        return Canvas.of(picture)

    def _read(self, path: Path) -> LoadedImage:
        return load_image(path, max_pixels=self.options.max_pixels)

    def _slices(self, scan: Nifti | Dicom) -> list[int]:
        """The planes to edit: those asked for, else the one with most of the mask, else the middle one."""
        options = self.options
        if options.slices:
            return sorted(set(options.slices))
        if options.mask is not None and is_scan(options.mask):
            region = read_scan(options.mask, options.plane)
            if region.count == scan.count:
                return [int(np.argmax([np.count_nonzero(region.numbers(i)) for i in range(region.count)]))]
        return [scan.count // 2]

    def _simulate(
        self, item: Item, editor: ProgressiveEditor, seen: Image.Image, region: Image.Image | None, number: int
    ) -> Progression:
        """The progressions of one plane; what an interrupted run made is not made again."""
        options, work = self.options, item.work() / f"slice_{number:04d}"
        work.mkdir(exist_ok=True)
        resume, earlier = _unfinished(work, self.device)
        frames = self._facts(editor).frames

        def keep(step: Step) -> None:
            _keep(work / f"frame_{step.at:04d}.safetensors", step.state)

        def tell(made: float) -> None:
            self.job.progress("editing", item.number + made / (frames + 1), item.total)

        pictures = [seen] * options.trajectories
        run = editor.start(pictures, self._prompt, region, options.options)
        if not earlier:
            _keep(work / "frame_0000.safetensors", editor.first(run))
        return editor.simulate(run, observers=[keep, checkpoints(work)], resume=resume, earlier=earlier, progress=tell)

    @property
    def _prompt(self) -> tuple[str, ...] | None:
        return self.options.prompt or None

    def _write(
        self,
        item: Item,
        editor: ProgressiveEditor,
        folder: Path,
        scan: Nifti | Dicom | None,
        canvases: Mapping[int, Canvas],
        boxes: Mapping[int, Box],
        found: Mapping[int, Progression],
    ) -> None:
        """The files of one input."""
        options, facts = self.options, self._facts(editor)
        folder.mkdir(parents=True)
        target = options.prompt[-1] if options.prompt else facts.prompt
        numbered: dict[int, list[np.ndarray]] = {}
        for number, progression in found.items():
            canvas, box = canvases[number], boxes[number]
            name = "" if len(found) == 1 else f"slice_{number:04d}_"
            if facts.own_size:
                values = [canvas.values]
                values += [canvas.with_change(change, box) for change in progression.differences[1:, 0]]
                shown = [canvas.shown(v) for v in values]
                numbered[number] = values
                if canvas.region is not None:
                    save_image(Image.fromarray(canvas.region), folder / f"{name}mask.png")
            else:
                shown = progression.pictures()
                if progression.region is not None:
                    save_image(progression.region[0], folder / f"{name}mask.png")
            table = rows(progression, clip=self.clip, prompt=target, source_prompt=facts.source_prompt)
            write_report(folder, progression, table, name=name, pictures=shown, title=f"{target}")
            if options.film == "mp4":
                save_mp4(shown, folder / f"{name}progression.mp4", fps=2)
            if progression.images.shape[1] > 1:
                self._spread(folder, name, canvas, box, progression, facts.own_size)
            item.tell(**{f"{name}{key}": value for key, value in summary(table).items()})
            if not facts.own_size:
                for frame, picture in enumerate(shown):
                    save_image(picture, folder / f"{name}{frame_name(frame, len(shown))}.png", icc=canvas.icc)
        for frame in range(len(next(iter(numbered.values()), []))):
            path = folder / frame_name(frame, len(next(iter(numbered.values()))))
            if scan is None:
                values, canvas = np.ascontiguousarray(numbered[0][frame]), canvases[0]
                whole = values.dtype.kind == "u"  # numbers of a PNG; floats are a TIFF's
                save_image(
                    values if whole else Image.fromarray(values),
                    path.with_suffix(".png" if whole else ".tif"),
                    icc=canvas.icc,
                    alpha=canvas.alpha if whole else None,
                    metadata=canvas.metadata,
                )
            else:
                changed = {number: values[frame] for number, values in numbered.items()}
                scan.save(changed, path.with_name(path.name + scan.suffix), item.origin.key, frame)

    def _spread(
        self, folder: Path, name: str, canvas: Canvas, box: Box, progression: Progression, own_size: bool
    ) -> None:
        """The mean of the last frames of all trajectories, and where they differ."""
        if own_size and progression.differences is not None:
            mean = canvas.shown(canvas.with_change(progression.differences[-1].mean(dim=0), box))
        else:
            mean = to_pil(progression.mean()[-1])
        spread = progression.spread()[-1]
        save_image(mean, folder / f"{name}mean.png")
        save_image(spread / spread.max().clamp(min=1e-6), folder / f"{name}spread.png")

    def _region(
        self, editor: ProgressiveEditor, canvas: Canvas, scan: Nifti | Dicom | None, number: int
    ) -> Image.Image | None:
        """Where a picture may change (mode L); None: everywhere."""
        options, (height, width), found = self.options, canvas.size, []
        if options.mask is not None:
            region = self._painted(options.mask, canvas, scan, number)
            if options.feather:
                region = to_pil(masks.feather(to_tensor(region)[:, :1], options.feather))
            return region
        if options.box is not None:
            found.append(masks.box(height, width, *options.box))
        if options.ellipse is not None:
            found.append(masks.ellipse(height, width, *options.ellipse))
        if options.intensities is not None:
            found.append(masks.threshold(canvas.shown().convert("RGB"), *options.intensities))
        if options.difference:
            found.append(self._difference(editor, canvas))
        if not found:
            return None
        region = to_pil(masks.feather(masks.join(found), options.feather))
        return masks.load_region(region, canvas.size).getchannel(0)

    def _painted(self, mask: Path, canvas: Canvas, scan: Nifti | Dicom | None, number: int) -> Image.Image:
        """A mask from a file: a picture, or the same plane of another scan."""
        if not is_scan(mask):
            region = painted(self._read(mask))
        elif scan is None:
            raise ValueError(f"The mask {mask} is a scan, but the input is a picture.")
        else:
            labels = read_scan(mask, self.options.plane)
            if labels.count != scan.count:
                raise ValueError(f"The mask {mask} has {labels.count} slices, but the scan {scan.count}.")
            values = labels.numbers(number)
            share = values.dtype.kind == "f" and labels.raw.min() >= 0 and labels.raw.max() <= 1
            region = Image.fromarray(np.where(values > 0, 255 * values if share else 255, 0).astype(np.uint8))
        return masks.load_region(region, canvas.size).getchannel(0)

    def _difference(self, editor: ProgressiveEditor, canvas: Canvas) -> torch.Tensor:
        """(1, 1, h, w) where the predictions for two prompts differ, in the window that the networks see."""
        options, facts = self.options, self._facts(editor)
        if not facts.differences:
            raise ValueError(f"{facts.name} cannot tell where two prompts differ; give a mask or a shape instead.")
        target = options.prompt[-1] if options.prompt else facts.prompt
        left, top, right, bottom = box = canvas.window(facts.square)
        start = editor.start(canvas.seen(box), target, options=options.options).original
        small = prompt_difference(editor, start, facts.source_prompt, target, seed=options.options.seed)
        region = torch.zeros(1, 1, *canvas.size)
        region[..., top:bottom, left:right] = torch.nn.functional.interpolate(small, (bottom - top, right - left))
        return region


def frame_name(number: int, count: int) -> str:
    """Names of frames that sort as they follow each other: frame_00, frame_01, ..."""
    return f"frame_{number:0{max(2, len(str(count - 1)))}d}"


def _keep(path: Path, frame: Frame) -> None:
    kept = {name: getattr(frame, name) for name in ("images", "latents", "difference")}
    save_state(path, {name: value for name, value in kept.items() if value is not None}, {})


def _unfinished(work: Path, device: torch.device) -> tuple[Step | None, Sequence[Frame]]:
    """The last step of an interrupted run and all its frames, or nothing."""
    nothing = torch.zeros(0)
    like = Frame(nothing, nothing, nothing, nothing, PerItem(), nothing)
    step: Any = load_checkpoint(work, like=like, device=device)
    if step is None:
        return None, []
    frames = []
    for number in range(step.index + 2):
        kept = {
            name: value.to(device) for name, value in load_state(work / f"frame_{number:04d}.safetensors")[0].items()
        }
        frames.append(Frame(kept["images"], kept.get("latents"), nothing, nothing, PerItem(), kept["difference"]))
    return step, frames
