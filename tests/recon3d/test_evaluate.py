"""The measurement of GTR: kept when stopped, and what angles of normals are."""

import json
from functools import partial

import pytest
import torch

from recon3d.gtr import benchmark as timing
from recon3d.gtr import evaluate as evaluation
from recon3d.gtr.benchmark import GTRBenchmark, benchmark
from recon3d.gtr.evaluate import GTREvaluation, Setting, evaluate, normal_degrees
from recon3d.gtr.options import GTROptions
from recon3d.isosurface import extract_surface, grid_points
from recon3d.looks import gallery_cameras, lit
from recon3d.mesh import Mesh
from recon3d.mesh_files import save_mesh
from recon3d.vase import vase

QUICK = GTROptions(
    volume_steps=50, geometry_steps=1, texture_steps=1, view_size=32, grid_size=16, rays=128, texture="vertex"
)


def ball(radius, size=40):
    return Mesh(*extract_surface((20 * (radius - grid_points((size,) * 3).norm(dim=-1)) + 10).view((size,) * 3)))


def test_normals_of_a_surface_agree_with_themselves_and_not_with_a_bumpy_one():
    even = ball(0.7)
    bumpy = Mesh(even.vertices * (1 + 0.05 * (20 * even.vertices).sin()), even.faces)
    assert normal_degrees(even, ball(0.72), 4000) < 4 < 8 < normal_degrees(bumpy, even, 4000)
    turned_inside_out = Mesh(even.vertices, even.faces.flip(1))
    assert normal_degrees(even, turned_inside_out, 4000) == pytest.approx(normal_degrees(even, even, 4000), abs=0.5)


@pytest.fixture
def quickly(monkeypatch):
    """Few samples and small pictures."""
    monkeypatch.setattr(evaluation, "Setting", partial(Setting, samples=500, seen_from=24))
    monkeypatch.setattr(evaluation, "gallery_cameras", lambda size: gallery_cameras(24))


def test_meshes_that_are_measured_are_kept_when_the_rest_is_stopped(tmp_path, monkeypatch, quickly):
    for name in ("a", "b"):
        save_mesh(vase(12, 12, 16), tmp_path / "meshes" / f"{name}.glb")
    (tmp_path / "meshes" / "bad.obj").write_text("v 0 0 0\n")
    options = GTREvaluation(tmp_path / "out", tmp_path / "meshes", QUICK, views=6)

    def stop(event):
        if event.kind == "progress" and event.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(options, stop)
    measured, calls = evaluation.measure, []
    monkeypatch.setattr(evaluation, "measure", lambda *given, **more: calls.append(1) or measured(*given, **more))
    outcome = evaluate(options)
    assert outcome.code == 2 and len(outcome.problems) == 1 and len(calls) == 1
    rows = json.loads((tmp_path / "out" / "means.json").read_text())
    assert [row["stage"] for row in rows] == ["volume", "geometry", "texture", "exported", "plain baking"] * 2
    assert {row["mesh"] for row in rows} == {"a", "b"} and all(row["normal_degrees"] > 0 for row in rows)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"runs.csv", "means.png", "a.png", "b.png", "run.json"} <= names


def test_benchmark_times_every_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "GTROptions", lambda **own: GTROptions(volume_steps=70, rays=128, **own))
    rows = benchmark(GTRBenchmark(grid_size=16, steps=1, large=0, out=tmp_path, device="cpu"))
    assert [row["what"][0] for row in rows] == ["A", "B", "V", "C", "P", "B"] and (tmp_path / "gtr.csv").exists()


def test_a_soft_light_shades_smoothly_across_the_seams_of_a_texture():
    mesh = vase(24, 24, 16)
    split = Mesh(mesh.vertices[mesh.faces].reshape(-1, 3), torch.arange(3 * len(mesh.faces)).view(-1, 3))
    cameras = gallery_cameras(32)
    pictures = lit(mesh, cameras, bare=True)
    torch.testing.assert_close(pictures, lit(split, cameras, bare=True), atol=1e-4, rtol=0)
    assert 0.2 < float(pictures.min()) < float(pictures.amin(1).amin()) + 0.3
