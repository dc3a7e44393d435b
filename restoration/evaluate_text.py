"""Do letters survive? Small print that is drawn, spoiled, restored, and read by an optical character recognition.

    burnish evaluate text --out runs/text
    burnish evaluate text --systems bicubic iter iter:clean network:x4.pth --out runs/text --pictures

Every page holds lines of words and numbers in one font, 8 to 14 pixels high once it is shrunk by 4. A restoration can
look crisp and say something else: networks write the letters that they know. Each system enlarges the same spoiled
pages, RapidOCR (the package rapidocr-onnxruntime) reads what comes out, and its text is compared with what was written:
wrong characters are insertions, deletions and exchanges (Levenshtein 1966), spaces left out. Writes what was read of
each page into pages/ as it comes, pages.csv and .json with a row per page and system, and text.csv and .json with the
sums, beside the good page ("written"). Pages that are measured are kept: the same command goes on with the rest, and
more pages or degradations are added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from restoration.degradation import Draws, degrade
from restoration.drawn import fonts
from restoration.recipes import recipe
from restoration.restorer import find_system
from vision.checkpoints import one_at_a_time
from vision.files import told_apart
from vision.images import save_image
from vision.job import Event, Item, Job, Outcome, Show, choose_device, silent
from vision.report import text_table, write_table

SCALE = 4
SOURCE = Path(__file__)
"""What pages are made from: this code."""
Restorers = dict[str, Callable[[Tensor], Tensor]]
WORDS = (
    "the of and to in is that for with as was on are by this from at which or have not total amount date page street "
    "number order price volume figure between after number water house letter garden market window station paper "
    "morning evening picture Berlin Paris Madrid London March August Monday Friday Invoice Chapter Table Note"
).split()
"""What pages say, beside numbers."""


@dataclass(frozen=True)
class TextEvaluation:
    """What the measurement may choose."""

    out: Path
    """Folder for the tables."""
    systems: tuple[str, ...] = ("bicubic", "iter")
    """Restorers that enlarge by 4, as `burnish restore --system` names them; the first is what others are compared
    with."""
    pages: int = 20
    """Pages of each degradation."""
    degradations: tuple[str, ...] = ("blind", "bsrgan_light")
    """How pages are spoiled, see `restoration.recipes`."""
    width: int = 240
    """Pixels of a spoiled page from left to right."""
    height: int = 80
    """Pixels of a spoiled page from top to bottom."""
    pictures: bool = False
    """Write the pages, too."""
    seed: int = 0
    """Of the pages and of how they are spoiled."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        for name in self.degradations:
            recipe(name)
        if not self.systems or not self.degradations or self.pages < 1:
            raise ValueError("Name at least one system and one degradation, and ask for at least one page.")
        if min(self.width, self.height) < 32:
            raise ValueError(f"Pages are at least 32 pixels wide and high, got {self.width} x {self.height}.")


@one_at_a_time
@torch.inference_mode()
def evaluate(options: TextEvaluation, show: Show = silent) -> Outcome:
    """Measure the pages that are not measured yet.

    Raises:
        ValueError: a system does not enlarge by 4 or is not known, or the package that reads is missing.
        FileNotFoundError: weights that a system names are missing.
    """
    device, weights = choose_device(options.device), []
    for name in options.systems:
        system = find_system(name)
        weights += system.weights(None, system.asked(scale=SCALE))
    neutral = ("device", "pages", "degradations")  # every page is a result of its own
    job, loaded = Job(options.out, options, neutral=neutral, files=weights, show=show), None
    names = [(how, number) for how in options.degradations for number in range(options.pages)]
    for done, (how, number) in enumerate(names, 1):
        item = Item(job, SOURCE, f"pages/{how}_{number:02d}.json")
        with job.attempt(item):
            if not item.done():
                loaded = loaded or job.needs(_all_loaded, options.systems, device)
                with item.results() as folder:
                    item.tell(rows=_measured(how, number, options, *loaded, folder / item.name))
        job.progress("reading", done, len(names))
    rows = [row for facts in job.made.values() for row in facts["rows"]]
    if not rows:
        raise ValueError("No page could be measured.")
    write_table(rows, options.out / "pages.json", options.out / "pages.csv")
    sums = table(rows, options.systems[0])
    write_table(sums, options.out / "text.json", options.out / "text.csv")
    show(Event("result", text_table(sums, digits=3), path=options.out))
    return job.finish("pages", seed=options.seed)


def _measured(
    how: str, number: int, options: TextEvaluation, restorers: Restorers, read: Callable[[Tensor], str], path: Path
) -> list[dict[str, Any]]:
    """A row per system for one page; writes what each of them made readable, and the pictures when asked for."""
    good, said = page(np.random.default_rng((options.seed, number)), options.width, options.height)
    low = degrade(good, replace(recipe(how), scale=SCALE), Draws.seeded(options.seed, number))
    made = {"written": good} | {name: restore(low[None])[0] for name, restore in restorers.items()}
    texts = {name: read(picture) for name, picture in made.items()}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"said": said, "read": texts}, indent=1, ensure_ascii=False), encoding="utf-8")
    for name, picture in zip(_file_names(made), made.values(), strict=True) if options.pictures else ():
        save_image(picture[None], path.with_name(f"{path.stem}_{name}.png"))
    of_page = {"degradation": how, "page": number}
    return [
        {**of_page, "system": name, "characters": len(said), "wrong": distance(said, text)}
        for name, text in texts.items()
    ]


def table(rows: list[dict[str, Any]], first: str) -> list[dict[str, Any]]:
    """A row per degradation and system: characters, wrong ones, pages better and worse than those of `first`."""
    wrong = {(row["degradation"], row["system"], row["page"]): row["wrong"] for row in rows}
    sums = []
    for how, name in dict.fromkeys((row["degradation"], row["system"]) for row in rows):
        pages = [row for row in rows if (row["degradation"], row["system"]) == (how, name)]
        gaps = [row["wrong"] - wrong[how, first, row["page"]] for row in pages]
        written, missed = (sum(row[key] for row in pages) for key in ("characters", "wrong"))
        counts = {"better": sum(gap < 0 for gap in gaps), "worse": sum(gap > 0 for gap in gaps)}
        sums.append(
            {"degradation": how, "system": name, "characters": written, "wrong": missed, "share": missed / written}
            | counts
        )
    return sums


def page(rng: np.random.Generator, width: int, height: int) -> tuple[Tensor, str]:
    """A good page and what it says.

    Args:
        rng: decides about words, font, size and colours.
        width, height: of the page once it is shrunk by 4, in pixels.

    Returns:
        RGB (3, 4 * height, 4 * width) in [0, 1], and its characters without spaces, line by line.
    """
    files = fonts()
    size = int(rng.integers(8 * SCALE, 14 * SCALE + 1))
    font = ImageFont.truetype(files[rng.integers(len(files))], size)
    paper, ink = (tuple(int(value) for value in rng.integers(*span, 3)) for span in ((215, 256), (0, 70)))
    image = Image.new("RGB", (SCALE * width, SCALE * height), paper)
    draw, margin, said = ImageDraw.Draw(image), 2 * SCALE, ""
    for top in range(margin, SCALE * height - margin - int(1.3 * size), int(1.5 * size)):
        line = ""
        while True:
            word = WORDS[rng.integers(len(WORDS))] if rng.random() < 0.8 else str(rng.integers(10, 100000))
            if draw.textlength(f"{line} {word}", font=font) > SCALE * width - 2 * margin:
                break
            line = f"{line} {word}".strip()
        draw.text((margin, top), line, fill=ink, font=font)
        said += line.replace(" ", "")
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255, said


def reader() -> Callable[[Tensor], str]:
    """What reads RGB (3, h, w) in [0, 1]: its characters without spaces, lines from top to bottom.

    Raises:
        ValueError: the package is missing.
    """
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError:
        raise ValueError("Reading pages needs the package rapidocr-onnxruntime: pip install 'burnish[ocr]'.") from None
    engine = RapidOCR()

    def read(picture: Tensor) -> str:
        array = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        found = engine(np.ascontiguousarray(array[..., ::-1]), use_cls=False)[0] or []
        return "".join(line.replace(" ", "") for _, line, _ in _in_order(found))

    return read


def _in_order(found: list[tuple[Any, str, Any]]) -> list[tuple[Any, str, Any]]:
    """Pieces (corners, text, confidence) as one reads: those whose middles lie within half a height make a line."""
    lines: list[list[tuple[Any, str, Any]]] = []
    for piece in sorted(found, key=lambda piece: _middle(piece)[1]):
        height = max(corner[1] for corner in piece[0]) - min(corner[1] for corner in piece[0])
        if lines and abs(_middle(lines[-1][0])[1] - _middle(piece)[1]) < height / 2:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    return [piece for line in lines for piece in sorted(line, key=lambda piece: _middle(piece)[0])]


def _middle(piece: tuple[Any, str, Any]) -> tuple[float, float]:
    x, y = np.mean(piece[0], axis=0)
    return float(x), float(y)


def distance(written: str, read: str) -> int:
    """Insertions, deletions and exchanges that make one text of the other (Levenshtein 1966)."""
    row = list(range(len(read) + 1))
    for number, letter in enumerate(written, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(read, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != other))
    return row[-1]


def _all_loaded(systems: Sequence[str], device: torch.device) -> tuple[Restorers, Callable[[Tensor], str]]:
    """The systems by name, and what reads."""
    return {name: _loaded(name, device) for name in systems}, reader()


def _loaded(name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A system as a function of (1, 3, h, w) that gives (1, 3, 4 * h, 4 * w)."""
    system = find_system(name)
    chosen = system.asked(scale=SCALE)
    restorer = system.load(None, chosen, device=device)
    scale = restorer.facts(chosen).scale
    if scale != SCALE:
        raise ValueError(f"Pages are enlarged by {SCALE}, but {name} enlarges by {scale:g}; leave it out.")
    return lambda low: torch.cat([band.cpu() for band in restorer.bands(low.to(device), chosen)], 2)


def _file_names(systems: Iterable[str]) -> list[str]:
    """How files name systems: by the last part of a path, with a number where others are called so too."""
    names = ["".join(letter if letter.isalnum() else "-" for letter in Path(system).name) for system in systems]
    return told_apart(names, [f"{number}_{name}" for number, name in enumerate(names)])
