"""First weights of an image encoder that see fine structure: how strong each frequency of a patch is.

Faults such as blur, noise and coding blocks show in the energy of the high frequencies. An encoder with random weights
finds it late or never: its filters answer to the mean colour of a patch above all, high frequencies are a small part of
the energy of a photograph, and their energy is a square that no linear layer forms. Here filters start as the cosines
of a patch, amplified with their frequency as photographs weaken with it, and the first layer's gated product starts as
their square. Everything is trained from there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def start_with_spectra(encoder: Any, generator: torch.Generator | None = None) -> None:
    """Set the first weights of Qwen2.5-VL's image encoder.

    Linear layers get normal weights of variance 1 / fan-in; then the patch filters become cosines of grey values and
    the first layer's hidden units squares of the answers (x SiLU(x), for both signs).

    Args:
        encoder: the vision tower; its first layer needs twice as many hidden units as channels.
        generator: of the random weights; None draws from the current random state.

    Raises:
        ValueError: the first layer has too few hidden units.
    """
    for layer in encoder.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
    filters = encoder.patch_embed.proj.weight  # (channels, 3, frames, side, side)
    channels, colours, frames, side, _ = filters.shape
    filters.copy_(cosines(side, channels)[:, None, None].expand_as(filters) / (colours * frames))
    first = encoder.blocks[0]
    gate, up = first.mlp.gate_proj.weight, first.mlp.up_proj.weight  # (hidden units, channels)
    if len(gate) < 2 * channels:
        raise ValueError(f"Squares of {channels} channels need {2 * channels} hidden units, got {len(gate)}.")
    squares = 1.5 * torch.cat([torch.eye(channels), -torch.eye(channels)])
    for weight in (gate, up):
        weight.zero_()[: 2 * channels] = squares
    first.attn.proj.weight.mul_(0.1)  # each patch keeps its own spectrum up to there


def cosines(side: int, count: int) -> Tensor:
    """(count, side, side): filters of the two-dimensional cosine transform, evenly chosen from low to high frequency.

    Each has the norm of its frequency in half periods per side; the mean, whose frequency is 0, has 0.1.
    """
    number = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi * (number + 0.5) * number[:, None] / side) * math.sqrt(2 / side)  # (frequency, place)
    waves[0] /= math.sqrt(2)
    squared = (number[:, None] ** 2 + number**2).flatten()
    order = squared.argsort(stable=True)
    chosen = order[torch.linspace(0, side * side - 1, count, dtype=torch.float64).round().long()]
    rows, columns = chosen // side, chosen % side
    gains = squared[chosen].sqrt().clamp(min=0.1)
    return (gains[:, None, None] * waves[rows][:, :, None] * waves[columns][:, None, :]).float()
