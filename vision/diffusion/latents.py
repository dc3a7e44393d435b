"""Between pictures and latents: noise levels, encoding and decoding, whole or in tiles.

Tiled encoding and decoding differ from whole only by the statistics of the normalisations. These are measured on tiles
spread over the picture, without their margins, and then shared by all tiles, and the attention in the middle always
sees everything: no tile has a tone of its own, so no border shows.

Shapes: b batch, h and w latent sides; pictures are RGB in [0, 1] with eight pixels per latent (the VAE's `factor`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.tiles import Box, Tiles

Reading = Literal["exact", "published"]
MEASURED = 9
"""Tiles at most that the statistics are measured on, all at once."""
VAE_OVERLAP = 12
"""Latents of context on each inner side of the VAE's tiles; its convolutions after the middle see no further."""
ATTENTION_BYTES = 1 << 28
"""Queries of the VAE's attention are taken in portions whose scores need no more memory than this."""


def factor(vae: nn.Module) -> int:
    """Pixels per latent side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def signal_and_noise(scheduler: Any, level: int) -> tuple[float, float]:
    """Factors of picture and noise at a training timestep (Ho et al. 2020, equation 4)."""
    kept = scheduler.alphas_cumprod
    if not 0 <= level < len(kept):
        raise ValueError(f"A noise level must lie in [0, {len(kept) - 1}], got {level}.")
    return float(kept[level]) ** 0.5, (1 - float(kept[level])) ** 0.5


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, level: int, reading: Reading = "exact") -> Tensor:
    """Latents at a noise level.

    Args:
        scheduler: with its timesteps set.
        latents: (b, c, h, w).
        noise: (b, c, h, w) standard normal.
        level: training timestep.
        reading: exact uses the level that is asked for; published asks the scheduler, some of which silently take
            the last timestep of the schedule when the level is not in it.
    """
    if reading == "exact":
        signal, amount = signal_and_noise(scheduler, level)
        return signal * latents + amount * noise
    steps = torch.full((len(latents),), int(level), device=scheduler.timesteps.device)
    try:
        return scheduler.add_noise(latents, noise, steps)
    except IndexError:
        raise ValueError(
            f"{type(scheduler).__name__} knows no noise level {level} outside its schedule; "
            "choose the exact reading or a level of the schedule."
        ) from None


def clean_latents(scheduler: Any, predicted: Tensor, latents: Tensor, level: int) -> Tensor:
    """The clean latents (b, c, h, w) that a prediction (b, c, h, w) for noisy ones means, whatever its type (Ho et al.
    2020, equation 15; Salimans and Ho 2022, appendix D).

    Raises:
        ValueError: the scheduler's prediction type is another one.
    """
    signal, noise = signal_and_noise(scheduler, level)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return (latents - noise * predicted) / signal
    if kind == "v_prediction":
        return signal * latents - noise * predicted
    if kind == "sample":
        return predicted
    raise ValueError(f"The prediction type must be epsilon, v_prediction or sample, got {kind!r}.")


@torch.no_grad()
def encode_image(vae: nn.Module, image: Tensor, noise: Tensor | None = None, tiles: Tiles | None = None) -> Tensor:
    """Scaled latents (b, c, h, w) of pictures (b, 3, H, W) in [0, 1].

    Args:
        noise: (b, c, h, w) standard normal to draw from the posterior; None takes its mean.
        tiles: in pixels, with a unit that the VAE's factor divides; None encodes whole.
    """
    mean, logvar = posterior(vae, image, tiles)
    latents = mean if noise is None else mean + (0.5 * logvar).exp() * noise.to(mean)
    return (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor


@torch.no_grad()
def posterior(vae: nn.Module, image: Tensor, tiles: Tiles | None = None) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance, (b, c, h, w) each, of the latents of (b, 3, H, W) in [0, 1]."""
    encoder, image = vae.encoder, (2 * image - 1).to(vae.dtype)

    def lower(x: Tensor) -> Tensor:
        x = encoder.conv_in(x)
        for block in encoder.down_blocks:
            x = block(x)
        return x

    features = _tiled(encoder.down_blocks, lower, image, tiles, 1 / factor(vae))
    features = _middle(encoder.mid_block, features)
    moments = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(features)))
    if vae.quant_conv is not None:
        moments = vae.quant_conv(moments)
    mean, logvar = moments.chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


@torch.no_grad()
def decode_latents(vae: nn.Module, latents: Tensor, tiles: Tiles | None = None) -> Tensor:
    """Pictures (b, 3, H, W) in [0, 1] of scaled latents (b, c, h, w); `tiles` in latents, None decodes whole."""
    decoder, config = vae.decoder, vae.config
    latents = (latents / config.scaling_factor + (config.get("shift_factor") or 0.0)).to(vae.dtype)
    if vae.post_quant_conv is not None:
        latents = vae.post_quant_conv(latents)
    features = _middle(decoder.mid_block, decoder.conv_in(latents))

    def upper(x: Tensor) -> Tensor:
        for block in decoder.up_blocks:
            x = block(x)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))

    norms = nn.ModuleList([*decoder.up_blocks, decoder.conv_norm_out])
    return (_tiled(norms, upper, features, tiles, factor(vae)) / 2 + 0.5).clamp(0, 1)


def _middle(block: nn.Module, x: Tensor) -> Tensor:
    """The VAE's middle block, with its attention in portions when the picture is large."""
    x = block.resnets[0](x, None)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            x = _attend(attention, x)
        x = resnet(x, None)
    return x


def _attend(attention: nn.Module, x: Tensor) -> Tensor:
    tokens = attention.group_norm(x.flatten(2)).transpose(1, 2)  # (b, n, c)
    query, key, value = (
        part(tokens).unflatten(2, (attention.heads, -1)).transpose(1, 2)
        for part in (attention.to_q, attention.to_k, attention.to_v)
    )
    portion = max(1, ATTENTION_BYTES // (key.shape[2] * key.shape[0] * attention.heads * key.element_size()))
    mixed = [F.scaled_dot_product_attention(part, key, value) for part in query.split(portion, dim=2)]
    tokens = attention.to_out[0](torch.cat(mixed, dim=2).transpose(1, 2).flatten(2))
    out = tokens.transpose(1, 2).unflatten(2, x.shape[-2:])
    return (out + x) / attention.rescale_output_factor


def _tiled(norms: nn.Module, fn: Callable[[Tensor], Tensor], x: Tensor, tiles: Tiles | None, scale: float) -> Tensor:
    """`fn(x)`, tile by tile with common statistics in all group norms of `norms`."""
    if tiles is None or max(x.shape[-2:]) <= tiles.size:
        return fn(x)
    boxes = tiles.boxes(*x.shape[-2:])
    count = min(MEASURED, len(boxes))
    chosen = [boxes[round(i * (len(boxes) - 1) / max(count - 1, 1))] for i in range(count)]
    crops = torch.cat([x[..., box.top : box.bottom, box.left : box.right] for box in chosen])
    cores = torch.stack([_core(box, tiles.overlap, x) for box in chosen])
    shared = _SharedNorms(norms, len(x))
    with shared.measuring(cores):
        fn(crops)
    del crops
    with shared.applying():
        return tiles.run(fn, x, scale=scale)


def _core(box: Box, overlap: int, x: Tensor) -> Tensor:
    """(1, th, tw): 1 where a tile has its whole context, which is at least `overlap` away from inner edges."""
    height, width = x.shape[-2:]
    core = x.new_zeros(1, box.bottom - box.top, box.right - box.left)
    top, left = overlap * (box.top > 0), overlap * (box.left > 0)
    bottom = core.shape[1] - overlap * (box.bottom < height)
    core[:, top:bottom, left : core.shape[2] - overlap * (box.right < width)] = 1
    return core


class _SharedNorms:
    """Group norms that take their statistics from one set of crops."""

    def __init__(self, module: nn.Module, items: int):
        self.norms = [part for part in module.modules() if isinstance(part, nn.GroupNorm)]
        self.items = items
        self.statistics: dict[int, tuple[Tensor, Tensor]] = {}

    def measuring(self, cores: Tensor) -> contextlib.AbstractContextManager[None]:
        """Statistics are taken where `cores` (tiles, 1, th, tw) is 1."""
        return self._replaced(lambda norm, x: self._measure(norm, x, cores))

    def applying(self) -> contextlib.AbstractContextManager[None]:
        return self._replaced(self._apply)

    @contextlib.contextmanager
    def _replaced(self, forward: Callable[[nn.GroupNorm, Tensor], Tensor]) -> Iterator[None]:
        """Calls of the norms go to `forward`; undone at the end."""
        for norm in self.norms:
            norm.forward = lambda x, norm=norm: forward(norm, x)
        try:
            yield
        finally:
            for norm in self.norms:
                del norm.forward

    def _measure(self, norm: nn.GroupNorm, x: Tensor, cores: Tensor) -> Tensor:
        weight = F.interpolate(cores.float(), x.shape[-2:], mode="nearest")[:, :, None, None]  # (tiles, 1, 1, 1, h, w)
        groups = x.float().unflatten(0, (-1, self.items)).unflatten(2, (norm.num_groups, -1))
        total = weight.sum() * groups.shape[3]
        mean = (groups * weight).sum(dim=(0, 3, 4, 5)) / total  # (b, groups)
        spread = (groups - mean[None, :, :, None, None, None]).square() * weight
        self.statistics[id(norm)] = mean, spread.sum(dim=(0, 3, 4, 5)) / total
        return self._apply(norm, x)

    def _apply(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        mean, variance = self.statistics[id(norm)]
        each = norm.num_channels // norm.num_groups
        factor = (variance + norm.eps).rsqrt().repeat_interleave(each, dim=1) * norm.weight.float()
        offset = norm.bias.float() - mean.repeat_interleave(each, dim=1) * factor
        copies = len(x) // self.items
        factor, offset = (part.repeat(copies, 1)[..., None, None].to(x.dtype) for part in (factor, offset))
        return torch.addcmul(offset, x, factor)


def unet_tiles(unet: nn.Module, size: int, overlap: int, height: int, width: int, batch: int = 1) -> Tiles | None:
    """Tiles of a UNet in latents, or None where `height` x `width` latents go whole (always for size 0); sides suit its
    levels."""
    if size == 0 or max(height, width) <= size:
        return None
    step = 2 ** (len(unet.config.block_out_channels) - 1)
    overlap = math.ceil(overlap / step) * step
    return Tiles(max(size // step * step, 2 * overlap + step), overlap, 1, batch=batch)


def vae_tiles(size: int, overlap: int, unit: int = 1) -> Tiles | None:
    """Tiles of the VAE, or None for size 0; sides are rounded up to the unit."""
    if size == 0:
        return None
    size, overlap = (math.ceil(side / unit) * unit for side in (size, overlap))
    return Tiles(max(size, 2 * overlap + unit), overlap, unit)
