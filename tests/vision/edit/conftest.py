"""A tiny editor and pictures."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from diffusers import PNDMScheduler

from vision.diffusion.build import SCHEDULE
from vision.edit import PIEEditor


@pytest.fixture
def editor() -> PIEEditor:
    return PIEEditor.from_pretrained("builtin:tiny")


@pytest.fixture
def pndm() -> PNDMScheduler:
    return PNDMScheduler(**SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False)


def picture(seed: int, height: int = 32, width: int = 32) -> PIL.Image.Image:
    """A smooth picture in colour."""
    low = np.random.RandomState(seed).randint(0, 255, (5, 5, 3), dtype=np.uint8)
    return PIL.Image.fromarray(low).resize((width, height), PIL.Image.Resampling.BICUBIC)


@pytest.fixture
def image() -> PIL.Image.Image:
    return picture(0)


@pytest.fixture
def colours() -> PIL.Image.Image:
    """A soft mask whose channels differ."""
    return picture(1)


@pytest.fixture
def square() -> PIL.Image.Image:
    """A hard mask in the middle."""
    region = np.zeros((32, 32), dtype=np.uint8)
    region[8:24, 8:24] = 255
    return PIL.Image.fromarray(region)
