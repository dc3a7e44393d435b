"""How large a tile may be on this machine.

Attention is global within a tile, so results depend on the tiles. To make that rare, sides are chosen for one picture
whatever the batch, and only from `SIDES`: memory that comes and goes a little changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from vision.diffusion.latents import MEASURED

PER_LATENT = 160
"""Numbers per latent, batch item and channel of the first level that UNet and ControlNet hold at their peak: mostly the
gated feed-forwards at full size, the skips and the residuals."""
PER_VAE_LATENT = 64 * 128 * 8
"""Numbers per latent at the VAE decoder's peak, for 128 channels at full size and the copies around one layer."""
SHARE = 0.7
"""Of the free memory that is used."""
SIDES = (512, 320, 224, 160, 112, 80, 64)
"""Tiles to choose from, in latents; each has about half the area of the one before."""


def free_bytes(device: torch.device) -> int:
    """Memory that is free now, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    told = Path("/proc/meminfo")
    if told.exists():  # Linux: with what its caches would give back
        lines = [line.split() for line in told.read_text().splitlines() if line.startswith("MemAvailable:")]
        if lines:
            return int(lines[0][1]) << 10
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 << 30


def largest_tile(unet: nn.Module, copies: int, free: int, limit: int) -> int:
    """Side of a tile, in latents, for `copies` (tiles and guidance halves at once) of one picture; at most `limit`."""
    weight = next(unet.parameters())
    return _side(free, PER_LATENT * unet.config.block_out_channels[0] * copies * weight.element_size(), limit)


def largest_vae_tile(vae: nn.Module, free: int, height: int, width: int) -> int:
    """Side of the VAE's tiles for `height` x `width` latents, in latents; 0 where the whole needs no more memory.

    Several tiles are held at once when their statistics are measured.
    """
    channels = vae.config.block_out_channels[0] / 128
    each = int(PER_VAE_LATENT * channels * next(vae.parameters()).element_size())
    if height * width * each <= SHARE * free:
        return 0
    return _side(free, MEASURED * each, SIDES[0])


def _side(free: int, each: int, limit: int) -> int:
    most = min(limit, (SHARE * free / each) ** 0.5)
    return next((side for side in sorted({limit, *SIDES}, reverse=True) if side <= most), min(limit, *SIDES))
