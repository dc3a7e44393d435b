"""Turn published checkpoints, which are pickled, into folders that this project loads.

    burnish convert iter --checkpoint ITER_x4.pth --vqgan ITER_swinvqgan.pth --out weights/iter-x4
    burnish convert gtr --checkpoint ckpt.pth --out weights/gtr
    burnish convert one-step --checkpoint osediff.pkl --base SD_FOLDER --out weights/osediff

Files are read as weights only: one that holds code is refused, not run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("convert")
import torch

from vision.job import Event, Show
from vision.pickled import read_pickled

from . import dispatch
from .dispatch import Work


@dataclass(frozen=True)
class ITERFiles:
    """The authors' ITER_x2.pth or ITER_x4.pth."""

    checkpoint: Path
    """The ITER file."""
    out: Path
    """Folder to write; must not hold weights yet."""
    vqgan: Path | None = None
    """The authors' ITER_swinvqgan.pth, when the ITER file does not hold the VQGAN."""
    half: bool = False
    """Write float16 instead of float32."""


@dataclass(frozen=True)
class GTRFiles:
    """The authors' ckpt.pth."""

    checkpoint: Path
    """The GTR file."""
    out: Path
    """Folder to write; must not hold weights yet."""
    half: bool = False
    """Write the generator as float16 instead of float32."""


@dataclass(frozen=True)
class OneStepFiles:
    """The authors' osediff.pkl or pisa_sr.pkl."""

    checkpoint: Path
    """The file with the LoRAs."""
    base: Path
    """Folder of the Stable Diffusion that they were tuned on (stable-diffusion-2-1-base), in diffusers' layout."""
    out: Path
    """Folder to write; must not hold weights yet."""
    half: bool = False
    """Write float16 instead of float32."""


Files = ITERFiles | GTRFiles | OneStepFiles


def main(options: Files) -> Path:
    """Convert and return the folder that was written."""
    if isinstance(options, OneStepFiles):
        return convert_one_step_files(options)
    if isinstance(options, GTRFiles):
        return convert_gtr_files(options)
    from restoration.iter.convert import convert as convert_iter

    if (options.out / "model.safetensors").exists():
        raise ValueError(f"{options.out} holds weights already; name another folder or remove it.")
    checkpoint = read_pickled(options.checkpoint)
    vqgan = None if options.vqgan is None else read_pickled(options.vqgan)
    try:
        restorer = convert_iter(checkpoint, vqgan)
    except ValueError as error:
        raise ValueError(f"{options.checkpoint} cannot be converted. {error}") from error
    restorer.save_pretrained(options.out, dtype=torch.float16 if options.half else None)
    return options.out


def convert_gtr_files(options: GTRFiles) -> Path:
    """Convert a GTR checkpoint and return the folder that was written."""
    from recon3d.gtr.convert import convert as convert_gtr

    if (options.out / "model_index.json").exists():
        raise ValueError(f"{options.out} holds weights already; name another folder or remove it.")
    try:
        reconstructor = convert_gtr(read_pickled(options.checkpoint))
    except ValueError as error:
        raise ValueError(f"{options.checkpoint} cannot be converted. {error}") from error
    reconstructor.save_pretrained(options.out, dtype=torch.float16 if options.half else None)
    return options.out


def convert_one_step_files(options: OneStepFiles) -> Path:
    """Merge the LoRAs of a one-step restorer into their base and return the folder that was written."""
    from restoration.one_step.convert import convert as convert_one_step

    if (options.out / "model_index.json").exists():
        raise ValueError(f"{options.out} holds weights already; name another folder or remove it.")
    try:
        restorer = convert_one_step(read_pickled(options.checkpoint), options.base)
    except ValueError as error:
        raise ValueError(f"{options.checkpoint} cannot be converted. {error}") from error
    restorer.save_pretrained(options.out, dtype=torch.float16 if options.half else None)
    return options.out


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


def call(arguments: Sequence[str], show: Show) -> None:
    """The command line."""
    folder = main(parse(arguments))
    show(Event("result", f"The weights are in {folder}.", path=folder))
