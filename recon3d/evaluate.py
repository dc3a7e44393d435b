"""How good a reconstruction is: pictures from views that were not given, and distances between surfaces.

The protocol for one mesh: it is scaled so that the longest side of its box is 1.6 (half-size 0.8) and shown unlit on
white at 128 pixels, 2 x 2 samples per pixel, field of view 30 degrees, distance 4. Twelve views are given: the six of
GTR and six more at elevations -25 and 45 degrees. Eight others are held out. PSNR and SSIM are means over whole
pictures. Surfaces are compared by 100,000 points each, in the same units, after removing faces that none of 48 views
around the object sees, on both sides: Chamfer distance is the mean distance to the nearest point of the other
surface, both directions added; F-score is the harmonic mean of the shares of points closer than a threshold. None of
this is comparable with published tables.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from recon3d.cameras import Cameras, concatenate, gtr_rig, orbit, surround
from recon3d.gtr.options import GTROptions
from recon3d.gtr.reconstructor import GTRReconstructor
from recon3d.gtr.result import Reconstruction
from recon3d.mesh import Mesh
from recon3d.render import render
from recon3d.surfaces import nearest_color, seen_faces, simplify
from recon3d.views import Views
from vision.metrics import lpips, psnr, ssim

HELD_OUT = ((15, 10), (60, -15), (105, 35), (150, 0), (195, 25), (240, -5), (285, 50), (330, -30))
"""Azimuth and elevation of the views that are never given, in degrees."""
THRESHOLDS = (0.02, 0.05, 0.1)
"""Distances of the F-scores."""


def given_cameras(size: int = 128, views: int = 12) -> Cameras:
    """The twelve views of the protocol, or only the six of GTR."""
    if views not in (6, 12):
        raise ValueError(f"The protocol gives 6 or 12 views, not {views}.")
    rig = gtr_rig(size)
    if views == 6:
        return rig
    return concatenate(rig, orbit([60.0 * n for n in range(6)], [-25.0, 45.0] * 3, size=size))


def held_out_cameras(size: int = 128) -> Cameras:
    """The eight views of the protocol that are never given."""
    azimuth, elevation = zip(*HELD_OUT, strict=True)
    return orbit(azimuth, elevation, size=size)


# Points -------------------------------------------------------------------------------------------------------------


def nearest_distances(points: Tensor, others: Tensor) -> Tensor:
    """(points,) distance from each of points (points, 3) to the nearest of others (others, 3), float64."""
    distances, _ = cKDTree(others.double().cpu().numpy()).query(points.double().cpu().numpy())
    return torch.from_numpy(distances)


def point_scores(points: Tensor, reference: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
    """Chamfer distances and F-scores between point sets (points, 3).

    `chamfer_l1_sum`: mean nearest distance, both directions added. `chamfer_l1_half`: half of it. `chamfer_l2_sum`: the
    same as the first with squared distances. For every threshold t `precision@t`: share of `points` closer than t to
    the reference, `recall@t`: the other way, `fscore@t`: their harmonic mean.
    """
    there, back = nearest_distances(points, reference), nearest_distances(reference, points)
    total = float(there.mean() + back.mean())
    scores = {
        "chamfer_l1_sum": total,
        "chamfer_l1_half": total / 2,
        "chamfer_l2_sum": float(there.square().mean() + back.square().mean()),
    }
    for threshold in thresholds:
        precision = float((there < threshold).double().mean())
        recall = float((back < threshold).double().mean())
        both = precision + recall
        scores[f"fscore@{threshold:g}"] = 2 * precision * recall / both if both else 0.0
        scores |= {f"precision@{threshold:g}": precision, f"recall@{threshold:g}": recall}
    return scores


def seen_part(mesh: Mesh, cameras: Cameras | None = None) -> Mesh:
    """The faces that cameras (48 around [-1, 1]^3) see."""
    return mesh.keep_faces(seen_faces(mesh, cameras))


def surface_scores(mesh: Mesh, reference: Mesh, samples: int = 100_000, seed: int = 0) -> dict[str, float]:
    """Chamfer distance (sum) and F-scores of two surfaces, such as the seen parts of two meshes."""
    generator = torch.Generator().manual_seed(seed)
    scores = point_scores(mesh.sample(samples, generator)[0], reference.sample(samples, generator)[0])
    return {"chamfer": scores["chamfer_l1_sum"]} | {f"f@{t:g}": scores[f"fscore@{t:g}"] for t in THRESHOLDS}


# Pictures -----------------------------------------------------------------------------------------------------------


def psnr_of_mean(images: Tensor, reference: Tensor) -> float:
    """PSNR of the mean squared error over all pictures, as the published code reports it."""
    return float(-10 * torch.log10((images.double() - reference.double()).square().mean()))


def ssim_whole(images: Tensor, reference: Tensor, data_range: float | None = None) -> Tensor:
    """(views,) SSIM as the published code reports it: borders are mirrored and count.

    Args:
        images, reference: (views, 3, height, width).
        data_range: None takes the larger range of values that occur, as the published code does.
    """
    images, reference = images.double(), reference.double()
    if data_range is None:
        data_range = max(float(x.max() - x.min()) for x in (images, reference))
    offsets = torch.arange(11, dtype=torch.float64, device=images.device) - 5
    window = torch.exp(-((offsets / 1.5) ** 2) / 2)
    window = window / window.sum()
    kernel = torch.outer(window, window).expand(3, 1, 11, 11)

    def mean(x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (5,) * 4, mode="reflect")
        return torch.nn.functional.conv2d(padded, kernel, groups=3)

    a, b = mean(images), mean(reference)
    var_a, var_b = (mean(x * x) - m * m for x, m in ((images, a), (reference, b)))
    covariance = mean(images * reference) - a * b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similar = (2 * a * b + c1) * (2 * covariance + c2)
    return (similar / ((a * a + b * b + c1) * (var_a.clamp(min=0) + var_b.clamp(min=0) + c2))).flatten(1).mean(1)


def view_scores(views: Views, reference: Views, perceptual: bool = False) -> dict[str, float]:
    """PSNR and SSIM (means over views), overlap of the silhouettes, and LPIPS when asked for."""
    mine, given = views.masks > 0.5, reference.masks > 0.5
    scores = {
        "psnr": float(psnr(views.images, reference.images, channel="rgb").mean()),
        "ssim": float(ssim(views.images, reference.images, channel="rgb").mean()),
        "iou": float((mine & given).sum() / (mine | given).sum().clamp(min=1)),
    }
    if perceptual:
        scores["lpips"] = float(lpips(views.images, reference.images, backbone="vgg").mean())
    return scores


# Protocol -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    views: int = 12
    """Views that are given: 12, or the six of GTR."""
    size: int = 128
    """Height and width of all pictures."""
    perceptual: bool = False
    """Also measure LPIPS; its weights must be installed."""
    exported: bool = False
    """Also measure the mesh as it would be saved."""
    samples: int = 100_000
    """Points per surface."""
    seen_from: int = 256
    """Picture side of the 48 views that decide which surfaces are visible."""


def measure(
    mesh: Mesh,
    reconstructor: GTRReconstructor,
    options: GTROptions,
    setting: Setting | None = None,
    *,
    start: Mesh | None = None,
    done: Callable[[str, Reconstruction], object] | None = None,
) -> list[dict[str, Any]]:
    """One row per stage for one mesh: volume fit, geometry, texture, and the exported mesh when asked for.

    Args:
        mesh: the truth, in any size.
        start: a mesh to refine, in the same world; None rebuilds from the views alone.
        done: called with every stage's name and its result.
    """
    setting = setting or Setting()
    truth = mesh.normalised()
    given = render(truth, given_cameras(setting.size, setting.views))
    held = render(truth, held_out_cameras(setting.size))
    judges = surround(setting.seen_from)
    seen_truth = seen_part(truth, judges)
    rows: list[dict[str, Any]] = []

    def row(stage: str, made: Mesh, color: Callable[[Tensor], Tensor] | None, seconds: float, cpu: float) -> None:
        scores = view_scores(render(made, held.cameras, color=color), held, setting.perceptual)
        scores["psnr_given"] = view_scores(render(made, given.cameras, color=color), given)["psnr"]
        scores |= surface_scores(seen_part(made, judges), seen_truth, setting.samples)
        rows.append({"stage": stage, **scores, "faces": len(made.faces), "seconds": seconds, "cpu_seconds": cpu})

    if start is not None:
        start = start.moved(*mesh.placement())
        row("as given", start, None, 0.0, 0.0)
    stages = {"volume": "none", "geometry": "geometry", "texture": "both"}
    if start is not None and options.keep_topology:
        del stages["volume"]
    with tempfile.TemporaryDirectory() as folder:
        for stage, refined in stages.items():
            began, cpu = time.perf_counter(), time.process_time()
            # Checkpoints let every stage go on from the one before.
            one = replace(options, refine=refined)
            result = reconstructor.reconstruct(given, one, mesh=start, folder=Path(folder))
            spent = time.perf_counter() - began, time.process_time() - cpu
            unit = result.surface.moved(-result.centre * result.scale, 1 / result.scale)
            row(stage, unit, _in_world(result), *spent)
            if done is not None:
                done(stage, result)
    if setting.exported:
        began, cpu = time.perf_counter(), time.process_time()
        saved = result.mesh(options.texture, options.texture_size, options.max_faces)
        row("exported", saved, None, time.perf_counter() - began, time.process_time() - cpu)
    return rows


def _in_world(result: Reconstruction) -> Callable[[Tensor], Tensor] | None:
    """The colour field of a result for points of the user's world."""
    if result.fit is None:
        return None
    return lambda points: result.color((points - result.centre) * result.scale)


def spoil(mesh: Mesh, seed: int = 0, keep: float = 0.02, noise: float = 0.02, shift: float = 0.12) -> Mesh:
    """A bad version of a mesh: decimated, vertices displaced, colours blurred and shifted.

    Args:
        keep: share of the faces that is left (at least 60 faces).
        noise: standard deviation of the displacement, as a share of the longest side.
        shift: largest change of a colour channel.
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = mesh.bounds()
    simple = simplify(mesh, max(60, round(keep * len(mesh.faces))))
    near = simple.vertices[:, None] + 0.03 * (high - low).amax() * torch.randn(
        len(simple.vertices), 32, 3, generator=generator
    )
    colors = nearest_color(mesh, near.view(-1, 3)).view(-1, 32, 3).mean(1)
    change = (torch.rand(3, generator=generator) * 2 - 1) * shift
    moved = simple.vertices + noise * (high - low).amax() * torch.randn(simple.vertices.shape, generator=generator)
    return Mesh(moved, simple.faces, (colors + change).clamp(0, 1))


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per mesh and stage, numbers averaged over seeds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["mesh"], row["stage"]), []).append(row)
    table = []
    for (name, stage), members in groups.items():
        numbers = [key for key, value in members[0].items() if isinstance(value, (int, float)) and key != "seed"]
        table.append({"mesh": name, "stage": stage, "seeds": len(members)}
                     | {key: sum(float(m[key]) for m in members) / len(members) for key in numbers})  # fmt: skip
    return table
