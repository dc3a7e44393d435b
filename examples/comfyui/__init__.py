"""Nodes for ComfyUI: restore pictures, show how a condition progresses, keep the better of two restorations.

Copy this folder to `ComfyUI/custom_nodes/burnish`, with burnish installed in ComfyUI's environment. Images are
ComfyUI's: (batch, height, width, 3) RGB in [0, 1]; masks (batch, height, width) in [0, 1]. Results are on the CPU.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

SYSTEMS = ("iter:photo", "iter:clean", "pasd:faithful", "pasd:balanced", "pasd:creative", "pasd:fast", "bicubic")


def _device() -> torch.device:
    from vision.job import choose_device

    return choose_device("auto")


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
        restorer, found = _restorer(system)
        options = found.asked(seed=seed)
        made = []
        for picture in image.permute(0, 3, 1, 2).split(1):
            made.append(torch.cat([band.cpu() for band in restorer.bands(picture, options)], dim=2).clamp(0, 1))
        return (torch.cat(made).permute(0, 2, 3, 1),)


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

        picture, region = to_pil(image[:1].permute(0, 3, 1, 2)), to_pil(mask[:1, None].expand(-1, 3, -1, -1))
        found = _editor()(picture, mask=region, options=PIEOptions(frames=frames, seed=seed))
        return (torch.cat([to_tensor(frame) for frame in found]).permute(0, 2, 3, 1),)


class BurnishBetter:
    """The better of two restorations of one picture, as the judge that comes along sees it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "burnish", "better", ("IMAGE", "INT")
    RETURN_NAMES = ("image", "number")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"first": ("IMAGE",), "second": ("IMAGE",)}}

    def better(self, first: Tensor, second: Tensor) -> tuple[Tensor, int]:
        pictures = [image[:1].permute(0, 3, 1, 2) for image in (first, second)]
        return (first, 1) if _judge().prefers(*pictures) else (second, 2)


NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in (BurnishRestore, BurnishProgress, BurnishBetter)}
NODE_DISPLAY_NAME_MAPPINGS = {
    "BurnishRestore": "Restore (burnish)",
    "BurnishProgress": "Progress of a condition (burnish)",
    "BurnishBetter": "Better of two restorations (burnish)",
}
