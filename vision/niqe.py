"""NIQE, a quality number that needs no reference (Mittal et al. 2013), in the form that super-resolution papers report.

It measures how far the statistics of 96 x 96 blocks lie from those of good photographs. Lower is better; photographs
have 3 to 6. The published implementation works in float32, and on images with flat areas (JPEG, clipped sky) rounding
decides about whole features, so the same roundings are made here: filters sum in float64 and store float32. Values of
other implementations, or of a float64 run, differ by up to 1 there. Below about 20 blocks (0.2 megapixels) it is noisy.

n: blocks, s: side of a block.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from vision.resize import imresize

BLOCK = 96
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


@torch.no_grad()
def niqe(image: Tensor, *, border: int = 0, channel: str = "y") -> Tensor:
    """NIQE of every image; lower is better.

    Args:
        image: (batch, 3, height, width) RGB in [0, 1]; rounded to 8 bit.
        border: pixels left out on every side.
        channel: "y" (MATLAB's luma) or "gray" (OpenCV's).

    Returns:
        (batch,) float64 on the CPU.

    Raises:
        ValueError: fewer than two blocks of 96 x 96 pixels fit inside the border, or the channel is unknown.
    """
    rows, columns = ((side - 2 * border) // BLOCK for side in image.shape[-2:])
    if min(rows, columns) < 1 or rows * columns < 2:
        raise ValueError(
            f"NIQE needs at least {BLOCK} x {2 * BLOCK} pixels inside the border, got an image of "
            f"{image.shape[-1]} x {image.shape[-2]} with a border of {border}."
        )
    values = []
    for item in image:
        plane = luminance(item, channel)
        plane = plane[border : border + rows * BLOCK, border : border + columns * BLOCK]
        values.append(_distance(niqe_features(plane)))
    return torch.stack(values)


def luminance(image: Tensor, channel: str = "y") -> Tensor:
    """(height, width) float32 whole numbers in [0, 255] of one RGB image (3, height, width) in [0, 1]."""
    pixels = (image.cpu() * 255).round().clamp(0, 255)
    if channel == "y":
        weights = torch.tensor((65.481, 128.553, 24.966), dtype=torch.float64).view(3, 1, 1)
        luma = ((pixels.float() / 255).double() * weights).sum(0) + 16
        return ((luma / 255).float() * 255).round()
    if channel == "gray":
        red, green, blue = (pixels.float() / 255).double()
        red_weight, green_weight, blue_weight = torch.tensor((0.299, 0.587, 0.114)).double()
        luma = (green * green_weight).float()  # fused multiply-adds, which round once each, in OpenCV's order
        luma = (blue * blue_weight + luma).float()
        luma = (red * red_weight + luma).float()
        return (luma * 255).round()
    raise ValueError(f'channel must be "y" or "gray", got {channel!r}.')


def niqe_features(plane: Tensor) -> Tensor:
    """(n, 36) features of the blocks, column by column: 18 at full scale, then 18 at half scale.

    Args:
        plane: (height, width) float32 in [0, 255], sides multiples of 96. Features of flat blocks are NaN.
    """
    features = []
    for scale in (1, 2):
        side = BLOCK // scale
        blocks = normalised(plane).unfold(0, side, side).unfold(1, side, side)  # (rows, columns, s, s)
        features.append(block_features(blocks.transpose(0, 1).reshape(-1, side, side)))
        plane = imresize((plane / 255).double(), 0.5).float() * 255
    return torch.cat(features, 1)


def normalised(plane: Tensor) -> Tensor:
    """(height, width) without its local mean, divided by its local deviation + 1 (equation 1)."""
    mean = _blur(plane)
    deviation = (_blur(plane.square()) - mean.square()).abs().sqrt()
    return (plane - mean) / (deviation + 1)


def _blur(plane: Tensor) -> Tensor:
    """7 x 7 Gaussian of width 7 / 6 with repeated edges; summed in float64, rounded to float32."""
    axis = torch.exp(-(torch.arange(-3, 4, dtype=torch.float64) ** 2) / (2 * (7 / 6) ** 2))
    window = torch.outer(axis, axis)
    padded = F.pad(plane[None, None].double(), (3, 3, 3, 3), mode="replicate")
    return F.conv2d(padded, (window / window.sum())[None, None])[0, 0].float()


def block_features(blocks: Tensor) -> Tensor:
    """(n, 18) of normalised blocks (n, s, s): their own shape and width, then those of products with four neighbours.

    Neighbours wrap around inside the block.
    """
    alpha, left, right = fit_asymmetric(blocks)
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        alpha, left, right = fit_asymmetric(blocks * blocks.roll(shift, (1, 2)))
        mean = (right - left) * torch.exp(torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha))
        features += [alpha, mean, left, right]
    return torch.stack(features, 1)


def fit_asymmetric(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Asymmetric generalised Gaussian through the moments of each block (n, s, s): shape, left and right scale (n,)."""
    flat = blocks.flatten(1)
    squares = flat.square()
    left, right = (
        ((squares * side).sum(1) / side.sum(1)).sqrt().double() for side in ((flat < 0).float(), (flat > 0).float())
    )
    ratio = left / right
    peakedness = (flat.abs().mean(1).square() / squares.mean(1)).double()
    peakedness = peakedness * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, wanted = _shape_table()
    place = torch.searchsorted(wanted, peakedness.nan_to_num(0.0)).clamp(1, len(wanted) - 1)
    lower_is_nearer = peakedness - wanted[place - 1] <= wanted[place] - peakedness
    alpha = shapes[torch.where(lower_is_nearer, place - 1, place)]
    scale = torch.exp((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2)
    return alpha, left * scale, right * scale


@lru_cache
def _shape_table() -> tuple[Tensor, Tensor]:
    """Shapes 0.2, 0.201 .. 10 and their E|x|^2 / E[x^2], which grows with them."""
    shapes = torch.arange(200, 10001, dtype=torch.float64) / 1000
    ratios = 2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)
    return shapes, ratios.exp()


@lru_cache
def _pristine() -> tuple[Tensor, Tensor]:
    """Mean (36,) and covariance (36, 36) of good photographs; see data/NOTICE."""
    file = load_file(Path(__file__).parent / "data" / "niqe_pristine.safetensors")
    return file["mean"], file["covariance"]


def _distance(features: Tensor) -> Tensor:
    """Distance between the Gaussian of these features (n, 36) and that of good photographs (equation 10)."""
    mean, covariance = _pristine()
    whole = features[~features.isnan().any(1)]
    if len(whole) < 2:
        return torch.tensor(math.nan, dtype=torch.float64)
    offset = mean - features.nanmean(0)
    inverse = torch.linalg.pinv((covariance + torch.cov(whole.T)) / 2)
    return (offset @ inverse @ offset).sqrt()


niqe.higher_is_better = False
