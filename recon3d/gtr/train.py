"""Train the GTR generator: the volume stage, then the mesh stage.

    burnish train gtr --stage volume --meshes MESHES --folder runs/gtr-volume
    burnish train gtr --stage mesh --start runs/gtr-volume/weights --meshes MESHES --folder runs/gtr-mesh

Data are textured meshes, rendered on the fly: some views are given to the generator, others are compared. The
volume stage renders rays (squared error, mask, and LPIPS on square patches); the mesh stage renders marching cubes
surfaces with all published losses. LPIPS needs its weights; without them the term is left out, and the log
says so.

The published sizes need many GPUs and weeks; the paper's data, steps and learning rates of the stages are not
known, the defaults here are the published class defaults. `--preset small` is a network of 1.3 M parameters
for one CPU or GPU: on one thread about 1.5 scenes per second, and after 280 steps of two scenes a blurred mean of
unseen objects, 13 to 14 dB. A useful model needs some 20,000 steps. Nothing in the project depends on it: without
weights objects are fitted one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from recon3d.cameras import Cameras, orbit
from recon3d.gtr.fields import TriplaneField, grid_density
from recon3d.gtr.losses import (
    MESH_STAGE,
    depth_loss,
    mask_loss,
    normal_l2_loss,
    normal_loss,
    ray_opacity_loss,
    ray_opacity_points,
    rgb_loss,
)
from recon3d.gtr.network import Generator, condition
from recon3d.gtr.options import PUBLISHED, SMALL, TINY, GTRConfig
from recon3d.gtr.reconstructor import GTRReconstructor
from recon3d.isosurface import extract_sparse
from recon3d.mesh import Mesh
from recon3d.mesh_files import FORMATS, load_mesh
from recon3d.raster import opposite_vertices
from recon3d.render import Surface, render, render_surface
from recon3d.surfaces import simplify
from recon3d.vase import vase
from recon3d.volume import render_rays
from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.losses import load_perceptual
from vision.training import fit
from vision.training_options import TrainOptions
from vision.training_run import Context, Objective

PRESETS = {"published": PUBLISHED, "small": SMALL, "tiny": TINY}


@dataclass(frozen=True)
class GTRTraining(TrainOptions):
    """Train the generator and the field of GTR."""

    stage: Literal["volume", "mesh"] = "volume"
    """Volume rendering first; then rendered surfaces, from the weights of the first."""
    meshes: Path | None = None
    """Folder of textured meshes; None trains on a vase made by code, to try the recipe out."""
    start: str | None = None
    """Weights to start from: a folder or hub name; None starts from random ones."""
    preset: Literal["published", "small", "tiny"] = "small"
    """Sizes of the networks, when nothing is given to start from."""
    given_views: int = 4
    """Views that the generator sees."""
    compared_views: int = 2
    """Views that the result is compared with."""
    rays: int = 512
    """Rays per compared view in the volume stage; a square patch when LPIPS is on."""
    samples: int = 64
    """Samples per ray; published: 256."""
    grid_size: int = 64
    """Grid points per side of the surface in the mesh stage; published: 256."""
    lpips: float = 0.5
    """Weight of LPIPS, when its weights are installed."""
    normal: float = 0.0
    """mesh: weight of one minus the absolute cosine between normals; the published training has none."""
    normal_l2: float = 0.0
    """mesh: weight of the squared difference of normals; the published code computes it beside the cosine term."""
    batch_size: int = 2
    """Objects per update."""
    learning_rate: float = 4e-4
    """Of Adam, at its highest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.given_views, self.compared_views, self.rays, self.samples) < 1 or self.grid_size < 8:
            raise ValueError("Views, rays and samples must be at least 1, and grid_size at least 8.")
        if self.stage == "mesh" and self.start is None:
            raise ValueError("The mesh stage starts from the weights of the volume stage; give their folder as start.")


class RenderedObjects(Dataset[dict[str, Tensor]]):
    """Sample i: one object from random sides. Views that are given come first.

    Images (views, 3, s, s), masks and depths (views, 1, s, s), c2w (views, 4, 4), intrinsics (views, 4), normals
    (views, 3, s, s).
    """

    def __init__(self, files: list[Path], size: int, views: int, seed: int) -> None:
        self.files, self.size, self.views, self.seed = files, size, views, seed

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        pick = int(torch.randint(max(1, len(self.files)), (), generator=generator))
        mesh = _load(self.files[pick]) if self.files else vase(48, 48).normalised()
        turn = torch.rand(self.views, generator=generator) * 30 + torch.arange(self.views) * (360 / self.views)
        lift = torch.rand(self.views, generator=generator) * 80 - 30
        cameras = orbit(turn + 360 * torch.rand(1, generator=generator), lift, size=self.size)
        views = render(mesh, cameras)
        normals = torch.stack([_normals(mesh, cameras[n]) for n in range(self.views)])
        return {
            "images": views.images,
            "masks": views.masks,
            "depths": views.depths,
            "normals": normals,
            "c2w": cameras.c2w,
            "intrinsics": cameras.intrinsics,
        }


@functools.lru_cache(maxsize=256)
def _load(path: Path) -> Mesh:
    return simplify(load_mesh(path), 50_000).normalised()


def _normals(mesh: Mesh, camera: Cameras) -> Tensor:
    with torch.no_grad():
        surface = render_surface(mesh.vertices, mesh.faces, camera)
    return surface.normal.permute(2, 0, 1)


@dataclass(frozen=True)
class Task:
    """What every loss of a training is given."""

    config: GTRConfig
    """Sizes of the networks."""
    options: GTRTraining
    """What the training chose."""
    perceptual: nn.Module | None
    """LPIPS, where it counts."""


class Model(nn.Module):
    """Generator and field under one roof, so that one objective trains both."""

    def __init__(self, generator: Generator, field: TriplaneField) -> None:
        super().__init__()
        self.generator, self.field = generator, field

    def forward(self, loss: Loss, *arguments: object) -> tuple[Tensor, dict[str, Tensor]]:
        """loss(model, *arguments), scalar: losses run inside, so that gradients of several processes are averaged."""
        return loss(self, *arguments)


Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


@one_at_a_time
def train(options: GTRTraining, *, log: Log | None = None, max_seconds: float | None = None) -> Path | None:
    """Train one stage and return the folder of the weights, or None when `max_seconds` ran out before.

    Raises:
        FileNotFoundError: there is no folder of meshes.
        ValueError: it holds none, or the run was begun with other options or data.
    """
    folder = options.folder / "weights"
    begin_run(options.folder, options, data=("meshes", "start"), results=[folder])
    if options.start is not None:
        start = GTRReconstructor.from_pretrained(options.start)
    else:
        start = GTRReconstructor.with_random_weights(PRESETS[options.preset], options.seed)
    files = []
    if options.meshes is not None:
        if not options.meshes.is_dir():
            raise FileNotFoundError(f"There is no folder {options.meshes}.")
        files = sorted(p for p in options.meshes.iterdir() if p.suffix.lower() in FORMATS)
        if not files:
            raise ValueError(f"{options.meshes} holds no meshes ({', '.join(FORMATS)}).")
    task = Task(start.config, options, _perceptual(options, log))
    model = Model(start.generator, start.field)
    views = options.given_views + options.compared_views
    data = RenderedObjects(files, start.config.image_size, views, options.seed)
    step = volume_loss if options.stage == "volume" else mesh_loss

    def loss(batch: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        return context.modules["gtr"](step, batch, context.generator, task)

    objective = Objective("gtr", model, loss, betas=(0.9, 0.95), weight_decay=0.05)
    trained = fit([objective], data, options, log=log, max_seconds=max_seconds)
    if trained is None:
        return None
    reconstructor = GTRReconstructor(start.config, trained["gtr"].field, trained["gtr"].generator)
    return publish(folder, reconstructor.save_pretrained)


def _perceptual(options: GTRTraining, log: Log | None) -> nn.Module | None:
    if options.lpips == 0:
        return None
    try:
        return load_perceptual("vgg")
    except FileNotFoundError as error:
        if log is not None:
            log(f"Training without the LPIPS term. {error}")
        return None


def given(batch: Mapping[str, Tensor], task: Task) -> Tensor:
    """(b, v, 10, s, s) generator input of the given views of a batch."""
    made, n = [], task.options.given_views
    for item in range(len(batch["images"])):
        cameras = _cameras(batch, item, slice(0, n))
        made.append(condition(batch["images"][item, :n], batch["masks"][item, :n], cameras))
    return torch.stack(made)[:, :, : task.config.generator.in_channels]


def _cameras(batch: Mapping[str, Tensor], item: int, views: slice) -> Cameras:
    size = batch["images"].shape[-1]
    return Cameras(batch["c2w"][item, views], batch["intrinsics"][item, views], size, size)


def volume_loss(
    model: Model, batch: Mapping[str, Tensor], generator: torch.Generator, task: Task
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of colour and opacity along rays of the compared views, and LPIPS on patches; scalar."""
    options, perceptual = task.options, task.perceptual
    codes = model.generator(given(batch, task))
    total, logs = codes.new_zeros(()), {"mse": codes.new_zeros(()), "lpips": codes.new_zeros(())}
    pairs = [(item, view) for item in range(len(codes)) for view in range(options.compared_views)]
    for item, view in pairs:
        number = options.given_views + view
        cameras = _cameras(batch, item, slice(number, number + 1))
        origins, directions = (rays[0] for rays in cameras.rays())
        size = origins.shape[0]
        side = min(size, max(1, int(options.rays**0.5)))
        if perceptual is None:
            rays = torch.randint(size * size, (options.rays,), generator=generator).to(codes.device)
        else:
            top, left = (int(torch.randint(size - side + 1, (), generator=generator)) for _ in range(2))
            rows = torch.arange(top, top + side, device=codes.device)
            columns = torch.arange(left, left + side, device=codes.device)
            rays = (rows[:, None] * size + columns).flatten()
        jitter = torch.rand(len(rays), options.samples + 1, generator=generator).to(codes)

        def decode(points: Tensor, item: int = item) -> tuple[Tensor, Tensor]:
            density, rgb = model.field(codes[item : item + 1], points[None])
            return density.flatten(), rgb[0]

        rgb, opacity = render_rays(
            decode,
            origins.reshape(-1, 3)[rays],
            directions.reshape(-1, 3)[rays],
            model.field.aabb,
            options.samples,
            jitter=jitter,
        )
        target = batch["images"][item, number].permute(1, 2, 0).reshape(-1, 3)[rays]
        mask = batch["masks"][item, number].reshape(-1, 1)[rays]
        mse = rgb_loss(rgb, target)
        total = total + mse + mask_loss(opacity, mask)
        logs["mse"] += mse.detach() / len(pairs)
        if perceptual is not None:
            a, b = (x.view(1, side, side, 3).permute(0, 3, 1, 2) for x in (rgb, target))
            distance = _lpips(perceptual, a, b)
            total = total + options.lpips * distance
            logs["lpips"] += distance.detach() / len(pairs)
    return total / len(pairs), logs


def mesh_loss(
    model: Model, batch: Mapping[str, Tensor], generator: torch.Generator, task: Task
) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of the mesh stage over the compared views, scalar; an object without surface gets the ray opacity
    alone."""
    options, terms = task.options, []
    codes = model.generator(given(batch, task))
    for item, code in enumerate(codes):

        def density(points: Tensor, code: Tensor = code) -> Tensor:
            return model.field.density(code, points)

        grid = grid_density(model.field, code.detach(), options.grid_size)
        vertices, faces = extract_sparse(density, grid, task.config.level)
        opposite = opposite_vertices(faces) if len(faces) else None
        for view in range(options.given_views, options.given_views + options.compared_views):
            cameras = _cameras(batch, item, slice(view, view + 1))
            target = {name: batch[name][item, view : view + 1] for name in ("images", "masks", "depths", "normals")}
            term = {"ray_opacity": MESH_STAGE["ray_opacity"] * _empty_space(density, cameras, target, model, generator)}
            if len(faces):
                surface = render_surface(vertices, faces, cameras, opposite=opposite)
                term |= _surface_terms(surface, model.field.color(code, surface.position), target, task)
            terms.append(term)
    names = {name for term in terms for name in term}
    logs = {name: sum(term[name] for term in terms if name in term) / len(terms) for name in sorted(names)}
    # Without any surface nothing has a colour, and several processes wait for each parameter's gradient.
    unused = 0.0 if "rgb" in logs else sum(0 * value.sum() for value in model.field.mlp_color.parameters())
    return sum(logs.values()) + unused, {name: value.detach() for name, value in logs.items()}


def _empty_space(
    density: Callable[[Tensor], Tensor],
    cameras: Cameras,
    target: Mapping[str, Tensor],
    model: Model,
    generator: torch.Generator,
) -> Tensor:
    origins, directions = (rays.reshape(-1, 3) for rays in cameras.rays(normalise=False))
    uniform = torch.rand(len(origins), 1, generator=generator).to(origins)
    depth = target["depths"].reshape(-1, 1) * (target["masks"].reshape(-1, 1) > 0.5)
    points, lengths, hit = ray_opacity_points(origins, directions, depth, model.field.aabb, uniform)
    return ray_opacity_loss(density(points)[:, None], lengths, hit)


def _surface_terms(surface: Surface, color: Tensor, target: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Losses of a rendered surface with the colours (pixels, 3) of what it shows."""
    options, perceptual = task.options, task.perceptual
    rgb = surface.fragments.scatter(color, 1.0)
    rgb, mask, depth, normal = (x.permute(2, 0, 1)[None] for x in (rgb, surface.mask, surface.depth, surface.normal))
    both = mask * target["masks"]
    terms = {
        "rgb": MESH_STAGE["rgb"] * rgb_loss(rgb, target["images"]),
        "mask": MESH_STAGE["mask"] * mask_loss(mask, target["masks"]),
        "depth": MESH_STAGE["depth"] * depth_loss(depth, target["depths"]),
    }
    if options.normal:
        terms["normal"] = options.normal * normal_loss(normal, target["normals"], both)
    if options.normal_l2:
        terms["normal_l2"] = options.normal_l2 * normal_l2_loss(normal, target["normals"], both)
    if perceptual is not None:
        a, b = (nn.functional.interpolate(x, (256, 256), mode="bilinear") for x in (rgb, target["images"]))
        terms["lpips"] = options.lpips * _lpips(perceptual, a.clamp(0, 1), b)
    return terms


def _lpips(perceptual: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    return perceptual.to(a.device)(a, b).mean()
