"""Nodes for ComfyUI: restore pictures, show how a condition progresses, keep the better of two restorations.

Copy this folder to `ComfyUI/custom_nodes/burnish`, with burnish installed in ComfyUI's environment. Images are
ComfyUI's: (batch, height, width, 3) RGB in [0, 1], with a fourth channel where "Join Image with Alpha" made them;
masks (batch, height, width) in [0, 1]. Results are on the CPU. Tried with ComfyUI 0.3.64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

SYSTEMS = ("iter:photo", "iter:clean", "pasd:faithful", "pasd:balanced", "pasd:creative", "pasd:fast", "bicubic")


def _device() -> torch.device:
    from vision.job import choose_device

    return choose_device("auto")


def _progress(total: int) -> Callable[[float], object]:
    """Shows how much of `total` is done. ComfyUI's bar also ends a run that its user cancels."""
    utils = sys.modules.get("comfy.utils")
    return utils.ProgressBar(total).update_absolute if utils else lambda done: None


def _one_picture(image: Tensor, node: str) -> Tensor:
    """(1, 3, height, width) RGB of a batch (1, height, width, 3).

    Raises:
        ValueError: there are several pictures, or they have transparency.
    """
    if image.shape[0] != 1 or image.shape[-1] != 3:
        many, channels = image.shape[0], image.shape[-1]
        raise ValueError(
            f"{node} takes one picture with three channels, got {many} with {channels}; choose one with "
            '"ImageFromBatch", and take transparency off with "Split Image with Alpha".'
        )
    return image.permute(0, 3, 1, 2)


@lru_cache(maxsize=2)
def _restorer(name: str) -> tuple[Any, Any]:
    """The loaded restorer of a system's name, and the system."""
    from restoration.restorer import find_system

    system = find_system(name)
    return system.load(None, system.asked(), device=_device(), dtype=torch.float32), system


@lru_cache(maxsize=1)
def _editor() -> Any:
    from vision.edit import PIEEditor

    return PIEEditor.from_pretrained(device=_device())


@lru_cache(maxsize=1)
def _judge() -> Any:
    from reward_vlm.r1.pictures import PictureJudge

    return PictureJudge.from_pretrained(device=_device())


class BurnishRestore:
    """Makes pictures four times larger and cleaner."""

    CATEGORY, FUNCTION, RETURN_TYPES = "burnish", "restore", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seed = ("INT", {"default": 0, "min": 0, "max": 2**32 - 1})
        return {"required": {"image": ("IMAGE",), "system": (list(SYSTEMS),), "seed": seed}}

    def restore(self, image: Tensor, system: str, seed: int) -> tuple[Tensor]:
        """Every picture of the batch, restored; transparency is kept, and what it hides reaches no edge."""
        from vision.images import enlarge_alpha, to_pil, to_tensor
        from vision.images.transparency import bleed

        restorer, found = _restorer(system)
        options, show = found.asked(seed=seed), _progress(100 * len(image))
        restored = []
        for number, picture in enumerate(image.permute(0, 3, 1, 2).cpu().split(1)):
            colours, opacity = picture[:, :3], picture[:, 3:]
            if opacity.numel():
                alpha = to_pil(opacity)
                filled = bleed(colours[0].permute(1, 2, 0).numpy(), np.asarray(alpha))
                colours = torch.from_numpy(filled).permute(2, 0, 1)[None]
            bands = restorer.bands(colours, options, progress=lambda share, at=number: show(100 * (at + share)))
            result = torch.cat([band.cpu() for band in bands], dim=2).clamp(0, 1)
            if opacity.numel():
                result = torch.cat([result, to_tensor(enlarge_alpha(alpha, result.shape[:1:-1]))[:, :1]], dim=1)
            restored.append(result)
        return (torch.cat(restored).permute(0, 2, 3, 1),)


class BurnishProgress:
    """Shows how a condition progresses inside the mask of one picture; a simulation, no prediction."""

    CATEGORY, FUNCTION, RETURN_TYPES = "burnish", "progress", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seed = ("INT", {"default": 0, "min": 0, "max": 2**32 - 1})
        frames = ("INT", {"default": 10, "min": 1, "max": 100})
        return {"required": {"image": ("IMAGE",), "mask": ("MASK",), "frames": frames, "seed": seed}}

    def progress(self, image: Tensor, mask: Tensor, frames: int, seed: int) -> tuple[Tensor]:
        from vision.edit import PIEOptions
        from vision.images import to_pil, to_tensor

        picture, show = to_pil(_one_picture(image, "Progress")), _progress(frames)
        region = to_pil(_one_picture(mask[..., None].expand(-1, -1, -1, 3), "The mask of Progress"))
        options, watch = PIEOptions(frames=frames, seed=seed), lambda step: show(step.index + 1)
        found = _editor()(picture, mask=region, options=options, observers=[watch])
        return (torch.cat([to_tensor(frame) for frame in found]).permute(0, 2, 3, 1),)


class BurnishBetter:
    """The better of two restorations of one picture, as the judge that comes along sees it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "burnish", "better", ("IMAGE", "INT")
    RETURN_NAMES = ("image", "number")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"first": ("IMAGE",), "second": ("IMAGE",)}}

    def better(self, first: Tensor, second: Tensor) -> tuple[Tensor, int]:
        pictures = [_one_picture(image, "Better") for image in (first, second)]
        return (first, 1) if _judge().prefers(*pictures) else (second, 2)


NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in (BurnishRestore, BurnishProgress, BurnishBetter)}
NODE_DISPLAY_NAME_MAPPINGS = {
    "BurnishRestore": "Restore (burnish)",
    "BurnishProgress": "Progress of a condition (burnish)",
    "BurnishBetter": "Better of two restorations (burnish)",
}
