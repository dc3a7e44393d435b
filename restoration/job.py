"""Restore pictures, folders and lists into a folder: what `burnish restore` runs, and any other caller can."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from restoration.restorer import Restorer, System, find_system
from vision.config import UNNAMED, Dtype, PathOrURL, Positional, from_dict, is_url, to_dict
from vision.job import Item, Job, Outcome, Show, choose_device, silent

NEUTRAL = ("inputs", "device", "compare", "previews", "max_pixels", "engine", "address", "actors")
"""Options that leave a result as it is."""
SAMPLING = ("steps", "schedule", "threshold", "temperature_tokens", "temperature_mask", "adaptive", "stop")
"""Options that mean nothing for a result whose fidelity leaves nothing to sample."""
T = TypeVar("T")


@dataclass(frozen=True)
class RestoreOptions(Generic[T]):
    """Restore images, folders of images, or lists of paths.

    Finished images are kept: the same command again goes on with the rest. An image that cannot be restored costs one
    sentence and exit code 2; the others are done.
    """

    inputs: Positional[tuple[PathOrURL, ...]]
    """Images, folders (with their sub-folders), .txt lists with one path per line, patterns such as "a/*.jpg", tar
    shards of WebDataset, or URLs of images, folders, patterns and shards (s3://bucket/folder)."""
    out: PathOrURL
    """Folder for the results, or its URL. They keep the names of their inputs: a.png becomes a.png, a.jpg becomes
    a_jpg.png; shards become shards, and the results of several folders lie in folders of the same names."""
    options: Annotated[T, UNNAMED]
    """What the system may change."""
    system: str = "iter"
    """Which system restores; --help beside it lists that system's options. iter; iter:photo@0.5, iter:clean@1 or
    iter:photo@1*0.75 (weights, fidelity, blend); auto, which looks at each picture and takes what suits it; pasd or
    pasd:PRESET (the small weights that come with the project only show the machinery; name published ones with
    --source); one-step:FOLDER, which `burnish convert one-step` wrote; network:FILE, any network that spandrel reads;
    my_file.py:MyRestorer, a class of your own; bicubic; none."""
    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU when there is one."""
    dtype: Dtype = "float32"
    """Numbers that the network computes with."""
    format: Literal["png", "jpg", "webp", "tif"] = "png"
    """Format of the results; png is written while it is computed and needs the least memory."""
    background: str | None = None
    """Colour (white, #20a0ff) that transparent images are put on; None keeps their transparency."""
    frames: int | Literal["all"] | None = None
    """Of animations and of files with several pages: the number of one, from 1 on, or all: an animation again (png or
    webp), or pages (tif). None refuses them."""
    compare: bool = False
    """Also write compare/NAME.png: the input, enlarged bicubically, beside the result."""
    previews: bool = False
    """Also write previews/NAME/: the picture after every step, tile by tile."""
    max_pixels: int = 100_000_000
    """Refuse inputs with more pixels than this."""
    best_of: int = 1
    """Restore so often, with seeds from the given one on, and keep the result that the judge prefers."""
    until_sure: bool = False
    """Of best_of: make no more results once one more is expected to be hardly better than the best of them."""
    judge: str = "judge"
    """Who prefers: judge (the small judge of restorations that comes with the project) or judge:FOLDER; consistency;
    niqe; brisque; pyiqa:NAME; r1 or r1:SOURCE (the vision-language judge, which compares two at a time)."""
    repair: bool = False
    """Make the windows anew that the judge of restorations finds faulty; pictures are held whole."""
    effort: Literal["full", "auto"] = "full"
    """full restores every tile of a picture; auto only those in which plain enlargement would lose detail."""
    overwrite: bool = False
    """Replace files in --out that this job did not make, or made from other inputs."""
    only_if_needed: bool = False
    """Copy pictures that are good as they are (with a scale: enlarge them plainly), and restore the others."""
    dry_run: bool = False
    """Only tell what every picture needs and what would be done with it; nothing is written."""
    engine: Literal["process", "ray"] = "process"
    """Who works: this process, or actors of a Ray cluster (pip install 'burnish[ray]')."""
    address: str | None = None
    """Of the Ray cluster, such as auto or ray://head:10001; None starts one on this machine unless RAY_ADDRESS names
    one."""
    actors: int | None = None
    """How many actors of the cluster work; None: one for each GPU, or for each processor where there are none."""

    def __post_init__(self) -> None:
        if self.best_of < 1:
            raise ValueError(f"best_of must be at least 1, got {self.best_of}.")
        if self.best_of == 1 and (self.judge != "judge" or self.until_sure):
            raise ValueError("A judge picks the best of several results; give --best-of as well.")
        if self.until_sure and self.judge.partition(":")[0] != "judge":
            raise ValueError(f"until_sure knows what a gain by judge is worth, not by {self.judge}; leave judge out.")
        if isinstance(self.frames, int) and self.frames < 1:
            raise ValueError(f"frames must be at least 1, or all, got {self.frames}.")
        if self.frames == "all" and (self.best_of > 1 or self.compare or self.previews):
            raise ValueError("frames all goes without best_of, compare and previews.")
        if self.effort == "auto" and self.previews:
            raise ValueError("previews show the steps of whole pictures, and effort auto restores parts; give one.")
        if self.repair and (self.frames == "all" or self.best_of > 1):
            raise ValueError("repair goes without best_of and frames all.")
        if not self.inputs:
            raise ValueError("Name at least one image, folder or .txt list to restore.")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}.")
        if self.engine == "process" and (self.address is not None or self.actors is not None):
            raise ValueError("address and actors are about a Ray cluster; give --engine ray as well.")
        if self.actors is not None and self.actors < 1:
            raise ValueError(f"actors must be at least 1, got {self.actors}.")
        if self.at_scale and (self.compare or self.previews or self.dry_run):
            raise ValueError("compare, previews and dry_run go without URLs, shards and engine ray.")

    @property
    def at_scale(self) -> bool:
        """Whether something is asked that a job on one machine's folders does not know: URLs, shards, a cluster."""
        named = (*self.inputs, self.out)
        return self.engine != "process" or any(is_url(name) or str(name).endswith(".tar") for name in named)


class PairJudge(Protocol):
    """Compares two restorations of one picture."""

    def prefers(self, first: Path, second: Path) -> bool:
        """Whether the first is the better one."""

    def told(self, job: Job) -> dict[str, Any]:
        """What run.json is to say about the judge; a warning is noted."""


LoadJudge = Callable[..., PairJudge]
"""Called with a source and a device."""


def restore(options: RestoreOptions[Any], show: Show = silent, load_judge: LoadJudge | None = None) -> Outcome:
    """Restore everything that is not done yet.

    Args:
        options: what to restore, how, and where the results go.
        show: gets the events.
        load_judge: makes the judge that `best_of` asks, from a source, on the device of the restorer.

    Raises:
        ValueError: nothing can be restored: the weights, the device or the output folder are unusable.
    """
    if not options.at_scale:
        return _Restoring(options, show, load_judge).run()
    from vision.scale.run import run

    own = options.options
    if find_system(options.system).is_own:  # processes elsewhere do not know its class yet
        own = to_dict(own)
    make = partial(_restoring, replace(options, options=own), load_judge)
    gpus = options.device == "auto" or options.device.startswith("cuda")
    return run(make, options, f".{options.format}", show, gpus=gpus)


def _restoring(options: RestoreOptions[Any], load_judge: LoadJudge | None, folder: Path, show: Show) -> _Restoring:
    """What restores pictures into a folder of this machine."""
    own = options.options
    if isinstance(own, dict):
        own = from_dict(find_system(options.system).options, own)
    here = {"inputs": (folder,), "out": folder, "engine": "process", "address": None, "actors": None}
    return _Restoring(replace(options, options=own, **here), show, load_judge)


class _Restoring:
    """One run of `restore`: networks are loaded when the first picture needs them."""

    def __init__(self, options: RestoreOptions[Any], show: Show, load_judge: LoadJudge | None):
        if options.best_of > 1 and options.judge.partition(":")[0] == "r1" and load_judge is None:
            raise ValueError("The judge r1 is a model of another package; give load_judge.")
        self.system = find_system(options.system)
        self.asked = self.system.completed(options.options)
        self.selection = self._selection(options)
        files = [] if self.selection is None else self.selection.weights()
        if self.system.restores:
            files += self.system.weights(options.source, self.asked)
        self.options, self.load_judge = options, load_judge
        self.device = choose_device(options.device)
        self.job = Job(options.out, options, neutral=NEUTRAL, files=files, show=show, overwrite=options.overwrite)
        self.restorers: dict[str, Restorer] = {}
        self.picking: Any = None
        self.picked: Any = None

    def run(self) -> Outcome:
        """Restore every item, or only tell what would be done."""
        for item in self.job.items(self.options.inputs, f".{self.options.format}"):
            with self.job.attempt(item):
                if self.options.dry_run:
                    self.job.note(f"{item.input}: {self._plan(self._read(item))}")
                else:
                    self.make(item)
            self.job.progress("restoring", item.number + 1, item.total)
        if self.options.dry_run:
            return Outcome(self.job.out, {}, self.job.problems)
        seed = to_dict(self.asked).get("seed")
        facts = {} if self.picking is None else self.picking.told()
        outcome = self.job.finish("images", source=self.options.source, seed=seed, device=str(self.device), **facts)
        if self.job.rank == 0:
            from restoration.decided import trace

            trace(self.job.out, outcome.items)
        return outcome

    def make(self, item: Item) -> None:
        """Restore one image, or what is missing of its pictures."""
        from vision.images import check_format, left_out, load_frames

        options = self.options
        if options.frames == "all" and (frames := load_frames(item.input, max_pixels=options.max_pixels)).count > 1:
            self._frames(item, frames)
            return
        loaded = self._read(item)
        check_format(item.path, 1, 1, transparent=loaded.alpha is not None)
        stem = str(PurePosixPath(item.name).with_suffix(""))
        compared, previews = f"compare/{stem}.png", f"previews/{stem}"
        done = item.done()
        redo = not done or (options.previews and not item.has(previews))
        if not redo and (item.has(compared) or not options.compare):
            return
        if redo:
            plan = self._plan(loaded)
            self.restorer, self.chosen = self._ready(plan)
            self._check(loaded)
            height, width = self.restorer.output_size(loaded.rgb.height, loaded.rgb.width, self.chosen)
            check_format(item.path, width, height)
        with item.results(*[compared] * options.compare, keep=done) as folder:
            result = folder / item.name if redo else item.path
            if redo:
                for sentence in filter(None, (*loaded.remarks, loaded.darkness, left_out(loaded, item.path))):
                    self.job.note(f"{item.input}: {sentence}")
                self._restore(item, loaded, result, folder / previews if options.previews else None)
                self._decided(item, plan, loaded)
            if options.compare:
                from restoration.previews import compare

                compare(loaded, result, folder / compared)

    def _read(self, item: Item) -> Any:
        from vision.images import load_image

        frame = 1 if self.options.frames == "all" else self.options.frames
        loaded = load_image(item.input, max_pixels=self.options.max_pixels, frame=frame)
        return loaded if self.options.background is None else loaded.on(self.options.background)

    def _selection(self, options: RestoreOptions[Any]) -> Any:
        """What decides about pictures, where anything does."""
        if self.system.restores and not (options.only_if_needed or options.dry_run):
            return None
        from restoration.selection import Selection

        return Selection.from_pretrained(None if self.system.restores else options.source)

    def _plan(self, loaded: Any) -> Any:
        """What is done with a picture; None: what was asked for."""
        if self.selection is None:
            return None
        from vision.images import to_tensor

        system = self.system.name if self.system.restores else None
        return self.selection.plan(to_tensor(loaded), to_dict(self.asked).get("scale"), system)

    def _decided(self, item: Item, plan: Any, loaded: Any = None) -> None:
        """Say what was decided about a picture."""
        from restoration.decided import line, told

        parts = self._parts(loaded)
        if said := line(plan, parts, self.picked):
            self.job.note(f"{item.input}: {said}")
            item.tell(**told(self.system.name, plan, parts, self.picked))

    def _parts(self, loaded: Any) -> Any:
        """Which tiles of a picture were restored, or which windows repaired; None: nothing chose among them."""
        if loaded is None or self.restorer.facts(self.chosen).copies:
            return None
        return self.restorer.last if self.options.repair or self.options.effort == "auto" else None

    def _ready(self, plan: Any) -> tuple[Restorer, Any]:
        """The restorer of a picture, and its options; it is loaded once."""
        system, options = self.system, self.asked
        if plan is not None and plan.system != system.name:
            system = find_system(plan.system)
            options = system.asked(scale=plan.scale, seed=to_dict(self.asked).get("seed", 0))
        if system.name not in self.restorers:
            self.restorers[system.name] = self.job.needs(self._load, system, options)
        restorer = self.restorers[system.name]
        if self.options.effort == "auto" and not restorer.facts(options).copies:
            from restoration.effort import RoutedRestorer

            restorer = RoutedRestorer(restorer)
        if self.options.repair and not restorer.facts(options).copies:
            from restoration.repair import RepairingRestorer

            restorer = RepairingRestorer.judged(restorer)
        return restorer, options

    def _frames(self, item: Item, frames: Any) -> None:
        """Restore an animation or a document."""
        from restoration.frames import restore_frames
        from vision.images import check_format, check_frames, left_out, save_frames

        if item.done():
            return
        options, first = self.options, next(iter(frames))
        plan = self._plan(first)
        self.restorer, self.chosen = self._ready(plan)
        self._check(first)
        height, width = self.restorer.output_size(first.rgb.height, first.rgb.width, self.chosen)
        check_format(item.path, width, height, transparent=frames.transparent and options.background is None)
        check_frames(item.path, frames, (width, height))
        for sentence in filter(None, (*first.remarks, first.darkness, left_out(first, item.path))):
            self.job.note(f"{item.input}: {sentence}")

        def progress(part: float) -> None:
            self.job.progress("restoring", item.number + part, item.total)

        with item.results() as folder:
            item.tell(frames=frames.count)
            self._decided(item, plan)
            save_frames(
                restore_frames(self.restorer, frames, self.chosen, options.background, progress),
                folder / item.name,
                durations=frames.durations,
                loops=frames.loops,
                icc=first.icc,
                metadata=first.metadata,
            )

    def _check(self, loaded: Any) -> None:
        """Whether the restorer can do what is asked, with this picture.

        Raises:
            ValueError: it cannot.
        """
        facts = self.restorer.facts(self.chosen)
        dial = "; give a --fidelity below 1" if "fidelity" in to_dict(self.chosen) else ""
        if self.options.best_of > 1 and not facts.seed:
            raise ValueError(f"best_of compares seeds, and this result of {facts.name} depends on none{dial}.")
        if self.options.previews and not facts.steps:
            raise ValueError(f"previews show steps, and this result of {facts.name} is made in one{dial}.")
        if dial and not facts.steps:
            given = [name for name in SAMPLING if getattr(self.chosen, name) != getattr(type(self.chosen), name)]
            if given:
                raise ValueError(f"{given[0]} is about sampling, and this result of {facts.name} has none{dial}.")
        if min(loaded.rgb.size) < facts.smallest:
            size = f"{loaded.rgb.width} x {loaded.rgb.height}"
            raise ValueError(f"{facts.name} needs at least {facts.smallest} pixels per side, got {size}.")

    def _restore(self, item: Item, loaded: Any, result: Path, previews: Path | None) -> None:
        """Restore a picture into a file: once, or with several seeds of which the judge keeps one."""
        options, count = self.chosen, self.options.best_of
        if count == 1:
            self._write(item, loaded, result, options, previews)
            return
        from restoration.best import Picking
        from vision.images import to_tensor
        from vision.strategies import Candidate, CostMeter

        folder, name = result.parent / ".candidates", self.restorer.facts(options).name

        def make(seed: int) -> Candidate:
            path, number = folder / f"seed_{seed}{result.suffix}", seed - options.seed
            shown = None if previews is None else previews / f"seed_{seed}"
            with CostMeter(device=self.device) as meter:
                self._write(item, loaded, path, replace(options, seed=seed), shown, number / count, count)
            return Candidate(item.name, path, name, meter.cost, seed)

        if self.picking is None:
            load = None if self.load_judge is None else partial(self.load_judge, device=self.device)
            self.picking = Picking(self.options.judge, self.options.until_sure, load, self.job)
        self.picked = self.picking(make, range(options.seed, options.seed + count), to_tensor(loaded))
        os.replace(self.picked.kept.value, result)
        shutil.rmtree(folder)

    def _write(
        self, item: Item, loaded: Any, result: Path, options: Any, previews: Path | None, begin: float = 0, of: int = 1
    ) -> None:
        """Restore a picture into a file: one of `of` times, when the item's work is done to the share `begin`."""
        from vision.images import bits_of, is_grey, save_bands, to_tensor, to_uint8, to_uint16

        def progress(part: float) -> None:
            self.job.progress("restoring", item.number + begin + part / of, item.total)

        whole, facts = self.options.background is None and self.options.frames is None, self.restorer.facts(options)
        if facts.copies and whole and _copied(item.input, result):
            return
        pixels = to_tensor(loaded)
        height, width = self.restorer.output_size(*pixels.shape[-2:], options)
        grey = facts.keeps_grey and bool(is_grey(pixels).all())
        observers = []
        if previews is not None:
            from restoration.previews import write_steps

            observers.append(write_steps(self.restorer, previews, options, grey))
        finish = to_uint16 if bits_of(loaded, result) == 16 else to_uint8
        bands = self.restorer.bands(pixels, options, finish=finish, observers=observers, progress=progress)
        said = {"icc": loaded.icc, "alpha": loaded.alpha, "metadata": loaded.metadata, "grey": grey}
        try:
            save_bands(bands, result, width=width, height=height, **said)
        except RuntimeError as error:  # torch has no type of its own for a CPU whose memory is full
            if "memory" not in str(error):
                raise
            advice = "; choose a smaller --tile" if facts.tiling else ""
            raise ValueError(f"There is not enough memory{advice}.") from error

    def _load(self, system: System, options: Any) -> Restorer:
        import torch

        source = self.options.source if system is self.system else None
        return system.load(source, options, device=self.device, dtype=getattr(torch, self.options.dtype))


def _copied(source: Path, result: Path) -> bool:
    """Copy the file of a picture, if its format is that of the result's name; whether it is."""
    from vision.images import content_format, format_of

    if same := content_format(source) == format_of(result):
        result.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, result)
    return same
