"""What every tab has: buttons that run and stop a job, sentences about it, and options that are checked."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from vision.job import Show

from . import WebOptions
from .forms import Form
from .runs import State, watch

HIDDEN = ("source", "out", "inputs", "device", "overwrite", "max_pixels", "system", "options")
"""Options that the page sets itself: visitors name no files of this machine."""


def buttons(name: str) -> tuple[gr.Button, gr.Button]:
    """Run and stop."""
    with gr.Row():
        run = gr.Button("Run", variant="primary", elem_id=f"{name}-run")
        stop = gr.Button("Stop", elem_id=f"{name}-stop")
    return run, stop


def wire(run: gr.Button, stop: gr.Button, work: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """Run on one button, stop on the other; the first output tells how it goes."""
    running: dict[str, threading.Event] = {}

    def begin(request: gr.Request, *values: Any) -> Iterator[Any]:
        running[request.session_hash or ""] = stopped = threading.Event()
        yield from work(stopped, *values)

    def end(request: gr.Request) -> str:
        if stopped := running.get(request.session_hash or ""):
            stopped.set()
        return "Stopped."

    event = run.click(begin, inputs, outputs, show_progress="hidden", concurrency_id="jobs")
    stop.click(end, None, outputs[0], cancels=[event], queue=False)


def say(state: State) -> str:
    """What a visitor reads about a job."""
    done = f"**{state.error}**" if state.error else "Done." if state.over else f"{state.text}: {state.share:.0%}"
    return "\n\n".join([done, *state.notes[-12:]])


def follow(
    work: Callable[[Any, Show], Any],
    job: Any,
    options: WebOptions,
    stop: threading.Event,
    begun: Sequence[Any],
    results: Callable[[Any], Sequence[Any]],
) -> Iterator[Any]:
    """What the outputs of a tab show while a job is done, and when it is over; the first one tells how it goes.

    Args:
        work: does a job.
        job: its options.
        stop: stops it when set.
        begun: of the other outputs, as long as it is not over.
        results: makes them of what the job returned: None where it could not be done.
    """
    for state in watch(lambda show: work(job, show), 60 * options.max_minutes, stop, folder=options.folder):
        yield say(state), *(results(state.value) if state.over else begun)


def read(form: Form, values: Sequence[Any], **more: Any) -> Any:
    """The options of a form.

    Raises:
        gr.Error: a value is refused.
    """
    try:
        return form.read(values, **more)
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error)) from error


def checked(options: Any, /, **values: Any) -> Any:
    """An instance of a class of options.

    Raises:
        gr.Error: it refuses a value.
    """
    try:
        return options(**values)
    except ValueError as error:
        raise gr.Error(str(error)) from error


def archived(out: Path, name: str) -> str:
    """A ZIP of the folder `name` in `out`."""
    return shutil.make_archive(str(out / name), "zip", out / name)
