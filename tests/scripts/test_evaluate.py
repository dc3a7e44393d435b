"""scripts/evaluate.py writes its tables, and refuses bad input with one sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon3d.gtr.benchmark import GTRBenchmark
from recon3d.gtr.options import GTROptions
from restoration.iter.evaluate import ITEREvaluation, evaluate
from scripts.evaluate import parse
from vision.edit.benchmark import PIEBenchmark
from vision.edit.evaluate import PIEEvaluation


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index in range(2):
        array = np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(array).save(images / f"{index}.png")
    return images


def test_tables_pictures_and_run_are_written(folder, tmp_path):
    out = tmp_path / "out"
    options = ITEREvaluation(
        out=out, hr=folder, source="builtin:tiny-mini", peers=(), pictures=True, degradation="blind"
    )
    assert evaluate(options).code == 0
    rows = json.loads((out / "images.json").read_text())
    assert {row["method"] for row in rows} == {"good image", "bicubic", "Lanczos", "ITER 0", "ITER 0.5", "ITER 1"}
    assert len(rows) == 12 and all(row["psnr_y"] > 5 for row in rows if row["method"] != "good image")
    with open(out / "means.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 6
    assert Image.open(out / "means.png").format == "PNG"
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["0.png", "1.png"]
    run = json.loads((out / "run.json").read_text())
    assert run["options"]["degradation"] == "blind" and run["problems"] == []


def test_a_bad_image_costs_one_sentence(folder, tmp_path):
    (folder / "bad.png").write_bytes(b"not an image")
    options = ITEREvaluation(out=tmp_path / "out", hr=folder, source="builtin:tiny-mini", peers=(), fidelity=(1.0,))
    events = []
    assert evaluate(options, events.append).code == 2
    assert ["bad.png is not an image" in event.text for event in events if event.kind == "refused"] == [True]
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())) == 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "The first word must be the system to measure (iter, "),
        (["fog"], "got fog."),
        (["iter", "--out", "x"], "Give either --hr FOLDER or --pairs LQ HR."),
        (["iter", "--out", "x", "--hr", "y", "--pairs", "a", "b"], "Give either --hr FOLDER or --pairs LQ HR."),
        (["iter", "--out", "x", "--hr", "y", "--degradation", "fog"], "There is no degradation 'fog'"),
        (["iter", "--out", "x", "--hr", "y", "--crop", "4"], "crop must be at least 16, got 4."),
    ],
)
def test_wrong_commands_end_with_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(arguments)
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


def test_pairs_and_options_come_from_the_command_line(tmp_path):
    _, options = parse(
        ["iter", "--pairs", "a", "b", "--out", str(tmp_path), "--fidelity", "0", "0.5", "--variant", "clean"]
    )
    assert [str(path) for path in options.pairs] == ["a", "b"]
    assert options.fidelity == (0.0, 0.5) and options.variant == "clean"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ITEREvaluation(Path("o"), Path("i"), fidelity=()), "at least one fidelity"),
        (lambda: ITEREvaluation(Path("o"), Path("i"), border=-4), "border must be at least 0, got -4"),
        (lambda: PIEBenchmark(rounds=0), "rounds must be at least 1, got 0"),
        (lambda: GTRBenchmark(steps=0), "steps must be at least 1, got 0"),
        (lambda: GTRBenchmark(grid_size=0), "grid_size must lie in"),
        (lambda: GTRBenchmark(large=2), r"large must lie in \[8, 512\], or be 0, got 2"),
        (lambda: GTROptions(texture_seconds=float("nan")), "texture_seconds must be positive, got nan"),
        (lambda: PIEEvaluation(Path("o"), slices=0), "slices must be at least 1, got 0"),
        (lambda: PIEEvaluation(Path("o"), seeds=-1), "seeds must be at least 1, got -1"),
        (lambda: PIEEvaluation(Path("o"), stride=float("nan")), "stride must be a finite number, got nan"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
