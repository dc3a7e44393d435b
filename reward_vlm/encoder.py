"""A first layer that sees: patch filters of a small model's image encoder from the statistics of pictures.

With random filters the brightness of a patch drowns what distinguishes a noisy picture from a blurred one, and a tiny
model that learns words and sight together from judgements may never find it. Whitened principal components of patches
give every scale of detail the same variance from the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import PIL.Image
import torch

from reward_vlm.vlm import ChatModel


@torch.no_grad()
def whiten_patches(chat: ChatModel, pictures: Sequence[PIL.Image.Image]) -> None:
    """Set the patch filters of a Qwen2.5-VL model to whitened principal components of the pictures' patches, in place.

    Half of the filters are the components with most variance (colour, edges), half are spread evenly over the others
    (fine detail, noise). On these pictures each filter's output has variance 1.

    Raises:
        ValueError: the pictures have fewer patches than a patch has values.
    """
    convolution = chat.model.model.visual.patch_embed.proj
    filters, channels, frames, side, _ = convolution.weight.shape
    pixels = chat.processor.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    patches = pixels.view(-1, channels, frames, side, side).mean(2).flatten(1)
    if len(patches) < patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} patches or more are needed, got {len(patches)}; give more pictures.")
    variances, components = torch.linalg.eigh(torch.cov(patches.T.double()))
    variances, components = variances.flip(0).clamp(min=1e-6), components.flip(1)
    half = filters // 2
    rest = torch.linspace(half, len(variances) - 1, filters - half).long()
    chosen = torch.cat([torch.arange(half), rest])
    rows = (components[:, chosen] / variances[chosen].sqrt()).T.view(filters, channels, 1, side, side) / frames
    convolution.weight.copy_(rows.expand_as(convolution.weight))
