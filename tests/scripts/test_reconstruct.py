"""The reconstruct script: every kind of input, resume, refusals."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from recon3d.cameras import gtr_rig
from recon3d.gtr.config import GTROptions
from recon3d.mesh import Mesh
from recon3d.render import render
from recon3d.vase import vase
from recon3d.view_files import save_views
from recon3d.views import join_grid
from scripts.reconstruct import ReconstructOptions, main
from vision.images import to_pil

PROJECT = Path(__file__).resolve().parents[2]
QUICK = GTROptions(
    volume_steps=50, geometry_steps=2, texture_steps=3, view_size=32, grid_size=20, rays=160, texture="vertex"
)


@pytest.fixture(scope="module")
def views():
    return render(vase(24, 24, 32), gtr_rig(32))


def test_a_newcomer_gets_the_vase(tmp_path, monkeypatch):
    options = ReconstructOptions(tmp_path / "out", options=QUICK)
    target = main(options)
    assert target == tmp_path / "out" / "vase.glb"
    mesh = Mesh.load(target)
    assert len(mesh.faces) > 100
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "contact.png",
        "run.json",
        "turntable.gif",
        "vase.glb",
    ]
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["options"]["options"]["volume_steps"] == 50 and set(run["psnr_given_views"]) == {
        "volume",
        "geometry",
        "texture",
    }
    before = target.stat().st_mtime_ns
    main(options)  # already there
    assert target.stat().st_mtime_ns == before
    main(replace(options, options=replace(QUICK, seed=1)))
    assert target.stat().st_mtime_ns != before


def test_views_grid_and_mesh_with_views(tmp_path, views):
    save_views(views, tmp_path / "views")
    to_pil(join_grid(views.images)[None]).save(tmp_path / "grid.png")
    vase(16, 16, 16).save(tmp_path / "start.glb")
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
        assert len(Mesh.load(target).faces) > 50


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    options = ReconstructOptions(tmp_path / "a", options=QUICK, film="none")
    whole = Mesh.load(main(options))
    import scripts.reconstruct as script

    class Stop(BaseException):
        pass

    class Killed(script.Bars):
        def __call__(self, step):
            super().__call__(step)
            if step.at.stage == "volume" and step.at.number == 20:
                raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(script, "Bars", Killed)
        with pytest.raises(Stop):
            main(replace(options, out=tmp_path / "b"))
    assert (tmp_path / "b" / ".unfinished").is_dir() and not list((tmp_path / "b").glob("*.glb"))
    again = Mesh.load(main(replace(options, out=tmp_path / "b")))
    assert torch.equal(whole.vertices, again.vertices) and torch.equal(whole.colors, again.colors)
    assert not (tmp_path / "b" / ".unfinished").exists()


def test_refusals_leave_nothing_behind(tmp_path, views):
    save_views(views, tmp_path / "views")
    (tmp_path / "views" / "transforms.json").unlink()
    with pytest.raises(ValueError, match="without poses"):
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


def test_the_command_line_refuses_with_one_sentence(tmp_path):
    for extra in (["--views", str(tmp_path / "none")], ["--refine", "all"], ["--grid-size", "3"]):
        command = [sys.executable, "scripts/reconstruct.py", "--out", str(tmp_path / "out"), *extra]
        done = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
