"""Restore images: `python scripts/restore.py INPUT... --out FOLDER`.

INPUT is an image, a folder of images, or a .txt list of paths. Finished images are kept: run the same command again
after an interruption and it goes on with the rest. Several processes or GPUs: `accelerate launch scripts/restore.py
...`; each image is done by one of them. An image that cannot be restored costs one sentence and exit code 2; the others
are done.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from vision.config import cli, fail, to_dict

SYSTEMS = {  # name -> module, pipeline, its options
    "iter": ("restoration.iter", "ITERRestorer", "ITEROptions"),
    "pasd": ("restoration.pasd", "PASDRestorer", "PASDCommand"),
}
NEUTRAL = ("inputs", "out", "device", "compare", "previews", "max_pixels")  # options that leave a result as it is
T = TypeVar("T")
Progress = Callable[[float], object]


@dataclass(frozen=True)
class RestoreOptions(Generic[T]):
    """Restore images, folders of images, or lists of paths."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Images, folders of images, or .txt lists with one path per line."""
    out: Path
    """Folder for the results; they keep the stems of their inputs."""
    options: Annotated[T, tyro.conf.arg(name="")]
    """What the system may change."""
    system: Literal["iter", "pasd"] = "iter"
    """Which system restores."""
    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU when there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Numbers that the network computes with."""
    format: Literal["png", "jpg", "webp", "tif"] = "png"
    """Format of the results; png is written while it is computed and needs the least memory."""
    background: str | None = None
    """Colour (white, #20a0ff) that transparent images are put on; None keeps their transparency."""
    compare: bool = False
    """Also write compare/STEM.png: the input, enlarged bicubically, beside the result."""
    previews: bool = False
    """Also write previews/STEM/: the picture after every step, tile by tile."""
    max_pixels: int = 100_000_000
    """Refuse inputs with more pixels than this."""
    best_of: int = 1
    """Restore so often, with seeds from the given one on, and keep the result that the judge prefers."""
    judge: str | None = None
    """Weights of the judge: a folder or org/name on the model hub; None takes those that come with the project."""

    def __post_init__(self) -> None:
        if self.best_of < 1:
            raise ValueError(f"best_of must be at least 1, got {self.best_of}.")
        if self.judge is not None and self.best_of == 1:
            raise ValueError("A judge picks the best of several results; give --best-of as well.")
        if self.best_of > 1 and not hasattr(self.options, "seed"):
            raise ValueError("--best-of needs a system whose results depend on a seed.")
        if not self.inputs:
            raise ValueError("Name at least one image, folder or .txt list to restore.")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}.")


def main(options: RestoreOptions[Any]) -> int:
    """Restore everything that is not done yet; returns 0, or 2 when something could not be restored.

    Raises:
        ValueError: nothing can be restored: the weights, the device or the output folder are unusable.
    """
    from rich import progress as rich
    from rich.console import Console

    from vision.batches import Done, plan
    from vision.report import write_run

    started, console, images = time.monotonic(), Console(stderr=True, soft_wrap=True), {}
    rank, world, device, gather = _processes(options.device)
    restorer = _load(options, device)
    judge = _judge(options) if options.best_of > 1 else None
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"Cannot write to the folder {options.out}: {error.strerror}.") from error
    jobs, problems = plan(options.inputs, options.out, f".{options.format}")
    done = Done(options.out, {name: value for name, value in to_dict(options).items() if name not in NEUTRAL})
    jobs, problems = jobs[rank::world], problems if rank == 0 else []
    columns = rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(), rich.TimeRemainingColumn()
    with rich.Progress("{task.description}", *columns, console=console, disable=rank > 0) as bar:
        task = bar.add_task("restoring", total=len(jobs))
        for sentence in problems:
            console.print(sentence, markup=False, highlight=False)
        for number, (picture, result) in enumerate(jobs):
            try:
                advance = partial(_advance, bar, task, number)
                images[result.name] = restore_file(restorer, picture, result, options, done, advance, judge)
            except (ValueError, OSError, MemoryError) as error:
                sentence = " ".join(str(error).split()) or "There is not enough memory."
                problems.append(sentence if str(picture) in sentence else f"{picture}: {sentence}")
                console.print(problems[-1], markup=False, highlight=False)
            bar.update(task, completed=number + 1)
    everything = gather([(images, problems)])
    problems = [sentence for _, part in everything for sentence in part]
    if rank == 0:
        images = {name: facts for part, _ in everything for name, facts in part.items()}
        facts = {"source": options.source, "seed": getattr(options.options, "seed", None), "device": str(device)}
        seconds = round(time.monotonic() - started, 3)
        write_run(options.out, options=to_dict(options), **facts, seconds=seconds, images=images, problems=problems)
    return 2 if problems else 0


def _advance(bar: Any, task: Any, number: int, share: float) -> None:
    bar.update(task, completed=number + share)


def restore_file(
    restorer: Any,
    picture: Path,
    result: Path,
    options: RestoreOptions[Any],
    done: Any,
    progress: Progress,
    judge: Any = None,
) -> dict[str, Any]:
    """Restore one image unless that is done; returns what `run.json` tells about it."""
    from vision.images import load_image

    started = time.monotonic()
    loaded = load_image(picture, max_pixels=options.max_pixels)
    loaded = loaded if options.background is None else loaded.on(options.background)
    previews, compared = options.out / "previews" / result.stem, options.out / "compare" / f"{result.stem}.png"
    was_done = done(picture, result) and (previews.exists() or not options.previews)
    facts: dict[str, Any] = {"input": str(picture), "was_done": was_done}
    if not was_done:
        observers = [_previews(restorer, previews)] if options.previews else []
        record = partial(done.write, picture, result)
        if judge is None:
            _write(restorer, loaded, result, options.options, observers, progress, record)
        else:
            facts["kept_seed"] = _write_best(restorer, loaded, result, options, observers, progress, record, judge)
    if options.compare and not (was_done and compared.exists()):
        _compare(loaded, result, compared)
    return facts | {"seconds": round(time.monotonic() - started, 3)}


def _write(
    restorer: Any,
    loaded: Any,
    result: Path,
    options: Any,
    observers: list[Any],
    progress: Progress,
    record: Callable[[Path], object] | None,
) -> None:
    """Restore a picture into a file."""
    from vision.images import save_bands, to_tensor, to_uint8

    pixels = to_tensor(loaded)
    height, width = restorer.output_size(*pixels.shape[-2:], options)
    bands = restorer.bands(pixels, options, finish=to_uint8, observers=observers, progress=progress)
    keep = {"icc": loaded.icc, "alpha": loaded.alpha}
    try:
        save_bands(bands, result, width=width, height=height, before_rename=record, **keep)
    except RuntimeError as error:  # torch has no type of its own for a CPU whose memory is full
        if "memory" not in str(error):
            raise
        raise ValueError("There is not enough memory; choose a smaller --tile.") from error


def _write_best(
    restorer: Any,
    loaded: Any,
    result: Path,
    options: RestoreOptions[Any],
    observers: list[Any],
    progress: Progress,
    record: Callable[[Path], object],
    judge: Any,
) -> int:
    """Restore with several seeds into hidden files; the one that the judge prefers becomes the result.

    Returns:
        its seed.
    """
    from reward_vlm.strategies import best_of

    folder, first = options.out / f".{result.stem}.candidates", options.options.seed

    def candidate(seed: int) -> Path:
        path, share = folder / f"seed_{seed}{result.suffix}", (seed - first) / options.best_of
        advance = lambda part: progress(share + part / options.best_of)  # noqa: E731
        _write(restorer, loaded, path, replace(options.options, seed=seed), observers, advance, None)
        return path

    try:
        best = best_of(candidate, judge.prefers, range(first, first + options.best_of))
        record(best)
        os.replace(best, result)
        return int(best.stem.removeprefix("seed_"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compare(loaded: Any, result: Path, path: Path) -> None:
    from PIL.Image import Resampling

    from vision.images import load_image, save_image
    from vision.report import side_by_side

    restored = load_image(result, max_pixels=sys.maxsize).rgb
    enlarged = loaded.rgb.resize(restored.size, Resampling.BICUBIC)
    save_image(side_by_side([enlarged, restored], ["input, enlarged", "restored"]), path, icc=loaded.icc)


def _previews(restorer: Any, folder: Path) -> Callable[[Any], None]:
    """An observer that writes every step of every tile; a step that is not later than the last begins a new tile."""
    from vision.images import save_image

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tile, last = 0, -1

    def observe(step: Any) -> None:
        nonlocal tile, last
        tile, last = tile + (step.index <= last), step.index
        save_image(restorer.decode(step.state), folder / f"tile_{tile:03d}_step_{step.index:02d}.png")

    return observe


def _load(options: RestoreOptions[Any], device: Any) -> Any:
    import torch

    module, name, _ = SYSTEMS[options.system]
    variant = getattr(options.options, "variant", None)
    chosen = getattr(options.options, "loading", {}) if variant is None else {"variant": variant}
    pipeline = getattr(import_module(module), name)
    return pipeline.from_pretrained(options.source, device=device, dtype=getattr(torch, options.dtype), **chosen)


def _judge(options: RestoreOptions[Any]) -> Any:
    from reward_vlm.r1.pictures import PictureJudge

    return PictureJudge.from_pretrained(options.judge)


def _processes(wanted: str) -> tuple[int, int, Any, Callable[[list[Any]], list[Any]]]:
    """(index of this process, number of processes, device, how to gather lists from all)."""
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ValueError(f"There is no device {wanted!r}; use auto, cpu, cuda, cuda:1 or mps.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no CUDA device here; use --device cpu.")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1, device, list
    from accelerate import PartialState
    from accelerate.utils import gather_object

    # The fastest process waits for the slowest at the end, however long a folder takes.
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=30))

    def gather(items: list[Any]) -> list[Any]:
        found = gather_object(items)
        state.destroy_process_group()
        return found

    return state.process_index, state.num_processes, state.device, gather


def run() -> None:
    """The command line."""
    words = " ".join(sys.argv[1:]).replace("=", " ").split()
    system = words[words.index("--system") + 1] if "--system" in words[:-1] else "iter"
    module, _, name = SYSTEMS.get(system, SYSTEMS["iter"])
    options = cli(RestoreOptions[getattr(import_module(module), name)], prog="restore.py")
    try:
        code = main(options)
    except (ValueError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Stopped; the same command goes on where it was.")
    raise SystemExit(code)


if __name__ == "__main__":
    run()
