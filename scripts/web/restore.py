"""The tab Restore: pictures in, pictures out, compared by a slider, with what was decided and why."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from restoration.job import RestoreOptions, restore
from restoration.restorer import find_system
from vision.images import load_image
from vision.job import Outcome

from . import WebOptions
from .controls import HIDDEN, archived, buttons, checked, follow, read, wire
from .forms import Form
from .runs import new_folder
from .uploads import uploaded

SYSTEMS = {
    "auto: look at each picture, and take what suits it": "auto",
    "ITER, for photographs": "iter",
    "PASD, the small weights show the machinery": "pasd",
}
"""What the page calls a system -> its name."""
FIDELITY = "1 keeps to what the picture determines, 0 adds all sampled texture"
"""What the dial of ITER does."""


def restore_tab(options: WebOptions, root: Path) -> None:
    """Components and what they do; call it inside a tab."""
    gr.Markdown("Photographs, four times larger and cleaner.")
    with gr.Row(equal_height=False):
        with gr.Column():
            files = gr.Files(label="Pictures", elem_id="restore-files", height=180)
            system = gr.Dropdown(list(SYSTEMS), value=next(iter(SYSTEMS)), label="System", elem_id="restore-system")
            dial = gr.Slider(0, 1, 1, label="Fidelity", info=FIDELITY, elem_id="restore-fidelity", visible=False)
            forms = {}
            for title, name in SYSTEMS.items():
                with gr.Group(visible=name == "auto") as group, gr.Accordion(f"Options of {title}", open=False):
                    forms[name] = (Form(find_system(name).options, (*HIDDEN, "fidelity")), group)
            run, stop = buttons("restore")
        with gr.Column():
            told = gr.Markdown(elem_id="restore-told")
            slider = gr.ImageSlider(label="Before, after", elem_id="restore-slider", format="png")
            gallery = gr.Gallery(label="Results: choose one to compare", columns=4, height=200, elem_id="restore-all")
            decided = gr.Textbox(label="What was decided, and why", lines=3, elem_id="restore-why")
            archive = gr.File(label="All results", elem_id="restore-zip")
    pairs = gr.State([])
    groups = [group for _, group in forms.values()]

    def show_options(chosen: str) -> list[Any]:
        return [gr.Slider(visible=SYSTEMS[chosen] == "iter"), *(gr.Group(visible=n == SYSTEMS[chosen]) for n in forms)]

    def compare(pairs: list[tuple[str, str]], picked: gr.SelectData) -> tuple[Image.Image, Image.Image]:
        return _before_after(*pairs[picked.index])

    system.change(show_options, system, [dial, *groups])
    gallery.select(compare, pairs, slider)

    def work(
        stop: threading.Event, uploads: Sequence[str] | None, chosen: str, fidelity: float, *values: Any
    ) -> Iterator[Any]:
        named, name = uploaded(uploads, options), SYSTEMS[chosen]
        start = 0
        for other, (form, _) in forms.items():
            if other == name:
                break
            start += len(form.inputs)
        form = forms[name][0]
        dialled = {"fidelity": fidelity} if name == "iter" else {}
        options_of = read(form, values[start : start + len(form.inputs)], **dialled)
        out = new_folder(root)
        job = checked(
            RestoreOptions[Any],
            inputs=tuple(named),
            out=out / "restored",
            options=options_of,
            system=name,
            device=options.device,
            max_pixels=options.max_pixels,
        )

        def results(outcome: Outcome | None) -> list[Any]:
            made = {} if outcome is None else outcome.items
            if not made:
                return [None, [], "", None, []]
            kept = [(said["input"], str(out / "restored" / name)) for name, said in made.items()]
            decisions = [
                f"{Path(said['input']).name}: {said['need']}, {said['system']}: {said['why']}"
                for said in made.values()
                if "need" in said
            ]
            shown = [result for _, result in kept]
            return [_before_after(*kept[0]), shown, "\n".join(decisions), archived(out, "restored"), kept]

        yield from follow(restore, job, options, stop, [gr.skip()] * 5, results)

    inputs = [files, system, dial, *(item for form, _ in forms.values() for item in form.inputs)]
    wire(run, stop, work, inputs, [told, slider, gallery, decided, archive, pairs])


def _before_after(given: str, result: str) -> tuple[Image.Image, Image.Image]:
    """The input, plainly enlarged to the size of its result, and the result."""
    after = load_image(Path(result)).rgb
    return load_image(Path(given)).rgb.resize(after.size, Image.Resampling.BICUBIC), after
