"""Jobs behind the page: in a thread, watched, stopped when a visitor cancels or time is up."""

from __future__ import annotations

import queue
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.config import sentence_of
from vision.job import Event, Show


class Stopped(BaseException):
    """Ends a job from inside; not an error that a job would catch and go on from."""


@dataclass(frozen=True)
class State:
    """How far a job is."""

    text: str
    """For people, in one line."""
    share: float
    """Finished, in [0, 1]."""
    notes: tuple[str, ...]
    """Sentences so far: notes, refusals, the result."""
    value: Any = None
    """What the job returned, when it is over."""
    error: str | None = None
    """Why it could not be done."""
    over: bool = False
    """Whether it ended."""


def watch(
    work: Callable[[Show], Any], max_seconds: float, stop: threading.Event | None = None, *, folder: Path | None = None
) -> Iterator[State]:
    """Run `work` in a thread and yield its state twice a second and at its end.

    Args:
        work: a job; it gets what shows its events, and ends at the next event after it was stopped.
        max_seconds: time after which it is stopped.
        stop: stops it when set; closing the iterator does so too.
        folder: of uploads and results; sentences name files without it.
    """
    events: queue.Queue[Event | None] = queue.Queue()
    stop, began = stop or threading.Event(), time.monotonic()
    outcome: dict[str, Any] = {}

    def show(event: Event) -> None:
        if stop.is_set():
            raise Stopped
        events.put(event)

    def run() -> None:
        try:
            outcome["value"] = work(show)
        except Stopped:
            outcome["error"] = "Stopped."
        except (ValueError, OSError, MemoryError, ImportError) as error:
            outcome["error"] = sentence_of(error)
        finally:
            events.put(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    text, share, notes = "beginning", 0.0, ()
    try:
        while True:
            try:
                event = events.get(timeout=0.5)
            except queue.Empty:
                event = Event("progress", text, share, 1.0)
            if event is None:
                error = without_folder(outcome["error"], folder) if "error" in outcome else None
                if error and time.monotonic() - began > max_seconds:
                    error = f"Stopped after {max_seconds / 60:g} minutes, the longest that this page allows."
                yield State(error or "done", 1.0, notes, outcome.get("value"), error, over=True)
                return
            if event.kind == "progress":
                text, share = event.text, 0.0 if not event.total else event.done / event.total
            elif event.kind != "written":
                notes = (*notes, without_folder(event.text, folder))
            if time.monotonic() - began > max_seconds:
                stop.set()
            yield State(text, share, notes)
    finally:
        stop.set()


def without_folder(text: str, folder: Path | None) -> str:
    """A sentence that names uploads and results without the folder that they lie in: where that is, is nobody's."""
    for root in () if folder is None else (folder.resolve(), folder):
        kept = rf"{re.escape(str(root))}/(?:uploads|results)/[^\s/:]+(/?)"
        text = re.sub(kept, lambda found: "" if found[1] else "results", text)
    return text


def new_folder(root: Path) -> Path:
    """A folder for one run, which nobody can guess; what is old is removed."""
    forget_old(root)
    folder = root / "results" / secrets.token_hex(12)
    folder.mkdir(parents=True)
    return folder


def forget_old(root: Path, seconds: float = 3600.0) -> None:
    """Remove uploads and results that nobody used for so long."""
    for folder in [*root.glob("results/*"), *root.glob("uploads/*")]:
        if time.time() - folder.stat().st_mtime > seconds:
            shutil.rmtree(folder, ignore_errors=True)
