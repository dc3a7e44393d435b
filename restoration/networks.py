"""Networks of other people: any file that spandrel reads (ESRGAN, SwinIR, HAT, SPAN, ... in one pass) as a restorer.

spandrel (MIT) tells the architecture from the names of the tensors; pickled files are read as weights only. What it
says of a network is kept to: its scale, the sizes and numbers that it takes, and whether it likes tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restoration.bands import TileRestorer, Work, self_ensemble
from restoration.restorer import Facts
from vision import weights
from vision.pickled import read_pickled
from vision.tiles import Box, Tiles

TILE = 256
"""Side of the tiles, in input pixels; twice as large where the network would rather have none."""


@dataclass(frozen=True)
class NetworkOptions:
    """What one call may change."""

    scale: float | None = None
    """Output pixels per input pixel; other values than the network's resize its result."""
    tile: int | None = None
    """Side of the tiles that larger pictures are cut into, in input pixels; 0 takes every picture whole. None: 256, or
    what the network needs."""
    tile_overlap: int = 16
    """Context on each inner side of a tile, in input pixels."""
    self_ensemble: bool = False
    """Average the results of the eight flips and turns: a little more exact, at eight times the cost."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale <= 32:
            raise ValueError(f"scale must lie in (0, 32], got {self.scale}.")
        if self.tile is not None and self.tile < 0:
            raise ValueError(f"tile must be at least 0, got {self.tile}.")
        if self.tile_overlap < 0:
            raise ValueError(f"tile_overlap must be at least 0, got {self.tile_overlap}.")


class NetworkRestorer(TileRestorer[NetworkOptions]):
    """Restores pictures with a network that spandrel has loaded.

    Args:
        model: spandrel's descriptor of the network, `ImageModelDescriptor`.
    """

    Options = NetworkOptions

    def __init__(self, model: Any):
        self.model = model

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> NetworkRestorer:
        """Load a network.

        Args:
            source: a .safetensors, .pth, .pt or .ckpt file.
            device, dtype: where and in what numbers to compute.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: spandrel is not installed or does not know the network, it takes something else than a picture,
                weights are NaN or infinite, or it cannot compute in these numbers.
        """
        try:
            import spandrel
        except ImportError:
            raise ValueError(
                "Networks from files need spandrel; install it with `pip install burnish[networks]`."
            ) from None
        path = Path(source)
        tensors = weights.read_tensors(path) if path.suffix == ".safetensors" else read_pickled(path)
        try:
            model = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(tensors))
            model.to(dtype)
        except spandrel.UnsupportedDtypeError:
            raise ValueError(f"{path}: this network does not compute in {dtype}; choose float32.") from None
        except (spandrel.UnsupportedModelError, RuntimeError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} holds no network that spandrel {spandrel.__version__} knows.") from error
        if not isinstance(model, spandrel.ImageModelDescriptor) or model.input_channels not in (1, 3):
            raise ValueError(f"{path}: {model.architecture.name} takes more than a picture; choose another network.")
        weights.refuse_infinite(path, model.model.state_dict())
        weights.align(model.model.eval())
        return cls(model.to(device))

    def facts(self, options: NetworkOptions | None = None) -> Facts:
        """What a caller must know of this restorer with these options."""
        options = options or NetworkOptions()
        scale = self.scale if options.scale is None else options.scale
        return Facts(self.model.architecture.name, scale, tiling=self._cut(options) is not None, keeps_grey=True)

    @property
    def scale(self) -> int:
        """Output pixels per input pixel of the network."""
        return self.model.scale

    def _restore(self, boxes: list[Box], image: Tensor, *, options: NetworkOptions, work: Work, whole: bool) -> Tensor:
        """(b, 3, h, w) -> (b, 3, scale h, scale w) float32 on the picture's device."""
        result = self_ensemble(self._run, image) if options.self_ensemble else self._run(image)
        work.report()
        return result

    def _run(self, image: Tensor) -> Tensor:
        """The network's own result; spandrel pads where it must."""
        moved = image.to(self.model.device, self.model.dtype)
        if self.model.input_channels == 1:  # channel by channel
            result = torch.cat([self.model(channel) for channel in moved.split(1, dim=1)], dim=1)
        else:
            result = self.model(moved)
        if result.shape[1] == 1:
            result = result.expand(-1, 3, -1, -1)
        return result.clone().to(image.device, torch.float32)

    def _cut(self, options: NetworkOptions) -> Tiles | None:
        """How to cut a large picture, in multiples of what the network takes; None: not at all."""
        from spandrel import ModelTiling

        needs, hint = self.model.size_requirements, self.model.tiling
        if options.tile == 0 or (options.tile is None and hint == ModelTiling.INTERNAL):
            return None
        unit = needs.multiple_of
        wanted = TILE * (1 + (hint == ModelTiling.DISCOURAGED)) if options.tile is None else options.tile
        overlap = -(-options.tile_overlap // unit) * unit
        size = max(-(-max(wanted, needs.minimum) // unit) * unit, 2 * overlap + unit)
        return Tiles(size, overlap, unit)
