"""A region out of words: where a denoiser's predictions for two prompts differ."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.diffusion.latents import encode_image
from vision.edit.pie import PIEEditor
from vision.images import ImageLike, to_tensor
from vision.refine import item_generators


@torch.no_grad()
def prompt_difference(
    editor: PIEEditor,
    image: ImageLike,
    source: str,
    target: str,
    *,
    strength: float = 0.5,
    maps: int = 10,
    ratio: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """Where a denoiser's predictions for two prompts differ (Couairon et al. 2022, DiffEdit, section 3.2).

    Args:
        editor: whose networks predict.
        image: one picture, at the size that the editor shall see.
        source: what it shows.
        target: what it shall show.
        strength: noise level, as a share of the schedule.
        maps: noises that the difference is averaged over.
        ratio: differences are cut off at this multiple of their mean, scaled to [0, 1] and cut in the middle.
        seed: of the noises.

    Returns:
        (1, 1, height, width) of zeros and ones.
    """
    pixels = to_tensor(image).to(editor.device)
    latents = encode_image(editor.vae, pixels).float().expand(maps, -1, -1, -1)
    noise = torch.cat([torch.randn((1, *latents.shape[1:]), generator=g) for g in item_generators(seed, maps)])
    level = int(strength * (editor.scheduler.config.num_train_timesteps - 1))
    timesteps = torch.full((maps,), level, device=editor.device)
    noisy = editor.scheduler.add_noise(latents, noise.to(latents), timesteps)
    predictions = [
        editor.unet(
            noisy.to(editor.dtype), timesteps, editor.text([prompt] * maps).embeds.to(editor.dtype), return_dict=False
        )[0].float()
        for prompt in (source, target)
    ]
    difference = (predictions[1] - predictions[0]).abs().mean(dim=(0, 1))
    scaled = (difference / (ratio * difference.mean()).clamp(min=1e-12)).clamp(0, 1)
    region = (scaled >= 0.5).float()[None, None].cpu()
    return F.interpolate(region, tuple(pixels.shape[-2:]), mode="nearest")
