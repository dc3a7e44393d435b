"""Turn published checkpoints, which are pickled, into folders that this project loads.

    burnish convert iter --checkpoint ITER_x4.pth --vqgan ITER_swinvqgan.pth --out weights/iter-x4
    burnish convert gtr --checkpoint ckpt.pth --out weights/gtr
    burnish convert one-step --checkpoint osediff.pkl --base SD_FOLDER --out weights/osediff

Files are read as weights only: one that holds code is refused, not run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("convert")
import torch

from vision.files import atomic_folder
from vision.hub import Pretrained
from vision.job import Event, Show
from vision.pickled import read_pickled

from . import dispatch
from .dispatch import Work


@dataclass(frozen=True)
class Files:
    """A published checkpoint, and where it goes."""

    checkpoint: Path
    """The authors' file."""
    out: Path
    """Folder to write; must be empty or missing."""
    half: bool = field(default=False, kw_only=True)
    """Write floating weights (of GTR: the generator's) as float16 instead of float32."""


@dataclass(frozen=True)
class ITERFiles(Files):
    """The authors' ITER_x2.pth or ITER_x4.pth."""

    vqgan: Path | None = None
    """The authors' ITER_swinvqgan.pth, when the ITER file does not hold the VQGAN."""


@dataclass(frozen=True)
class GTRFiles(Files):
    """The authors' ckpt.pth."""


@dataclass(frozen=True)
class OneStepFiles(Files):
    """The authors' osediff.pkl or pisa_sr.pkl."""

    base: Path = field(kw_only=True)
    """Folder of the Stable Diffusion that they were tuned on (stable-diffusion-2-1-base), in diffusers' layout."""


def main(options: Files) -> Path:
    """Convert and return the folder that was written."""
    if options.out.is_dir() and any(options.out.iterdir()):
        raise ValueError(f"{options.out} holds files already; name another folder or remove it.")
    checkpoint = read_pickled(options.checkpoint)
    try:
        made = _converted(options, checkpoint)
    except ValueError as error:
        raise ValueError(f"{options.checkpoint} cannot be converted. {error}") from error
    with atomic_folder(options.out) as folder:
        made.save_pretrained(folder, dtype=torch.float16 if options.half else None)
    return options.out


def _converted(options: Files, checkpoint: dict[str, Any]) -> Pretrained:
    if isinstance(options, OneStepFiles):
        from restoration.one_step.convert import convert as convert_one_step

        return convert_one_step(checkpoint, options.base)
    if isinstance(options, GTRFiles):
        from recon3d.gtr.convert import convert as convert_gtr

        return convert_gtr(checkpoint)
    from restoration.iter.convert import convert as convert_iter

    return convert_iter(checkpoint, None if options.vqgan is None else read_pickled(options.vqgan))


SYSTEMS = {
    "iter": Work(__name__, "ITERFiles", "the authors' ITER_x2.pth or ITER_x4.pth"),
    "gtr": Work(__name__, "GTRFiles", "the authors' ckpt.pth"),
    "one-step": Work(__name__, "OneStepFiles", "the authors' osediff.pkl or pisa_sr.pkl"),
}
"""System -> its files."""


def parse(arguments: Sequence[str]) -> Files:
    """Options from the command line; the first word is the system."""
    purpose = "whose checkpoint is to be converted"
    return dispatch.parse("convert", purpose, __doc__ or "", dispatch.single(SYSTEMS), arguments)[1]


def call(options: Files, show: Show) -> None:
    """Convert, and say where the folder is."""
    folder = main(options)
    show(Event("result", f"The weights are in {folder}.", path=folder))
