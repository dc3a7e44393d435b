"""The edit script: what it writes, resumes, and refuses."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from scripts import edit
from scripts.edit import EditOptions, main
from tests.vision.edit.conftest import picture
from vision.edit import PIEEditor, PIEOptions

QUICK = PIEOptions(frames=2, steps=4)


@pytest.fixture
def given(tmp_path):
    path = tmp_path / "scan.png"
    picture(0).save(path)
    return EditOptions(
        (path,), tmp_path / "out", source="builtin:tiny", ellipse=(0.5, 0.5, 0.3, 0.3), feather=1.0, options=QUICK
    )


def test_everything_is_written_and_nothing_is_done_twice(given, monkeypatch):
    assert main(given) == 0
    names = {path.name for path in (given.out / "scan").iterdir()}
    frames = {"0.png", "1.png", "2.png"}
    assert names == frames | {"mask.png", "report.png", "frames.json", "frames.csv", "progression.gif", "done.json"}
    run = json.loads((given.out / "run.json").read_text())
    assert run["seed"] == 0 and run["results"]["scan"]["frames"] == 2

    def refuse(*arguments, **more):
        raise AssertionError("it was done again")

    monkeypatch.setattr(PIEEditor, "simulate", refuse)
    assert main(given) == 0


def test_an_interrupted_run_goes_on(given, monkeypatch, tmp_path):
    keep, calls = edit._keep, []

    def stop_at_the_last_frame(path, frame):
        calls.append(path.name)
        if path.name == "frame_0002.safetensors":
            raise KeyboardInterrupt
        keep(path, frame)

    monkeypatch.setattr(edit, "_keep", stop_at_the_last_frame)
    with pytest.raises(KeyboardInterrupt):
        main(given)
    calls.clear()
    monkeypatch.setattr(edit, "_keep", lambda path, frame: (calls.append(path.name), keep(path, frame)))
    assert main(given) == 0 and calls == ["frame_0002.safetensors"]
    from dataclasses import replace

    straight = replace(given, out=tmp_path / "straight")
    main(straight)
    with Image.open(given.out / "scan" / "2.png") as a, Image.open(straight.out / "scan" / "2.png") as b:
        assert a.tobytes() == b.tobytes()


def test_bad_inputs_cost_a_sentence_and_leave_nothing(given, tmp_path, capsys):
    from dataclasses import replace

    mask = tmp_path / "black.png"
    Image.new("L", (32, 32)).save(mask)
    bad = replace(given, ellipse=None, mask=mask)
    assert main(bad) == 2
    assert "mask is empty" in " ".join(capsys.readouterr().err.split())
    assert not bad.out.exists()
    assert main(replace(given, inputs=(tmp_path / "missing.png",))) == 2
