"""The page: a tab a job, all on the functions and options of the command line."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageChops
from starlette.middleware import Middleware

from vision.images import load_image

from . import WebOptions, is_own
from .forms import Form
from .guard import LOCAL, Guard
from .runs import State, new_folder, watch

HIDDEN = ("source", "out", "inputs", "device", "overwrite", "max_pixels", "system", "options")
"""Options that the page sets itself: visitors name no files of this machine."""


def build(options: WebOptions) -> gr.Blocks:
    """The page."""
    root = options.folder.resolve()
    with gr.Blocks(title="burnish", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# burnish\nResults made better step by step, on this machine: nothing leaves it.")
        with gr.Tab("Restore"):
            _restore_tab(options, root)
        with gr.Tab("Edit"):
            _edit_tab(options, root)
        with gr.Tab("Rebuild"):
            _rebuild_tab(options, root)
        with gr.Tab("Judge"):
            _judge_tab(options)
        with gr.Tab("Answer"):
            _answer_tab(options)
    return page


@contextmanager
def serve(options: WebOptions) -> Iterator[str]:
    """The page, served until the block ends; gives its address."""
    page = build(options).queue(default_concurrency_limit=1, max_size=64)
    hosts = LOCAL if is_own(options.host) else ()
    _, address, _ = page.launch(
        server_name=options.host,
        server_port=options.port or None,
        auth=("burnish", options.token) if options.token else None,
        auth_message="The user is burnish, the password the token that the page was opened with.",
        allowed_paths=[str(options.folder.resolve() / "results")],
        max_file_size=options.max_megabytes * 1024**2,
        app_kwargs={"middleware": [Middleware(Guard, hosts=hosts)], "docs_url": None, "redoc_url": None},
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
        prevent_thread_lock=True,
        enable_monitoring=False,
        ssr_mode=False,
        share=False,
        quiet=True,
    )
    try:
        yield address
    finally:
        page.close(verbose=False)


def _restore_tab(options: WebOptions, root: Path) -> None:
    from restoration.job import RestoreOptions, restore
    from restoration.restorer import find_system

    systems = {
        "auto: look at each picture, and take what suits it": "auto",
        "ITER, for photographs": "iter",
        "PASD, the small weights show the machinery": "pasd",
    }
    gr.Markdown("Photographs, four times larger and cleaner.")
    with gr.Row(equal_height=False):
        with gr.Column():
            files = gr.Files(label="Pictures", elem_id="restore-files", height=180)
            system = gr.Dropdown(list(systems), value=next(iter(systems)), label="System", elem_id="restore-system")
            forms = {}
            for title, name in systems.items():
                with gr.Group(visible=name == "auto") as group, gr.Accordion(f"Options of {title}", open=False):
                    forms[name] = (Form(find_system(name).options, HIDDEN), group)
            run, stop = _buttons("restore")
        with gr.Column():
            told = gr.Markdown(elem_id="restore-told")
            slider = gr.ImageSlider(label="Before, after", elem_id="restore-slider", format="png")
            gallery = gr.Gallery(label="Results", columns=4, height=200)
            archive = gr.File(label="All results", elem_id="restore-zip")
    groups = [group for _, group in forms.values()]
    system.change(lambda chosen: [gr.Group(visible=name == systems[chosen]) for name in forms], system, groups)

    def work(stop: threading.Event, uploads: Sequence[str] | None, chosen: str, *values: Any) -> Iterator[Any]:
        named, name = _uploads(uploads, options), systems[chosen]
        start = 0
        for other, (form, _) in forms.items():
            if other == name:
                break
            start += len(form.inputs)
        form = forms[name][0]
        options_of = _read(form, values[start : start + len(form.inputs)])
        out = new_folder(root)
        job = _checked(
            RestoreOptions[Any],
            inputs=tuple(named),
            out=out / "restored",
            options=options_of,
            system=name,
            device=options.device,
            max_pixels=options.max_pixels,
        )
        for state in watch(lambda show: restore(job, show), 60 * options.max_minutes, stop):
            if not state.over:
                yield _say(state), gr.skip(), gr.skip(), gr.skip()
            elif not (made := [] if state.value is None else list(state.value.items)):
                yield _say(state), None, [], None
            else:
                results = [out / "restored" / name for name in made]
                first = Path(state.value.items[made[0]]["input"])
                before = load_image(first).rgb.resize(Image.open(results[0]).size, Image.Resampling.BICUBIC)
                pair = (before, load_image(results[0]).rgb)
                yield _say(state), pair, [str(path) for path in results], _archive(out, "restored")

    inputs = [files, system, *(item for form, _ in forms.values() for item in form.inputs)]
    _wire(run, stop, work, inputs, [told, slider, gallery, archive])


def _edit_tab(options: WebOptions, root: Path) -> None:
    from vision.edit.job import EditOptions, edit
    from vision.edit.options import PIEOptions

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
                label="Picture: paint the region that may change",
                brush=gr.Brush(colors=["#ff5030"], default_size=16, color_mode="fixed"),
                layers=False,
                transforms=(),
                sources=("upload",),
                elem_id="edit-canvas",
            )
            prompt = gr.Textbox(label="What the condition looks like", placeholder="as the weights say")
            with gr.Accordion("Options", open=False):
                form = Form(PIEOptions, HIDDEN)
            run, stop = _buttons("edit")
        with gr.Column():
            told = gr.Markdown(elem_id="edit-told")
            at = gr.Slider(0, 1, step=1, value=0, label="Frame", elem_id="edit-at")
            frame = gr.Image(label="Frame", elem_id="edit-frame", format="png")
            report = gr.Image(label="Report: frames, differences, confidence", format="png")
            film = gr.Image(label="Film", format="gif")
            archive = gr.File(label="All files", elem_id="edit-zip")
    frames = gr.State([])
    at.change(lambda number, paths: paths[min(int(number), len(paths) - 1)] if paths else None, [at, frames], frame)

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
        job = _checked(
            EditOptions,
            inputs=(picture,),
            out=out / "edited",
            prompt=(text,) if text else (),
            mask=None if region is None else mask,
            options=_read(form, values),
            device=options.device,
            max_pixels=options.max_pixels,
        )
        for state in watch(lambda show: edit(job, show), 60 * options.max_minutes, stop):
            if not state.over:
                yield _say(state), gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip()
            elif state.value is None or not state.value.items:
                yield _say(state), gr.skip(), None, None, None, None, []
            else:
                folder = out / "edited" / next(iter(state.value.items))
                paths = [str(path) for path in sorted(folder.glob("frame_*.png"))]
                films = [str(path) for path in sorted(folder.glob("*.gif"))][:1] or [None]
                last = len(paths) - 1
                yield (
                    _say(state),
                    gr.Slider(0, last, value=last, step=1),
                    paths[last],
                    str(folder / "report.png"),
                    films[0],
                    _archive(out, "edited"),
                    paths,
                )

    _wire(run, stop, work, [canvas, prompt, *form.inputs], [told, at, frame, report, film, archive, frames])


def _rebuild_tab(options: WebOptions, root: Path) -> None:
    from recon3d.gtr.options import GTROptions
    from recon3d.job import ReconstructOptions, reconstruct

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
            run, stop = _buttons("rebuild")
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
        shape = _one_of(_unpacked(given, out / "mesh", options), (".glb", ".gltf", ".obj", ".ply", ".stl", ".off"))
        pictures = _unpacked(seen, out / "views", options)
        grid = pictures if pictures is not None and pictures.is_file() else None
        job = _checked(
            ReconstructOptions,
            out=out / "rebuilt",
            mesh=shape,
            grid=grid,
            views=None if grid else _folder_of_views(pictures),
            options=_read(form, values),
            device=options.device,
        )
        shown = str(shape) if shape is not None and shape.suffix in (".glb", ".obj", ".stl") else None
        for state in watch(lambda show: reconstruct(job, show), 60 * options.max_minutes, stop):
            if not state.over:
                yield _say(state), shown, gr.skip(), gr.skip(), gr.skip(), gr.skip()
            elif state.value is None:
                yield _say(state), shown, None, None, None, None
            else:
                folder = out / "rebuilt"
                drawn = [str(folder / name) for name in (job.file, "turntable.gif", "contact.png")]
                yield _say(state), shown, *drawn, _archive(out, "rebuilt")

    _wire(run, stop, work, [mesh, views, *form.inputs], [told, before, after, film, contact, archive])


def _judge_tab(options: WebOptions) -> None:
    from reward_vlm.r1.job import JudgeOptions, judge_question
    from reward_vlm.r1.options import R1Options

    gr.Markdown(
        "Which answer about a picture is better, and why. The judge that comes with the project knows rendered "
        "scenes of coloured shapes only."
    )
    with gr.Row(equal_height=False):
        with gr.Column():
            picture = gr.Image(type="filepath", label="Picture", elem_id="judge-picture", sources=["upload"])
            question = gr.Textbox(label="Question", value="what is in the image ?")
            answers = gr.Textbox(label="Answers, one a line", lines=3, elem_id="judge-answers")
            with gr.Accordion("Options", open=False):
                form = Form(R1Options, HIDDEN)
            run, stop = _buttons("judge")
        with gr.Column():
            told = gr.Markdown(elem_id="judge-told")
            scores = gr.Dataframe(headers=["answer", "score"], label="Scores", elem_id="judge-scores")
            reasons = gr.Textbox(label="Reasoning", lines=6, elem_id="judge-reasons")

    def work(stop: threading.Event, seen: str | None, asked: str, lines: str, *values: Any) -> Iterator[Any]:
        given = _lines(lines)
        job = _checked(
            JudgeOptions,
            question=asked,
            image=() if seen is None else (Path(seen),),
            answers=given,
            options=_read(form, values),
            device=options.device,
        )
        for state in watch(lambda show: judge_question(job, show), 60 * options.max_minutes, stop):
            if not state.over:
                yield _say(state), gr.skip(), gr.skip()
            elif state.value is None:
                yield _say(state), None, ""
            else:
                table = [
                    [answer, round(score, 3)] for answer, score in zip(given, state.value.scores.tolist(), strict=True)
                ]
                yield _say(state), table, state.value.reasoning

    _wire(run, stop, work, [picture, question, answers, *form.inputs], [told, scores, reasons])


def _answer_tab(options: WebOptions) -> None:
    from reward_vlm.scl.job import AnswerOptions, answer_question
    from reward_vlm.scl.options import SCLOptions

    gr.Markdown("Ask about a picture, and let the model review its answer. The small model knows rendered scenes only.")
    with gr.Row(equal_height=False):
        with gr.Column():
            picture = gr.Image(type="filepath", label="Picture", elem_id="answer-picture", sources=["upload"])
            question = gr.Textbox(label="Question", value="what colour is the object ?")
            choices = gr.Textbox(label="Choices, one a line", lines=4, elem_id="answer-choices")
            with gr.Accordion("Options", open=False):
                form = Form(SCLOptions, HIDDEN)
            run, stop = _buttons("answer")
        with gr.Column():
            told = gr.Markdown(elem_id="answer-told")
            first = gr.Textbox(label="First answer")
            final = gr.Textbox(label="Answer after review", elem_id="answer-final")
            talk = gr.JSON(label="The whole dialogue")

    def work(stop: threading.Event, seen: str | None, asked: str, lines: str, *values: Any) -> Iterator[Any]:
        given = _lines(lines)
        job = _checked(
            AnswerOptions,
            question=asked,
            image=() if seen is None else (Path(seen),),
            choices=given,
            options=_read(form, values),
            device=options.device,
        )
        for state in watch(lambda show: answer_question(job, show), 60 * options.max_minutes, stop):
            if not state.over:
                yield _say(state), gr.skip(), gr.skip(), gr.skip()
            elif state.value is None:
                yield _say(state), "", "", None
            else:
                found = state.value
                words = [[part for part in turn.parts if isinstance(part, str)] for turn in found.dialogue.turns]
                turns = [{turn.role: " ".join(said)} for turn, said in zip(found.dialogue.turns, words, strict=True)]
                yield _say(state), found.first.text, found.final.text, turns

    _wire(run, stop, work, [picture, question, choices, *form.inputs], [told, first, final, talk])


def painted(before: Image.Image, after: Image.Image | None) -> Image.Image | None:
    """White where a visitor's brush changed a picture, black elsewhere (mode L); None when it changed nothing."""
    if after is None or after.size != before.size:
        return None
    red, green, blue = ImageChops.difference(before.convert("RGB"), after.convert("RGB")).split()
    region = ImageChops.lighter(ImageChops.lighter(red, green), blue).point(lambda value: 255 * (value > 24))
    return region if region.getbbox() else None


def _buttons(name: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        run = gr.Button("Run", variant="primary", elem_id=f"{name}-run")
        stop = gr.Button("Stop", elem_id=f"{name}-stop")
    return run, stop


def _wire(run: gr.Button, stop: gr.Button, work: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
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


def _say(state: State) -> str:
    """What a visitor reads about a job."""
    done = f"**{state.error}**" if state.error else "Done." if state.over else f"{state.text}: {state.share:.0%}"
    return "\n\n".join([done, *state.notes[-12:]])


def _read(form: Form, values: Sequence[Any]) -> Any:
    try:
        return form.read(values)
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error)) from error


def _checked(options: Any, /, **values: Any) -> Any:
    try:
        return options(**values)
    except ValueError as error:
        raise gr.Error(str(error)) from error


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _uploads(files: Sequence[str] | None, options: WebOptions) -> list[Path]:
    if not files:
        raise gr.Error("Give at least one picture.")
    if len(files) > options.max_files:
        raise gr.Error(f"At most {options.max_files} files at once, got {len(files)}.")
    return [Path(file) for file in files]


def _unpacked(upload: str | None, folder: Path, options: WebOptions) -> Path | None:
    """The uploaded file, or the folder that a ZIP was unpacked into.

    Raises:
        gr.Error: the ZIP is damaged, too large, or leads out of its folder.
    """
    if upload is None:
        return None
    path = Path(upload)
    if path.suffix.lower() != ".zip":
        return path
    import zipfile

    most = 8 * options.max_megabytes * 1024**2
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.infolist()
            if len(names) > 2000 or sum(item.file_size for item in names) > most:
                raise gr.Error(f"The ZIP holds more than 2000 files or {most // 1024**2} MB.")
            for item in names:
                if not (folder / item.filename).resolve().is_relative_to(folder.resolve()):
                    raise gr.Error(f"The ZIP names a file outside its folder: {item.filename}.")
            packed.extractall(folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise gr.Error(f"The ZIP cannot be read: {error}.") from error
    return folder


def _one_of(path: Path | None, suffixes: Sequence[str]) -> Path | None:
    """The file itself, or the only one of its kind in a folder."""
    if path is None or path.is_file():
        return path
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes)
    if len(found) != 1:
        raise gr.Error(f"The ZIP must hold one mesh ({', '.join(suffixes)}), found {len(found)}.")
    return found[0]


def _folder_of_views(path: Path | None) -> Path | None:
    """The folder in a ZIP that holds everything, when there is a single one inside."""
    while path is not None and len(inside := list(path.iterdir())) == 1 and inside[0].is_dir():
        path = inside[0]
    return path


def _archive(out: Path, name: str) -> str:
    return shutil.make_archive(str(out / name), "zip", out / name)
