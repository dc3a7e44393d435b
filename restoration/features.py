"""Numbers about a picture, from which it is decided what it needs: size, colour, tones, noise, blocks, sharpness, text.

No network is asked, and a picture of a megapixel takes a fraction of a second. Statistics of normalised luma and of its
products with neighbours are those of NIQE (Mittal et al. 2013, equations 1 to 9), here of the whole picture.

h, w: pixels of the picture; luma is in [0, 255].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.images import pad_to
from vision.niqe import block_features, luminance, normalised
from vision.resize import imresize

MOST = 1024
"""Pixels per side that are looked at: the middle of larger pictures."""
BLOCK = 8
"""Side of JPEG's blocks."""


@torch.no_grad()
def features(image: Tensor) -> dict[str, float]:
    """Numbers about one picture, all finite.

    Args:
        image: (1, 3, h, w) RGB in [0, 1], at least 1 pixel per side.
    """
    height, width = image.shape[-2:]
    top, left = (max(0, (side - MOST) // 2) for side in (height, width))
    seen = image[0, :, top : top + MOST, left : left + MOST].float().cpu()
    luma = luminance(seen)
    padded = _at_least(luma, 2 * BLOCK)
    found = {"log_pixels": math.log2(height * width), "log_short_side": math.log2(min(height, width))}
    found |= _colour(seen) | _tones(luma) | _natural(padded) | _noise(padded) | _blocks(padded) | _spectrum(padded)
    return {name: value if math.isfinite(value) else 0.0 for name, value in found.items()}


def _colour(image: Tensor) -> dict[str, float]:
    """Of (3, h, w): how colourful, and the share of grey pixels."""
    chroma = (image.amax(0) - image.amin(0)) * 255
    return {"chroma": float(chroma.mean()), "grey_share": float((chroma < 3).float().mean())}


def _tones(luma: Tensor) -> dict[str, float]:
    """Of (h, w): mean and deviation; how much of it is two tones, as text is; how few tones there are at all."""
    counts = torch.bincount(luma.long().flatten().clamp(0, 255), minlength=256).double() / luma.numel()
    near = F.avg_pool1d(F.pad(counts, (4, 4))[None, None], 9, 1)[0, 0] * 9
    first = int(near.argmax())
    far = torch.cat([near[: max(first - 40, 0)], near[first + 41 :]])
    second = float(far.max()) if len(far) else 0.0
    held = counts[counts > 0]
    return {
        "mean": float(luma.mean()),
        "contrast": float(luma.std(correction=0)),
        "commonest_tone": float(near[first]),
        "two_tones": float(near[first]) + second,
        "tone_entropy": float(-(held * held.log2()).sum()),
    }


def _natural(luma: Tensor) -> dict[str, float]:
    """Of (h, w): shape and width of normalised luma at two scales, and of its products with neighbours."""
    found = {}
    for name, plane in (("", luma), ("half_", imresize(luma, 0.5))):
        plane = normalised(plane)
        row = block_features(plane[None])[0]
        products = row[2:].view(4, 4)  # neighbours, then shape, mean, left and right scale
        found |= {f"{name}shape": row[0], f"{name}width": row[1]}
        names = ("product_shape", "product_mean", "product_left", "product_right")
        found |= {f"{name}{key}": value for key, value in zip(names, products.mean(0), strict=True)}
    return {name: float(value) for name, value in found.items()}


def _noise(luma: Tensor) -> dict[str, float]:
    """Of (h, w): noise by Immerkaer's mask (1996) where there is least structure; gradients; flat pixels."""
    mask = luma.new_tensor([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    answer = F.conv2d(luma[None, None], mask[None, None])[0, 0].abs()
    rows, columns = luma[1:] - luma[:-1], luma[:, 1:] - luma[:, :-1]
    steps = (rows[:, :-1].square() + columns[:-1].square()).sqrt()
    side = min(16, *answer.shape)
    quiet = F.avg_pool2d(answer[None, None], side)[0, 0].min()
    scale = math.sqrt(math.pi / 2) / 6
    return {
        "noise": float(answer.mean()) * scale,
        "quiet_noise": float(quiet) * scale,
        "gradient": float(steps.mean()),
        "edge": float(steps.flatten().kthvalue(max(1, int(0.99 * steps.numel()))).values),
        "flat_share": float((steps < 1.5).float().mean()),
    }


def _blocks(luma: Tensor) -> dict[str, float]:
    """Of (h, w): steps across the borders of JPEG's blocks over those elsewhere, at the best offset of the grid."""
    ratios = []
    for plane in (luma, luma.T):
        steps = (plane[1:] - plane[:-1]).abs().mean(1)
        length = len(steps) // BLOCK * BLOCK
        by_phase = steps[:length].view(-1, BLOCK).mean(0)
        others = (by_phase.sum() - by_phase) / (BLOCK - 1)
        ratios.append(float((by_phase / (others + 0.1)).max()))
    return {"blockiness": sum(ratios) / 2}


def _spectrum(luma: Tensor) -> dict[str, float]:
    """Of (h, w): how steeply power falls with frequency, and the share of the upper half of the frequencies."""
    window = torch.outer(*(torch.hann_window(side, periodic=False) for side in luma.shape))
    power = torch.fft.rfft2((luma - luma.mean()) * window).abs().square()
    rows, columns = torch.fft.fftfreq(luma.shape[0]), torch.fft.rfftfreq(luma.shape[1])
    radius = (rows[:, None].square() + columns.square()).sqrt()
    rings = (radius * 32).long().clamp(max=15)
    sums = torch.zeros(16).index_add_(0, rings.flatten(), power.flatten())
    counts = torch.zeros(16).index_add_(0, rings.flatten(), torch.ones(rings.numel())).clamp(min=1)
    levels = (sums / counts + 1e-3).log2()[1:]
    places = (torch.arange(1, 16) + 0.5).log2()
    centred = places - places.mean()
    slope = (centred * (levels - levels.mean())).sum() / centred.square().sum()
    high = power[radius > 0.25].sum() / power.sum().clamp(min=1e-9)
    return {"spectrum_slope": float(slope), "high_share": math.log2(float(high) + 1e-9)}


def _at_least(luma: Tensor, side: int) -> Tensor:
    """(h, w) mirrored to at least `side` pixels per side."""
    return pad_to(luma, *(max(side, length) for length in luma.shape))
