"""The command edit with a pipeline of diffusers: what it writes and keeps, resumes, and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from scripts.edit import main, parse
from tests.vision.edit.conftest import picture
from vision.edit import DiffusersEditor, DiffusersOptions, PIEEditor, PIEOptions, job
from vision.edit.job import EditOptions, PipelineEditOptions
from vision.images import load_image

QUICK = DiffusersOptions(frames=2, steps=4, resolution=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    DiffusersEditor.from_pretrained("builtin:tiny").save_pretrained(folder)
    return folder


@pytest.fixture
def given(tmp_path, folder) -> PipelineEditOptions:
    path, mask = tmp_path / "photo.png", Image.new("L", (90, 70))
    picture(0, 70, 90).save(path)
    mask.paste(255, (20, 20, 60, 50))
    mask.save(tmp_path / "mask.png")
    return PipelineEditOptions(
        (path,), tmp_path / "out", ("a picture,ill",), tmp_path / "mask.png", options=QUICK, pipeline=str(folder)
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_command_line_edits_with_a_pipeline(given, monkeypatch):
    words = [
        *map(str, given.inputs),
        "--pipeline",
        given.pipeline,
        "--mask",
        str(given.mask),
        "--prompt",
        "a picture,ill",
    ]
    options = parse([*words, "--out", str(given.out), "--frames", "2", "--steps", "4", "--resolution", "32"])
    assert options == given and main(options) == 0
    names = {path.name for path in (given.out / "photo").iterdir()}
    assert {"frame_00.png", "frame_01.png", "frame_02.png", "mask.png", "report.png", "progression.gif"} <= names
    frames = [np.asarray(Image.open(given.out / "photo" / f"frame_0{i}.png")) for i in range(3)]
    outside = np.asarray(Image.open(given.mask)) == 0
    for frame in frames[1:]:
        assert np.array_equal(frame[outside], frames[0][outside]) and (frame != frames[0])[~outside].mean() > 0.5

    def refuse(*arguments, **more):
        raise AssertionError("it was done again")

    monkeypatch.setattr(DiffusersEditor, "simulate", refuse)
    assert main(options) == 0
    assert (
        parse(["--pipeline", "folder", "--out", "a"]).inputs == ()
        and type(parse([*words[:1], "--out", "a"])) is EditOptions
    )


def test_sixteen_bits_transparency_profile_and_exif_are_kept(given, tmp_path):
    deep = np.random.RandomState(0).randint(0, 65535, (70, 90), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    layer, alpha = picture(1, 70, 90), Image.linear_gradient("L").resize((90, 70))
    layer.putalpha(alpha)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    layer.save(tmp_path / "layer.png", icc_profile=profile, exif=exif)
    assert main(replace(given, inputs=(tmp_path / "deep.png", tmp_path / "layer.png"))) == 0
    outside = np.asarray(Image.open(given.mask)) == 0
    last = load_image(given.out / "deep" / "frame_02.png").deep
    assert last.dtype == np.uint16 and np.array_equal(last[outside], deep[outside]) and (last != deep).any()
    with Image.open(given.out / "layer" / "frame_02.png") as frame:
        assert frame.mode == "RGBA" and frame.info["icc_profile"] == profile
        assert frame.getchannel("A").tobytes() == alpha.tobytes() and frame.getexif()[0x010F] == "Maker"


def test_few_of_16_bits_are_shown_in_full(given, tmp_path, capsys):
    values = np.random.RandomState(0).randint(0, 4096, (70, 90)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "scan.png")
    assert main(replace(given, inputs=(tmp_path / "scan.png",))) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "its values are shown from 0 to 4095." in said and "black" not in said


def test_an_interrupted_run_goes_on(given, monkeypatch, tmp_path):
    keep = job._keep

    def stop_at_the_last_frame(path, frame):
        if path.name == "frame_0002.safetensors":
            raise KeyboardInterrupt
        keep(path, frame)

    with monkeypatch.context() as patch:
        patch.setattr(job, "_keep", stop_at_the_last_frame)
        with pytest.raises(KeyboardInterrupt):
            main(given)
    made = []
    monkeypatch.setattr(job, "_keep", lambda path, frame: (made.append(path.name), keep(path, frame)))
    assert main(given) == 0 and made == ["frame_0002.safetensors"]
    main(replace(given, out=tmp_path / "straight"))
    assert content(given.out / "photo") == content(tmp_path / "straight" / "photo")


@pytest.mark.parametrize("kind", ["pipeline", "PIE"])
def test_progress_is_told_within_frames(given, kind):
    if kind == "PIE":
        given = EditOptions(given.inputs, given.out, source="builtin:tiny", options=PIEOptions(frames=2, steps=8))
    events = []
    assert job.edit(given, events.append).code == 0
    told = [event.done for event in events if event.kind == "progress"]
    assert told == sorted(told) and told[-1] == 1 and len(told) == 7 + 2 * (kind == "PIE")


def test_a_classifier_measures_and_stops(given, tmp_path):
    PIEEditor.from_pretrained("builtin:tiny").classifier.save_pretrained(tmp_path / "sure")
    measured = replace(given, classifier=tmp_path / "sure")
    assert main(measured) == 0
    rows = json.loads((given.out / "photo" / "frames.json").read_text())
    assert [0 < row["confidence"] < 1 for row in rows] == [True] * 3
    stopped = replace(measured, out=tmp_path / "stopped", options=replace(QUICK, stop_score=rows[1]["confidence"]))
    assert main(stopped) == 0
    assert len(json.loads((stopped.out / "photo" / "frames.json").read_text())) == 2


def test_trajectories_tell_their_spread(given):
    assert main(replace(given, trajectories=2, options=replace(QUICK, frames=1))) == 0
    assert {"mean.png", "spread.png"} <= {path.name for path in (given.out / "photo").iterdir()}


def test_what_no_pipeline_can_do_costs_a_sentence(given, tmp_path, capsys):
    def told(options: EditOptions) -> str:
        assert main(options) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "cannot tell where two prompts differ" in told(replace(given, mask=None, difference=True))
    assert "A prompt is needed" in told(replace(given, prompt=()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no model_index\.json"):
        main(replace(given, pipeline=str(tmp_path / "empty")))
    with pytest.raises(ValueError, match="source and unet are weights of PIE"):
        replace(given, source="builtin:tiny")
    with pytest.raises(ValueError, match="PIE takes PIEOptions"):
        replace(given, options=PIEOptions())
