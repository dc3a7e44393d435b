"""Ways through the house are short: functions that a value passes from a user's call to the network or renderer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from recon3d import GTROptions, GTRReconstructor, gtr_rig, render, vase
from recon3d.gtr import geometry
from recon3d.projection import Projector
from restoration import ITEROptions, ITERRestorer, PASDOptions, PASDRestorer

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("vision", "restoration", "recon3d")


def way() -> list[str]:
    """The functions of the project that are being run, from the first call on; those that hand out tiles are in it."""
    frame, found = sys._getframe(2), []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        comprehension = frame.f_code.co_name.startswith("<") and frame.f_code.co_name != "<lambda>"
        if not comprehension and path.is_relative_to(PROJECT) and path.relative_to(PROJECT).parts[0] in PACKAGES:
            found.append(f"{path.relative_to(PROJECT)}: {frame.f_code.co_name}")
        frame = frame.f_back
    return found[::-1]


@pytest.fixture
def longest(monkeypatch):
    """Watches functions; afterwards its `way` is the longest one that led to them."""

    class Longest:
        way: list[str] = []  # noqa: RUF012

        def watch(self, owner, *names):
            for name in names:
                function = getattr(owner, name)

                def passed(*arguments, function=function, **named):
                    self.way = max(self.way, way(), key=len)
                    return function(*arguments, **named)

                monkeypatch.setattr(owner, name, passed)

    return Longest()


def image(side: int) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_a_picture_passes_at_most_eight_functions_of_iter_in_tiles_too(longest):
    restorer = ITERRestorer.from_pretrained("builtin:tiny-mini")
    longest.watch(restorer.model, "observe", "token_logits", "confidence", "decode", "restore_base")
    restorer(image(80), ITEROptions(threshold=1.1, steps=2, fidelity=0.5, tile=32, tile_overlap=8))
    assert 5 < len(longest.way) <= 8, longest.way


def test_a_picture_passes_at_most_ten_functions_of_pasd(longest):
    restorer = PASDRestorer.from_pretrained("builtin:tiny")
    longest.watch(restorer.unet, "forward")
    restorer(image(16), PASDOptions(steps=2, scale=1, process_size=32))
    assert 5 < len(longest.way) <= 10, longest.way


def test_a_tile_passes_two_functions_more_of_pasd(longest):
    restorer = PASDRestorer.from_pretrained("builtin:tiny")
    longest.watch(restorer.unet, "forward")
    restorer(image(16), PASDOptions(steps=2, scale=1, process_size=256, tile=16, tile_overlap=4))
    assert 10 < len(longest.way) <= 12, longest.way


def test_a_mesh_passes_at_most_twelve_functions_of_gtr(longest):
    mesh = vase(16, 16, 16)
    views = render(mesh, gtr_rig(24))
    longest.watch(geometry, "render_surface")
    longest.watch(Projector, "picture")
    options = GTROptions(geometry_steps=1, texture_steps=1, view_size=24, keep_topology=True)
    GTRReconstructor.from_pretrained()(views, options, mesh=mesh)
    assert 5 < len(longest.way) <= 12, longest.way
