"""Losses of latent diffusion: the VAE's, the denoiser's on a frozen VAE, and the latents' scale.

Shapes: b batch, c latent channels, h and w latent sides; pictures are RGB (b, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.losses import gradient_difference

DIVERGENCE = 1e-6
"""Weight of the VAE's divergence; enough to keep latents near the origin."""


class VAELoss(nn.Module):
    """A VAE that gives its own loss: absolute error of pixels and of their gradients, and a trace of divergence."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss and logs of pictures."""
        return self.measure(images, generator)[:2]

    def measure(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss and logs of pictures, and what they became."""
        found = self.vae.encode(2 * images - 1).latent_dist
        latents = found.mean + found.std * torch.randn(found.mean.shape, generator=generator).to(images)
        picture = self.vae.decode(latents).sample / 2 + 0.5
        error, edges, divergence = F.l1_loss(picture, images), gradient_difference(picture, images), found.kl().mean()
        logs = {"error": error, "edges": edges, "kl": divergence}
        return error + 0.5 * edges + DIVERGENCE * divergence, logs, picture


def noise_loss(
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor],
    scheduler: Any,
    latents: Tensor,
    text: Tensor,
    generator: torch.Generator,
    *,
    offset_noise: float = 0.0,
) -> Tensor:
    """Mean squared error of what the scheduler's prediction type asks for, (b,) per picture.

    Noise and uniform timesteps are drawn from the generator (Ho et al. 2020, equation 14; Salimans and Ho 2022 for
    the velocity).

    Args:
        denoise: (latents, timesteps (b,), text) -> prediction (b, c, h, w).
        scheduler: its noise schedule and prediction type (epsilon or v_prediction).
        latents: (b, c, h, w), scaled.
        text: (b, tokens, width) what the prediction is conditioned on.
        generator: on the CPU.
        offset_noise: amount of a further draw per picture and channel, which teaches dark and bright pictures.

    Raises:
        ValueError: the prediction type is another one.
    """
    noise = torch.randn(latents.shape, generator=generator)
    if offset_noise:
        noise = noise + offset_noise * torch.randn(*latents.shape[:2], 1, 1, generator=generator)
    noise = noise.to(latents)
    limit = scheduler.config.num_train_timesteps
    timesteps = torch.randint(0, limit, (len(latents),), generator=generator).to(latents.device)
    predicted = denoise(scheduler.add_noise(latents, noise, timesteps), timesteps, text)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        target = noise
    elif kind == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    else:
        raise ValueError(f"The prediction type must be epsilon or v_prediction, got {kind!r}.")
    return (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))


def set_latent_scale(vae: nn.Module, latents: Tensor) -> float:
    """Set the factor that gives unscaled latents a standard deviation of one (Rombach et al. 2022, appendix G)."""
    scale = float(1 / latents.std())
    vae.register_to_config(scaling_factor=scale)
    return scale
