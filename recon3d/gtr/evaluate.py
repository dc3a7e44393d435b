"""Measure GTR over a folder of meshes.

    burnish evaluate gtr --out runs/vase                                  (a vase made by code)
    burnish evaluate gtr --meshes MESHES --out runs/meshes --seeds 3
    burnish evaluate gtr --meshes MESHES --out runs/large --size 256      (pictures larger than those that are fitted)
    burnish evaluate gtr --meshes MESHES --out runs/spoilt --spoil        (spoilt meshes are refined)

Every mesh is rebuilt from rendered views (or, with --spoil, a spoilt version of it is refined), and compared with
itself on views that were not given and on its visible surface. Writes a contact sheet per mesh, runs.csv and .json
(every mesh, seed and stage), means.csv, .json and .png (means over seeds), and run.json; with --spoil also harm.csv and
.json for `benchmark harm`. Meshes that are measured are kept: the same command goes on with the rest.

The protocol for one mesh: it is scaled so that the longest side of its box is 1.6 (half-size 0.8) and shown unlit on
white at 128 pixels (`--size`), 2 x 2 samples per pixel, field of view 30 degrees, distance 4. Twelve views are given:
the six of GTR and six more at elevations -25 and 45 degrees. Eight others are held out. PSNR and SSIM are means over
whole pictures; `psnr_inside` takes the pixels of all views that the object covers wholly in both pictures. The row
"plain baking" is the exported surface in the mean of the views that see each place (`recon3d/baking.py`): what a
texture must beat. Surfaces are compared by 100,000 points each, in the same units, after removing faces that none of
48 views around the object sees, on both sides: Chamfer distance is the mean distance to the nearest point of the
other surface, both directions added; F-score is the harmonic mean of the shares of points closer than a threshold;
`normal_degrees` is the mean angle between the face normals, sides not told apart, at such nearest points, mean of
both directions. None of this is comparable with published tables.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from recon3d.baking import bake_plainly
from recon3d.cameras import Cameras, concatenate, gtr_rig, orbit, surround
from recon3d.gtr.options import GTROptions
from recon3d.gtr.reconstructor import MAX_FACES, GTRReconstructor
from recon3d.gtr.result import Reconstruction
from recon3d.looks import contact_sheet, gallery_cameras, lit, looks
from recon3d.mesh import Mesh
from recon3d.mesh_files import FORMATS, load_mesh
from recon3d.raster import face_normals
from recon3d.render import render
from recon3d.surfaces import nearest_color, seen_faces, simplify
from recon3d.vase import SOURCE, vase
from recon3d.views import Views
from vision.config import UNNAMED
from vision.files import atomic_path, file_names
from vision.harm import harm_rows, write_harm
from vision.job import Event, Item, Job, Outcome, Show, choose_device, silent
from vision.losses import structural_similarity
from vision.metrics import lpips, psnr, ssim
from vision.report import plot_bars, text_table, write_table

HELD_OUT = ((15, 10), (60, -15), (105, 35), (150, 0), (195, 25), (240, -5), (285, 50), (330, -30))
"""Azimuth and elevation of the views that are never given, in degrees."""
THRESHOLDS = (0.02, 0.05, 0.1)
"""Distances of the F-scores."""
WHOLE = 0.99
"""Share of a pixel from which it counts as wholly covered."""


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


def normal_degrees(mesh: Mesh, reference: Mesh, samples: int = 100_000, seed: int = 0) -> float:
    """Mean angle between the face normals at points of one surface and the nearest points of the other, both ways."""
    generator = torch.Generator().manual_seed(seed)
    points, normals = zip(*(_points_and_normals(x, samples, generator) for x in (mesh, reference)), strict=True)
    angles = []
    for here, there in ((0, 1), (1, 0)):
        _, nearest = cKDTree(points[there]).query(points[here])
        cosine = (normals[here] * normals[there][torch.from_numpy(nearest)]).sum(-1).abs()
        angles.append(float(torch.rad2deg(torch.acos(cosine.clamp(max=1))).mean()))
    return sum(angles) / 2


def _points_and_normals(mesh: Mesh, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    points, face, _ = mesh.sample(samples, generator)
    return points.double().cpu(), face_normals(mesh.vertices, mesh.faces[face]).double().cpu()


# Pictures -----------------------------------------------------------------------------------------------------------


def ssim_whole(images: Tensor, reference: Tensor, data_range: float | None = None) -> Tensor:
    """(views,) SSIM as the published code reports it: borders are mirrored and count.

    Args:
        images, reference: (views, 3, height, width).
        data_range: None takes the larger range of values that occur, as the published code does.
    """
    images, reference = images.double(), reference.double()
    if data_range is None:
        data_range = max(float(x.max() - x.min()) for x in (images, reference))
    return structural_similarity(images, reference, data_range=data_range, mirrored=True).mean((1, 2, 3))


def view_scores(views: Views, reference: Views, perceptual: bool = False) -> dict[str, float]:
    """PSNR and SSIM (means over views), PSNR where the object covers the pixels of both wholly (NaN where it covers
    none), overlap of the silhouettes, and LPIPS when asked for."""
    mine, given = views.masks > 0.5, reference.masks > 0.5
    inside = ((views.masks > WHOLE) & (reference.masks > WHOLE)).expand_as(views.images)
    scores = {
        "psnr": float(psnr(views.images, reference.images, channel="rgb").mean()),
        "psnr_inside": float(-10 * (views.images - reference.images)[inside].square().mean().clamp(min=1e-10).log10()),
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
    """Also measure the mesh as it would be saved, and its surface in plainly baked colours."""
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
    """One row per stage for one mesh: volume fit, geometry, texture, and, when asked for, the exported mesh and its
    surface in plainly baked colours.

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
        seen = seen_part(made, judges)
        scores |= surface_scores(seen, seen_truth, setting.samples)
        scores["normal_degrees"] = normal_degrees(seen, seen_truth, setting.samples)
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
            result = reconstructor.reconstruct(reconstructor.start(given, one, mesh=start, resume=Path(folder)))
            spent = time.perf_counter() - began, time.process_time() - cpu
            row(stage, result.to_world(result.surface), _in_world(result), *spent)
            if done is not None:
                done(stage, result)
    if setting.exported:
        began, cpu = time.perf_counter(), time.process_time()
        saved = result.mesh(options.texture, options.texture_size, options.max_faces)
        row("exported", saved, None, time.perf_counter() - began, time.process_time() - cpu)
        began, cpu = time.perf_counter(), time.process_time()
        baked = bake_plainly(saved, given)
        row("plain baking", saved, baked, time.perf_counter() - began, time.process_time() - cpu)
    return rows


def _in_world(result: Reconstruction) -> Callable[[Tensor], Tensor] | None:
    """The colour field of a result for points of the user's world."""
    if result.fit is None:
        return None
    device = result.fit.code.device
    return lambda points: result.color(((points - result.centre) * result.scale).to(device)).cpu()


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
    scatter = torch.randn(len(simple.vertices), 32, 3, generator=generator).to(simple.vertices)
    near = simple.vertices[:, None] + 0.03 * (high - low).amax() * scatter
    colors = nearest_color(mesh, near.view(-1, 3)).view(-1, 32, 3).mean(1)
    change = ((torch.rand(3, generator=generator) * 2 - 1) * shift).to(colors)
    jitter = torch.randn(simple.vertices.shape, generator=generator).to(simple.vertices)
    moved = simple.vertices + noise * (high - low).amax() * jitter
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


def harm(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What refining spoiled meshes gives beside leaving them: the PSNR of held-out views of rows of `measure`."""
    before, after = ([row["psnr"] for row in rows if row["stage"] == stage] for stage in ("as given", "exported"))
    return harm_rows("reconstruct --mesh", {"spoiled meshes": list(zip(before, after, strict=True))}, "dB", 0.1)


# Command ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GTREvaluation:
    """Measure GTR on a folder of meshes."""

    out: Path
    """Folder for tables and pictures."""
    meshes: Path | None = None
    """Folder of textured meshes; None measures a vase made by code."""
    options: Annotated[GTROptions, UNNAMED] = field(default_factory=GTROptions)
    """What the system may change."""
    source: str | None = None
    """Weights of a generator: a folder, org/name on the model hub, or builtin:NAME; None fits from nothing."""
    seeds: int = 1
    """Runs per mesh, with seeds from the given one on."""
    views: int = 12
    """Views that are given: 12, or the six of GTR."""
    size: int | None = None
    """Height and width of the pictures that are given and held out; None: `view_size`, to which larger ones are scaled
    down for fitting."""
    spoil: bool = False
    """Refine a spoiled version of every mesh (2 % of its faces, displaced, colours blurred and shifted)."""
    lpips: bool = False
    """Also measure LPIPS; its weights must be installed."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        if self.views not in (6, 12):
            raise ValueError(f"views must be 12 or 6, got {self.views}.")
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}.")
        if self.size is not None and not 16 <= self.size <= 4096:
            raise ValueError(f"size must lie in [16, 4096], got {self.size}.")


def evaluate(options: GTREvaluation, show: Show = silent) -> Outcome:
    """Measure everything that is not measured yet.

    Raises:
        ValueError: the folder holds no usable mesh.
        FileNotFoundError: the folder or the weights are missing.
    """
    from vision.hub import on_disk

    device, files = choose_device(options.device), _files(options.meshes)
    weights = [] if options.source is None else [on_disk(options.source, None)]
    job = Job(options.out, options, neutral=("meshes", "device"), files=weights, show=show)
    reconstructor = job.needs(lambda: GTRReconstructor.from_pretrained(options.source, device=device))
    names = file_names([path or Path("vase") for path in files])
    for number, (name, path) in enumerate(zip(names, files, strict=True)):
        item = Item(job, path or SOURCE, f"{name}.png")
        with job.attempt(item):
            if not item.done():
                mesh = simplify(load_mesh(path), MAX_FACES) if path else vase()
                with item.results() as folder:
                    rows = _measured(mesh, reconstructor, options, folder / item.name)
                    item.tell(rows=[{"mesh": name, **row} for row in rows])
        job.progress("measuring", number + 1, len(files))
    rows = [row for facts in job.made.values() for row in facts["rows"]]
    if not rows:
        raise ValueError("No mesh could be measured.")
    summary = means(rows)
    write_table(rows, options.out / "runs.json", options.out / "runs.csv")
    write_table(summary, options.out / "means.json", options.out / "means.csv")
    if options.spoil:
        write_harm(options.out, harm(rows))
    bars = [{"name": f"{row['mesh']} {row['stage']}", **row} for row in summary]
    plot_bars(options.out / "means.png", bars, "name", ["psnr", "psnr_given", "iou", "chamfer", "normal_degrees"])
    show(Event("result", text_table(summary, title=f"{len(job.made)} meshes", digits=3), path=options.out))
    return job.finish("meshes", source=options.source, seed=options.options.seed)


def _measured(
    mesh: Mesh, reconstructor: GTRReconstructor, options: GTREvaluation, picture: Path
) -> list[dict[str, Any]]:
    """The rows of one mesh, every seed and stage; the stages of the first seed are drawn."""
    setting = Setting(options.views, options.size or options.options.view_size, options.lpips, exported=True)
    rows = []
    for seed in range(options.options.seed, options.options.seed + options.seeds):
        sheet: list[tuple[str, Reconstruction]] = []
        start = spoil(mesh, seed) if options.spoil else None
        chosen = replace(options.options, seed=seed)
        kept = measure(
            mesh, reconstructor, chosen, setting, start=start, done=lambda *made, sheet=sheet: sheet.append(made)
        )
        rows += [{"seed": seed, **row} for row in kept]
        if seed == options.options.seed:
            _picture(picture, mesh, start, sheet)
    return rows


def _files(folder: Path | None) -> list[Path | None]:
    if folder is None:
        return [None]
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMATS)
    if not files:
        raise ValueError(f"{folder} holds no meshes ({', '.join(FORMATS)}).")
    return list(files)


def _picture(path: Path, mesh: Mesh, start: Mesh | None, sheet: list[tuple[str, Reconstruction]]) -> None:
    """The truth, what was given, and every stage, coloured and bare, from six sides."""
    cameras = gallery_cameras(192)
    truth = mesh.normalised()
    columns = [("truth", looks(truth, cameras)), ("its shape", lit(truth, cameras, bare=True))]
    if start is not None:
        columns.append(("given", looks(start.moved(*mesh.placement()), cameras)))
    for stage, result in sheet:
        columns.append((stage, result.render(cameras).images))
        if stage != "texture":
            columns.append((f"{stage}, shape", lit(result.surface, cameras, bare=True)))
    with atomic_path(path) as part:
        contact_sheet(columns).save(part, "PNG")
