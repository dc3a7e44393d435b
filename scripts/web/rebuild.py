"""The tab Rebuild: a mesh or views in, a better mesh out, seen from all sides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from recon3d.gtr.options import GTROptions
from recon3d.job import ReconstructOptions, reconstruct
from vision.job import Outcome

from . import WebOptions
from .controls import HIDDEN, archived, buttons, checked, follow, read, wire
from .forms import Form
from .runs import new_folder
from .uploads import folder_of_views, one_of, unpacked


def rebuild_tab(options: WebOptions, root: Path) -> None:
    """Components and what they do; call it inside a tab."""
    gr.Markdown(
        "An object from a mesh (its own views are rendered, and rebuilt), from the six-view grid of Zero123++, or from "
        "a ZIP of pictures with cameras (transforms.json or COLMAP). Without files: a vase made by code."
    )
    with gr.Row(equal_height=False):
        with gr.Column():
            mesh = gr.File(label="Mesh (.glb, .obj, .ply, .stl), or a ZIP of one with its textures", elem_id="mesh")
            views = gr.File(label="Views: a ZIP of posed pictures, or one grid picture", elem_id="views")
            with gr.Accordion("Options", open=False):
                form = Form(GTROptions, HIDDEN)
            run, stop = buttons("rebuild")
        with gr.Column():
            told = gr.Markdown(elem_id="rebuild-told")
            with gr.Row():
                before = gr.Model3D(label="Before")
                after = gr.Model3D(label="After", elem_id="rebuild-after")
            film = gr.Image(label="Turntable, lit and bare", format="gif")
            contact = gr.Image(label="Given views, before, after", format="png")
            archive = gr.File(label="All files", elem_id="rebuild-zip")

    def work(stop: threading.Event, given: str | None, seen: str | None, *values: Any) -> Iterator[Any]:
        out = new_folder(root)
        shape = one_of(unpacked(given, out / "mesh", options), (".glb", ".gltf", ".obj", ".ply", ".stl", ".off"))
        pictures = unpacked(seen, out / "views", options)
        grid = pictures if pictures is not None and pictures.is_file() else None
        job = checked(
            ReconstructOptions,
            out=out / "rebuilt",
            mesh=shape,
            grid=grid,
            views=None if grid else folder_of_views(pictures),
            options=read(form, values),
            device=options.device,
        )
        shown = str(shape) if shape is not None and shape.suffix in (".glb", ".obj", ".stl") else None

        def results(outcome: Outcome | None) -> list[Any]:
            if outcome is None:
                return [shown, None, None, None, None]
            drawn = [str(job.out / name) for name in (job.file, "turntable.gif", "contact.png")]
            return [shown, *drawn, archived(out, "rebuilt")]

        yield from follow(reconstruct, job, options, stop, [shown, *[gr.skip()] * 4], results)

    wire(run, stop, work, [mesh, views, *form.inputs], [told, before, after, film, contact, archive])
