"""What PIE is compared with, on the same models: a walk between two prompts, and a direction in latent space.

Both were published with other backbones; here they share PIE's networks, so that only the method differs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vision.diffusion.denoise import denoise_steps
from vision.diffusion.latents import decode_latents
from vision.edit.one_edit import Predictor, inverted, prepare, scaled
from vision.images import to_uint8
from vision.refine import drain, item_generators

if TYPE_CHECKING:
    from vision.edit.pie import PIEEditor, PIERun


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Spherical interpolation of (b, ...) tensors, each picture for itself (Shoemake 1985)."""
    first, second = start.flatten(1), end.flatten(1)
    cosine = torch.cosine_similarity(first, second, dim=1).clamp(-1, 1)
    angle = torch.acos(cosine)[:, None]
    plain = angle.sin().abs() < 1e-4
    weights = [
        torch.where(plain, torch.full_like(angle, straight), (straight * angle).sin() / angle.sin().clamp(min=1e-6))
        for straight in (1 - share, share)
    ]
    return (weights[0] * first + weights[1] * second).view_as(start)


@torch.no_grad()
def latent_walk(editor: PIEEditor, run: PIERun, *, reach: float = 1.0) -> Tensor:
    """A walk between two prompts ("Stable Diffusion Walk"): noises are slerped and texts lerped.

    It starts at the noise that DDIM inverts the picture to under the source prompt, so that frame 0 is the picture, and
    ends at another noise under the prompt.

    Args:
        editor: whose networks are used.
        run: of `PIEEditor.start` in the mode inversion; its prompt's last entry is the end.
        reach: how far towards the other noise the walk goes, in [0, 1].

    Returns:
        (frames + 1, b, 3, H, W) in [0, 1], 8 bit.
    """
    options = run.options
    scheduler, begin = prepare(editor.ddim(), options.steps, 1.0, editor.device)
    source, target = run.source, run.texts[-1]
    predict = Predictor(editor.unet, torch.cat([source] * 2))
    start = inverted(editor.vae, scheduler, begin, run.moments, run.moments, predict).noisy
    end = torch.cat(
        [torch.randn((1, *start.shape[1:]), generator=g) for g in item_generators(options.seed, len(start))]
    )
    frames = [run.original]
    for number in range(1, options.frames + 1):
        share = number / options.frames
        latents, text = slerp(start, end.to(start), share * reach), torch.lerp(source, target, share)
        steps = denoise_steps(latents, Predictor(editor.unet, text), copy.deepcopy(scheduler), begin=begin)
        frames.append(_eight_bit(decode_latents(editor.vae, drain(steps).state.latents)))
    return torch.stack(frames).cpu()


@torch.no_grad()
def latent_direction(editor: PIEEditor, healthy: Sequence[Tensor], diseased: Sequence[Tensor]) -> Tensor:
    """(1, c, h, w) mean latents of diseased minus those of healthy pictures, each (b, 3, H, W) in [0, 1]."""
    means = [
        torch.cat([scaled(editor.vae, editor.moments(images.to(editor.device)).mean) for images in batches])
        for batches in (healthy, diseased)
    ]
    return means[1].mean(dim=0, keepdim=True) - means[0].mean(dim=0, keepdim=True)


@torch.no_grad()
def extrapolate(editor: PIEEditor, run: PIERun, direction: Tensor, *, stride: float) -> Tensor:
    """Style-direction extrapolation (after Han et al. 2022): latents moved along one direction, frame by frame.

    Args:
        editor: whose VAE is used.
        run: of `PIEEditor.start`; a mask confines the move.
        direction: of `latent_direction`.
        stride: of each frame, in lengths of the direction.

    Returns:
        (frames + 1, b, 3, H, W) in [0, 1], 8 bit.
    """
    latents, frames = scaled(editor.vae, run.moments.mean), [run.original]
    move = stride * direction * (1.0 if run.mask is None else run.mask)
    for number in range(1, run.options.frames + 1):
        frames.append(_eight_bit(decode_latents(editor.vae, latents + number * move)))
    return torch.stack(frames).cpu()


def _eight_bit(images: Tensor) -> Tensor:
    return to_uint8(images).float() / 255
