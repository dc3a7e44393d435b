"""What stands for photographs in tests."""

from __future__ import annotations

import torch


def photograph(seed: int, size: int = 112, contrast: float = 0.3) -> torch.Tensor:
    """(1, 3, size, size) with detail of all sizes, as photographs have."""
    generator, image = torch.Generator().manual_seed(seed), torch.zeros(1, 3, size, size)
    for side in (3, 6, 12, 24, 48, 96):
        layer = torch.randn(1, 3, side, side, generator=generator) / side**0.8
        image += torch.nn.functional.interpolate(layer, (size, size), mode="bicubic")
    return (0.5 + contrast * image).clamp(0, 1)
