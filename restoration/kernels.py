"""Blur kernels of the BSRGAN and Real-ESRGAN degradations, in float64 with sum one.

BSRGAN (Zhang et al. 2021) draws Gaussians on grids of odd and even size; Real-ESRGAN (Wang et al. 2021,
section 3.2) adds generalised Gaussians, plateau shapes and the circular low-pass (sinc) filter behind
ringing. Every kernel is normalised after dividing by its largest value in the exponent, so that a width near
zero gives a single pixel and never 0 / 0. All sizes and widths are in pixels, angles in radians.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import j1

SHAPES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def gaussian(size: int, sigma: float) -> np.ndarray:
    """Isotropic Gaussian (size, size), between pixels if `size` is even; tails below 2e-16 are zero."""
    axis = np.arange(size) - (size - 1) / 2
    squared = axis[:, None] ** 2 + axis[None, :] ** 2
    kernel = np.exp(-(squared - squared.min()) / (2 * max(sigma, 1e-8) ** 2))
    kernel[kernel < np.finfo(float).eps] = 0
    return kernel / kernel.sum()


def rotated_gaussian(size: int, theta: float, variance_along: float, variance_across: float) -> np.ndarray:
    """Gaussian (size, size) with one variance along the direction `theta` (x right, y down), one across."""
    axis = np.arange(size) - (size - 1) / 2
    x, y = axis[None, :], axis[:, None]
    along = math.cos(theta) * x + math.sin(theta) * y
    across = math.sin(theta) * x - math.cos(theta) * y
    exponent = along**2 / (2 * max(variance_along, 1e-12)) + across**2 / (2 * max(variance_across, 1e-12))
    kernel = np.exp(exponent.min() - exponent)
    return kernel / kernel.sum()


def shifted(kernel: np.ndarray, scale: int, upper_left: bool = True) -> np.ndarray:
    """Kernel moved by (scale - 1) / 2 pixels, so that every scale-th pixel of a blurred image aligns.

    It moves to the upper left (or lower right). Sampling is bilinear; positions outside the kernel take its
    border. The sum is one again.
    """
    shift = (scale - 1) / 2 if upper_left else -(scale - 1) / 2
    size = len(kernel)
    positions = np.clip(np.arange(size) + shift, 0, size - 1)
    left = np.minimum(np.floor(positions).astype(int), size - 2)
    share = positions - left
    taps = np.zeros((size, size))
    taps[np.arange(size), left] = 1 - share
    taps[np.arange(size), left + 1] += share
    moved = taps @ kernel @ taps.T
    return moved / moved.sum()


def laplacian(alpha: float) -> np.ndarray:
    """MATLAB's 3 x 3 Laplacian of shape `alpha` in [0, 1]; its sum is zero."""
    corner, edge = alpha / (alpha + 1), (1 - alpha) / (alpha + 1)
    return np.array([[corner, edge, corner], [edge, -4 / (alpha + 1), edge], [corner, edge, corner]])


def shaped(shape: str, size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float = 1.0) -> np.ndarray:
    """One of the six Real-ESRGAN blur shapes, (size, size) with odd size.

    With q the squared distance in units of the widths: Gaussians exp(-q / 2), generalised exp(-q^beta / 2),
        plateau
    1 / (1 + q^beta). Shapes ending in "iso" use `sigma_x` for both axes and ignore `rotation`.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}.")
    if not shape.endswith("aniso"):
        sigma_y, rotation = sigma_x, 0.0
    axis = np.arange(-(size // 2), size // 2 + 1, dtype=float)
    x, y = axis[None, :], axis[:, None]
    along = math.cos(rotation) * x + math.sin(rotation) * y
    across = math.cos(rotation) * y - math.sin(rotation) * x
    q = (along / sigma_x) ** 2 + (across / sigma_y) ** 2
    if shape.startswith("plateau"):
        kernel = 1 / (q**beta + 1)
    else:
        kernel = np.exp(-0.5 * q**beta) if shape.startswith("generalized") else np.exp(-0.5 * q)
    return kernel / kernel.sum()


def sinc(cutoff: float, size: int, pad_to: int = 0) -> np.ndarray:
    """Circular low-pass filter (size, size), `cutoff` in radians per pixel, zero-padded up to `pad_to`."""
    axis = np.arange(size) - (size - 1) / 2
    radius = np.hypot(axis[:, None], axis[None, :])
    with np.errstate(invalid="ignore", divide="ignore"):
        kernel = cutoff * j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[radius == 0] = cutoff**2 / (4 * math.pi)
    return padded(kernel / kernel.sum(), pad_to)


def pulse(size: int) -> np.ndarray:
    """Kernel (size, size) that changes nothing."""
    kernel = np.zeros((size, size))
    kernel[size // 2, size // 2] = 1
    return kernel


def padded(kernel: np.ndarray, size: int) -> np.ndarray:
    """`kernel` in the middle of (size, size) zeros; unchanged when it is as large already."""
    margin = max(0, (size - len(kernel)) // 2)
    return np.pad(kernel, margin)
