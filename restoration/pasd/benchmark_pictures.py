"""What PASD's approximate preset and its tiles cost in quality; called by `burnish benchmark pasd --task ...`.

    burnish benchmark pasd --task fast-distance --images photos --out runs/fast
    burnish benchmark pasd --task seams --out runs/seams

fast-distance: degraded crops of good pictures restored exactly and with the reuse of the preset `fast`, with the small
trained weights: PSNR between the two, their CPU times, and fast.png with both and their difference. seams: one noisy
picture enlarged whole and in small tiles, with tiny random networks, whose attention is global: mean gradient across
the tiles' borders over the mean gradient elsewhere, in both, and the peak memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restoration.compare import degraded_samples, timed
from restoration.pasd import PASDOptions, PASDRestorer
from restoration.pasd.options import PRESETS
from vision.diffusion.latents import VAE_OVERLAP, factor, vae_tiles
from vision.images import save_image, to_pil
from vision.metrics import psnr
from vision.report import side_by_side, strip
from vision.resize import imresize

AMPLIFIED = 10
"""The shown difference is this many times the real one."""


@torch.inference_mode()
def fast_distance(images: Path, out: Path, *, steps: int, size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Distance of the preset fast from the exact result, a row per picture; writes fast.png.

    Args:
        images: folder of good pictures; the middle of each is degraded.
        out: folder of the picture.
        steps: denoising steps; the reuse makes sense with many.
        size: pixels per side of the results.
    """
    restorer = PASDRestorer.from_pretrained()
    scale = round(restorer.config.scale)
    reuse = {name: PRESETS["fast"][name] for name in ("guidance_every", "control_every")}
    common = {"steps": steps, "guidance_scale": 1.5, "conditioning_scale": 1.3, "seed": seed}
    rows, strips = [], []
    for name, read in degraded_samples(images, "blind", scale=scale, crop=size, seed=seed):
        low, _ = read()
        restorer(low, PASDOptions(**common | {"steps": 1}))  # the first call allocates
        exact, full = timed(lambda low: restorer(low, PASDOptions(**common)), low)
        fast, spared = timed(lambda low: restorer(low, PASDOptions(**common, **reuse)), low)
        difference = (0.5 + AMPLIFIED * (fast - exact)).clamp(0, 1)
        rows.append(
            {
                "image": name,
                "psnr_to_exact": float(psnr(fast, exact)),
                "cpu_of_exact": spared["cpu_per_mp"] / full["cpu_per_mp"],
            }
        )
        pictures = {"bicubic": imresize(low, scale), "exact": exact, "fast": fast, f"{AMPLIFIED} x": difference}
        strips.append(side_by_side([to_pil(picture.clamp(0, 1)) for picture in pictures.values()], list(pictures)))
    save_image(strip(strips, vertical=True), out / "fast.png")
    return rows


@torch.inference_mode()
def seams(width: int, height: int, *, tile: int, steps: int, seed: int = 0) -> list[dict[str, Any]]:
    """Seam energy and peak memory, whole and tiled, of a result of `width` x `height` pixels.

    Args:
        tile: side of the denoiser's tiles in latents; the VAE's are larger by their overlap.
        steps: denoising steps.
    """
    restorer = PASDRestorer.from_pretrained("builtin:tiny")
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, height // 32, width // 32, generator=generator)
    image = imresize(small, size=(height // 4, width // 4)).clamp(0, 1)
    vae_tile = tile + 2 * VAE_OVERLAP
    common = {"scale": 4.0, "steps": steps, "color": "none", "process_size": 64, "seed": seed}
    ways = {
        "tiled": PASDOptions(**common, tile=tile, tile_overlap=tile // 4, vae_tile=vae_tile),
        "whole": PASDOptions(**common, tile=0, vae_tile=0),
    }
    run = restorer.start(image, ways["tiled"])
    unit, sides = factor(restorer.vae), tuple(run.latents.shape[-2:])
    (predictor,) = run.predictor.made.values()
    boxes = predictor.tiles.boxes(*sides) + vae_tiles(vae_tile, VAE_OVERLAP).boxes(*sides)
    borders = {}
    for axis, side in zip((-2, -1), sides, strict=True):
        ends = {end for box in boxes for end in (box[axis + 2], box[axis])}
        borders[axis] = sorted(unit * end - 1 for end in ends if 0 < end < side)
    rows = []
    for name, options in ways.items():
        result, costs = timed(lambda low, options=options: restorer(low, options), image)
        energies = [seam_energy(result, axis, places) for axis, places in borders.items()]
        rows.append(
            {
                "what": name,
                "seam_energy": sum(energies) / len(energies),
                "peak_mb": costs["peak_mb"],
                "cpu_per_mp": costs["cpu_per_mp"],
            }
        )
    for row in rows:
        row["of_whole"] = row["seam_energy"] / rows[-1]["seam_energy"]
    return rows


def seam_energy(image: Tensor, axis: int, places: list[int]) -> float:
    """Mean gradient of an image (1, 3, height, width) along an axis after the pixels `places`, over that elsewhere."""
    moved = image.movedim(axis, -1)
    steps = (moved[..., 1:] - moved[..., :-1]).abs().mean(dim=(0, 1, 2))
    at = torch.zeros_like(steps, dtype=torch.bool)
    at[places] = True
    return float(steps[at].mean() / steps[~at].mean())
