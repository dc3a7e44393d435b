"""What a progression shows: confidence, identity, change inside and outside the region, and the theory's bound.

Spearman's correlation and medians are over the frames of one trajectory and over trajectories.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.edit.progression import Progression
from vision.metrics import Clip, ssim


@dataclass(frozen=True)
class Bound:
    """Step norms of one trajectory beside what a contraction allows (the PIE loop as z' = z0 + beta_2 (F(z) - z0))."""

    steps: list[float]
    """|z_n - z_(n-1)| in the mask, n = 1, 2, ..."""
    distances: list[float]
    """|z_n - z_0| in the mask."""
    contraction: float
    """Estimate of beta_2 L: the largest ratio of a step's norm to the one before it."""
    step_bounds: list[float]
    """(beta_2 L)^(n-1) |z_1 - z_0|."""
    distance_bound: float
    """|z_1 - z_0| / (1 - beta_2 L); infinite when the loop does not contract, as with fresh noise in every frame."""


def rows(
    progression: Progression, *, clip: Clip | None = None, prompt: str = "", source_prompt: str = ""
) -> list[dict[str, Any]]:
    """One row per trajectory and frame.

    Columns: item, frame, confidence; change_inside and change_outside, mean absolute differences of pixels to the
    original where the region is at least half white and where it is black; with latents step and distance, norms of
    their change since the last frame and since the original; ssim to the original; with CLIP identity (to the
    original), text (to the prompt) and directional.
    """
    images, found = progression.images, []
    frames, batch = images.shape[:2]
    region = progression.region
    inside = torch.ones_like(images[0, :, :1]) if region is None else (region >= 0.5).float()
    outside = torch.zeros_like(inside) if region is None else (region == 0).float()
    clips = _clip_columns(images, clip, prompt, source_prompt) if clip is not None else {}
    for item in range(batch):
        for frame in range(frames):
            difference = (images[frame, item] - images[0, item]).abs().mean(dim=0, keepdim=True)
            row: dict[str, Any] = {"item": item, "frame": frame}
            if progression.scores is not None:
                row["confidence"] = float(progression.scores[frame, item])
            for name, area in (("change_inside", inside[item]), ("change_outside", outside[item])):
                row[name] = float((difference * area).sum() / area.sum()) if area.any() else None
            if progression.latents is not None:
                latents = progression.latents[:, item]
                row["step"] = float((latents[frame] - latents[max(frame - 1, 0)]).norm())
                row["distance"] = float((latents[frame] - latents[0]).norm())
            row["ssim"] = float(ssim(images[frame, item][None], images[0, item][None]))
            row |= {name: float(values[frame, item]) for name, values in clips.items()}
            found.append(row)
    return found


def _clip_columns(images: Tensor, clip: Clip, prompt: str, source_prompt: str) -> dict[str, Tensor]:
    """name -> (frames, b)."""
    embedded = torch.stack([clip.images(frame) for frame in images])
    found = {"clip_identity": (embedded * embedded[:1]).sum(dim=2)}
    if prompt:
        found["clip_text"] = (embedded * clip.texts([prompt])).sum(dim=2)
    if prompt and source_prompt:
        direction = clip.texts([prompt]) - clip.texts([source_prompt])
        found["clip_directional"] = torch.cosine_similarity(embedded - embedded[:1], direction[None], dim=2)
    return found


def summary(table: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the rows of `rows`: medians over the trajectories.

    start and final confidence; spearman of frame and confidence; rising, the share of frames more confident than the
    one before; change inside and outside at the end, and their ratio of means; ssim at the end.
    """
    items = sorted({row["item"] for row in table})
    curves = [[row for row in table if row["item"] == item] for item in items]
    ends = [curve[-1] for curve in curves]
    found: dict[str, float] = {"trajectories": len(curves), "frames": len(curves[0]) - 1}
    if "confidence" in table[0]:
        series = [[row["confidence"] for row in curve] for curve in curves]
        found["confidence_start"] = float(np.median([values[0] for values in series]))
        found["confidence_final"] = float(np.median([values[-1] for values in series]))
        found["spearman"] = float(np.median([spearman(range(len(values)), values) for values in series]))
        found["rising"] = float(np.mean([b > a for values in series for a, b in itertools.pairwise(values)]))
    for name in ("change_inside", "change_outside", "ssim", "clip_identity", "clip_text", "clip_directional"):
        values = [row[name] for row in ends if row.get(name) is not None]
        if values:
            found[name] = float(np.median(values))
    if found.get("change_outside"):
        found["inside_to_outside"] = found["change_inside"] / found["change_outside"]
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation in [-1, 1]; 0 when a series does not change."""
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return float(spearmanr(list(first), list(second)).statistic)


def bound(progression: Progression, item: int = 0) -> Bound:
    """The measured norms of one trajectory beside the bound of a contraction."""
    latents = progression.latents[:, item].flatten(1)
    if progression.mask is not None:
        latents = latents * (progression.mask[item].flatten() > 0.5)
    steps = (latents[1:] - latents[:-1]).norm(dim=1).tolist()
    distances = (latents[1:] - latents[0]).norm(dim=1).tolist()
    ratios = [after / before for before, after in itertools.pairwise(steps) if before > 0]
    contraction = max(ratios, default=0.0)
    limit = steps[0] / (1 - contraction) if contraction < 1 else float("inf")
    return Bound(steps, distances, contraction, [steps[0] * contraction**n for n in range(len(steps))], limit)
