"""Teach the image encoder of a small model to see faults before it learns to speak.

A tiny model that learns words and sight together from judgements alone does not find what tells a noisy picture from a
clean one. Here every image token learns to tell, through one linear layer that is thrown away afterwards, how much
blur, noise and JPEG blocks its picture has; judgements then only have to put it into words.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from reward_vlm.photo_pairs import KINDS, PhotoPairs
from reward_vlm.vlm import ChatModel
from vision.training import Context, Objective, TrainOptions, finished, fit


class SpoiledCrops(Dataset[dict[str, Tensor]]):
    """Single spoiled crops as the model's processor cuts them into patches."""

    def __init__(self, pairs: PhotoPairs, processor: Any):
        self.pairs, self.processor = pairs, processor

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """pixels (patches, values) and strengths (kinds,) float32."""
        picture, strengths = self.pairs.single(index)
        pixels = self.processor.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
        return {"pixels": pixels, "strengths": torch.tensor(strengths)}


class Watcher(nn.Module):
    """The encoder with a linear layer that reads the strengths from every token."""

    def __init__(self, encoder: nn.Module, grid: Tensor, width: int):
        super().__init__()
        self.encoder, self.read = encoder, nn.Linear(width, len(KINDS))
        self.register_buffer("grid", grid)

    def forward(self, pixels: Tensor, strengths: Tensor) -> Tensor:
        """Mean squared error of the strengths, over tokens and pictures."""
        batch = pixels.shape[0]
        tokens = self.encoder(pixels.flatten(0, 1), grid_thw=self.grid.repeat(batch, 1)).pooler_output
        said = self.read(tokens).view(batch, -1, len(KINDS))
        return F.mse_loss(said, strengths[:, None].expand_as(said))


def teach_to_see(
    chat: ChatModel,
    pairs: PhotoPairs,
    folder: Path,
    *,
    steps: int,
    rate: float = 2e-3,
    seed: int = 0,
    log: Callable[[str], object] | None = None,
) -> bool:
    """Train the encoder of `chat` in place; returns whether it is finished (a run that was stopped goes on)."""
    picture, _ = pairs.single(0)
    grid = chat.processor.image_processor(images=[picture], return_tensors="pt")["image_grid_thw"]
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        watcher = Watcher(chat.model.model.visual, grid, chat.model.config.text_config.hidden_size)
    options = TrainOptions(
        folder=folder, steps=steps, batch_size=64, learning_rate=rate, final_learning_rate=rate / 20, warmup=30,
        max_grad_norm=1.0, seed=seed, log_every=50, save_every=200,
    )  # fmt: skip

    def loss(batch: dict[str, Tensor], context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        return context.modules["watcher"](batch["pixels"], batch["strengths"]), {}

    fit([Objective("watcher", watcher, loss)], SpoiledCrops(pairs, chat.processor), options, log=log)
    return finished(folder, steps)
