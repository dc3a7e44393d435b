"""Rebuilding as a job: every kind of input, resume, refusals."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from recon3d import job as module
from recon3d.cameras import gtr_rig
from recon3d.gtr.options import GTROptions
from recon3d.job import ReconstructOptions, reconstruct
from recon3d.looks import turntable_frames
from recon3d.mesh import Mesh
from recon3d.mesh_files import load_mesh, save_mesh
from recon3d.render import render
from recon3d.vase import vase
from recon3d.view_files import save_views
from recon3d.views import join_grid
from vision.config import cli
from vision.images import to_pil

PROJECT = Path(__file__).resolve().parents[2]
QUICK = GTROptions(
    volume_steps=50, geometry_steps=2, texture_steps=3, view_size=32, grid_size=20, rays=160, texture="vertex"
)


def main(options, show=lambda event: None):
    """The mesh file of a job that went well."""
    outcome = reconstruct(options, show)
    assert outcome.code == 0
    return options.out / options.file


@pytest.fixture(scope="module")
def views():
    return render(vase(24, 24, 32), gtr_rig(32))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a newcomer's first run."""
    folder = tmp_path_factory.mktemp("newcomer") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "turntable_frames", lambda mesh: turntable_frames(mesh, frames=3, size=32))
        assert main(ReconstructOptions(folder, options=QUICK)) == folder / "vase.glb"
    return folder


def test_a_newcomer_gets_the_vase(finished):
    names = ["contact.png", "run.json", "turntable.gif", "vase.glb"]
    assert sorted(path.name for path in finished.iterdir() if path.name[0] != ".") == names
    assert len(load_mesh(finished / "vase.glb").faces) > 100
    run = json.loads((finished / "run.json").read_text())
    assert run["options"]["options"]["volume_steps"] == 50
    told = run["meshes"]["vase.glb"]
    assert told["geometry"]["parts"] == 1 and told["geometry"]["closed"] is True
    assert set(told["psnr_given_views"]) == {"volume", "geometry", "surface", "texture"}
    with Image.open(finished / "turntable.gif") as film:
        assert film.n_frames == 3 and film.size == (64, 32)


def test_what_is_done_is_not_done_again(finished, monkeypatch):
    def stop(*arguments, **options):
        raise InterruptedError

    monkeypatch.setattr(module.GTRReconstructor, "reconstruct", stop)
    assert main(ReconstructOptions(finished, options=QUICK)) == finished / "vase.glb"
    with pytest.raises(InterruptedError):
        main(ReconstructOptions(finished, options=replace(QUICK, seed=1)))


def test_views_grid_and_mesh_with_views(tmp_path, views):
    save_views(views, tmp_path / "views")
    to_pil(join_grid(views.images)[None]).save(tmp_path / "grid.png")
    save_mesh(vase(16, 16, 16), tmp_path / "start.glb")
    plain = replace(QUICK, refine="texture")
    for number, given in enumerate(
        (
            {"views": tmp_path / "views"},
            {"grid": tmp_path / "grid.png", "format": "obj"},
            {"mesh": tmp_path / "start.glb", "views": tmp_path / "views", "name": "better"},
        )
    ):
        chosen = replace(plain, keep_topology="mesh" in given)
        target = main(ReconstructOptions(tmp_path / str(number), options=chosen, film="none", **given))
        assert target.name == ["views.glb", "grid.obj", "better.glb"][number]
        assert len(load_mesh(target).faces) > 50


def test_a_mesh_alone_keeps_its_place_and_size_and_its_faces_when_asked(tmp_path):
    away = torch.tensor([120.0, -40.0, 7.0])
    mesh = vase(16, 16, 16).moved(away, 30.0)
    save_mesh(mesh, tmp_path / "part.glb")
    part = load_mesh(tmp_path / "part.glb")
    for keep in (False, True):
        chosen = replace(QUICK, keep_topology=keep)
        target = main(ReconstructOptions(tmp_path / str(keep), mesh=tmp_path / "part.glb", options=chosen, film="none"))
        made = load_mesh(target)
        low, high = mesh.bounds()
        for corner, other in zip(made.bounds(), (low, high), strict=True):
            assert float((corner - other).abs().max()) < 0.2 * float((high - low).max())
        assert torch.equal(made.faces, part.faces) == keep


def test_a_mesh_with_another_axis_up_than_the_views_is_refused(tmp_path, views):
    save_views(views, tmp_path / "views")
    mesh = vase(16, 16, 16)
    save_mesh(replace(mesh, vertices=mesh.vertices[:, [0, 2, 1]] * torch.tensor([1, -1, 1])), tmp_path / "z.ply")
    for keep in (False, True):
        options = replace(QUICK, keep_topology=keep)
        with pytest.raises(ValueError, match="not in one world"):
            main(ReconstructOptions(tmp_path / "out", tmp_path / "views", mesh=tmp_path / "z.ply", options=options))


def test_repainting_the_mesh_given_is_other_work(tmp_path, views):
    save_views(views, tmp_path / "views")
    options = ReconstructOptions(
        tmp_path / "out",
        tmp_path / "views",
        mesh=tmp_path / "start.ply",
        options=replace(QUICK, refine="none", keep_topology=True),
        film="none",
    )
    for grey in (0.3, 0.6):
        mesh = vase(12, 12, 16)
        save_mesh(Mesh(mesh.vertices, mesh.faces, torch.full_like(mesh.vertices, grey)), tmp_path / "start.ply")
        (facts,) = reconstruct(options).items.values()
        assert not facts["was_done"]
    (facts,) = reconstruct(options).items.values()
    assert facts["was_done"]


def test_a_killed_run_goes_on(finished, tmp_path):
    options = ReconstructOptions(tmp_path, options=QUICK, film="none")

    def kill(event):
        if event.text.startswith("volume") and event.done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        main(options, kill)
    assert list(tmp_path.rglob("volume")) and not list(tmp_path.glob("*.glb"))
    whole, again = load_mesh(finished / "vase.glb"), load_mesh(main(options))
    assert torch.equal(whole.vertices, again.vertices) and torch.equal(whole.colors, again.colors)
    assert not list(tmp_path.rglob("volume"))


def test_refusals_leave_nothing_behind(tmp_path, views):
    save_views(views, tmp_path / "views")
    (tmp_path / "views" / "transforms.json").unlink()
    with pytest.raises(ValueError, match="no poses"):
        main(ReconstructOptions(tmp_path / "out", views=tmp_path / "views"))
    save_views(views[[0]], tmp_path / "one")
    with pytest.raises(ValueError, match="from 1 view"):
        main(ReconstructOptions(tmp_path / "out", views=tmp_path / "one"))
    (tmp_path / "empty.obj").write_text("v 0 0 0\n")
    with pytest.raises(ValueError, match="without faces"):
        main(ReconstructOptions(tmp_path / "out", mesh=tmp_path / "empty.obj"))
    with pytest.raises(ValueError, match="no surface"):
        main(ReconstructOptions(tmp_path / "out", options=replace(QUICK, volume_steps=1)))
    Image.new("RGB", (30, 30), "white").save(tmp_path / "square.png")
    with pytest.raises(ValueError, match="three rows"):
        main(ReconstructOptions(tmp_path / "out", grid=tmp_path / "square.png"))
    assert not list((tmp_path / "out").glob("**/*"))
    with pytest.raises(ValueError, match="not both"):
        ReconstructOptions(tmp_path, views=tmp_path, grid=tmp_path)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--refine", "all"], "refine"),
        (["--grid-size", "3"], "grid_size must lie in"),
        (["--views", "a", "--grid", "b"], "not both"),
        (["--rig", "gtr"], "rig gtr is about a folder of pictures"),
        (["--mesh", "a.glb", "--cut-out", "white"], "cut_out white is about pictures"),
        (["--views", "a", "--keep-topology"], "keep_topology is about a mesh that is improved"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path, capsys, extra, sentence):
    with pytest.raises(SystemExit) as stop:
        cli(ReconstructOptions, args=["--out", str(tmp_path / "out"), *extra])
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(said) == 1 and sentence in said[0]


def test_the_command_line_refuses_with_one_sentence(tmp_path):
    command = [
        sys.executable,
        "scripts/reconstruct.py",
        "--out",
        str(tmp_path / "out"),
        "--views",
        str(tmp_path / "no"),
    ]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
