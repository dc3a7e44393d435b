"""Read networks from folders in diffusers' format, published ones included."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vision.hub import align, first_names, refuse_mismatch

NAMES = ("diffusion_pytorch_model", "model")


def read_config(folder: Path, init: Any) -> dict[str, Any]:
    """The entries of `folder/config.json` that `init` takes; published configs also hold others."""
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}; a network's folder holds config.json and its weights.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
    known = inspect.signature(init).parameters
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key in known}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder: one safetensors file, one split by an index, or a .bin that is read weights-only."""
    for name in NAMES:
        index = folder / f"{name}.safetensors.index.json"
        if index.exists():
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            return {key: value for file in files for key, value in _read(folder / file).items()}
        for file in (f"{name}.safetensors", f"{name}.fp16.safetensors", f"{name}.bin", f"{name}.fp16.bin"):
            if (folder / file).exists():
                return _read(folder / file)
    raise FileNotFoundError(f"There are no weights in {folder} (diffusion_pytorch_model.safetensors or .bin).")


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path | str, dtype: torch.dtype) -> None:
    """Fill a module on the meta device; every tensor of both must match.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen (the first five are named), or not finite.
    """
    refuse_mismatch(source, module.state_dict(), tensors, "its config")
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(f"{source} holds NaN or infinite weights in {first_names(broken)}; the file is damaged.")
    module.load_state_dict({name: value.to(dtype) for name, value in tensors.items()}, assign=True)
    align(module)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read as weights: {reason}.") from error
