"""Results made better step by step: the public names of all systems, loaded when they are asked for.

from burnish import ITERRestorer
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "restoration": "DegradedImages ITERConfig ITEROptions ITERRestorer PASDConfig PASDOptions PASDRestorer "
    "PairedImages degrade",
    "vision.edit": "PIEConfig PIEEditor PIEOptions",
    "recon3d": "Cameras GTRConfig GTROptions GTRReconstructor Mesh Views extract_surface orbit render split_grid",
    "reward_vlm": "ChatModel Dialogue R1Judge R1Options SCLCorrector SCLOptions",
    "vision.refine": "Refined Step Trace Verdict any_of checkpoints max_seconds no_progress previews reaches refine "
    "refine_steps",
    "vision.images": "composite load_image match_color to_pil to_tensor",
    "vision.metrics": "lpips psnr ssim",
    "vision.tiles": "Tiles",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
