"""How good or how similar images are: one number per image.

Every metric takes images (batch, 3, height, width) RGB in [0, 1] and returns (batch,); its attribute `higher_is_better`
says what to wish for. Metrics with a reference take it second. Those that look through a trained network need weights
that do not ship with the project; the error says which package or file to install, and nothing is downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.efficientnet import feature_maps, load_efficientnet, package_folder
from vision.images import to_y
from vision.losses import load_perceptual, structural_similarity
from vision.niqe import niqe as niqe  # listed here with the others

# Pixels


def psnr(image: Tensor, reference: Tensor, *, channel: str = "y", border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio in dB; infinite for equal images.

    Args:
        image: (batch, 3, height, width) in [0, 1].
        reference: the same shape.
        channel: "y" (MATLAB's luma, as papers on super-resolution report) or "rgb".
        border: pixels left out on every side.
    """
    image, reference = _planes(image, reference, channel, border)
    return -10 * torch.log10((image.double() - reference.double()).square().mean((1, 2, 3)))


def ssim(image: Tensor, reference: Tensor, *, channel: str = "y", border: int = 0) -> Tensor:
    """Structural similarity with a Gaussian window of 11 x 11 and width 1.5 (Wang et al. 2004), at most 1.

    Args:
        image: (batch, 3, height, width) in [0, 1].
        reference: the same shape.
        channel: "y" (MATLAB's luma) or "rgb" (mean of the channels).
        border: pixels left out on every side.

    Raises:
        ValueError: fewer than 11 x 11 pixels are left inside the border.
    """
    planes = (x.cpu().double() for x in _planes(image, reference, channel, border))
    return structural_similarity(*planes).mean((1, 2, 3))


def _planes(image: Tensor, reference: Tensor, channel: str, border: int) -> tuple[Tensor, Tensor]:
    _check_pair(image, reference)
    if channel not in ("y", "rgb"):
        raise ValueError(f'channel must be "y" or "rgb", got {channel!r}.')
    height, width = image.shape[-2:]
    if border < 0:
        raise ValueError(f"border must be at least 0, got {border}.")
    if min(height, width) <= 2 * border:
        raise ValueError(f"Nothing of {width} x {height} pixels is left inside a border of {border}.")
    inside = (..., slice(border, height - border), slice(border, width - border))
    return tuple((to_y(x) if channel == "y" else x)[inside] for x in (image, reference))


def _check_pair(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape or image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(
            "image and reference must both be (batch, 3, height, width), got "
            f"{tuple(image.shape)} and {tuple(reference.shape)}."
        )


# Texture, through an ImageNet network


@torch.no_grad()
def texture_distance(image: Tensor, reference: Tensor) -> Tensor:
    """How far the texture is from the reference's, in [0, 2]; 0 for equal images.

    Means and variances of the feature maps of EfficientNet-Lite0 (five stages) are compared with the terms of DISTS
    (Ding et al. 2020, equations 5 and 6), variances without covariance: 1 - (l + t) / 2 with
    l = (2 mx my + c) / (mx^2 + my^2 + c), t = (2 sx sy + c) / (sx^2 + sy^2 + c), averaged over channels, then stages.
    Position does not count, so that sampled texture is judged by its look. It is neither LPIPS nor DISTS.

    Raises:
        FileNotFoundError: the weights are not installed.
    """
    _check_pair(image, reference)
    network = _efficientnet(str(image.device))
    stages = zip(*(feature_maps(network, x) for x in (image, reference)), strict=True)
    return torch.stack([_texture_term(x.flatten(2).double(), y.flatten(2).double()) for x, y in stages]).mean(0)


def _texture_term(x: Tensor, y: Tensor, c: float = 1e-6) -> Tensor:
    """1 - (l + t) / 2 of features (batch, channels, positions), averaged over channels."""
    mean_x, mean_y = x.mean(2), y.mean(2)
    variance_x, variance_y = x.var(2, correction=0), y.var(2, correction=0)
    luminance = (2 * mean_x * mean_y + c) / (mean_x**2 + mean_y**2 + c)
    contrast = (2 * (variance_x * variance_y).sqrt() + c) / (variance_x + variance_y + c)
    return (1 - (luminance + contrast) / 2).mean(1)


@functools.lru_cache(maxsize=2)
def _efficientnet(device: str) -> nn.Module:
    return load_efficientnet(0).to(device)


# Learned distances, when their weights are there


@torch.no_grad()
def lpips(image: Tensor, reference: Tensor, *, backbone: str = "alex") -> Tensor:
    """Learned perceptual distance (Zhang et al. 2018), 0 for equal images.

    Args:
        image: (batch, 3, height, width) in [0, 1].
        reference: the same shape.
        backbone: "alex", which papers report, or "vgg".

    Raises:
        FileNotFoundError: the package or torchvision's weights of the backbone are missing.
    """
    _check_pair(image, reference)
    return _lpips(backbone, str(image.device))(image.float(), reference.float())


@torch.no_grad()
def dists(image: Tensor, reference: Tensor) -> Tensor:
    """Deep image structure and texture similarity (Ding et al. 2020) as a distance, 0 for equal images.

    Raises:
        FileNotFoundError: the package or torchvision's VGG weights are missing.
    """
    _check_pair(image, reference)
    return _dists(str(image.device))(image.float(), reference.float()).reshape(-1)


@functools.lru_cache(maxsize=2)
def _lpips(backbone: str, device: str) -> nn.Module:
    return load_perceptual(backbone).to(device)


@functools.lru_cache(maxsize=1)
def _dists(device: str) -> nn.Module:
    folder, backbone = package_folder("DISTS_pytorch"), Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth"
    if folder is None or not backbone.exists():
        raise FileNotFoundError(
            "DISTS needs the package dists-pytorch (pip install 'burnish[metrics]') and torchvision's weights "
            f"{backbone}; fetch them once."
        )
    from DISTS_pytorch import DISTS

    network = DISTS(load_weights=False)
    weights = torch.load(folder / "weights.pt", map_location="cpu", weights_only=True)
    network.alpha.data, network.beta.data = weights["alpha"], weights["beta"]
    return network.eval().requires_grad_(False).to(device)


@torch.no_grad()
def clip_similarity(image: Tensor, target: Sequence[str] | Tensor, *, model: str, weights: str | Path) -> Tensor:
    """Cosine of the CLIP embeddings of an image and of a text or another image, in [-1, 1].

    Args:
        image: (batch, 3, height, width) in [0, 1].
        target: one text per image, or images like `image`.
        model: architecture as open_clip names it, such as "ViT-B-32".
        weights: checkpoint file of that architecture.

    Raises:
        FileNotFoundError: there is no such checkpoint file.
        ValueError: open_clip does not know the model, or texts do not match the images in number.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"CLIP scores need a checkpoint of {model}; there is no file {weights}.")
    clip = _clip(model, str(weights), str(image.device))
    first, second = clip.images(image), clip.images(target) if isinstance(target, Tensor) else clip.texts(target)
    if len(first) != len(second):
        raise ValueError(f"There are {len(first)} images and {len(second)} targets; give one per image.")
    return (first * second).sum(1)


class Clip:
    """A CLIP model that embeds pictures and texts; embeddings have length one.

    Args:
        network: open_clip's model.
        tokenizer: open_clip's tokenizer of it.
    """

    def __init__(self, network: nn.Module, tokenizer: Any):
        self.network, self.tokenizer = network, tokenizer

    @classmethod
    def load(cls, model: str, weights: str | Path | None = None, *, device: str | torch.device = "cpu") -> Clip:
        """Load a model.

        Args:
            model: `local-dir:FOLDER`, `hf-hub:ORG/NAME`, or an architecture as open_clip names it, such as "ViT-B-32".
            weights: of an architecture: a checkpoint file, or a tag of open_clip, such as "openai".

        Raises:
            FileNotFoundError: the folder or file is missing.
            ValueError: open_clip does not know the model, or cannot fetch its weights.
        """
        import open_clip

        scheme, _, place = model.partition(":")
        if scheme == "local-dir" and not Path(place).is_dir():
            raise FileNotFoundError(f"CLIP scores need a model; there is no folder {place}.")
        if scheme not in ("local-dir", "hf-hub"):
            if model not in open_clip.list_models():
                raise ValueError(f"open_clip knows no model {model!r}; see open_clip.list_models().")
            tags = open_clip.list_pretrained_tags_by_model(model)
            if weights is None or (str(weights) not in tags and not Path(weights).is_file()):
                raise FileNotFoundError(
                    f"CLIP scores need weights of {model}: a checkpoint file or one of {', '.join(tags) or 'no tags'}, "
                    f"got {weights}."
                )
        try:
            network = open_clip.create_model(model, pretrained=None if weights is None else str(weights))
            tokenizer = open_clip.get_tokenizer(model)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"The CLIP model {model} with weights {weights} cannot be loaded: {reason}") from error
        return cls(network.eval().requires_grad_(False).to(device), tokenizer)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) in [0, 1] -> (b, width)."""
        device = next(self.network.parameters()).device
        return self.network.encode_image(_clip_input(self.network, images.to(device)), normalize=True).cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """b texts -> (b, width)."""
        device = next(self.network.parameters()).device
        return self.network.encode_text(self.tokenizer(list(texts)).to(device), normalize=True).cpu()


@functools.lru_cache(maxsize=2)
def _clip(model: str, weights: str, device: str) -> Clip:
    return Clip.load(model, weights, device=device)


def _clip_input(network: nn.Module, image: Tensor) -> Tensor:
    """Images shrunk to the network's size on the shorter side, cut in the middle, normalised."""
    size = network.visual.image_size
    side = size[0] if isinstance(size, tuple | list) else size
    factor = side / min(image.shape[-2:])
    shape = [max(side, round(length * factor)) for length in image.shape[-2:]]
    image = F.interpolate(image.float(), size=shape, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = ((length - side) // 2 for length in shape)
    mean, deviation = (
        image.new_tensor(values).view(3, 1, 1) for values in (network.visual.image_mean, network.visual.image_std)
    )
    return (image[..., top : top + side, left : left + side] - mean) / deviation


def brisque(image: Tensor) -> Tensor:
    """BRISQUE (Mittal et al. 2012), a quality number without reference: about 0 for good photographs, 100 for bad.

    Args:
        image: (batch, 3, height, width) in [0, 1]; rounded to 8 bit.
    """
    from vision import brisque as implementation

    model = implementation.trained()
    pixels = (image.cpu() * 255).round().clamp(0, 255).double().numpy()
    return torch.tensor(np.array([implementation.score(item, model) for item in pixels]))


for _metric, _higher in (
    (psnr, True), (ssim, True), (clip_similarity, True),
    (texture_distance, False), (lpips, False), (dists, False), (brisque, False),
):  # fmt: skip
    _metric.higher_is_better = _higher
