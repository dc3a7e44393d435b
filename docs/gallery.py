"""Make the gallery of the documentation anew: commands on shipped files, the weights that ship, and what came out.

    python docs/gallery.py                        (some five minutes on one core)
    python docs/gallery.py --folder runs/gallery  (where the runs lie; what is done there is not repeated)

Writes docs/gallery/*.jpg and *.gif, and docs/gallery.md around them. The inputs are examples/, and pictures of
scikit-image (coffee by Rachel Michetti, CC0; a rocket of SpaceX, CC0; a scanned page, public domain) made small here.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import PIL.Image

DOCS = Path(__file__).resolve().parent
PROJECT = DOCS.parent
sys.path.insert(0, str(PROJECT))
from vision.images import load_image  # noqa: E402
from vision.report import labelled, side_by_side, strip  # noqa: E402

Picture = PIL.Image.Image


class Runs(NamedTuple):
    """Where commands run, and where pictures go."""

    folder: Path
    """Inputs and results; `examples` is linked into it."""
    pictures: Path
    """Of the page."""

    def burnish(self, line: str) -> str:
        """Run a command; returns what it printed."""
        command = [sys.executable, "-m", "scripts", *shlex.split(line)[1:]]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(PROJECT)}
        )
        if done.returncode:
            raise RuntimeError(f"{line}: {done.stderr}")
        return done.stdout.strip()

    def save(self, picture: Picture, name: str, quality: int = 88) -> str:
        """Write a JPEG of the page; returns the line that shows it."""
        picture.convert("RGB").save(self.pictures / f"{name}.jpg", quality=quality, optimize=True)
        return f"![{name}](gallery/{name}.jpg)"


def enlarged(path: Path, size: tuple[int, int]) -> Picture:
    """A picture as plain (bicubic) interpolation enlarges it."""
    return load_image(path).rgb.resize(size, PIL.Image.Resampling.BICUBIC)


def shell(*lines: str) -> str:
    return "\n".join(["```", *lines, "```"])


def cat(runs: Runs) -> str:
    line = "burnish restore examples/cat.jpg --out restored"
    runs.burnish(line)
    result = load_image(runs.folder / "restored" / "cat_jpg.png").rgb
    before = enlarged(runs.folder / "examples" / "cat.jpg", result.size)
    labels = ["150 x 150 JPEG, bicubic interpolation", "iter-mini"]
    shown = runs.save(side_by_side([before, result], labels), "cat")
    return "\n\n".join([shell(line), shown])


def small_pictures(folder: Path) -> None:
    """What a user has: a small sharp picture, one with JPEG's blocks, a noisy one, and a photograph that is good."""
    from skimage import data

    folder.mkdir(exist_ok=True)
    coffee, rocket, page = (PIL.Image.fromarray(made()) for made in (data.coffee, data.rocket, data.page))
    cup = coffee.crop((80, 0, 480, 400))
    cup.resize((100, 100), PIL.Image.Resampling.BICUBIC).save(folder / "cup.png")
    tower = rocket.crop((200, 40, 500, 340))
    tower.resize((100, 100), PIL.Image.Resampling.BICUBIC).save(folder / "rocket.jpg", quality=40)
    page.crop((40, 20, 340, 180)).resize((150, 80), PIL.Image.Resampling.BICUBIC).save(folder / "page.png")
    coffee.save(folder / "whole.png")


def auto(runs: Runs) -> str:
    line = "burnish restore small --system auto --out chosen"
    small_pictures(runs.folder / "small")
    runs.burnish(line)
    told = json.loads((runs.folder / "chosen" / "run.json").read_text())["images"]
    cuts = {"cup.png": (50, 60, 348, 360), "rocket.jpg": (60, 80, 358, 380), "page.png": (0, 40, 600, 280)}
    rows, table = [], ["| picture | taken | why |", "|---|---|---|"]
    for name, said in told.items():
        given = runs.folder / said["input"]
        table.append(f"| `{given.name}` | {said['system']} | {said['why']} |")
        if given.name in cuts:
            result = load_image(runs.folder / "chosen" / name).rgb
            pair = [picture.crop(cuts[given.name]) for picture in (enlarged(given, result.size), result)]
            rows.append(side_by_side(pair, [f"{given.name}, bicubic", said["system"]]))
    cup, page, rocket = rows
    shown = runs.save(strip([strip([cup, rocket]), page], vertical=True), "auto", 85)
    return "\n\n".join([shell(line), "\n".join(table), shown])


def edit(runs: Runs) -> str:
    line = "burnish edit examples/brain.png --mask examples/brain_mask.png --seed 3 --out runs/scan"
    runs.burnish(line)
    folder = runs.folder / "runs" / "scan" / "brain"
    rows = json.loads((folder / "frames.json").read_text())
    frames = sorted(folder.glob("frame_*.png"))
    shown = [0, *range(1, len(frames), 3)]
    named = [f"frame {n}: {rows[n]['confidence']:.3f}" if n else f"input: {rows[0]['confidence']:.3f}" for n in shown]
    parts = [labelled(load_image(frames[n]).rgb, name) for n, name in zip(shown, named, strict=True)]
    mask = labelled(load_image(folder / "mask.png").rgb, "region")
    return "\n\n".join([shell(line), runs.save(strip([mask, *parts]), "brain", 90)])


def rebuild(runs: Runs) -> str:
    line = "burnish reconstruct --out runs/vase"
    runs.burnish(line)
    with PIL.Image.open(runs.folder / "runs" / "vase" / "contact.png") as sheet:
        shown = runs.save(sheet, "vase")
    return "\n\n".join([shell(line), shown])


def scenes(runs: Runs) -> str:
    parts = []
    picture = load_image(runs.folder / "examples" / "scenes" / "0.png").rgb
    parts.append(runs.save(picture.resize((224, 224), PIL.Image.Resampling.NEAREST), "scene"))
    for line in (
        'burnish judge --image examples/scenes/0.png --question "what is in the image ?" '
        '--answers "a red object on white" "a blue object on white"',
        'burnish answer --image examples/scenes/0.png --question "what colour is the object ?" '
        "--choices red green blue yellow",
    ):
        parts.append(shell(f"$ {line}", runs.burnish(line)).replace("```\n$", "```text\n$", 1))
    return "\n\n".join(parts)


HEAD = """# Gallery

Every picture and every line of output is what the command above it made, with the weights that come with the project,
on a CPU. Look at full size, beside the input. `python docs/gallery.py` makes this page anew."""
SECTIONS = (
    (
        "A small JPEG, four times larger",
        cat,
        "Eyes, nose and stripes are sharper, and ringing is gone; the fur comes out smooth and a little painted, "
        "whiskers are fainter, and some of JPEG's coloured blocks are still there. [ITER](iter.md)",
    ),
    (
        "A folder, each picture as it needs",
        auto,
        "Cuts at full size. The cup's rim and spoon are sharper. The rocket's choice is a wrong one: the tower is "
        "sharper, but JPEG's blocks stay; `--system iter:photo@1` takes them out. The page's letters are sharper, but "
        "its paper gets grain: for reading, plain enlargement is as good. `whole.png` is copied, byte by byte. "
        "[What auto looks at](strategies/selector.md)",
    ),
    (
        "How a condition might progress",
        edit,
        "A simulated lesion grows inside the region; outside it nothing changes, bit for bit. The numbers are the "
        "confidence of a small classifier. PIE simulates severity; it does not predict a patient's future. "
        "[PIE](pie.md)",
    ),
    (
        "An object from pictures",
        rebuild,
        "The given views, the surface before refinement, after it, lit, and the bare shape. The paint comes back "
        "nearly as it was; the bare shape has dents and wrinkles that the paint hides, and the lid sinks in, since "
        "nothing in unlit pictures tells it from a hollow. [GTR](gtr.md)",
    ),
    (
        "A judge, and answers that are reviewed",
        scenes,
        "The small models know rendered scenes like this one, and nothing else. [R1-Reward](r1_reward.md), "
        "[SCL](scl.md)",
    ),
)
"""Title, what runs, and what a person saw who looked at it beside the input."""


def main(folder: Path) -> None:
    """Run everything, and write the page."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(PROJECT / "examples")
    runs = Runs(folder.resolve(), DOCS / "gallery")
    runs.pictures.mkdir(exist_ok=True)
    parts = [HEAD]
    for title, make, seen in SECTIONS:
        print(title)
        parts += [f"## {title}", make(runs), seen]
    (DOCS / "gallery.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=PROJECT / "runs" / "gallery")
    main(parser.parse_args().folder)
