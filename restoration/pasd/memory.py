"""How large a tile may be on this machine."""

from __future__ import annotations

import os

import torch
from torch import nn

from vision.diffusion.latents import MEASURED

PER_LATENT = 160
"""Numbers per latent, batch item and channel of the first level that UNet and ControlNet hold at their peak: mostly the
gated feed-forwards at full size, the skips and the residuals."""
PER_VAE_LATENT = 64 * 128 * 5
"""Numbers per latent at the VAE decoder's peak, for 128 channels at full size and the copies around one layer."""
SHARE = 0.7
"""Of the free memory that is used."""


def free_bytes(device: torch.device) -> int:
    """Memory that is free now, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 << 30


def largest_tile(unet: nn.Module, items: int, free: int, limit: int, unit: int = 8) -> int:
    """Side of a tile, in latents, for `items` pictures and halves at once, in multiples of `unit`."""
    weight = next(unet.parameters())
    each = PER_LATENT * unet.config.block_out_channels[0] * items * weight.element_size()
    return _side(free, each, limit, unit)


def largest_vae_tile(vae: nn.Module, items: int, free: int, limit: int = 512, unit: int = 8) -> int:
    """Side of the VAE's tiles, in latents; several are held at once when their statistics are measured."""
    width = vae.config.block_out_channels[0] / 128
    each = int(PER_VAE_LATENT * width * items * MEASURED * next(vae.parameters()).element_size())
    return _side(free, each, limit, unit)


def _side(free: int, each: int, limit: int, unit: int) -> int:
    side = int((SHARE * free / each) ** 0.5) // unit * unit
    return max(min(side, limit), 8 * unit)
