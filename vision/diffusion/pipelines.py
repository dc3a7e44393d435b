"""Whole pipelines of diffusers that take a picture: found, loaded strictly, saved, and called by the names they know.

A folder names the classes of its pipeline and of all parts. No code of a folder is run, and nothing pickled is read.
Folders of text-to-image pipelines (Stable Diffusion, SDXL, SD3, FLUX, Qwen-Image) hold the parts of their siblings that
take a picture, or a picture and a mask, and are called through these.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from vision.config import read_json
from vision.hub import INDEX
from vision.libraries import library_errors, silent
from vision.weights import load_pretrained, load_tokenizer

Task = Literal["image", "inpaint"]
"""What a pipeline starts from: a picture, or a picture and a mask."""
RENAMED = {"CLIPFeatureExtractor": "CLIPImageProcessor"}
"""Classes that old folders name as transformers called them then."""


def load_pipeline(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline of a folder, on the CPU.

    Args:
        folder: in diffusers' layout, with model_index.json.
        dtype: floating type of its networks.

    Raises:
        FileNotFoundError: the folder has no index, or lacks a part that the index names.
        ValueError: it needs code of its own, takes no picture, holds pickled weights, or a part does not load.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder} has no {INDEX}; name a folder that a pipeline of diffusers was saved in.")
    index = read_json(folder / INDEX)
    cls = _class(folder, index.get("_class_name"))
    if called(cls, "image") is None:
        raise ValueError(
            f"{folder} holds a {cls.__name__}, which does not edit a picture by a prompt, and diffusers has no sibling "
            "of it that does; name a pipeline for image-to-image, inpainting or editing."
        )
    parts = {}
    for name in _arguments(cls):
        value = index.get(name)
        named = isinstance(value, list) and len(value) == 2
        if named and value != [None, None]:
            parts[name] = _part(folder, name, *value, dtype)
        elif name in index:
            parts[name] = None if named else value
    missing = [name for name, needed in _arguments(cls).items() if needed and name not in parts]
    if missing:
        raise ValueError(f"{folder / INDEX} names no {', '.join(missing)}, which a {cls.__name__} consists of.")
    return _made(cls, parts)


def called(cls: type, task: Task) -> type | None:
    """The class that edits with the parts of a pipeline: itself if it takes a picture and a prompt, else a sibling.

    Args:
        cls: of the pipeline.
        task: inpaint prefers a sibling that sees the mask in every step, where there is one.

    Returns:
        None where no class edits.
    """
    import diffusers

    stem = cls.__name__.removesuffix("Pipeline")  # diffusers names siblings by what they start from
    kinds = [] if takes(cls, "image") else ["Inpaint", "Img2Img"] if task == "inpaint" else ["Img2Img"]
    for found in [cls, *(getattr(diffusers, f"{stem}{kind}Pipeline", None) for kind in kinds)]:
        # A ControlNet's picture is another than the edited one.
        if (
            found is not None
            and takes(found, "image")
            and takes(found, "prompt")
            and "controlnet" not in _arguments(found)
        ):
            return found
    return None


def sibling(pipeline: Any, task: Task) -> Any:
    """The pipeline that `called` names, out of the same parts (which are shared)."""
    cls = called(type(pipeline), task)
    if cls is type(pipeline):
        return pipeline
    names = _arguments(cls)
    parts = {name: pipeline.components.get(name) for name in names if name in pipeline.components}
    parts |= {name: pipeline.config[name] for name in names if name not in parts and name in pipeline.config}
    return _made(cls, parts)


def takes(cls: type, name: str) -> bool:
    """Whether calls of a pipeline know an argument."""
    return name in inspect.signature(cls.__call__).parameters


def default_of(cls: type, name: str) -> Any:
    """What an argument of a pipeline's call is when nobody gives it; None where there is no such argument."""
    known = inspect.signature(cls.__call__).parameters.get(name)
    return None if known is None or known.default is known.empty else known.default


def networks(pipeline: Any) -> list[nn.Module]:
    """Its parts that have weights."""
    return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]


def unit(pipeline: Any) -> int:
    """Sides of pictures are multiples of this, in pixels: two latents."""
    return 2 * getattr(pipeline, "vae_scale_factor", 8)


def own_resolution(pipeline: Any) -> int:
    """Pixels per side of the square pictures that its weights were made for, as far as the parts tell; else 1024."""
    denoiser = pipeline.components.get("unet") or pipeline.components.get("transformer")
    known = getattr(pipeline, "default_sample_size", None) or getattr(denoiser.config, "sample_size", None)
    return (known if isinstance(known, int) else 128) * pipeline.vae_scale_factor


def save_pipeline(pipeline: Any, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a pipeline's folder, floating weights as `dtype` when it is given; what is in memory stays as it is."""
    if dtype is not None:
        parts = {name: pipeline.components.get(name, pipeline.config.get(name)) for name in _arguments(type(pipeline))}
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                parts[name] = nn.Module.to(copy.deepcopy(part), dtype)
        pipeline = _made(type(pipeline), parts)
    with silent():
        pipeline.save_pretrained(folder, safe_serialization=True)


def _class(folder: Path, name: Any) -> type:
    """
    Raises:
        ValueError: the installed diffusers has no pipeline of this name, or it is code of the folder.
    """
    import diffusers

    if not isinstance(name, str):
        raise ValueError(
            f"{folder / INDEX} names code of its own as pipeline ({name!r}); no code is loaded from folders."
        )
    cls = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise ValueError(
            f"{folder / INDEX} names the pipeline {name!r}, which diffusers {diffusers.__version__} does not have; "
            "no code is loaded from folders, a newer diffusers may have it."
        )
    return cls


def _arguments(cls: type) -> dict[str, bool]:
    """Names that the constructor of a pipeline takes, and whether it needs them."""
    known = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {item.name: item.default is item.empty for item in known if item.kind is not item.VAR_KEYWORD}


def _made(cls: type, parts: Mapping[str, Any]) -> Any:
    """
    Raises:
        ValueError: the parts do not fit each other.
    """
    with library_errors(f"{cls.__name__} cannot be made of these parts"):
        pipeline = cls(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _part(folder: Path, name: str, module: Any, cls: Any, dtype: torch.dtype) -> Any:
    """One part of a pipeline from its sub-folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: its class is none of diffusers or transformers, or it does not load.
    """
    import diffusers
    import transformers

    homes = {"diffusers": diffusers, "transformers": transformers}
    named = all(isinstance(word, str) and word.isidentifier() for word in (module, cls))
    home = (homes.get(module) or getattr(diffusers.pipelines, module, None)) if named else None
    found = getattr(home, RENAMED.get(cls, cls), None) if home else None
    if not isinstance(found, type) or found.__module__.split(".")[0] not in homes:
        raise ValueError(
            f"The component {name!r} in {folder / INDEX} is a {module}.{cls}; only classes that diffusers "
            f"{diffusers.__version__} and transformers {transformers.__version__} have are allowed, and no code is "
            "loaded from a folder."
        )
    if issubclass(found, nn.Module):
        return load_pretrained(found, folder / name, dtype=dtype)
    if issubclass(found, diffusers.SchedulerMixin):
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"There is no folder {folder / name}.")
        with library_errors(f"{folder / name} does not load"):
            return found.from_pretrained(folder / name, local_files_only=True)
    return load_tokenizer(found, folder / name)
