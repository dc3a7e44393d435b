"""Reference tensors of PASD, and what its parity tests share.

Every configuration (widths, heads, depths, sizes, options, seeds, case names) is read from the JSON files, so that
another folder of the same schema runs unchanged. Tolerances are absolute in float32; the reason stands beside each.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.unet import PASDUNet
from tests.parity.conftest import golden_root

ROOT = golden_root() / "pasd"
FORWARD = 2e-5  # float32 sums in another order; the published classes differ by less between machines
HALF = 2e-3  # stored in half precision


@cache
def facts(name: str) -> Any:
    return json.loads((ROOT / f"{name}.json").read_text())


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(ROOT / f"{name}.safetensors")


def kinds() -> list[str]:
    return sorted(path.stem for path in ROOT.glob("forward_*.json"))


def cases(name: str, key: str = "cases") -> list[str]:
    path = ROOT / f"{name}.json"
    return list(facts(name)[key]) if path.exists() else []


@cache
def nets(checkpoint: str) -> tuple[PASDUNet, PASDControlNet]:
    folder = ROOT / checkpoint
    return PASDUNet.from_pretrained(folder / "unet"), PASDControlNet.from_pretrained(folder / "controlnet")


def checkpoint_of(model: str) -> str:
    """The folder of weights that a model's name (std, light, sdxl) stands for, as the forward files tell."""
    return next(facts(kind)["checkpoint"] for kind in kinds() if facts(kind)["kind"] == model)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    tolerance = max(tolerance, HALF) if expected.dtype == torch.float16 else tolerance
    torch.testing.assert_close(actual.float(), expected.float(), rtol=0, atol=tolerance)


def picture(stored: Tensor) -> Tensor:
    """(h, w, 3) or (h, w) uint8 as (1, 3, h, w) in [0, 1]."""
    stored = stored if stored.ndim == 3 else stored[..., None].expand(-1, -1, 3)
    return stored.permute(2, 0, 1)[None].float() / 255
