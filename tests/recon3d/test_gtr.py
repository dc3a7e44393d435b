"""GTR networks, losses and the reconstructor, on tiny objects."""

from dataclasses import replace

import pytest
import torch

from recon3d.cameras import gtr_rig
from recon3d.gtr.evaluate import Setting, given_cameras, harm, measure, seen_part, spoil, surface_scores
from recon3d.gtr.fields import TriplaneField
from recon3d.gtr.fit import Budget, new_fit
from recon3d.gtr.geometry import geometry_stage, object_box, volume_stage
from recon3d.gtr.network import Generator, GeneratorConfig
from recon3d.gtr.options import PUBLISHED, GTRConfig, GTROptions, new_field
from recon3d.gtr.reconstructor import GTRReconstructor
from recon3d.gtr.texture import cosine_factor, covered_points, surface_points, texture_stage
from recon3d.mesh import Mesh
from recon3d.render import render
from recon3d.vase import vase
from vision.refine import refine

QUICK = GTROptions(
    volume_steps=60, rays=160, geometry_steps=4, texture_steps=6, view_size=32, grid_size=24, texture_size=64,
    max_faces=300, texture="vertex",
)  # fmt: skip
SMALL = GTRConfig(plane_channels=6, plane_size=24, width=16)


def rebuilt(reconstructor, *job, **more):
    """All that is known of an object after the job."""
    return reconstructor.reconstruct(reconstructor.start(*job, **more))


@pytest.fixture(scope="module")
def views():
    return render(vase(24, 24, 32), gtr_rig(32))


@pytest.fixture(scope="module")
def done(views):
    return rebuilt(GTRReconstructor(SMALL), views, QUICK)


@pytest.fixture(scope="module")
def plain(views):
    """Without the refinement of the texture."""
    return rebuilt(GTRReconstructor(SMALL), views, replace(QUICK, refine="geometry"))


def published_shapes():
    """Names and shapes of the published checkpoint, from its description."""
    d, shapes = 1024, {"planes": (1, 3, 1024, 32, 32), "conv_proj.weight": (1024, 10, 16, 16)}
    shapes |= {f"norm{n}.{part}": (d,) for n in (1, 2) for part in ("weight", "bias")}
    for layer in range(24):
        at = f"attn_layers.{layer}."
        shapes |= {f"{at}self_attn.to_{k}.weight": (d, d) for k in "qkv"}
        shapes |= {f"{at}self_attn.to_out.0.weight": (d, d), f"{at}self_attn.to_out.0.bias": (d,)}
        shapes |= {f"{at}ff.net.0.proj.weight": (8 * d, d), f"{at}ff.net.0.proj.bias": (8 * d,)}
        shapes |= {f"{at}ff.net.2.weight": (d, 4 * d), f"{at}ff.net.2.bias": (d,)}
        shapes |= {f"{at}norm{n}.{part}": (d,) for n in (1, 2) for part in ("weight", "bias")}
    return shapes | {"out.proj.weight": (40 * 64, d, 1, 1), "out.proj.bias": (40 * 64,)}


def test_published_weights_would_load():
    with torch.device("meta"):
        generator, decoder = Generator(PUBLISHED.generator), new_field(PUBLISHED)
    assert {k: tuple(v.shape) for k, v in generator.state_dict().items()} == published_shapes()
    assert 0.40e9 < sum(p.numel() for p in generator.parameters()) < 0.42e9
    shapes = {k: tuple(v.shape) for k, v in decoder.state_dict().items()}
    sigma, color = [120, 32, 32, 1], [120, 32, 32, 32, 3]
    expected = {"aabb": (6,)}
    for name, sizes in (("mlp_sigma", sigma), ("mlp_color", color)):
        for n in range(len(sizes) - 1):
            expected[f"decoder.field.{name}.layers.{n}.weight"] = (sizes[n + 1], sizes[n])
            expected[f"decoder.field.{name}.layers.{n}.bias"] = (sizes[n + 1],)
    assert shapes == expected


@pytest.mark.parametrize("gated", [True, False])
def test_generator_with_odd_sizes_and_checkpointing(gated):
    config = GeneratorConfig(9, (3, 5), 4, 4, 16, 2, 2, 8, 2, gated)
    torch.manual_seed(0)
    generator = Generator(config)
    given = torch.randn(2, 3, 9, 8, 12)
    whole = generator(given)
    assert whole.shape == (2, 3, 4, 6, 10)
    torch.testing.assert_close(generator(given[:1]), whole[:1], atol=1e-5, rtol=1e-4)
    generator.gradient_checkpointing = True
    torch.testing.assert_close(generator(given), whole)
    assert any(name.endswith("ff.net.0.0.weight") for name, _ in generator.named_parameters()) != gated


def test_refinement_improves_every_stage(done):
    assert list(done.scores) == ["volume", "geometry", "surface", "texture"]
    for stage in ("volume", "geometry", "texture"):  # a surface moves away from the one that the colours were fitted on
        before, after = done.scores[stage]
        assert after >= before
    assert done.scores["texture"][1] > done.scores["volume"][0] + 2


def test_texture_refinement_leaves_the_geometry_bitwise(done, plain):
    assert torch.equal(plain.surface.vertices, done.surface.vertices)
    assert torch.equal(plain.surface.faces, done.surface.faces)
    assert not torch.equal(plain.fit.code, done.fit.code)
    for name, value in plain.fit.field.mlp_sigma.state_dict().items():
        assert torch.equal(value, done.fit.field.mlp_sigma.state_dict()[name])


def test_another_seed_makes_another_object(views, done):
    other = rebuilt(GTRReconstructor(SMALL), views, replace(QUICK, seed=1, refine="none"))
    assert not torch.equal(other.fit.code, done.fit.code)


@pytest.mark.parametrize(("stage", "number"), [("volume", 0), ("volume", 7), ("geometry", 3), ("texture", 5)])
def test_interrupted_run_ends_like_the_straight_one(views, done, tmp_path, stage, number):
    reconstructor = GTRReconstructor(SMALL)
    for step in reconstructor.steps(views, QUICK, resume=tmp_path):
        if (step.at.stage, step.at.number) == (stage, number):
            break
    again = rebuilt(reconstructor, views, QUICK, resume=tmp_path)
    assert torch.equal(again.fit.code, done.fit.code) and torch.equal(again.surface.vertices, done.surface.vertices)
    assert again.scores == done.scores


def test_a_stage_ends_with_its_time_and_without_progress(views):
    fit = new_fit(6, (24, 24), new_field(SMALL), torch.Generator().manual_seed(0))
    stage = volume_stage(fit, views, Budget(100, patience=1))
    timed = volume_stage(fit, views, Budget(10_000, seconds=0.1))
    steps = refine(timed.fit, lambda state, at: state, timed.schedule, evaluate=timed.evaluate, stop=timed.stop).steps
    assert steps < 10_000
    # Without a move nothing improves: the second verdict is the last.
    run = refine(
        fit, lambda state, at: state, stage.schedule, evaluate=stage.evaluate, stop=stage.stop, evaluate_start=True
    )
    assert run.steps == 1


def test_box_of_the_object_holds_it(views):
    box, mesh = object_box(views), vase(24, 24, 8)
    assert (mesh.vertices >= box[:3]).all() and (mesh.vertices <= box[3:]).all()
    assert (box[3:] - box[:3]).prod() < 4


def test_no_density_outside_the_box(done):
    grid = done.fit.grid(32)
    axis = torch.linspace(-1, 1, 32)
    outside = (axis < done.fit.box[0]) | (axis > done.fit.box[3])
    assert outside.any() and (grid[outside] == 0).all()


def test_cached_prediction_changes_nothing(views, plain):
    points = surface_points(plain.surface.vertices, plain.surface.faces, views)
    weights, codes = plain.fit.weights(), []
    for every in (1, 100):  # with verdicts between the moves, and without
        plain.fit.load(weights)
        stage = texture_stage(plain.fit, points, views.images, Budget(3, evaluate_every=every))
        refine(stage.fit, stage.propose, stage.schedule, evaluate=stage.evaluate, evaluate_start=True)
        codes.append(plain.fit.code.detach().clone())
    plain.fit.load(weights)
    assert torch.equal(*codes) and not torch.equal(codes[0], weights["code"])


def test_outlines_are_painted_with_the_share_that_the_surface_covers():
    mesh, cameras = vase(24, 24, 32), gtr_rig(24)
    grey = Mesh(mesh.vertices, mesh.faces, torch.full_like(mesh.vertices, 0.2))
    views = render(grey, cameras)
    surface = covered_points(mesh.vertices, mesh.faces, views)
    assert 0 < float(surface.coverage.min()) < float(surface.coverage.max()) == 1
    torch.testing.assert_close(surface.picture(torch.full_like(surface.points, 0.2)), views.images)
    low, high = mesh.bounds()
    assert (surface.points >= low - 1e-5).all() and (surface.points <= high + 1e-5).all()


def test_published_mode_keeps_its_last_state(views):
    options = replace(QUICK, texture_mode="published", refine="texture", texture_steps=3)
    result = rebuilt(GTRReconstructor(SMALL), views, options)
    assert result.scores["texture"][0] != result.scores["texture"][1]


def test_cosine_schedule():
    assert cosine_factor(0, 500, 0.05, warm_up=1) == 0
    assert cosine_factor(1, 501, 0.05, warm_up=1) == 1
    assert cosine_factor(500, 500, 0.05) == pytest.approx(0.05)


def test_exported_mesh_is_in_the_world_of_the_views(views, done):
    away = views.moved(torch.tensor([1.0, -2.0, 0.5]), 3.0)
    result = rebuilt(GTRReconstructor(SMALL), away, replace(QUICK, refine="none"))
    low, high = result.mesh("vertex").bounds()
    truth = vase(24, 24, 8).moved(torch.tensor([1.0, -2.0, 0.5]), 3.0)
    assert float((low - truth.bounds()[0]).abs().max()) < 0.7 and float((high - truth.bounds()[1]).abs().max()) < 0.7
    textured = done.mesh("uv", 64, 300)
    assert textured.textures[0].shape == (64, 64, 3) and len(textured.faces) <= 300


def test_a_users_mesh_is_improved(views):
    bad = spoil(vase(24, 24, 32), keep=0.1, noise=0.06)
    options = replace(QUICK, volume_steps=120, rays=300, geometry_steps=8)
    result = rebuilt(GTRReconstructor(SMALL), views, options, mesh=bad)
    before, after = result.scores["mesh given"]
    assert after > before and result.fit is not None


def test_topology_is_kept_when_asked(views):
    bad = spoil(vase(24, 24, 32), keep=0.3)
    result = rebuilt(GTRReconstructor(SMALL), views, replace(QUICK, keep_topology=True, texture_steps=15), mesh=bad)
    better = result.mesh()
    assert torch.equal(better.faces, bad.faces)
    assert result.scores["texture"][1] > result.scores["geometry"][0] + 1
    truth, cameras = vase(24, 24, 8), gtr_rig(64)
    seen = seen_part(truth, cameras)
    scores = [surface_scores(seen_part(mesh, cameras), seen, 3000)["chamfer"] for mesh in (better, bad)]
    assert scores[0] < scores[1]


def test_a_texture_is_refined_in_place(views):
    mesh = vase(24, 24, 32)
    dark = replace(mesh, textures=(mesh.textures[0] * 0.4,))
    options = replace(QUICK, keep_topology=True, refine="texture", texture_steps=25)
    result = rebuilt(GTRReconstructor(SMALL), views, options, mesh=dark)
    assert torch.equal(result.surface.vertices, dark.vertices.sub(result.centre).mul(result.scale))
    assert result.scores["texture"][1] > result.scores["texture"][0] + 6


def test_a_perfect_mesh_comes_back_unchanged(views):
    mesh = vase(24, 24, 32)
    result = rebuilt(GTRReconstructor(SMALL), views, replace(QUICK, refine="none"), mesh=mesh)
    assert any("returned unchanged" in note for note in result.notes)
    torch.testing.assert_close(result.mesh().vertices, mesh.vertices, atol=1e-6, rtol=0)


def test_saved_generator_loads_equal(tmp_path):
    tiny = GTRReconstructor.from_pretrained("builtin:tiny")
    tiny.save_pretrained(tmp_path)
    again = GTRReconstructor.from_pretrained(tmp_path)
    assert again.config == tiny.config
    for mine, other in ((tiny.generator, again.generator), (tiny.field, again.field)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
    with pytest.raises(ValueError, match="no weights to save"):
        GTRReconstructor.from_pretrained().save_pretrained(tmp_path)


def test_a_generator_starts_the_fit(views):
    tiny = GTRReconstructor.from_pretrained("builtin:tiny")
    with pytest.raises(ValueError, match="no surface"):
        rebuilt(tiny, views, QUICK if QUICK.volume_steps is None else replace(QUICK, volume_steps=None))
    result = rebuilt(tiny, views, QUICK)
    assert list(result.scores) == ["volume", "geometry", "surface", "texture"]
    with pytest.raises(ValueError, match="no builtin"):
        GTRReconstructor.from_pretrained("builtin:huge")


@pytest.mark.parametrize(
    ("field", "value"),
    [("refine", "all"), ("geometry_steps", -1), ("view_size", 4), ("texture_seconds", 0.0), ("patience", 0)],
)
def test_options_check_themselves(field, value):
    with pytest.raises(ValueError, match=field):
        replace(GTROptions(), **{field: value})


def test_a_generator_must_fit_its_field():
    with pytest.raises(ValueError, match="planes of 40 channels"):
        GTRConfig(generator=GeneratorConfig())


def test_empty_surface_is_survived_by_the_geometry_stage(views):
    fit = new_fit(6, (24, 24), TriplaneField(6, 16), torch.Generator().manual_seed(0))
    stage = geometry_stage(fit, views, Budget(1), resolutions=(12,))
    run = refine(stage.fit, stage.propose, stage.schedule, evaluate=stage.evaluate)
    assert run.score == -float("inf")


def test_measurement_of_all_stages():
    options = replace(QUICK, geometry_steps=1, texture_steps=1)
    rows = measure(
        vase(24, 24, 32), GTRReconstructor(SMALL), options, Setting(6, 32, exported=True, samples=1000, seen_from=24)
    )
    assert [row["stage"] for row in rows] == ["volume", "geometry", "texture", "exported", "plain baking"]
    assert rows[1]["chamfer"] == rows[2]["chamfer"]
    saved, baked = rows[3:]
    assert saved["chamfer"] == baked["chamfer"] and saved["psnr"] != baked["psnr"]
    assert all(row["psnr_inside"] > 5 for row in rows)
    assert len(given_cameras(32)) == 12


def test_progress_goes_through_a_shorter_plan(views):
    def reached(options):
        reconstructor, counted = GTRReconstructor(SMALL), {}
        run = reconstructor.start(views, options)
        for step in reconstructor.run_steps(run):
            counted[step.at.stage] = step.at.number
        return counted, run.scores

    counted, scores = reached(replace(QUICK, volume_steps=60, texture_steps=7, stop="progress"))
    assert counted == {"volume": 45, "geometry": 3, "surface": 6, "texture": 6}
    planned = replace(QUICK, volume_steps=45, geometry_steps=3, texture_steps=6)
    assert reached(planned) == (counted, scores)  # rates fall along the moves that are made


def test_harm_of_refining_compares_what_was_given_with_what_is_saved():
    stages = [("as given", 20.0), ("texture", 25.0), ("exported", 24.0), ("as given", 22.0), ("exported", 21.5)]
    (row,) = harm([{"stage": stage, "psnr": psnr} for stage, psnr in stages])
    assert (row["items"], row["nothing"], row["with"], row["worse"]) == (2, 21.0, 22.75, 0.5)


def test_spoiled_mesh_is_bad_but_usable():
    mesh = vase(40, 40, 32)
    bad = spoil(mesh).check()
    assert len(bad.faces) < 0.05 * len(mesh.faces)
    assert surface_scores(bad, mesh, 3000)["chamfer"] > 0.02
    assert isinstance(bad, Mesh)
