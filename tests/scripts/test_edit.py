"""The command edit: what it writes, keeps, resumes, and refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.edit import EditOptions, main, parse
from tests.vision.edit.conftest import picture
from vision.edit import PIEEditor, PIEOptions, job
from vision.job import Unusable

QUICK = PIEOptions(frames=2, steps=4)
FRAMES = ["frame_00.png", "frame_01.png", "frame_02.png"]


@pytest.fixture
def given(tmp_path) -> EditOptions:
    path = tmp_path / "scan.png"
    picture(0, 70, 90).save(path)
    return EditOptions(
        (path,), tmp_path / "out", source="builtin:tiny", ellipse=(0.5, 0.5, 0.3, 0.3), feather=1.0, options=QUICK
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_everything_is_written_and_nothing_is_done_twice(given, monkeypatch):
    assert main(given) == 0
    names = {path.name for path in (given.out / "scan").iterdir()}
    assert names == {*FRAMES, "mask.png", "report.png", "frames.json", "frames.csv", "progression.gif"}
    with Image.open(given.out / "scan" / FRAMES[2]) as last:
        assert last.size == (90, 70)
    run = json.loads((given.out / "run.json").read_text())
    assert run["seed"] == 0 and run["inputs"]["scan"]["frames"] == 2

    def refuse(*arguments, **more):
        raise AssertionError("it was done again")

    monkeypatch.setattr(PIEEditor, "simulate", refuse)
    assert main(given) == 0


def test_a_source_prompt_that_nothing_reads_and_a_clip_model_that_nobody_knows_are_refused(given):
    told = replace(QUICK, source_prompt="healthy")
    with pytest.raises(ValueError, match="source prompt is for mode inversion, difference or clip"):
        replace(given, options=told)
    replace(given, options=replace(told, mode="inversion"))
    with pytest.raises(Unusable, match="there is no folder none"):
        main(replace(given, options=told, clip="local-dir:none"))
    assert not list(given.out.glob("scan/*"))


def test_frames_sort_by_name():
    names = [job.frame_name(i, 120) for i in range(120)]
    assert names == sorted(names) and job.frame_name(3, 11) == "frame_03"


def test_results_that_were_removed_or_replaced_are_made_again(given):
    main(given)
    before = content(given.out / "scan")
    (given.out / "scan" / FRAMES[1]).unlink()
    main(given)
    assert content(given.out / "scan") == before
    main(replace(given, options=replace(QUICK, seed=5)))
    assert content(given.out / "scan")[FRAMES[2]] != before[FRAMES[2]]
    main(given)
    assert content(given.out / "scan") == before


def test_a_kill_while_results_are_replaced_leaves_no_false_record(given, monkeypatch, tmp_path):
    main(given)
    before = content(given.out / "scan")

    def stop(*arguments, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_report", stop)
        with pytest.raises(KeyboardInterrupt):
            main(replace(given, options=replace(QUICK, seed=5)))
    assert main(given) == 0 and content(given.out / "scan") == before
    hidden = [path for path in given.out.rglob("*") if path.is_file() and "unfinished" in str(path)]
    assert hidden == []


def test_an_interrupted_run_goes_on(given, monkeypatch, tmp_path):
    keep, calls = job._keep, []

    def stop_at_the_last_frame(path, frame):
        calls.append(path.name)
        if path.name == "frame_0002.safetensors":
            raise KeyboardInterrupt
        keep(path, frame)

    monkeypatch.setattr(job, "_keep", stop_at_the_last_frame)
    with pytest.raises(KeyboardInterrupt):
        main(given)
    calls.clear()
    monkeypatch.setattr(job, "_keep", lambda path, frame: (calls.append(path.name), keep(path, frame)))
    assert main(given) == 0 and calls == ["frame_0002.safetensors"]
    straight = replace(given, out=tmp_path / "straight")
    main(straight)
    assert content(given.out / "scan") == content(straight.out / "scan")


def test_bad_inputs_cost_a_sentence_and_the_others_are_done(given, tmp_path, capsys):
    mask, empty = tmp_path / "black.png", tmp_path / "empty"
    Image.new("L", (90, 70)).save(mask)
    empty.mkdir()
    bad = replace(given, ellipse=None, mask=mask)
    assert main(bad) == 2
    assert "mask is empty" in " ".join(capsys.readouterr().err.split())
    assert not (bad.out / "scan").exists()
    assert main(replace(given, inputs=(tmp_path / "missing.png", empty, *given.inputs))) == 2
    assert (given.out / "scan" / FRAMES[2]).exists()


def test_the_edge_of_a_painted_mask_is_softened_too(given, tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.pad(np.full((30, 40), 255, np.uint8), ((20, 20), (25, 25)))).save(mask)
    hard, soft = (replace(given, out=tmp_path / f"{f}", ellipse=None, mask=mask, feather=f) for f in (0.0, 3.0))
    assert main(hard) == main(soft) == 0
    original = np.asarray(Image.open(given.inputs[0]).convert("RGB")).astype(int)
    changed = []
    for options in (hard, soft):
        frame = np.asarray(Image.open(options.out / "scan" / FRAMES[2]).convert("RGB")).astype(int)
        changed.append(np.abs(frame - original).max(-1) > 0)
    assert not changed[0][:20].any() and not changed[0][:, :25].any()
    assert changed[1][:20].any() and not changed[1][:10].any()
    with pytest.raises(ValueError, match="feather softens the edge of a region"):
        replace(given, ellipse=None, feather=2.0)


def test_a_negative_prompt_without_guidance_is_refused(given):
    with pytest.raises(ValueError, match="negative prompt guides where guidance_scale is above 1"):
        replace(given, options=replace(QUICK, negative_prompt="a picture", guidance_scale=(1.0, 0.5)))


def test_profile_and_transparency_are_kept(given, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "layer.png"
    image = picture(0, 70, 90)
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 90).astype(np.uint8), (70, 1)))
    image.putalpha(alpha)
    image.save(path, icc_profile=profile)
    assert main(replace(given, inputs=(path,))) == 0
    for name in FRAMES:
        with Image.open(given.out / "layer" / name) as frame:
            assert frame.mode == "RGBA" and frame.info["icc_profile"] == profile
            assert frame.getchannel("A").tobytes() == alpha.tobytes()


def test_two_inputs_of_one_stem_are_kept_apart(given, tmp_path):
    other = tmp_path / "scan.bmp"
    picture(1, 70, 90).save(other)
    assert main(replace(given, inputs=(*given.inputs, other))) == 0
    assert {path.name for path in given.out.iterdir() if path.is_dir()} >= {"scan", "scan_bmp"}


def test_an_edit_asks_where_its_results_shall_lie(capsys):
    with pytest.raises(SystemExit):
        parse(["a.png"])
    assert "--out must be given" in capsys.readouterr().err


def test_without_inputs_the_example_is_edited(tmp_path):
    assert parse(["--out", str(tmp_path)]).mask.name == "brain_mask.png"
    options = parse(["--out", str(tmp_path), "--box", "0", "0", "0.5", "0.5"])
    assert options.mask is None and options.inputs[0].name == "brain.png"
    shutil.copy(options.inputs[0], tmp_path / "mine.png")
    assert parse([str(tmp_path / "mine.png"), "--out", str(tmp_path)]).mask is None


def test_options_of_scans_are_refused_for_pictures(given, capsys):
    for more, names in [
        ({"slices": (1,)}, "--slices is for scans"),
        ({"window": (0.0, 9.0), "plane": "coronal"}, "--plane and --window are for scans"),
    ]:
        assert main(replace(given, **more)) == 2
        assert names in " ".join(capsys.readouterr().err.split())
    assert not (given.out / "scan").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--prompt", ""], "A prompt says what the result looks like, got the empty ''."),
        (["--prompt", "ill", " "], "got the empty ' '."),
        (["--tries", "5"], "tries are made with a look-ahead"),
        (["--clip-weights", "openai"], "clip_weights belong to a CLIP model"),
        (["--pipeline", "folder", "--around", "2"], "around is about a region"),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, capsys, words, sentence):
    with pytest.raises(SystemExit):
        parse(["scan.png", "--out", str(tmp_path), *words])
    assert sentence in capsys.readouterr().err
