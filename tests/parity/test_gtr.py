"""GTR against reference tensors: cameras, generator, field, losses, refinement, surfaces, rasterisation, metrics.

Fixtures are told apart by the tensors they hold, not by their names. Every configuration is read from the JSON files
and the shapes of their tensors.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from recon3d import cameras as cams
from recon3d.gtr import evaluate, losses
from recon3d.gtr.fields import TriplaneField, sample_triplane
from recon3d.gtr.fit import Budget, Fit
from recon3d.gtr.network import Generator, GeneratorConfig, condition
from recon3d.gtr.texture import PUBLISHED_RATES, SurfacePoints, texture_stage
from recon3d.isosurface import extract_sparse, extract_surface, find_topology
from recon3d.mesh_files import load_mesh
from recon3d.raster import antialias, interpolate, rasterize
from recon3d.volume import MISS, ray_box, render_rays
from tests.parity.conftest import golden_root
from vision.metrics import psnr, ssim
from vision.refine import Trace, refine

SHARED_MESHES = Path(__file__).resolve().parents[3] / "shared" / "data" / "meshes"
FOLDER = golden_root() / "gtr"
KINDS = {
    "cameras": {"c2w_opencv", "rays_d"},
    "instantmesh_cameras": {"input_cameras"},
    "generator": {"generator.planes"},
    "field": {"point_features"},
    "mesh_loss": {"pred.antialias_mask"},
    "marching_cubes": {"density", "edge_lo"},
    "rasterize": {"clip", "face_id"},
    "antialias": {"triangle_pixels"},
    "render_reference": {"c2w_opengl", "position"},
    "texture_refine": {"init.code", "final.code"},
    "metrics": {"points_a", "image_a"},
}
"""Kind of fixture -> tensors by which it is recognised."""
NOT_BUILT = {
    "InstantMesh: decoder of the mesh stage": {"synthesizer.decoder.net_sdf.0.weight"},
    "InstantMesh: FlexiCubes": {"cubes", "eval.verts"},
    "InstantMesh: transformer": {"transformer.pos_embed", "transformer.layers.0.norm1.weight"},
    "OpenLRM: modulated transformer": {"transformer.layers.0.norm1.norm.weight"},
}
"""Fixtures of other systems, which this project does not build."""


class Case:
    """One fixture: its JSON and its tensors."""

    def __init__(self, path: Path) -> None:
        data = json.loads(path.read_text())
        self.meta: dict = data["meta"]
        self.descriptions = {key: entry["desc"] for key, entry in data["tensors"].items()}
        self.tensors = load_file(path.with_suffix(".safetensors"))

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}


def kinds_of(path: Path) -> list[str]:
    held = set(json.loads(path.read_text())["tensors"])
    return [kind for kind, keys in {**KINDS, **NOT_BUILT}.items() if keys <= held]


PATHS = sorted(FOLDER.glob("*.json"))


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def fixture(kind: str) -> pytest.MarkDecorator:
    paths = [path for path in PATHS if kind in kinds_of(path)]
    return pytest.mark.parametrize("case", paths, indirect=True, ids=lambda path: path.stem)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_fixture_is_of_a_known_kind(path: Path) -> None:
    assert len(kinds_of(path)) == 1


def close(actual: Tensor, expected: Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, check_dtype=False)


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def field_like(weights: dict[str, Tensor]) -> TriplaneField:
    """A field of the size of these weights, loaded strictly."""
    sigma = sorted(key for key in weights if "mlp_sigma" in key and key.endswith("weight"))
    color = sorted(key for key in weights if "mlp_color" in key and key.endswith("weight"))
    width, features = weights[sigma[0]].shape
    field = TriplaneField(features // 3, width, len(sigma), len(color))
    field.load_state_dict(weights)
    return field


def rig(case: Case) -> cams.Cameras:
    meta = case.meta
    return cams.gtr_rig(
        meta["image_size"], meta["radius"], meta["fov_deg"], tuple(meta["theta_from_up"]), tuple(meta["phi"])
    )


@fixture("cameras")
def test_six_view_cameras_and_rays(case: Case) -> None:
    cameras = rig(case)
    close(cameras.c2w, case["c2w_opencv"], 1e-5)
    close(cameras.intrinsics, case["intrinsics"], 1e-4, 1e-6)
    origins, directions = cameras.rays()
    close(origins, case["rays_o"], 1e-5)
    close(directions, case["rays_d"], 1e-5)
    close(cameras.rays(normalise=False)[1], case["rays_d_unnormalised"], 1e-5)
    close(cams.moments(origins, directions), case["moment"], 1e-5)
    close(cameras.view, case["model_to_view_opengl"], 1e-5)
    close(cameras.projection()[0], case["projection"], 1e-5)
    close(cameras.mvp(), case["mvp"], 2e-5)


@fixture("cameras")
def test_turntable_cameras_as_published(case: Case) -> None:
    text = case.descriptions["orbit_c2w_opengl"]
    number = r"-?\d+(?:\.\d+)?"
    series = rf"{number}(?:\s*,\s*{number})*"
    azimuth, elevation = (
        [float(v) for v in re.search(rf"{name} ({series})", text)[1].split(",")] for name in ("azimuth", "elevation")
    )
    radius = float(re.search(rf"distance ({number})", text)[1])
    c2w = cams.published_orbit(azimuth, elevation, radius)
    close(c2w, case["orbit_c2w_opengl"], 2e-5)

    text = case.descriptions["orbit_mvp"]
    fov, near, far = (float(re.search(rf"{name} ({number})", text)[1]) for name in ("fovy", "near", "far"))
    scale = 1 / torch.tan(torch.deg2rad(torch.tensor([fov])) / 2)
    view = torch.eye(4).repeat(len(c2w), 1, 1)
    view[:, :3, :3] = c2w[:, :3, :3].transpose(1, 2)
    view[:, :3, 3:] = -view[:, :3, :3] @ c2w[:, :3, 3:]
    zero = torch.zeros(1)
    close(cams.projection(scale, scale, zero, zero, near, far) @ view, case["orbit_mvp"], 5e-5)


@fixture("instantmesh_cameras")
def test_instantmesh_cameras(case: Case) -> None:
    meta = case.meta
    rows = case["input_cameras"]
    views = cams.instantmesh_orbit(meta["azimuths"], meta["elevations"], meta["radius"], meta["fov_deg"])
    close(cams.instantmesh_vectors(views).expand_as(rows), rows, 1e-5)
    circle = meta["circular"]
    azimuth = torch.arange(circle["M"]) * (360 / circle["M"])
    around = cams.instantmesh_orbit(azimuth, circle["elevation"], circle["radius"])
    close(cams.opencv_to_opengl(around.c2w), case["circular_c2w"], 1e-5)


SIZES = ["in_channels", "out_channels", "patch_size", "model_channels", "num_layers", "num_heads"]
SIZES += ["num_head_channels", "upsample_factor"]


@fixture("generator")
def test_generator(case: Case) -> None:
    given = case.meta["config"]
    weights = case.part("generator.")
    config = GeneratorConfig(
        plane_resolution=tuple(weights["planes"].shape[-2:]),
        **{name: given[name] for name in SIZES},
        gated="attn_layers.0.ff.net.0.proj.weight" in weights,
        norm_image_tokens="norm1.weight" in weights,
    )
    generator = Generator(config).eval()
    generator.load_state_dict(weights)
    images, masks, conditioned = case["images"], case["masks"], case["cond_input"]
    scenes, views, height, width, _ = images.shape
    cameras = rig(next(Case(path) for path in PATHS if "cameras" in kinds_of(path)))[:views]
    if (cameras.height, cameras.width) != (height, width):
        cameras = cameras.resized(height, width)
    for scene in range(scenes):
        made = condition(images[scene].permute(0, 3, 1, 2), masks[scene].permute(0, 3, 1, 2), cameras)
        close(made[:, : config.in_channels], conditioned[scene], 1e-5)

    seen: dict[str, Tensor] = {}
    names = {"after_block0": 0, "after_last_block": config.num_layers - 1}
    for name, index in names.items():
        generator.attn_layers[index].register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    generator.norm2.register_forward_hook(lambda m, i, out: seen.update(plane_tokens_norm2=out))
    with torch.no_grad():
        close(generator.image_tokens(conditioned), case["context_tokens"], 1e-4)
        triplane = generator(conditioned)
    for name in [*names, "plane_tokens_norm2"]:
        close(seen[name], case[name], 1e-4)
    close(triplane, case["triplane"], 1e-4)


@fixture("field")
def test_field_and_gradients(case: Case) -> None:
    field = field_like(case.part("field."))
    code, points = case["code"].requires_grad_(), case["points"].requires_grad_()
    close(sample_triplane(code, points), case["point_features"], 1e-5)
    density, rgb = field(code, points)
    close(density, case["density"], 1e-5)
    close(rgb, case["rgb"], 1e-5)
    (density.sum() + 2 * rgb.square().sum()).backward()
    assert relative(code.grad, case["grad_code"]) < 1e-4
    assert relative(points.grad, case["grad_points"]) < 1e-4


@fixture("field")
def test_volume_rendering(case: Case) -> None:
    field = field_like(case.part("field."))
    origins, directions = case["rays_o"], case["rays_d"]
    near, far = ray_box(origins, directions, field.aabb)
    hit = case["near"] < MISS
    assert torch.equal(near < MISS, hit)
    close(near, case["near"], 1e-5)
    close(far, case["far"], 1e-5)
    for scene, code in enumerate(case["code"]):
        with torch.no_grad():
            rgb, opacity = render_rays(
                lambda p, code=code: (field.density(code, p), field.color(code, p)),
                origins[scene],
                directions[scene],
                field.aabb,
                case.meta["samples_per_ray"],
            )
        close(rgb.clamp(0, 1), case["render_rgb"][scene], 1e-5)
        close(opacity, case["render_accumulation"][scene], 1e-5)


@fixture("mesh_loss")
def test_mesh_losses(case: Case) -> None:
    def picture(name: str) -> Tensor:  # (1, v, h, w, c) -> (v, c, h, w)
        return case[name].flatten(0, 1).permute(0, 3, 1, 2)

    weights = case.meta["coefficients"]
    mask = picture("pred.antialias_mask")
    both = mask * picture("target.masks")
    normals = picture("pred.normal"), picture("target.normals")
    values = {
        "loss_rgb": losses.rgb_loss(picture("pred.rgb"), picture("target.imgs")),
        "loss_mask": losses.mask_loss(mask, picture("target.masks")),
        "loss_depth": losses.depth_loss(picture("pred.depth"), picture("target.depths")),
        "loss_normal": losses.normal_loss(*normals, both),
        "loss_normal_l2": losses.normal_l2_loss(*normals, both),
        "loss_ray_opacity": case["pred.ray_opacities"].mean(),
    }
    for name, expected in case.part("loss.").items():
        close(values[name] * weights[name], expected, 1e-5)


@fixture("marching_cubes")
def test_marching_cubes(case: Case) -> None:
    density, level = case["density"].requires_grad_(), case.meta["level"]
    topology = find_topology(level - density)
    vertices, faces = extract_surface(density, level)
    expected = {tuple(lo + hi): row for row, (lo, hi) in enumerate(_edges(case))}
    found = torch.cat([topology.edge_lo, topology.edge_hi], -1).tolist()
    assert len(found) == len(expected) == case.meta["n_vertices"]
    rows = torch.tensor([expected[tuple(edge)] for edge in found])
    on_edges = vertices[: len(found)]
    close(on_edges, case["verts_world"][rows], 1e-9)
    assert _watertight(faces) == case.meta["watertight"]
    if len(topology.members) == 0:  # no ambiguous cell, whose faces the table of cases decides
        assert len(faces) == case.meta["n_faces"]
        volume, area = _volume_and_area(vertices.detach(), faces)
        assert area == pytest.approx(case.meta["area"], rel=1e-6)
        assert volume == pytest.approx(abs(case.meta["signed_volume"]), rel=1e-6)

    (on_edges * case["probe"][rows]).sum().backward()
    # Values that decide nothing near the surface have no gradient; the padding ring is constant.
    assert relative(density.grad, case["grad_density_fd"]) < 1e-5


@fixture("marching_cubes")
def test_sparse_extraction_equals_dense(case: Case) -> None:
    density, level = case["density"].clone(), case.meta["level"]
    shape = torch.tensor(density.shape)
    factor = torch.ones(1, dtype=density.dtype, requires_grad=True)

    def evaluate(points: Tensor) -> Tensor:
        x, y, z = ((points + 1) / 2 * (shape - 1)).round().long().unbind(-1)
        return density[x, y, z] * factor

    vertices, faces = extract_sparse(evaluate, density, level)
    dense, dense_faces = extract_surface(density * factor, level)
    assert torch.equal(faces, dense_faces)
    close(vertices, dense, 1e-12)
    (a,) = torch.autograd.grad(vertices.square().sum(), factor)
    (b,) = torch.autograd.grad(dense.square().sum(), factor)
    close(a, b, 0, 1e-9)


def _edges(case: Case) -> list[tuple[list[int], list[int]]]:
    return list(zip(case["edge_lo"].tolist(), case["edge_hi"].tolist(), strict=True))


def _watertight(faces: Tensor) -> bool:
    half = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = {tuple(edge) for edge in half.tolist()}
    return len(forward) == len(half) and all((b, a) in forward for a, b in forward)


def _volume_and_area(vertices: Tensor, faces: Tensor) -> tuple[float, float]:
    a, b, c = vertices[faces].unbind(1)
    volume = (a * torch.cross(b, c, dim=-1)).sum() / 6
    return float(volume), float(torch.cross(b - a, c - a, dim=-1).norm(dim=-1).sum() / 2)


@fixture("rasterize")
def test_rasterize(case: Case) -> None:
    clip, faces = case["clip"].requires_grad_(), case["faces"]
    size = (case.meta["height"], case.meta["width"])
    for chunk in (1 << 22, 16):
        fragments = rasterize(clip, faces, size, chunk=chunk)
        assert torch.equal(fragments.face_id, case["face_id"])
    covered = case["face_id"] >= 0
    close(fragments.bary, case["bary"][covered], 1e-9)
    close(fragments.depth, case["ndc_z"][covered], 1e-9)
    image = fragments.scatter(interpolate(case["attr"], faces, fragments))
    close(image, case["image"], 1e-9)
    (image * case["probe"]).sum().backward()
    assert relative(clip.grad, case["grad_clip_fd"]) < 1e-5


@fixture("antialias")
def test_antialias(case: Case) -> None:
    size = (case.meta["height"], case.meta["width"])
    pixels = case["triangle_pixels"]
    xy = pixels / pixels.new_tensor([size[1], size[0]]) * 2 - 1
    clip = torch.cat([xy, torch.zeros_like(xy[:, :1]), torch.ones_like(xy[:, :1])], -1)
    faces = torch.arange(len(pixels)).view(-1, 3)
    fragments = rasterize(clip, faces, size)
    close(fragments.mask, case["hard_mask"], 0)
    close(antialias(fragments.mask[..., None], fragments, clip, faces)[..., 0], case["antialiased"], 1e-9)


@fixture("render_reference")
def test_render_of_reference_mesh(case: Case) -> None:
    meta = case.meta
    folders = (FOLDER, FOLDER.parents[1] / "data" / "meshes", SHARED_MESHES)
    path = next(folder / meta["mesh"] for folder in folders if (folder / meta["mesh"]).is_file())
    number = re.search(r"scaled to (\d+(?:\.\d+)?)", meta["normalisation"])
    mesh = load_mesh(path).normalised(float(number[1]) if number else 1.6)
    azimuth, elevation = zip(*meta["views_az_el_deg"], strict=True)
    cameras = cams.orbit(azimuth, elevation, meta["radius"], meta["fov_deg"], meta["resolution"])
    close(cams.opencv_to_opengl(cameras.c2w), case["c2w_opengl"], 1e-5)
    close(cameras.mvp(), case["mvp"], 2e-5)
    for view, clip in enumerate(cameras.clip(mesh.vertices)):
        fragments = rasterize(clip, mesh.faces, (cameras.height, cameras.width))
        hit = case["mask"][view] > 0
        assert ((fragments.face_id >= 0) != hit).float().mean() < 0.002
        both = (fragments.face_id >= 0) & hit
        position = interpolate(mesh.vertices, mesh.faces, fragments)
        depth = (position - cameras.positions[view]) @ cameras.forward[view]
        corners = mesh.vertices[mesh.faces[fragments.visible]]
        normal = torch.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1)
        pictures = {
            "position": (position, 1e-4),
            "depth": (depth[:, None], 1e-4),
            "normal": (torch.nn.functional.normalize(normal, dim=-1), 1e-3),
            "rgb": (mesh.surface_color(fragments.visible, fragments.bary), 2e-3),
        }
        for name, (values, tolerance) in pictures.items():
            expected = case[name][view]
            expected = expected[..., None] if name == "depth" else expected
            difference = (fragments.scatter(values) - expected)[both].abs().amax(-1)
            # A pixel on an edge shared by two triangles may go to either; texture seams and normals differ there.
            assert (difference > tolerance).float().mean() < (0 if name in ("position", "depth") else 0.002) + 1e-9, (
                name
            )


@fixture("texture_refine")
def test_texture_refinement_as_published(case: Case) -> None:
    meta = case.meta
    init = case.part("init.")
    field = field_like({k.removeprefix("field."): v for k, v in init.items() if k.startswith("field.")})
    _, views, height, width, _ = case["tex_pts"].shape
    index = case["hard_mask"].flatten().nonzero().squeeze(-1)
    surface = SurfacePoints(case["tex_pts"].reshape(-1, 3)[index], index, (views, height, width))
    side = [int(v) for v in re.search(r"(\d+)x(\d+)", meta["loss"]).groups()]
    images = torch.nn.functional.interpolate(case["cond_low"], side, mode="bilinear")
    floor, steps = re.search(r"to (\d*\.\d+) over (\d+) steps", meta["schedule"]).groups()
    rates = replace(
        PUBLISHED_RATES,
        code=meta["code_lr"],
        mlp=meta["mlp_lr"],
        betas=tuple(meta["betas"]),
        weight_decay=meta["weight_decay"],
        floor=float(floor),
        schedule_steps=int(steps),
        max_grad_norm=meta["max_grad_norm_mlp"],
    )
    fit = Fit(torch.nn.Parameter(init["code"][0].clone()), field, field.aabb.clone(), torch.Generator())
    stage = texture_stage(fit, surface, images, Budget(meta["iters"]), mode="published", rates=rates)
    trace = Trace(lambda step: {"loss": step.verdict.detail["loss"]})
    refine(stage.fit, stage.propose, stage.schedule, evaluate=stage.evaluate, observers=[trace], evaluate_start=True)
    losses = torch.tensor([row["loss"] for row in trace.rows])
    close(losses[: meta["iters"]], case["losses"], 1e-5)
    final = case.part("final.")
    close(fit.code[None], final["code"], 1e-4)
    for name, value in field.state_dict().items():
        close(value, final[f"field.{name}"], 1e-4)
        if "mlp_color" not in name:
            assert torch.equal(value, init[f"field.{name}"])


@fixture("metrics")
def test_metrics(case: Case) -> None:
    values = case.meta["values"]
    points, reference = case["points_a"], case["points_b"]
    images, targets = (case[name].permute(0, 3, 1, 2) for name in ("image_a", "image_b"))
    thresholds = {name.split("@")[1] for name in values if "@" in name}
    found = evaluate.point_scores(points, reference, [float(t) for t in thresholds])
    found |= {
        f"{name}@{t}": found[f"{name}@{float(t):g}"] for t in thresholds for name in ("fscore", "precision", "recall")
    }
    per_image = psnr(images, targets, channel="rgb")
    found["psnr_per_image"] = per_image.tolist()
    found["psnr_mean_of_images"] = float(per_image.mean())
    found["psnr_of_mean_mse"] = losses.psnr_of(float((images.double() - targets.double()).square().mean()))
    found["ssim_gaussian_skimage"] = ssim(images, targets, channel="rgb").tolist()
    found["ssim_torchmetrics_default"] = float(evaluate.ssim_whole(images, targets, data_range=1.0).mean())
    found["ssim_torchmetrics_no_data_range"] = float(evaluate.ssim_whole(images, targets).mean())
    for name, expected in values.items():
        # The values of torchmetrics were computed in float32.
        tolerance = 1e-6 if "torchmetrics" in name else 1e-9
        assert found[name] == pytest.approx(expected, abs=tolerance), name
