"""Losses of the mesh stage of GTR.

v: views. Pictures are (v, channels, height, width); masks and depths have one channel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon3d.volume import MISS, ray_box

MESH_STAGE = {"rgb": 1.0, "mask": 1.0, "ray_opacity": 0.5, "depth": 0.2}
"""Published weights of the losses of the mesh stage; LPIPS and normals are choices of the training."""


def psnr_of(mse: float) -> float:
    """Decibels of a mean squared error of values in [0, 1]."""
    return -10 * math.log10(max(mse, 1e-10))


def rgb_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all pixels, background included."""
    return (prediction - target).square().mean()


def mask_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the antialiased mask."""
    return (prediction - target).square().mean()


def depth_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over all pixels of the squared error where the target is positive."""
    return ((prediction - target).square() * (target > 0)).mean()


def _common_normals(prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    outside = prediction.new_tensor([0.0, 0.0, 1.0])[:, None, None] * (1 - mask)
    return prediction * mask + outside, target * mask + outside


def normal_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - mean |cos| over pixels with mask > 0; `mask` is the product of both masks."""
    a, b = _common_normals(prediction, target, mask)
    cosine = (a * b).sum(1, keepdim=True)[mask > 0].abs()
    return 1 - cosine.mean() if cosine.numel() else prediction.sum() * 0


def normal_l2_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean of mask times the squared difference averaged over the channels."""
    a, b = _common_normals(prediction, target, mask)
    return (mask * (a - b).square().mean(1, keepdim=True)).mean()


def ray_opacity_points(
    origins: Tensor, directions: Tensor, depth: Tensor, aabb: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One point of the empty space per ray, and how much space it stands for.

    Args:
        origins, directions: (rays, 3), directions with camera z = 1, so that the ray parameter is the depth.
        depth: (rays, 1) target depth, 0 on the background: there the ray is empty up to the exit from the box.
        uniform: (rays, 1) in [0, 1).

    Returns:
        points (rays, 3), lengths (rays, 1) from the point to the end of the empty space, and hit (rays, 1) bool.
    """
    near, far = ray_box(origins, directions, aabb)
    hit = near < MISS
    far = torch.where(depth > 0, depth, far)
    near, far = torch.where(hit, near, 1.0), torch.where(hit, far, 1.0)
    t = near + (far - near) * uniform
    lengths = (t - far).abs() * directions.norm(dim=-1, keepdim=True)
    return origins + directions * t, lengths, hit


def ray_opacity_loss(density: Tensor, lengths: Tensor, hit: Tensor) -> Tensor:
    """Mean over all rays of 1 - exp(-density * length), zero for rays that miss the box; all (rays, 1)."""
    return ((1 - torch.exp(-density * lengths)) * hit).mean()
