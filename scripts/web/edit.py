"""The tab Edit: a region is painted, and frames show how a condition progresses in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageChops

from vision.edit.job import EditOptions, edit
from vision.edit.options import PIEOptions
from vision.job import Outcome

from . import WebOptions
from .controls import HIDDEN, archived, buttons, checked, follow, read, wire
from .forms import Form
from .runs import new_folder


def edit_tab(options: WebOptions, root: Path) -> None:
    """Components and what they do; call it inside a tab."""
    gr.Markdown(
        "How a condition progresses inside a region that you paint. **PIE simulates severity; it does not predict a "
        "patient's future.** The weights that come with the project know axial slices of brains."
    )
    with gr.Row(equal_height=False):
        with gr.Column():
            example = Path(__file__).resolve().parents[2] / "examples" / "brain.png"
            canvas = gr.ImageEditor(
                value=str(example) if example.is_file() else None,
                type="pil",
                format="png",
                label="Paint the region",
                brush=gr.Brush(colors=["#ff5030"], default_size=16, color_mode="fixed"),
                layers=False,
                transforms=(),
                sources=("upload",),
                elem_id="edit-canvas",
            )
            prompt = gr.Textbox(label="What the condition looks like", placeholder="as the weights say")
            with gr.Accordion("Options", open=False):
                form = Form(PIEOptions, HIDDEN)
            run, stop = buttons("edit")
        with gr.Column():
            told = gr.Markdown(elem_id="edit-told")
            at = gr.Slider(0, 1, step=1, value=0, label="Frame", elem_id="edit-at")
            frame = gr.Image(label="Frame", elem_id="edit-frame", format="png")
            strip = gr.Gallery(label="All frames: choose one", columns=6, height=160, elem_id="edit-strip")
            report = gr.Image(label="Report", format="png")
            film = gr.Image(label="Film", format="gif")
            archive = gr.File(label="All files", elem_id="edit-zip")
    frames = gr.State([])
    at.change(lambda number, paths: paths[min(int(number), len(paths) - 1)] if paths else None, [at, frames], frame)

    def choose(picked: gr.SelectData) -> int:
        return picked.index

    strip.select(choose, None, at)

    def work(stop: threading.Event, drawn: dict[str, Any] | None, text: str, *values: Any) -> Iterator[Any]:
        if drawn is None or drawn["background"] is None:
            raise gr.Error("Give a picture first.")
        out = new_folder(root)
        picture, mask = out / "picture.png", out / "mask.png"
        background = drawn["background"]
        (background if background.mode in ("L", "RGB", "RGBA") else background.convert("RGB")).save(picture)
        region = painted(background, drawn["composite"])
        if region is not None:
            region.save(mask)
        job = checked(
            EditOptions,
            inputs=(picture,),
            out=out / "edited",
            prompt=(text,) if text else (),
            mask=None if region is None else mask,
            options=read(form, values),
            device=options.device,
            max_pixels=options.max_pixels,
        )

        def results(outcome: Outcome | None) -> list[Any]:
            if outcome is None or not outcome.items:
                return [gr.skip(), None, [], None, None, None, []]
            folder = job.out / next(iter(outcome.items))
            paths = [str(path) for path in sorted(folder.glob("frame_*.png"))]
            films = [str(path) for path in sorted(folder.glob("*.gif"))][:1] or [None]
            last = len(paths) - 1
            slider, page = gr.Slider(0, last, value=last, step=1), str(folder / "report.png")
            return [slider, paths[last], paths, page, films[0], archived(out, "edited"), paths]

        yield from follow(edit, job, options, stop, [gr.skip()] * 7, results)

    wire(run, stop, work, [canvas, prompt, *form.inputs], [told, at, frame, strip, report, film, archive, frames])


def painted(before: Image.Image, after: Image.Image | None) -> Image.Image | None:
    """White where a visitor's brush changed a picture, black elsewhere (mode L); None when it changed nothing."""
    if after is None or after.size != before.size:
        return None
    red, green, blue = ImageChops.difference(before.convert("RGB"), after.convert("RGB")).split()
    region = ImageChops.lighter(ImageChops.lighter(red, green), blue).point(lambda value: 255 * (value > 24))
    return region if region.getbbox() else None
