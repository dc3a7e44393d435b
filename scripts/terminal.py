"""The face of a job in a terminal or a log file: bars or lines, sentences, and the exit code."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from vision.config import fail, one_line, printable, sentence_of
from vision.job import Event
from vision.signals import Signals

EXTRAS = {
    **dict.fromkeys(("accelerate", "trl", "peft", "datasets"), "train"),
    **dict.fromkeys(("trimesh", "xatlas", "fast_simplification"), "reconstruct"),
    **dict.fromkeys(("rembg", "imageio_ffmpeg"), "views"),
    **dict.fromkeys(("nibabel", "pydicom"), "medical"),
    **dict.fromkeys(("scipy", "skimage", "matplotlib", "open_clip", "torchvision"), "all"),
    **{
        "gradio": "web",
        "starlette": "serve",
        "uvicorn": "serve",
        "diffusers": "edit",
        "ray": "ray",
        "pyarrow": "ray",
        "transformers": "judge",
        "lpips": "metrics",
    },
}
"""Packages that only some commands need -> the extra of this project that installs them."""
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""Settings with which other libraries draw no bars between ours; a user's own are kept."""
PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("vision", "restoration", "recon3d", "reward_vlm", Path(__file__).parent.name)
LINE_SECONDS = 10.0
"""Time between two lines about progress where bars cannot be drawn."""


class Terminal:
    """Shows events: sentences and progress on stderr, what lies where on stdout. Close it at the end.

    Where stderr is no terminal, progress is a line now and then instead of a bar.
    """

    def __init__(self) -> None:
        self.bars: Any = None
        self.tasks: dict[str, Any] = {}
        self.told = time.monotonic()
        self.last = ""

    def __call__(self, event: Event) -> None:
        if event.kind == "progress":
            (self._bar if sys.stderr.isatty() else self._line)(event)
        elif event.kind == "result":
            self.close()
            sys.stdout.write(printable(event.text) + "\n")
        elif event.kind in ("note", "refused"):
            self._say(event.text)

    def close(self) -> None:
        """Take the bars away."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None

    def _say(self, sentence: str) -> None:
        sentence = printable(sentence)
        if self.bars is None:
            try:
                sys.stderr.write(sentence + "\n")
            except OSError:  # a full disk, a reader that is gone: the work goes on
                sys.stderr = open(os.devnull, "w", encoding="utf-8")
        else:
            self.bars.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def _line(self, event: Event) -> None:
        finished = event.total is not None and event.done >= event.total and event.total > 1
        if finished or time.monotonic() - self.told >= LINE_SECONDS:
            self.told = time.monotonic()
            of = "" if event.total is None else f" of {event.total:g} ({event.done / event.total:.0%})"
            line = f"{one_line(event.text)}: {int(event.done)}{of}"
            if line != self.last:  # the last part of the last item, and the item, end at one place
                self._say(line)
            self.last = line

    def _bar(self, event: Event) -> None:
        if self.bars is None:
            from rich import progress as rich
            from rich.console import Console

            columns = rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(), rich.TimeRemainingColumn()
            text = rich.TextColumn("{task.description}", markup=False)
            self.bars = rich.Progress(text, *columns, console=Console(stderr=True), transient=True)
            self.tasks = {}
            self.bars.start()
        name = one_line(event.text)
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=event.total)
        self.bars.update(self.tasks[name], completed=event.done, total=event.total)


def run(work: Callable[[], int | None]) -> NoReturn:
    """Do the work of a command and end the process: with the code that it returns (None: 0), 2 and a sentence for what
    cannot be done, 130 after Ctrl-C, 143 after SIGTERM."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with Signals() as signals, warnings.catch_warnings():
        warnings.showwarning = _show_own
        try:
            code = work()
        except KeyboardInterrupt:
            _stopped(signals)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            extra = f"'burnish[{EXTRAS[package]}]'" if package in EXTRAS else package
            fail(f"This needs the package {package}, which is not installed: pip install {extra}.")
        except (ValueError, TypeError, OSError, MemoryError, ArithmeticError, RuntimeError) as error:
            if signals.received is not None:  # a library made an error of the interrupt
                _stopped(signals)
            if isinstance(error, (TypeError, RuntimeError)):
                raise
            fail(sentence_of(error))
    raise SystemExit(code or 0)


def _show_own(message: Warning | str, category: type[Warning], filename: str, *where: Any) -> None:
    """A warning of this project as a sentence; those of other libraries are for their users."""
    if Path(filename).is_relative_to(PROJECT) and Path(filename).relative_to(PROJECT).parts[0] in PACKAGES:
        sys.stderr.write(one_line(str(message)) + "\n")


def _stopped(signals: Signals) -> NoReturn:
    fail("Stopped; the same command goes on where it was.", signals.code)
