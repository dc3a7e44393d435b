"""One edit: noise a picture part of the way, denoise it towards a text, and pull it back to the original.

Shapes: b batch, c latent channels, h and w latent sides; latents are scaled by the VAE's factor.
Letters are those of the paper's algorithm: M the mask, white (1) where the picture may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vision.diffusion.attention import text_keys
from vision.diffusion.denoise import At, Denoising, denoise_steps, guide, set_steps
from vision.edit.options import check_strength
from vision.images import composite
from vision.refine import Step, drain, refine_steps

Draw = Callable[[tuple[int, ...]], Tensor]
"""Standard normal numbers of a shape (b, c, h, w)."""
Observer = Callable[[Step[Denoising, At]], object]


@dataclass(frozen=True)
class Moments:
    """Where a VAE places pictures, unscaled."""

    mean: Tensor
    """(b, c, h, w)."""
    std: Tensor
    """(b, c, h, w)."""

    def sample(self, vae: nn.Module, noise: Tensor) -> Tensor:
        """Scaled latents (b, c, h, w), drawn with this noise."""
        return scaled(vae, self.mean + self.std * noise.to(self.mean))


@dataclass(frozen=True)
class Beginning:
    """What an edit starts from."""

    clean: Tensor
    """(b, c, h, w) latents of the current picture."""
    noisy: Tensor
    """(b, c, h, w) the same at the first noise level."""
    anchor: Tensor
    """(b, c, h, w) latents of the original, which the result is pulled to."""
    background: Callable[[int], Tensor]
    """Index in the scheduler's timesteps -> (b, c, h, w) the original at that noise level."""


class Predictor:
    """A UNet that reads a text, with guidance when there is a negative one.

    Args:
        unet: diffusers' UNet.
        positive: (b, tokens, width).
        negative: (b, tokens, width), or None for no guidance.
        scale: weight of the guidance.
    """

    def __init__(self, unet: nn.Module, positive: Tensor, negative: Tensor | None = None, scale: float = 1.0):
        self.unet, self.scale, self.guided = unet, scale, negative is not None
        self.text = (positive if negative is None else torch.cat([negative, positive])).to(unet.dtype)
        self.keys = text_keys(unet, self.text)

    @torch.no_grad()
    def __call__(self, latents: Tensor, at: At) -> Tensor:
        """(b, c, h, w) -> what the scheduler's prediction type asks for, (b, c, h, w) float32."""
        sample = torch.cat([latents] * 2 if self.guided else [latents]).to(self.text.dtype)
        output = self.unet(sample, at.timestep, self.text, cross_attention_kwargs=self.keys, return_dict=False)[0]
        output = output.float()
        return guide(*output.chunk(2), self.scale) if self.guided else output


def scaled(vae: nn.Module, latents: Tensor) -> Tensor:
    """Latents (b, c, h, w) as the VAE gives them -> as the UNet takes them."""
    return vae.config.scaling_factor * (latents - (vae.config.get("shift_factor") or 0.0))


def is_guided(scale: float) -> bool:
    """Whether a weight of the guidance asks for the negative prompt; at 1 the two predictions would cancel."""
    return scale > 1


def first_step(scheduler: Any, steps: int, strength: float) -> int:
    """Index of the timestep that an edit starts at, in a scheduler that `steps` were set for.

    strength * steps is cut off, not rounded (the published code's `int`). Schedulers that call the network twice per
    step list every timestep as often.
    """
    kept = min(int(steps * strength), steps)
    return (steps - kept) * scheduler.order


def prepare(scheduler: Any, steps: int, strength: float, device: torch.device) -> tuple[Any, int]:
    """A copy of the scheduler with its timesteps set, and where an edit starts in them.

    Raises:
        ValueError: so small a strength leaves no step.
    """
    scheduler = set_steps(scheduler, steps, device)
    begin = first_step(scheduler, steps, strength)
    if begin >= len(scheduler.timesteps):  # some schedulers have a timestep more than steps
        check_strength(strength, steps)
    return scheduler, begin


def noised(vae: nn.Module, scheduler: Any, begin: int, current: Moments, original: Moments, draw: Draw) -> Beginning:
    """Fresh noise, as the published code adds it: six draws, the fourth unused, with or without a mask."""
    drawn = [draw(tuple(current.mean.shape)).to(current.mean) for _ in range(6)]
    clean = current.sample(vae, drawn[0])
    anchor, behind = original.sample(vae, drawn[2]), original.sample(vae, drawn[4])

    def at_level(latents: Tensor, noise: Tensor, index: int) -> Tensor:
        return scheduler.add_noise(latents, noise, scheduler.timesteps[index].expand(len(latents)))

    return Beginning(clean, at_level(clean, drawn[1], begin), anchor, lambda i: at_level(behind, drawn[5], i))


def inverted(
    vae: nn.Module, scheduler: Any, begin: int, current: Moments, original: Moments, predict: Predictor
) -> Beginning:
    """The noise that DDIM would have made the pictures from (Song et al. 2021, section 4.3), without any draw.

    Args:
        scheduler: DDIM with its timesteps set.
        predict: for a batch of current and original pictures, one after the other.
    """
    clean, anchor = scaled(vae, current.mean), scaled(vae, original.mean)
    levels = [0, *scheduler.timesteps[begin:].flip(0).tolist()]

    def rise(latents: Tensor, at: At) -> Tensor:
        level, above = int(at.timestep), levels[at.index + 1]
        kept, kept_above = (scheduler.alphas_cumprod[i].to(latents) for i in (level, above))
        noise = noise_in(scheduler, predict(latents, at), latents, kept)
        first = (latents - (1 - kept).sqrt() * noise) / kept.sqrt()
        return kept_above.sqrt() * first + (1 - kept_above).sqrt() * noise

    device = clean.device
    schedule = [At(i, torch.tensor(level, device=device)) for i, level in enumerate(levels[:-1])]
    path = [step.state for step in refine_steps(torch.cat([clean, anchor]), rise, schedule)]
    last = len(scheduler.timesteps) - 1
    return Beginning(clean, path[-1].chunk(2)[0], anchor, lambda i: path[last - i].chunk(2)[1])


def noise_in(scheduler: Any, predicted: Tensor, latents: Tensor, kept: Tensor) -> Tensor:
    """The noise (b, c, h, w) that a prediction means, whatever its type; `kept`, scalar, is the cumulated alpha at its
    level."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return predicted
    if kind == "v_prediction":
        return kept.sqrt() * predicted + (1 - kept).sqrt() * latents
    if kind == "sample":
        return (latents - kept.sqrt() * predicted) / (1 - kept).sqrt()
    raise ValueError(f"Inversion knows no prediction type {kind!r}; it must be epsilon, v_prediction or sample.")


def denoise(
    beginning: Beginning,
    predict: Predictor,
    scheduler: Any,
    begin: int,
    mask: Tensor | None,
    *,
    generators: Sequence[torch.Generator],
    eta: float = 0.0,
    observers: Iterable[Observer] = (),
) -> Tensor:
    """The loop: between two steps, the outside of the mask (b, c, h, w) is the original at that noise level. Returns
    latents (b, c, h, w).

    Nothing is blended before the first step or after the last.
    """
    last = len(scheduler.timesteps) - 1
    levels = beginning.background

    def keep_outside(step: Step[Denoising, At]) -> Denoising:
        if mask is None or step.at.index == last:
            return step.candidate
        return replace(step.candidate, latents=composite(mask, step.candidate.latents, levels(step.at.index + 1)))

    arguments = {"eta": eta} if eta else {}
    steps = denoise_steps(
        beginning.noisy,
        predict,
        scheduler,
        generators=generators,
        begin=begin,
        step_arguments=arguments,
        accept=keep_outside,
    )
    last = drain(steps, observers)
    for generator, drawn in zip(generators, last.state.generators or (), strict=False):
        generator.set_state(drawn.get_state())
    return last.state.latents


def pull_back(denoised: Tensor, anchor: Tensor, mask: Tensor | None, beta_1: float, beta_2: float) -> Tensor:
    """z_ini + (beta_1 (1 - M) + beta_2 M) (x - z_ini), all (b, c, h, w); without a mask x."""
    if mask is None:
        return denoised
    return anchor + (beta_1 * (1 - mask) + beta_2 * mask) * (denoised - anchor)
