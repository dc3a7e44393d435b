"""Losses that more than one system trains with.

Pictures are (b, c, h, w) in [0, 1]; all losses are scalars unless said otherwise.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.efficientnet import feature_maps
from vision.images import box_mean

GANKind = Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]
"""The objectives of `generator_loss` and `discriminator_loss`."""

GAN_KINDS: tuple[str, ...] = ("vanilla", "lsgan", "wgan", "wgan_softplus", "hinge")


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(a, b)


def charbonnier(a: Tensor, b: Tensor, eps: float = 1e-12) -> Tensor:
    """Mean of sqrt((a - b)^2 + eps): L1 that is smooth at zero (Charbonnier et al. 1994)."""
    return ((a - b).square() + eps).sqrt().mean()


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference between the gradient magnitudes of two pictures: sharpness without position."""
    return F.l1_loss(_gradient_magnitude(a), _gradient_magnitude(b))


def _gradient_magnitude(image: Tensor) -> Tensor:
    """(b, c, h - 1, w - 1); forward differences."""
    down = image[..., 1:, :-1] - image[..., :-1, :-1]
    right = image[..., :-1, 1:] - image[..., :-1, :-1]
    return (down.square() + right.square() + 1e-8).sqrt()


def texture_difference(a: Tensor, b: Tensor, window: int = 8, scales: int = 3, floor: float = 0.01) -> Tensor:
    """Mean absolute difference of the logarithms of local texture energies: grain and edges without position.

    The eight zero-mean filters of the 3 x 3 cosine transform are applied to brightness and to two colour differences,
    at full, half, quarter size and so on; an energy is the mean magnitude of a filter's answers in a window.

    Args:
        a, b: (b, 3, h, w) RGB.
        window: side of a window in pixels of its scale; windows overlap by half.
        scales: number of sizes.
        floor: energy below which differences do not count.

    Raises:
        ValueError: the smallest size is smaller than a window.
    """
    least = (window + 2) << (scales - 1)
    if min(a.shape[-2:]) < least:
        raise ValueError(f"texture_difference needs at least {least} pixels per side, got {tuple(a.shape[-2:])}.")
    frequencies, positions = torch.arange(3.0)[:, None], torch.arange(3.0)[None]
    waves = F.normalize(torch.cos(torch.pi / 3 * (positions + 0.5) * frequencies), dim=1)
    filters = torch.einsum("iy,jx->ijyx", waves, waves).flatten(0, 1)[1:, None].to(a)  # (8, 1, 3, 3)
    mix = a.new_tensor([[0.299, 0.587, 0.114], [0.5, -0.5, 0.0], [-0.25, -0.25, 0.5]])
    pair = torch.einsum("ij,bjhw->bihw", mix, torch.cat([a, b])).flatten(0, 1)[:, None]  # (2 * b * 3, 1, h, w)
    differences = []
    for _ in range(scales):
        energy = F.avg_pool2d(F.conv2d(pair, filters).abs(), window, max(window // 2, 1))
        differences.append(F.l1_loss(*(energy + floor).log().chunk(2)))
        pair = F.avg_pool2d(pair, 2)
    return torch.stack(differences).mean()


def pattern_difference(a: Tensor, b: Tensor, period: int = 4, repeats: int = 4) -> Tensor:
    """Mean absolute difference of what repeats every `period` pixels, as dots of an upsampling network do.

    The mean over `repeats` x `repeats` pixels that lie `period` apart keeps such a pattern and averages texture away;
    `texture_difference` alone cannot tell the two.

    Args:
        a, b: (b, c, h, w); sides are multiples of `period`, and at least `period * repeats`.
    """
    means = [F.avg_pool2d(F.pixel_unshuffle(image, period), repeats, 1) for image in (a, b)]
    return F.l1_loss(*means)


def artefact_difference(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    """Mean absolute difference, weighted by how much it varies around each place: dots and frays, not blur.

    After the discriminating loss of Liang et al. 2022 (LDL, section 3.3), with the local standard deviation for the
    products of local and global variances.

    Args:
        a: (b, c, h, w); gradients go through it alone.
        b: the same shape.
        window: pixels per side, odd, of the neighbourhood of a place.
    """
    difference = a - b
    with torch.no_grad():
        mean, square = box_mean(difference, window), box_mean(difference.square(), window)
        spread = (square - mean.square()).clamp(min=0).sqrt()
    return (spread * difference.abs()).mean()


def feature_difference(network: torch.nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of a network's feature maps, each over the second picture's mean magnitude.

    A perceptual loss (Johnson et al. 2016, section 3.2, with absolute instead of squared differences).

    Args:
        network: of `vision.efficientnet.load_efficientnet`.
        a: (b, 3, h, w); gradients go through it alone.
        b: the same shape.
    """
    with torch.no_grad():
        wanted = feature_maps(network, b)
    pairs = zip(feature_maps(network, a), wanted, strict=True)
    return torch.stack([F.l1_loss(found, other) / other.abs().mean() for found, other in pairs]).mean()


def statistics_difference(maps: Sequence[Tensor], wanted: Sequence[Tensor], floor: float = 1e-6) -> Tensor:
    """How far means and variances of feature maps are from those of others, position left out, in [0, 2].

    1 - (l + t) / 2 with the terms of DISTS (Ding et al. 2020, equations 5 and 6), variances without covariance, over
    channels, then maps.

    Args:
        maps: feature maps (b, c, h, w) of one picture each, of `vision.efficientnet.feature_maps`.
        wanted: as many of the other picture.
        floor: keeps channels without an answer from deciding.
    """
    terms = []
    for x, y in zip(maps, wanted, strict=True):
        (variance_x, mean_x), (variance_y, mean_y) = (torch.var_mean(z.float(), (2, 3), correction=0) for z in (x, y))
        luminance = (2 * mean_x * mean_y + floor) / (mean_x**2 + mean_y**2 + floor)
        contrast = (2 * (variance_x * variance_y + floor**2).sqrt() + floor) / (variance_x + variance_y + floor)
        terms.append((1 - (luminance + contrast) / 2).mean())
    return torch.stack(terms).mean()


def structural_similarity(a: Tensor, b: Tensor, *, data_range: float = 1.0, mirrored: bool = False) -> Tensor:
    """Map of the structural similarity (Wang et al. 2004), Gaussian window of 11 x 11 and width 1.5, at most 1.

    Args:
        a, b: (batch, channels, height, width).
        data_range: difference of the largest and the smallest value that there can be.
        mirrored: count borders, mirrored; otherwise only positions where the window fits (5 less on every side).

    Raises:
        ValueError: a side is smaller than the window.
    """
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs at least 11 x 11 pixels, got {tuple(a.shape[-2:])}.")
    if mirrored:
        a, b = (F.pad(x, (5,) * 4, mode="reflect") for x in (a, b))
    kernel = torch.exp(-torch.arange(-5, 6, device=a.device, dtype=a.dtype).square() / (2 * 1.5**2))
    kernel = kernel / kernel.sum()
    mean_a, mean_b = _blur(a, kernel), _blur(b, kernel)
    variance_a = _blur(a * a, kernel) - mean_a.square()
    variance_b = _blur(b * b, kernel) - mean_b.square()
    covariance = _blur(a * b, kernel) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)


def ssim_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - mean structural similarity of (batch, channels, height, width) where the window fits; scalar."""
    return 1 - structural_similarity(a, b).mean()


def _blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Separable filter without padding, each channel alone."""
    b, c, h, w = image.shape
    x = F.conv2d(image.reshape(b * c, 1, h, w), kernel[None, None, :, None])
    x = F.conv2d(x, kernel[None, None, None, :])
    return x.view(b, c, *x.shape[-2:])


def class_balanced_cross_entropy(logits: Tensor, labels: Tensor, beta: float = 0.9999) -> Tensor:
    """Cross entropy with classes weighted by their effective number in the batch (Cui et al. 2019, eq. 2).

    Weights are (1 - beta) / (1 - beta^count), normalised to sum to the number of classes; a class that does not occur
    gets the largest weight by the formula and no say.

    Args:
        logits: (b, classes, ...).
        labels: (b, ...) int64.
    """
    classes = logits.shape[1]
    counts = torch.bincount(labels.flatten(), minlength=classes).to(logits.dtype)
    weights = (1 - beta) / (1 - torch.pow(beta, counts) + 1e-8)
    weights = weights / (weights.sum() + 1e-8) * classes
    return F.cross_entropy(logits, labels, weight=weights)


def generator_loss(kind: GANKind, fake: Tensor) -> Tensor:
    """How far the discriminator's logits of generated pictures are from those of real ones, for the generator."""
    _check_kind(kind)
    if kind == "vanilla":
        return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    if kind == "lsgan":
        return (fake - 1).square().mean()
    if kind == "wgan_softplus":
        return F.softplus(-fake).mean()
    return -fake.mean()


def discriminator_loss(kind: GANKind, logits: Tensor, real: bool) -> Tensor:
    """Loss of the discriminator on its logits of real (`real`) or of generated pictures; add the two."""
    _check_kind(kind)
    if kind == "vanilla":
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
    if kind == "lsgan":
        return (logits - float(real)).square().mean()
    sign = -1.0 if real else 1.0
    if kind == "wgan":
        return (sign * logits).mean()
    if kind == "wgan_softplus":
        return F.softplus(sign * logits).mean()
    return F.relu(1 + sign * logits).mean()


def _check_kind(kind: str) -> None:
    if kind not in GAN_KINDS:
        raise ValueError(f"The GAN loss must be one of {', '.join(GAN_KINDS)}, got {kind}.")


def load_perceptual(net: str = "vgg") -> torch.nn.Module:
    """LPIPS (Zhang et al. 2018) as a module: call it with two pictures (b, 3, h, w) in [0, 1], get (b,) distances.

    The linear layers come with the package `lpips`; the backbone is torchvision's, which must lie in torch's hub
    folder.

    Raises:
        FileNotFoundError: the package or the weights are missing; the sentence says what to install or fetch.
    """
    files = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
    if net not in files:
        raise ValueError(f"The backbone must be one of {', '.join(files)}, got {net}.")
    if importlib.util.find_spec("lpips") is None:
        raise FileNotFoundError(
            "LPIPS needs the package lpips (pip install 'burnish[metrics]'); a training whose weight of the perceptual "
            "loss is 0 does without it."
        )
    weights = Path(torch.hub.get_dir()) / "checkpoints" / files[net]
    if not weights.exists():
        raise FileNotFoundError(
            f"LPIPS needs torchvision's weights {weights}, which are not there; fetch them once. A training whose "
            "weight of the perceptual loss is 0 does without them."
        )
    return _Perceptual(net)


class _Perceptual(torch.nn.Module):
    """The package's module for pictures in [0, 1], frozen."""

    def __init__(self, net: str):
        super().__init__()
        import lpips

        self.distance = lpips.LPIPS(net=net, verbose=False).eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance(a, b, normalize=True).flatten()
