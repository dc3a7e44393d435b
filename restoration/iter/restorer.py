"""Restore pictures by iterative token evaluation and refinement (ITER, arXiv 2312.05616).

Two networks share this pipeline: the published topology (`published.py`; weights come from the authors' checkpoints
through `scripts/convert.py`) and the small network whose weights ship with the project (`mini.py`). What the two have
in common is the protocol `ITERModel` and the sampling loop of `sampling.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.bands import Finish, TileRestorer, Work, self_ensemble
from restoration.iter.mini import MiniITER
from restoration.iter.options import BUILTIN, ITERConfig, ITEROptions, Variant
from restoration.iter.published import PublishedITER
from restoration.iter.sampling import Keep, PlacedNoise, SamplingOptions, TokenSampler, TokenState
from restoration.restorer import Facts
from vision import hub, weights
from vision.config import load_config, save_config
from vision.images import ImageLike, pad_to, pad_to_multiple, to_tensor
from vision.refine import Observers, PerItem, Step, drain, observed
from vision.resize import imresize
from vision.tiles import Box, Tiles

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "iter-mini"
"""Folder of the embedded default: one sub-folder per variant."""

PROGRESS = 0.002
"""Smallest gain, in probability that tokens are right, that sampling goes on for; chosen on training photographs."""


class ITERRestorer(TileRestorer[ITEROptions], hub.OfNetworks):
    """Restores pictures with one network.

    Args:
        model: the network.
        config: what it was made with.
    """

    Options = ITEROptions

    def __init__(self, model: nn.Module, config: ITERConfig):
        self.model, self.config = model, config

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        variant: Variant | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> ITERRestorer:
        """Load a restorer.

        Args:
            source: folder, file, hub name, `builtin:tiny` or `builtin:tiny-mini` (random weights); None for the
                embedded default.
            revision: of a hub source.
            variant: of the embedded default: photo (also when None) or clean.

        Raises:
            FileNotFoundError: the source looks like a path and does not exist.
            ValueError: the source is not understood or its weights do not fit.
        """
        if source is None:
            variant = variant or "photo"
            if variant not in ("photo", "clean"):
                raise ValueError(f"variant must be photo or clean, got {variant}.")
        elif variant is not None:
            raise ValueError(f"variant chooses among the embedded weights; leave it out for the source {source}.")
        found = hub.find(source, default=PRETRAINED / (variant or "photo"), revision=revision)
        if found.kind == "builtin":
            if found.name not in BUILTIN:
                raise ValueError(f"There is no builtin:{found.name} for ITER; there are {', '.join(BUILTIN)}.")
            config = BUILTIN[found.name]
            model = _build(config)
            _fill(model, seed=0)
        else:
            folder = found.path if found.path.is_dir() else found.path.parent
            config = load_config(ITERConfig, folder / "config.json")
            model = _build(config)
            weights.load_weights(model, found.path)
        return cls(model.eval(), config).to(device, dtype)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config and weights, floating ones as `dtype` when it is given, to `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights.save_weights(self.model, folder, dtype=dtype)
        save_config(self.config, folder / "config.json")

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The one network."""
        return (self.model,)

    @property
    def scale(self) -> int:
        """Output pixels per input pixel of the network."""
        return self.model.scale

    def facts(self, options: ITEROptions | None = None) -> Facts:
        """What a caller must know of this restorer with these options."""
        options = options or ITEROptions()
        sampled = self._fidelity(options) < 1
        scale = self.scale if options.scale is None else options.scale
        return Facts("ITER", scale, tiling=options.tile != 0, seed=sampled, steps=sampled, keeps_grey=True)

    def steps(
        self,
        image: ImageLike,
        options: ITEROptions | None = None,
        *,
        observers: Observers[TokenState, Keep] = (),
        resume: Step[TokenState, Keep] | None = None,
    ) -> Iterator[Step[TokenState, Keep]]:
        """Iterate over token sampling of a picture taken whole; `decode(step.state, options)` shows where it is.

        Args:
            image, options, observers: as in `__call__`.
            resume: go on after this step of an earlier run.
        """
        sampler, state = self.start(image, options)
        yield from observed(sampler.steps(state, resume), observers)

    def start(
        self, image: ImageLike, options: ITEROptions | None = None, *, noise: Iterable[Any] | None = None
    ) -> tuple[TokenSampler, TokenState]:
        """The sampler and the state before the first step, of a picture taken whole.

        Args:
            image, options: as in `__call__`.
            noise: one source of random numbers per picture (see `sampling.Noise`); None makes them from the seed.
        """
        options = options or ITEROptions()
        self._check(options)
        padded = self._pad(to_tensor(image), options)
        sampler = TokenSampler(self.model, self._sampling(options))
        noise = self._noise(padded, options) if noise is None else PerItem(noise)
        return sampler, sampler.start(self._move(padded), noise)

    @torch.no_grad()
    def decode(self, state: TokenState, options: ITEROptions | None = None) -> Tensor:
        """The picture (b, 3, H, W) in [0, 1] of a sampling state, at the network's own scale and with its padding."""
        texture = 1 - self._fidelity(options or ITEROptions())
        return self.model.decode(state.observed, state.tokens, texture).float()

    def token_grid(
        self, image: ImageLike, options: ITEROptions | None = None, *, noise: Iterable[Any] | None = None
    ) -> Tensor:
        """(b, 3, 2 * H, steps * W): the picture after every step above, the tokens visible in it below, padded."""
        sampler, state = self.start(image, options, noise=noise)
        tokens, visible = sampler.reports(state, list(sampler.steps(state)))
        pictures = [self.decode(replace(state, tokens=current), options) for current in tokens]
        masks = [F.interpolate(mask.float(), pictures[0].shape[-2:]).expand_as(pictures[0]) for mask in visible]
        return torch.cat([torch.cat(pictures, dim=3), torch.cat(masks, dim=3)], dim=2)

    def _pieces(self, image: Tensor, options: ITEROptions, finish: Finish, work: Work) -> Iterator[Tensor]:
        self._check(options)
        pieces = self._published_tiles if options.tiling == "published" else super()._pieces
        return pieces(image, options, finish, work)

    def _published_tiles(self, image: Tensor, options: ITEROptions, finish: Finish, work: Work) -> Iterator[Tensor]:
        """Tiles pasted without blending, each restored with its own padding, as the published `test_tile` does."""
        height, width = image.shape[-2:]
        size = 256 if options.tile is None else options.tile
        overlap = 16 if options.tile_overlap is None else options.tile_overlap
        if size == 0 or (options.tile is None and height * width < 720 * 720):
            yield finish(self._restore([Box(0, 0, height, width)], image, options=options, work=work, whole=True))
            return
        work.total = math.ceil(height / size) * math.ceil(width / size)
        for top in range(0, height, size):
            bottom, row = min(top + size, height), []
            for left in range(0, width, size):
                right = min(left + size, width)
                box = Box(
                    max(top - overlap, 0),
                    max(left - overlap, 0),
                    min(bottom + overlap, height),
                    min(right + overlap, width),
                )
                tile = image[..., box.top : box.bottom, box.left : box.right]
                result = self._restore([box], tile, options=options, work=work, whole=True)
                rows = slice((top - box.top) * self.scale, (bottom - box.top) * self.scale)
                columns = slice((left - box.left) * self.scale, (right - box.left) * self.scale)
                row.append(finish(result[..., rows, columns]))
            yield torch.cat(row, dim=3)

    def _restore(self, boxes: list[Box], image: Tensor, *, options: ITEROptions, work: Work, whole: bool) -> Tensor:
        """A picture or tile (b, 3, h, w) -> (b, 3, h * scale, w * scale) float32 on the picture's device."""
        height, width = image.shape[-2] * self.scale, image.shape[-1] * self.scale
        padded = self._pad(image, options if whole else replace(options, padding="minimal"))
        moved = self._move(padded)
        if self._fidelity(options) == 1:
            with torch.no_grad():
                base = self.model.restore_base
                picture = (self_ensemble(base, moved) if options.self_ensemble else base(moved)).float()
        else:
            sampler = TokenSampler(self.model, self._sampling(options))
            state = sampler.start(moved, self._noise(padded, options, boxes[0]))
            share = lambda step: work.report((step.at.index + 1) / (sampler.options.steps + 1))  # noqa: E731
            last = drain(sampler.steps(state), [*work.observers, share])
            picture = self.decode(last.state if last else state, options)
        work.report()
        picture = picture[..., :height, :width].to(image.device)
        if options.blend < 1:
            picture = torch.lerp(imresize(image.float(), self.scale).clamp(0, 1), picture, options.blend)
        return picture

    def _fidelity(self, options: ITEROptions) -> float:
        return 1 - self.config.texture if options.fidelity is None else options.fidelity

    def _pad(self, image: Tensor, options: ITEROptions) -> Tensor:
        """Mirrored below and on the right to multiples of the network's unit."""
        unit = self.model.unit
        if (options.padding or self.config.padding) == "minimal":
            return pad_to_multiple(image, unit)
        return pad_to(image, *[(side // unit + 1) * unit for side in image.shape[-2:]])

    def _move(self, image: Tensor) -> Tensor:
        return image.to(self.device, self.dtype)

    def _noise(self, padded: Tensor, options: ITEROptions, box: Box = Box(0, 0, 0, 0)) -> PerItem[PlacedNoise]:  # noqa: B008
        """Random numbers of a padded picture, or of the tile at `box`; item i has seed + i."""
        top, left, width = (
            side * self.scale // self.model.token_pixels for side in (box.top, box.left, padded.shape[-1])
        )
        return PerItem(PlacedNoise(options.seed + item, top, left, width) for item in range(len(padded)))

    def _sampling(self, options: ITEROptions) -> SamplingOptions:
        def tuned(name: str) -> Any:
            return getattr(self.config, name) if getattr(options, name) is None else getattr(options, name)

        return SamplingOptions(
            tuned("steps"),
            tuned("schedule"),
            tuned("threshold"),
            options.temperature_tokens,
            options.temperature_mask,
            options.adaptive,
            options.batch_counts,
            PROGRESS if options.stop == "progress" else None,
        )

    def _cut(self, options: ITEROptions) -> Tiles | None:
        """How to cut a large picture; sizes are rounded to the network's unit. None: not at all."""
        unit = self.model.unit
        size = max(self.config.tile, 4 * unit) if options.tile is None else options.tile
        if size == 0:
            return None
        size = max(size // unit * unit, unit)
        overlap = self.config.tile_overlap if options.tile_overlap is None else options.tile_overlap
        overlap = math.ceil(overlap / unit) * unit
        if options.tile_overlap is None:
            overlap = min(overlap, (size // unit - 1) // 2 * unit)
        if 2 * overlap >= size:
            raise ValueError(
                f"tile must be more than twice tile_overlap in multiples of {unit}, got {size} and {overlap}."
            )
        return Tiles(size, overlap, unit)

    def _check(self, options: ITEROptions) -> None:
        if self.config.architecture == "published" and options.fidelity not in (None, 0, 1):
            raise ValueError(f"fidelity must be 0 or 1 for the published network, got {options.fidelity}.")
        if options.self_ensemble and self._fidelity(options) < 1:
            raise ValueError(
                f"self_ensemble averages deterministic results; take fidelity 1, not {self._fidelity(options)}."
            )


def _build(config: ITERConfig) -> nn.Module:
    """The network without numbers."""
    with weights.WithoutNumbers():
        return PublishedITER(config.published) if config.architecture == "published" else MiniITER(config.mini)


def _fill(module: nn.Module, seed: int) -> None:
    """Seeded random weights: uniform by fan-in, norms one, biases zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(float(name.endswith("weight")))
            else:
                bound = parameter[0].numel() ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)
