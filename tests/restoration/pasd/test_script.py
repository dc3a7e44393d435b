"""PASD on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from restoration.pasd import PASDCommand, PASDRestorer
from scripts import benchmark, evaluate
from scripts.restore import RestoreOptions, main

PROJECT = Path(__file__).resolve().parents[3]
FAST = {"steps": 2, "process_size": 32, "guidance_scale": 2.0, "scale": 2.0}


@pytest.fixture
def picture(tmp_path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    PIL.Image.fromarray(noise).resize((40, 34), PIL.Image.Resampling.BICUBIC).save(path)
    return path


def options(out: Path, *inputs: Path, **changes) -> RestoreOptions:
    own = PASDCommand(**(FAST | changes))
    return RestoreOptions(
        inputs=inputs, out=out, options=own, system="pasd", source="builtin:tiny", device="cpu", previews=True
    )


def test_a_picture_is_restored_as_the_restorer_does(picture, tmp_path):
    assert main(options(tmp_path / "out", picture, seed=3)) == 0
    expected = PASDRestorer.from_pretrained("builtin:tiny")(picture, PASDCommand(**FAST, seed=3))
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "out" / "a.png")), np.asarray(expected))
    assert len(list((tmp_path / "out" / "previews" / "a").iterdir())) == FAST["steps"]
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["options"]["options"]["guidance_scale"] == 2.0 and run["problems"] == []


def test_a_style_is_loaded(picture, tmp_path):
    factors = {
        "lora_unet_conv_in.lora_down.weight": torch.ones(1, 4, 3, 3),
        "lora_unet_conv_in.lora_up.weight": torch.linspace(-9, 9, 8).view(8, 1, 1, 1),
    }
    save_file(factors, tmp_path / "style.safetensors")
    main(options(tmp_path / "plain", picture))
    main(options(tmp_path / "styled", picture, style=str(tmp_path / "style.safetensors")))
    plain, styled = (PIL.Image.open(tmp_path / name / "a.png") for name in ("plain", "styled"))
    assert not np.array_equal(np.asarray(plain), np.asarray(styled))


@pytest.mark.slow
def test_the_command_line_says_what_is_wrong(picture, tmp_path):
    command = [sys.executable, "scripts/restore.py", str(picture), "--system", "pasd", "--out", str(tmp_path / "out")]
    for more, sentence in [
        (("--pasd", "somewhere"), "need their base: name a Stable Diffusion folder"),
        (("--guidance-scale", "0"), "guidance_scale must lie in [1, 100]"),
        (("--source", "builtin:tiny", "--preset", "best"), "preset"),
    ]:
        done = subprocess.run([*command, *more], cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_benchmark_compares_equal_things(tmp_path):
    module, options = benchmark.parse(["pasd", "--tiny", "--size", "64", "--rounds", "1", "--out", str(tmp_path)])
    rows = {row["what"]: row for row in module.benchmark(options)}
    assert rows["straightforward port"]["of_first"] == 1
    assert rows["ours"]["largest_difference"] < 1e-2
    assert rows["ours, preset fast"]["largest_difference"] > rows["ours"]["largest_difference"]
    assert {path.name for path in tmp_path.iterdir()} == {"steps.json", "steps.csv"}


def test_the_evaluation_measures_the_base_alone_too(tmp_path):
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (tmp_path / "hr").mkdir(exist_ok=True)
        PIL.Image.fromarray(noise).resize((64, 64), PIL.Image.Resampling.BICUBIC).save(tmp_path / "hr" / f"{i}.png")
    words = ["pasd", "--hr", str(tmp_path / "hr"), "--source", "builtin:tiny", "--scale", "2", "--steps", "1"]
    words += ["--presets", "fast", "--peers", "--out", str(tmp_path / "out"), "--pictures"]
    module, options = evaluate.parse(words)
    assert module.evaluate(options).code == 0
    rows = json.loads((tmp_path / "out" / "means.json").read_text())
    assert [row["method"] for row in rows] == ["good image", "bicubic", "Lanczos", "base alone", "PASD", "PASD fast"]
    psnr = {row["method"]: row["psnr_y"] for row in rows}
    assert psnr["base alone"] != psnr["PASD"]
