"""Rebuild a 3D object from posed pictures, or improve a mesh against them.

    burnish reconstruct --out runs/vase                                  (a vase made by code, to try it out)
    burnish reconstruct --views PICTURES --out runs/object               (transforms.json, a COLMAP model, ...)
    burnish reconstruct --grid SIX_VIEWS.png --out runs/object           (the six-view grid of Zero123++)
    burnish reconstruct --mesh OBJECT.glb --views PICTURES --out runs/better
    burnish reconstruct --mesh OBJECT.glb --out runs/copy                (renders twelve views of it first)

Writes NAME.glb (or .obj), turntable.gif (lit, and the bare shape), contact.png (given views, before, after, lit, bare)
and run.json. The same command again after an interruption goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("reconstruct")
from recon3d.job import ReconstructOptions, reconstruct
from vision.job import Show

from . import dispatch

parse = dispatch.single_command("reconstruct", ReconstructOptions, __doc__)
"""Options from the command line."""


def call(options: ReconstructOptions, show: Show) -> int:
    """Reconstruct; returns 0, or 2 when something could not be rebuilt."""
    return reconstruct(options, show).code
