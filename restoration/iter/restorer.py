"""Restore pictures by iterative token evaluation and refinement (ITER, arXiv 2312.05616).

Two networks share this pipeline: the published topology (`published.py`; weights come from the authors' checkpoints
through `scripts/convert.py`) and the small network whose weights ship with the project (`mini.py`). What the two have
in common is the protocol `ITERModel` and the sampling loop of `sampling.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.bands import Picture, resized, scaled, self_ensemble, tiled, whole
from restoration.iter.mini import MiniITER
from restoration.iter.options import BUILTIN, ITERConfig, ITEROptions, Variant
from restoration.iter.published import PublishedITER
from restoration.iter.sampling import Keep, PlacedNoise, SamplingOptions, TokenSampler, TokenState
from restoration.restorer import Facts
from vision import hub
from vision.config import load_config, save_config
from vision.images import ImageLike, keep_grey, pad_to, pad_to_multiple, to_tensor
from vision.refine import PerItem, Step, drain, observed
from vision.tiles import Box, Tiles

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "iter-mini"
"""Folder of the embedded default: one sub-folder per variant."""

Observer = Callable[[Step[TokenState, Keep]], object]


class ITERRestorer(hub.Pretrained):
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
            hub.load_weights(model, found.path)
        return cls(model.eval(), config).to(device, dtype)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config and weights, floating ones as `dtype` when it is given, to `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        hub.save_weights(self.model, folder, dtype=dtype)
        save_config(self.config, folder / "config.json")

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the network; returns this restorer."""
        self.model.to(device=device, dtype=dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @property
    def scale(self) -> int:
        """Output pixels per input pixel of the network."""
        return self.model.scale

    def __call__(
        self,
        image: ImageLike,
        options: ITEROptions | None = None,
        *,
        observers: Iterable[Observer] = (),
    ) -> Picture:
        """Restore a picture or a batch.

        Args:
            image: path, PIL image, (h, w, 3) uint8 array, or tensor (b, 3, h, w) or (3, h, w) RGB in [0, 1].
            options: None for the defaults.
            observers: called with every step of token sampling, tile by tile.

        Returns:
            What was given: PIL image (for paths too; transparency is enlarged beside), array, or float32 tensor.
        """
        return whole(image, partial(self.bands, options=options, observers=observers))

    def bands(
        self,
        image: Tensor,
        options: ITEROptions | None = None,
        *,
        finish: Callable[[Tensor], Tensor] | None = None,
        observers: Iterable[Observer] = (),
        progress: Callable[[float], object] | None = None,
    ) -> Iterator[Tensor]:
        """The result as finished bands (b, 3, rows, W) from top to bottom; with tiles, memory does not grow.

        Args:
            image: (b, 3, h, w) RGB in [0, 1].
            finish: applied to finished pieces, for example `vision.images.to_uint8`.

        Raises:
            ValueError: the options do not suit this network.
        """
        options = options or ITEROptions()
        self._check(options)
        finish = keep_grey(image, finish)
        own = scaled(*image.shape[-2:], self.scale)
        make = partial(self._bands, image, options, observers=list(observers), progress=progress)
        yield from resized(self.output_size(*image.shape[-2:], options), own, make, finish)

    def facts(self, options: ITEROptions | None = None) -> Facts:
        """What a caller must know of this restorer with these options."""
        options = options or ITEROptions()
        sampled = self._fidelity(options) < 1
        scale = self.scale if options.scale is None else options.scale
        return Facts("ITER", scale, tiling=options.tile != 0, seed=sampled, steps=sampled, keeps_grey=True)

    def output_size(self, height: int, width: int, options: ITEROptions | None = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""
        return scaled(height, width, self.facts(options).scale)

    def steps(
        self,
        image: ImageLike,
        options: ITEROptions | None = None,
        *,
        observers: Iterable[Observer] = (),
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

    def _bands(
        self,
        image: Tensor,
        options: ITEROptions,
        finish: Callable[[Tensor], Tensor],
        observers: list[Observer],
        progress: Callable[[float], object] | None,
    ) -> Iterator[Tensor]:
        """`bands` at the network's own scale."""
        height, width = image.shape[-2:]
        report = _Progress(observers, progress, self._sampling(options).steps)
        if options.tiling == "published":
            yield from self._published_tiles(image, options, finish, report)
            return
        tiles = self._tiles(options)
        if tiles is None or max(height, width) <= tiles.size:
            yield finish(self._restore(image, options, report))
            return
        report.total = len(tiles.boxes(*(math.ceil(side / tiles.unit) * tiles.unit for side in (height, width))))
        minimal = replace(options, padding="minimal")
        restore = lambda boxes, tile: self._restore(tile, minimal, report, boxes[0])  # noqa: E731
        yield from tiled(image, restore, tiles, self.scale, finish)

    def _published_tiles(
        self, image: Tensor, options: ITEROptions, finish: Callable[[Tensor], Tensor], report: _Progress
    ) -> Iterator[Tensor]:
        """Tiles pasted without blending, each restored with its own padding, as the released `test_tile` does."""
        height, width = image.shape[-2:]
        size = 256 if options.tile is None else options.tile
        overlap = 16 if options.tile_overlap is None else options.tile_overlap
        if size == 0 or (options.tile is None and height * width < 720 * 720):
            yield finish(self._restore(image, options, report))
            return
        report.total = math.ceil(height / size) * math.ceil(width / size)
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
                result = self._restore(tile, options, report, box)
                rows = slice((top - box.top) * self.scale, (bottom - box.top) * self.scale)
                columns = slice((left - box.left) * self.scale, (right - box.left) * self.scale)
                row.append(finish(result[..., rows, columns]))
            yield torch.cat(row, dim=3)

    def _restore(
        self,
        image: Tensor,
        options: ITEROptions,
        report: _Progress,
        box: Box = Box(0, 0, 0, 0),  # noqa: B008
    ) -> Tensor:
        """A picture or tile (b, 3, h, w) -> (b, 3, h * scale, w * scale) float32 on the picture's device."""
        height, width = image.shape[-2] * self.scale, image.shape[-1] * self.scale
        padded = self._pad(image, options)
        moved = self._move(padded)
        if self._fidelity(options) == 1:
            with torch.no_grad():
                base = self.model.restore_base
                picture = (self_ensemble(base, moved) if options.self_ensemble else base(moved)).float()
        else:
            sampler = TokenSampler(self.model, self._sampling(options))
            state = sampler.start(moved, self._noise(padded, options, box))
            last = drain(sampler.steps(state), [report.step])
            picture = self.decode(last.state if last else state, options)
        report.piece()
        return picture[..., :height, :width].to(image.device)

    def _fidelity(self, options: ITEROptions) -> float:
        return 1 - self.config.texture if options.fidelity is None else options.fidelity

    def _pad(self, image: Tensor, options: ITEROptions) -> Tensor:
        """Mirrored below and on the right to multiples of the network's unit."""
        unit = self.model.unit
        if (options.padding or self.config.padding) == "minimal":
            return pad_to_multiple(image, unit)
        return pad_to(image, *[(side // unit + 1) * unit for side in image.shape[-2:]])

    def _move(self, image: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        return image.to(weight.device, weight.dtype)

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
        )

    def _tiles(self, options: ITEROptions) -> Tiles | None:
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


class _Progress:
    """Shows steps to observers and counts finished pieces."""

    def __init__(self, observers: list[Observer], progress: Callable[[float], object] | None, steps: int):
        self.observers, self.progress, self.steps = observers, progress, steps
        self.total, self.done = 1, 0

    def step(self, step: Step[TokenState, Keep]) -> None:
        for observe in self.observers:
            observe(step)
        if self.progress is not None:
            self.progress((self.done + (step.at.index + 1) / (self.steps + 1)) / self.total)

    def piece(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done / self.total)


def _build(config: ITERConfig) -> nn.Module:
    """The network without numbers."""
    with hub.WithoutNumbers():
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
