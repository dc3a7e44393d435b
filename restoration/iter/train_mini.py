"""Training of the small default network (see `mini.py`), stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from restoration.iter.mini import Base, MiniConfig
from vision.resize import imresize
from vision.training import Context, Objective, TrainOptions, fit


class SharpCrops(Dataset[Tensor]):
    """Random square crops with something to see in them, flipped and transposed; item i depends on (seed, i) alone.

    A crop is drawn again, at most three times, while the standard deviation of its Laplacian is below `sharpness`
    (grey levels): half of a typical photograph is sky and blur, from which little can be learnt.
    """

    def __init__(self, paths: Iterable[Path], size: int, seed: int = 0, sharpness: float = 5.0):
        self.paths, self.size, self.seed, self.sharpness = list(paths), size, seed, sharpness
        if not self.paths:
            raise ValueError("There are no pictures to train on.")
        self.images = [np.asarray(Image.open(path).convert("RGB")) for path in self.paths]
        areas = np.array([image.shape[0] * image.shape[1] for image in self.images], dtype=float)
        self.shares = np.cumsum(np.sqrt(areas) / np.sqrt(areas).sum())

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> Tensor:
        """(3, size, size) float32 in [0, 1]."""
        rng = np.random.default_rng((self.seed, index))
        for _ in range(4):
            image = self.images[min(int(np.searchsorted(self.shares, rng.random())), len(self.images) - 1)]
            y, x = (int(rng.integers(0, side - self.size + 1)) for side in image.shape[:2])
            crop = image[y : y + self.size, x : x + self.size]
            if _sharpness(crop) >= self.sharpness:
                break
        flips = rng.integers(0, 2, 3)
        if flips[0]:
            crop = crop[::-1]
        if flips[1]:
            crop = crop[:, ::-1]
        if flips[2]:
            crop = crop.transpose(1, 0, 2)
        return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float() / 255


def _sharpness(crop: np.ndarray) -> float:
    green = crop[..., 1].astype(np.float32)
    laplacian = green[1:-1, :-2] + green[1:-1, 2:] + green[:-2, 1:-1] + green[2:, 1:-1] - 4 * green[1:-1, 1:-1]
    return float(laplacian.std())


def shrink(hr: Tensor, scale: int) -> Tensor:
    """The clean low-resolution picture: MATLAB bicubic, rounded to 8 bits."""
    return (imresize(hr, 1 / scale).clamp(0, 1) * 255).round() / 255


def base_loss(scale: int) -> Callable[[Any, Context], tuple[Tensor, Mapping[str, Tensor]]]:
    """Mean absolute error of the deterministic picture."""

    def loss(batch: Any, context: Context) -> tuple[Tensor, Mapping[str, Tensor]]:
        hr, lr = (batch["hr"], batch["lr"]) if isinstance(batch, dict) else (batch, shrink(batch, scale))
        _, picture = context.modules["base"](lr.contiguous(memory_format=torch.channels_last))
        return F.l1_loss(picture, hr), {}

    return loss
