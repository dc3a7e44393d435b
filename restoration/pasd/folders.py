"""Read networks from folders in diffusers' format, published ones included."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision.config import read_json
from vision.libraries import library_errors
from vision.weights import fill, read_tensors, refuse_pickled

NAMES = ("diffusion_pytorch_model", "model")


def build(cls: Callable[..., nn.Module], stock: type, folder: Path, *arguments: Any) -> nn.Module:
    """`cls(*arguments, **config)` on the meta device, of what the stock class takes of `folder/config.json`.

    Published configs also hold other entries.

    Raises:
        FileNotFoundError: there is no config.
        ValueError: it is no JSON, or describes no network of this class.
    """
    path, known = folder / "config.json", inspect.signature(stock.__init__).parameters
    config = {key: tuple(v) if isinstance(v, list) else v for key, v in read_json(path).items() if key in known}
    with library_errors(f"{path} describes no network"), torch.device("meta"):
        return cls(*arguments, **config)


def folder_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder: one safetensors file, or several that an index names.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they cannot be read, or are pickled.
    """
    for name in NAMES:
        index = folder / f"{name}.safetensors.index.json"
        if index.exists():
            names = read_json(index).get("weight_map")
            files = sorted({str(file) for file in names.values()}) if isinstance(names, dict) else []
            if not files or any(Path(file).name != file for file in files):
                raise ValueError(f"{index} must name files beside it under weight_map.")
            return {key: value for file in files for key, value in read_tensors(folder / file).items()}
        for file in (f"{name}.safetensors", f"{name}.fp16.safetensors"):
            if (folder / file).exists():
                return read_tensors(folder / file)
    refuse_pickled(folder)
    raise FileNotFoundError(f"{folder} must hold config.json and its weights, {NAMES[0]}.safetensors.")


def fill_from(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> nn.Module:
    """The module from the meta device with a folder's tensors, in evaluation mode; every tensor must match."""
    fill(module, tensors, folder, dtype=dtype, whole="its config")
    return module.eval()
