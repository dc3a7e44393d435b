"""Objects cut out of their background: by transparency, a mask, a white background or background removal."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
import torch
from scipy import ndimage
from torch import Tensor

from recon3d.cameras import same_sides
from vision.images import LoadedImage, load_image, to_tensor
from vision.painted import painted

WHITE, ALMOST_WHITE = 0.96, 0.85
"""The darkest channel of background is above the first; that of what is certainly no background is below the second."""
RINGING = 5
"""Pixels across that JPEG's ringing never fills."""
Background = Literal["auto", "alpha", "white", "rembg"]


def cut_out(picture: LoadedImage, background: Background, name: str) -> tuple[Tensor, Tensor]:
    """Separate an object from its background.

    Args:
        background: "alpha" takes the transparency, "white" what differs from white around it, "rembg" the network of
            that package; "auto" takes alpha when there is one, else rembg when it is installed, else white.

    Returns:
        The picture on white (1, 3, height, width) and its mask (1, 1, height, width).
    """
    if background == "auto":
        has_rembg = importlib.util.find_spec("rembg") is not None
        background = "alpha" if picture.alpha is not None else "rembg" if has_rembg else "white"
    image = to_tensor(picture)
    if background == "alpha":
        if picture.alpha is None:
            raise ValueError(f"{name} has no transparency; use a white background or background removal instead.")
        mask = torch.from_numpy(np.array(picture.alpha, dtype=np.float32) / 255)
    elif background == "rembg":
        if importlib.util.find_spec("rembg") is None:
            raise ValueError("Background removal needs the package rembg; install it, or give pictures with alpha.")
        import rembg

        cut = rembg.remove(picture.rgb)
        mask = torch.from_numpy(np.array(cut.getchannel("A"), dtype=np.float32) / 255)
    else:
        mask = _not_white(image[0], name)
    mask = mask[None, None]
    return image * mask + (1 - mask), mask


def with_mask(picture: LoadedImage, path: Path) -> LoadedImage:
    """The picture with a mask from a file as its transparency: nothing is painted where the object is not.

    The brightest place is the object, however dark it is.

    Raises:
        ValueError: the mask cannot be read, or its sides are others than the picture's.
    """
    mask = load_image(path, upright=False)
    (width, height), own = mask.rgb.size, picture.rgb.size
    if not same_sides((height, width), (own[1], own[0])):
        raise ValueError(f"The mask {path} has {height} x {width} pixels, its picture {own[1]} x {own[0]}.")
    values = np.asarray(painted(mask), dtype=np.float32)
    values *= 255 / max(float(values.max()), 1.0)
    alpha = PIL.Image.fromarray(values.round().astype(np.uint8))
    return replace(picture, alpha=alpha.resize(own, PIL.Image.Resampling.BILINEAR))


def _not_white(image: Tensor, name: str) -> Tensor:
    """(height, width) 1 where the picture is not part of the white that touches its border.

    Almost white counts where it is wide: narrower, it is what JPEG leaves beside edges.
    """
    darkest = image.amin(0).numpy()
    border = np.concatenate([darkest[0], darkest[-1], darkest[:, 0], darkest[:, -1]])
    if (border > WHITE).mean() < 0.5:
        raise ValueError(
            f"{name} has neither transparency nor a white background; cut the object out first, or install rembg and "
            "ask for background removal."
        )
    certain, possible = (~_reached_from_border(darkest > limit) for limit in (ALMOST_WHITE, WHITE))
    wide = ndimage.binary_opening(possible & ~certain, np.ones((RINGING, RINGING)))
    inside = certain | (ndimage.binary_dilation(wide, np.ones((3, 3))) & possible)
    return torch.from_numpy(inside).float()


def _reached_from_border(white: np.ndarray) -> np.ndarray:
    """The pixels (height, width) of the white areas that touch the border."""
    labels, _ = ndimage.label(white)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, outside[outside > 0])
