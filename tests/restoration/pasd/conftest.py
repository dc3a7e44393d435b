"""What tests of PASD share."""

from __future__ import annotations

import pytest
import torch

from restoration.pasd import PASDRestorer

FAST = {"steps": 2, "process_size": 32, "guidance_scale": 3.0, "added_prompt": "", "negative_prompt": "bad"}


@pytest.fixture(scope="module")
def tiny() -> PASDRestorer:
    return PASDRestorer.from_pretrained("builtin:tiny")


def photo(height=40, width=48, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(batch, 3, height // 8, width // 8, generator=generator)
    return torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
