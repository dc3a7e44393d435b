"""Edit pictures frame by frame, or simulate how a condition progresses: `burnish edit INPUT... --out FOLDER`.

    burnish edit --out runs/edit                               (a brain, the embedded weights: to try it out)
    burnish edit scan.png --mask region.png --prompt "A brain MRI image, large lesion" --source SD_FOLDER --out edited
    burnish edit scan.png --ellipse 0.4 0.5 0.1 0.1 --feather 5 --trajectories 8 --seed 3 --out edited
    burnish edit brain.nii.gz --mask lesion.nii.gz --slices 90 91 --out edited            (volumes keep their header)
    burnish edit slice.dcm --ellipse 0.4 0.5 0.1 0.1 --window 0 1200 --out edited
    burnish edit photo.png --pipeline FOLDER --mask m.png --prompt "..." --out edited    (any pipeline of diffusers)
    burnish edit --pipeline FOLDER --help                                          (what a pipeline may change)

PIE simulates severity; it does not predict a patient's future. Writes, for every input, FOLDER/STEM/: the frames
frame_00.png (the input), frame_01.png, ... at the input's own size, mask.png, report.png, frames.json and .csv, a film;
and run.json. The same command again after an interruption goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("edit")
from vision.config import cli
from vision.edit.folders import DEFAULT
from vision.edit.job import EditOptions, PipelineEditOptions, edit
from vision.job import Show

from .terminal import Terminal

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "brain.png"


def parse(arguments: Sequence[str]) -> EditOptions:
    """Options from the command line; --pipeline decides which there are. Without inputs PIE edits the example."""
    pipeline = any(word.split("=", 1)[0] == "--pipeline" for word in arguments)
    kind, embedded = (PipelineEditOptions, None) if pipeline else (EditOptions, DEFAULT / "pie" / "config.json")
    options = cli(kind, prog="burnish edit", description=__doc__, args=arguments, embedded=embedded)
    if options.inputs or pipeline:
        return options
    shapes = options.mask or options.box or options.ellipse or options.intensities or options.difference
    mask = options.mask if shapes else EXAMPLE.with_name("brain_mask.png")
    return replace(options, inputs=(EXAMPLE,), mask=mask)


def main(options: EditOptions, show: Show | None = None) -> int:
    """Edit everything that is not done yet; returns 0, or 2 when an input could not be used."""
    return edit(options, show or Terminal()).code


call = main
