"""How sure a classifier is that a picture shows the condition: the read-out of a progression."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision import hub, weights
from vision.config import load_config, save_config
from vision.images import to_uint8


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier was made with; the defaults are the published code's."""

    architecture: Literal["densenet121", "small"] = "densenet121"
    """torchvision's DenseNet-121 with one output, or the small network of this file."""
    size: int = 224
    """Pixels per side that pictures are resized to."""
    widths: tuple[int, int, int, int] = (16, 32, 48, 64)
    """Channels of the small network."""


class SmallClassifier(nn.Module):
    """Four convolutions, mean and maximum over the picture, one logit.

    Args:
        widths: channels of the four convolutions.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (16, 32, 48, 64)):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.SiLU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers[:-1])
        self.classifier = nn.Linear(2 * widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """(b, 1, h, w) grey in [0, 1] -> logits (b,)."""
        features = self.features(2 * images - 1)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return self.classifier(pooled)[:, 0]


def densenet121() -> nn.Module:
    """torchvision's DenseNet-121 with one output, whose normalisations have the published momentum of 0.01."""
    from torchvision.models import densenet121 as build

    network = build(weights=None, num_classes=1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.01
    return network


class Confidence:
    """A binary classifier that reads grey pictures: call it with (b, 3, h, w) in [0, 1], get probabilities (b,).

    Args:
        network: gives logits.
        config: what it was made with.
    """

    def __init__(self, network: nn.Module, config: ClassifierConfig):
        self.network, self.config = network, config

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Confidence:
        """A folder that `save_pretrained` wrote, or the safetensors file of a DenseNet-121 as published.

        Raises:
            FileNotFoundError: it does not exist.
            ValueError: it does not fit the network, or is a pickled checkpoint.
        """
        found = hub.find(source, default=None)
        if found.kind == "builtin":
            raise ValueError(f"There is no builtin classifier {found.name!r}; name a folder or a .safetensors file.")
        folder = found.path.is_dir()
        config = load_config(ClassifierConfig, found.path / "config.json") if folder else ClassifierConfig()
        with torch.device("meta"):
            network = SmallClassifier(config.widths) if config.architecture == "small" else densenet121()
        weights.load_weights(network.to_empty(device="cpu"), found.path, dtype=torch.float32)
        return cls(network.eval().requires_grad_(False), config)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors."""
        save_config(self.config, Path(folder) / "config.json")
        weights.save_weights(self.network, folder, dtype=dtype)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) in [0, 1] -> (b,) float64 in [0, 1]: in float32 the nearly sure would be equally sure."""
        logits = self.logits(images)
        return torch.sigmoid(logits if logits.device.type == "mps" else logits.double())  # Apple's GPUs have no float64

    def logits(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) in [0, 1] -> (b,)."""
        grey = classifier_grey(images, self.config.size)
        grey = grey if self.config.architecture == "small" else imagenet(grey)
        return self.network(grey).flatten()


def to_grey(images: Tensor) -> Tensor:
    """(b, 1, h, w) uint8 grey of (b, 3, h, w) uint8, in integers as image libraries read colours as grey."""
    red, green, blue = images.int().split(1, dim=1)
    return ((9797 * red + 19234 * green + 3737 * blue) >> 15).to(torch.uint8)


def classifier_grey(images: Tensor, size: int) -> Tensor:
    """(b, 1, size, size) grey in [0, 1] of (b, 3, h, w) in [0, 1]: resized bilinearly in 8 bit, without antialiasing.

    As the published confidence script reads its pictures.
    """
    grey = to_grey(to_uint8(images)).float()
    if grey.shape[-2:] != (size, size):
        grey = F.interpolate(grey, (size, size), mode="bilinear", align_corners=False).round()
    return grey / 255


def imagenet(grey: Tensor) -> Tensor:
    """(b, 3, h, w) normalised as ImageNet's of (b, 1, h, w) grey in [0, 1]."""
    mean, std = (grey.new_tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (grey - mean) / std
