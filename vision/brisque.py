"""BRISQUE (Mittal et al. 2012) on the trained regression of the PyPI package `brisque`.

Neither OpenCV nor libsvm is needed. Values equal those of the package (0.2.0): grey in [0, 1], filters that see zeros
outside the image, OpenCV's cubic halving.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.optimize import brentq
from scipy.signal import convolve2d
from scipy.special import gammaln
from skimage.color import rgb2gray


@dataclass(frozen=True)
class Model:
    """Support vector regression with radial kernels."""

    low: np.ndarray
    """(36,) smallest value of each feature in training."""
    high: np.ndarray
    """(36,) largest."""
    gamma: float
    """exp(-gamma |x - y|^2) is the kernel."""
    offset: float
    """Added to the weighted kernels."""
    weights: np.ndarray
    """(vectors,)."""
    vectors: np.ndarray
    """(vectors, 36)."""


@lru_cache
def trained() -> Model:
    """The regression that comes with the project; see data/NOTICE."""
    file = load_file(Path(__file__).parent / "data" / "brisque.safetensors")
    return Model(**{name: value if value.ndim else float(value) for name, value in file.items()})


def score(pixels: np.ndarray, model: Model) -> float:
    """BRISQUE of one image (3, height, width) RGB with whole numbers in [0, 255].

    Raises:
        ValueError: it is flat, or too small to be described.
    """
    gray = rgb2gray(pixels.astype(np.uint8), channel_axis=0)
    features = np.array([*_features(gray), *_features(_halved(gray))])
    scaled = -1 + 2 * (features - model.low) / (model.high - model.low)
    distances = np.square(model.vectors - scaled).sum(1)
    return float(model.weights @ np.exp(-model.gamma * distances) + model.offset)


def _halved(gray: np.ndarray) -> np.ndarray:
    """Every second position of OpenCV's cubic interpolation (a = -0.75), round(side / 2) per side (halves to even)."""
    for _ in range(2):  # the sums keep OpenCV's order: in flat areas rounding decides about features
        taps = np.pad(gray, [(0, 0), (1, 2)], mode="edge")
        count = round(gray.shape[1] / 2)
        first, second, third, fourth = (taps[:, start : start + 2 * count - 1 : 2] for start in range(4))
        gray = (-0.09375 * first + 0.59375 * second + 0.59375 * third - 0.09375 * fourth).T
    return gray


def _features(gray: np.ndarray) -> list[float]:
    """18 numbers of one scale: shape and variance of the normalised image, then four for each direction of products."""
    x, y = np.meshgrid(np.arange(-3, 4), np.arange(-3, 4))
    window = 1 / (2 * np.pi * (7 / 6) ** 2) * np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    mean = convolve2d(gray, window, "same")
    deviation = np.sqrt(np.abs(mean**2 - convolve2d(gray**2, window, "same")))
    x = (gray - mean) / (deviation + 1 / 255)
    alpha, left, right = _fit(x)
    features = [alpha, (left**2 + right**2) / 2]
    products = (x[:, :-1] * x[:, 1:], x[:-1] * x[1:], x[:-1, :-1] * x[1:, 1:], x[1:, :-1] * x[:-1, 1:])
    for product in products:
        alpha, left, right = _fit(product)
        spread = math.exp((gammaln(1 / alpha) - gammaln(3 / alpha)) / 2 + gammaln(2 / alpha) - gammaln(1 / alpha))
        features += [alpha, (right - left) * spread, left**2, right**2]
    return features


def _fit(x: np.ndarray) -> tuple[float, float, float]:
    """Shape, left and right deviation of an asymmetric generalised Gaussian, by moments."""
    negative, positive = x[x < 0], x[x > 0]
    if not len(negative) or not len(positive):
        raise ValueError("BRISQUE needs texture to describe: the picture, or its half, is flat or too small.")
    positive = x[x >= 0]
    left, right = math.sqrt(np.square(negative).mean()), math.sqrt(np.square(positive).mean())
    ratio = left / right
    peakedness = np.abs(x).mean() ** 2 / np.square(x).mean() * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2

    def excess(alpha: float) -> float:
        return math.exp(2 * gammaln(2 / alpha) - gammaln(1 / alpha) - gammaln(3 / alpha)) - peakedness

    lowest, highest = 0.02, 200.0
    if excess(lowest) >= 0 or excess(highest) <= 0:  # flatter or more peaked than any such distribution
        return (lowest if excess(lowest) >= 0 else highest), left, right
    return brentq(excess, lowest, highest, xtol=1e-10), left, right
