"""The restore script: whole folders, bad inputs, interruptions, several processes. Real tiny networks, random
weights."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
import torch
from safetensors.torch import load_file, save_file

from restoration.iter.options import ITEROptions
from restoration.iter.restorer import ITERRestorer
from scripts.main import start
from scripts.restore import RestoreOptions, main
from tests.processes import killed_at
from tests.vision.test_images import png_of

SOURCE = "builtin:tiny-mini"
PROJECT = Path(__file__).resolve().parents[2]


def picture(number: int, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> PIL.Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (5, 6, len(mode)), dtype=np.uint8)
    return PIL.Image.fromarray(noise).resize(size, PIL.Image.Resampling.BICUBIC)


def options(out: Path, *inputs: Path, **changes) -> RestoreOptions:
    names = ITEROptions.__dataclass_fields__
    own = {name: changes.pop(name) for name in list(changes) if name in names}
    return RestoreOptions(
        inputs=inputs, out=out, options=ITEROptions(**own), **{"source": SOURCE, "device": "cpu", **changes}
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(4):
        picture(number).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


def seen(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path))


def test_a_folder_is_restored_as_the_restorer_does(folder, tmp_path):
    assert main(options(tmp_path / "out", folder, seed=3)) == 0
    assert seen(tmp_path / "out") == ["0.png", "1.png", "2.png", "3.png", "run.json"]
    restorer = ITERRestorer.from_pretrained(SOURCE)
    for number in range(4):
        expected = restorer(folder / f"{number}.png", ITEROptions(seed=3))
        assert np.array_equal(pixels(tmp_path / "out" / f"{number}.png"), expected)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["options"]["options"]["seed"] == run["seed"] == 3 and run["source"] == SOURCE
    assert run["seconds"] > 0 and "torch" in run["versions"] and run["problems"] == []
    assert {name: facts["was_done"] for name, facts in run["images"].items()} == {f"{i}.png": False for i in range(4)}


def test_result_of_an_image_does_not_depend_on_the_others(folder, tmp_path):
    main(options(tmp_path / "all", folder))
    main(options(tmp_path / "one", folder / "2.png"))
    assert (tmp_path / "all" / "2.png").read_bytes() == (tmp_path / "one" / "2.png").read_bytes()


def test_tiled_results_are_streamed_to_the_same_pixels(tmp_path):
    picture(0, (70, 90)).save(tmp_path / "a.png")
    chosen = {"tile": 32, "tile_overlap": 4, "fidelity": 1.0}
    assert main(options(tmp_path / "out", tmp_path / "a.png", **chosen)) == 0
    expected = ITERRestorer.from_pretrained(SOURCE)(tmp_path / "a.png", ITEROptions(**chosen))
    assert np.array_equal(pixels(tmp_path / "out" / "a.png"), expected) and expected.size == (280, 360)


def test_done_images_are_kept_until_input_or_options_change(folder, tmp_path):
    out = tmp_path / "out"
    main(options(out, folder))
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    picture(7).save(folder / "0.png")
    (out / "1.png").write_bytes(b"damaged")
    (out / "2.png").unlink()
    assert main(options(out, folder)) == 0
    run = json.loads((out / "run.json").read_text())
    assert {name: facts["was_done"] for name, facts in run["images"].items()} == {
        "0.png": False,
        "1.png": False,
        "2.png": False,
        "3.png": True,
    }
    assert (out / "3.png").stat().st_mtime_ns == times["3.png"]
    before = pixels(out / "3.png")
    assert main(options(out, folder, seed=5)) == 0
    assert not np.array_equal(pixels(out / "3.png"), before)


def test_comparison_can_be_added_later_without_restoring_again(folder, tmp_path):
    out = tmp_path / "out"
    main(options(out, folder / "0.png"))
    written = (out / "0.png").stat().st_mtime_ns
    assert main(options(out, folder / "0.png", compare=True)) == 0
    assert (out / "0.png").stat().st_mtime_ns == written
    comparison = pixels(out / "compare" / "0.png")
    restored = pixels(out / "0.png")
    assert np.array_equal(comparison[-80:, -96:], restored) and comparison.shape[1] == 2 * 96 + 4


def test_previews_show_every_step_of_every_tile(folder, tmp_path):
    out = tmp_path / "out"
    assert main(options(out, folder / "0.png", previews=True, threshold=2.0, steps=3, tile=16, tile_overlap=4)) == 0
    names = sorted(path.name for path in (out / "previews" / "0").iterdir())
    tiles = {name[:8] for name in names}
    assert len(tiles) > 1 and names == [f"{tile}_step_0{step}.png" for tile in sorted(tiles) for step in range(3)]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_formats_and_colour_profile(folder, tmp_path, suffix):
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    picture(0).save(folder / "p.png", icc_profile=profile)
    assert main(options(tmp_path / "out", folder / "p.png", format=suffix)) == 0
    result = PIL.Image.open(tmp_path / "out" / ("p.png" if suffix == "png" else f"p_png.{suffix}"))
    assert result.size == (96, 80) and result.info["icc_profile"] == profile


def test_transparency_is_enlarged_or_composited(tmp_path):
    picture(0, mode="RGBA").save(tmp_path / "a.png")
    assert main(options(tmp_path / "kept", tmp_path / "a.png")) == 0
    assert main(options(tmp_path / "flat", tmp_path / "a.png", background="white")) == 0
    assert PIL.Image.open(tmp_path / "kept" / "a.png").mode == "RGBA"
    assert PIL.Image.open(tmp_path / "flat" / "a.png").mode == "RGB"
    assert main(options(tmp_path / "jpg", tmp_path / "a.png", format="jpg")) == 2
    assert main(options(tmp_path / "no", tmp_path / "a.png", background="reddish")) == 2


@pytest.mark.parametrize(("suffix", "width"), [("webp", 4200), ("jpg", 16500)])
def test_what_a_format_cannot_hold_is_refused_before_the_work(tmp_path, monkeypatch, capfd, suffix, width):
    PIL.Image.new("RGB", (width, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(ITERRestorer, "bands", None)
    assert main(options(tmp_path / "out", tmp_path / "a.png", format=suffix)) == 2
    err = capfd.readouterr().err
    assert f"pixels per side, a_png.{suffix} would have {4 * width} x 8; save it as PNG." in err


def test_every_bad_image_costs_one_sentence_and_the_others_are_done(folder, tmp_path, capfd):
    buffer = io.BytesIO()
    picture(5, (200, 200)).save(buffer, "PNG")
    bad = {
        "empty": b"",
        "truncated": buffer.getvalue()[: len(buffer.getvalue()) // 2],
        "text": b"This is no picture at all.",
        "bomb": png_of((60_000, 50_000), 8, 2, b"\0" * 1000),
        "zero": b"P6 0 5 255\n",
    }
    for name, content in bad.items():
        (folder / f"{name}.png").write_bytes(content)
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    missing, empty = tmp_path / "missing.png", tmp_path / "nothing"
    empty.mkdir()
    out = tmp_path / "out"
    assert main(options(out, folder, missing, empty, tmp_path / "missing_folder")) == 2
    assert seen(out) == [folder.name, "run.json"]  # several folders were named
    assert seen(out / folder.name) == ["0.png", "1.png", "2.png", "3.png"]
    assert not list(out.rglob(".*.part"))
    problems = json.loads((out / "run.json").read_text())["problems"]
    written = capfd.readouterr().err.splitlines()
    assert len(problems) == len(bad) + 4
    for problem in problems:
        assert problem in written and problem.endswith(".")
    for name in (*bad, "moving", "missing.png", "nothing", "missing_folder"):
        assert sum(f"{tmp_path}" in problem and name in problem for problem in problems) >= 1
    assert any("60000 x 50000 pixels" in problem and "--max-pixels" in problem for problem in problems)


def test_an_unwritable_output_is_one_sentence(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"Cannot write to the folder .*file.*: "):
        main(options(tmp_path / "file", folder))
    (tmp_path / "out" / "1.png").mkdir(parents=True)
    assert main(options(tmp_path / "out", folder)) == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png") if path.is_file()) == [
        "0.png",
        "2.png",
        "3.png",
    ]


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_bad_checkpoints_are_one_sentence_and_run_no_code(folder, tmp_path):
    weights, trace = tmp_path / "weights", tmp_path / "trace"
    ITERRestorer.from_pretrained(SOURCE).save_pretrained(weights)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Harmful(trace)))
    with pytest.raises(ValueError, match=r"pickled checkpoint.*scripts/convert.py"):
        main(options(tmp_path / "out", folder, source=str(tmp_path / "bad.pth")))
    tensors = load_file(weights / "model.safetensors")
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    broken = {**tensors, name: torch.full_like(tensors[name], float("nan"))}
    save_file(broken, weights / "model.safetensors")
    with pytest.raises(ValueError, match="NaN or infinite weights"):
        main(options(tmp_path / "out", folder, source=str(weights)))
    save_file({"other": torch.zeros(3)}, weights / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit this network: it lacks"):
        main(options(tmp_path / "out", folder, source=str(weights)))
    (weights / "model.safetensors").write_bytes(pickle.dumps(Harmful(trace)))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        main(options(tmp_path / "out", folder, source=str(weights)))
    with pytest.raises(FileNotFoundError, match="There is no folder or file"):
        main(options(tmp_path / "out", folder, source="./nowhere"))
    assert not trace.exists() and not (tmp_path / "out").exists()


def test_devices_that_are_not_there_are_one_sentence(folder, tmp_path):
    with pytest.raises(ValueError, match="There is no device 'quantum'"):
        main(options(tmp_path / "out", folder, device="quantum"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="There is no CUDA device here"):
            main(options(tmp_path / "out", folder, device="cuda"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["in", "--out", "o", "--fidelitee", "1"], "--fidelitee"),
        (["in", "--out", "o", "--size", "200"], "--size is an option of --system pasd, not of iter."),
        (["in", "--out", "o", "--fidelity", "3"], "fidelity must lie in [0, 1], got 3.0."),
        (["in", "--out", "o", "--system", "magic"], "There is no system 'magic'; choose none, bicubic, iter"),
        (["in", "--out", "o", "--system", "bicubic:4"], "takes nothing after its name, got 'bicubic:4'"),
        (["in", "--out", "o", "--system", "iter:sharp"], "must name one of photo, clean behind the colon, got 'sharp'"),
        (["in", "--out", "o", "--system=pasd:quick"], "must name one of faithful, balanced, creative, fast behind"),
        (["in", "--out", "o", "--blend", "-1"], "blend must lie in [0, 1], got -1.0."),
        (["in", "--out", "o", "--system", "iter:photo@1*"], "A blend is a number in [0, 1], got ''"),
        (["in", "--out", "o", "--system", "iter:photo@"], "A fidelity is a number in [0, 1], got ''"),
        (["in", "--out", "o", "--source", ""], "The source of the weights is an empty name"),
        (["in", "--out", "o", "--system", "iter:photo@much"], "A fidelity is a number in [0, 1], got 'much'"),
        (["in", "--out", "o", "--system", "nowhere.py:Mine"], "There is no file nowhere.py for the system"),
        (["in", "--out", "o", "--system", "pasd", "--style-weight", "0.5"], "style_weight is about a style"),
        (["in"], "--out"),
        (["--out", "o"], "Name at least one image"),
        (["in", "--out", "o", "--source", "./none"], "There is no folder or file"),
    ],
)
def test_wrong_command_lines_are_one_sentence_with_code_2(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["restore.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        start("restore")
    assert stop.value.code == 2
    written = capsys.readouterr().err
    assert sentence in written and written.count("\n") == 1


def test_an_interruption_keeps_what_is_finished_and_nothing_else(folder, tmp_path, monkeypatch):
    out, restored = tmp_path / "out", []
    bands = ITERRestorer.bands

    def stop_at_the_third(self, *arguments, **keywords):
        restored.append(1)
        for band in bands(self, *arguments, **keywords):
            if len(restored) == 3:
                raise KeyboardInterrupt
            yield band

    monkeypatch.setattr(ITERRestorer, "bands", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        main(options(out, folder))
    assert seen(out) == ["0.png", "1.png"] and not list(out.glob(".*.part"))
    assert main(options(out, folder)) == 0
    assert len(restored) == 5  # two, the one that was stopped, and the two that were left
    assert seen(out) == ["0.png", "1.png", "2.png", "3.png", "run.json"]


def script(*arguments: object) -> list[str]:
    return [sys.executable, str(PROJECT / "scripts" / "restore.py"), *map(str, arguments)]


@pytest.mark.slow
def test_a_killed_run_is_resumed_without_losing_or_repeating(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(12):
        picture(number, (60, 60)).save(tmp_path / "in" / f"{number:02d}.png")
    out = tmp_path / "out"
    command = script(tmp_path / "in", "--out", out, "--source", SOURCE, "--device", "cpu")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    finished = killed_at(process, out, 4)
    assert 4 <= len(finished) < 12
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    run = json.loads((out / "run.json").read_text())
    assert {name for name, facts in run["images"].items() if facts["was_done"]} == set(finished)
    assert all((out / name).stat().st_mtime_ns == when for name, when in finished.items())
    main(options(tmp_path / "straight", tmp_path / "in"))
    for number in range(12):
        name = f"{number:02d}.png"
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert not list(out.glob(".*.part"))


@pytest.mark.slow
def test_several_processes_do_each_image_once(folder, tmp_path):
    (folder / "bad.png").write_bytes(b"")
    out = tmp_path / "out"
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    command = launch + script(folder, "--out", out, "--source", SOURCE, "--device", "cpu")[1:]
    finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert finished.returncode != 0 and "bad.png is an empty file." in finished.stderr
    run = json.loads((out / "run.json").read_text())
    assert sorted(run["images"]) == ["0.png", "1.png", "2.png", "3.png"] and len(run["problems"]) == 1
    assert main(options(tmp_path / "single", folder)) == 2
    for number in range(4):
        name = f"{number}.png"
        assert (out / name).read_bytes() == (tmp_path / "single" / name).read_bytes()


def test_options_of_sampling_are_refused_where_nothing_is_sampled(folder, tmp_path, capfd):
    assert main(options(tmp_path / "out", folder / "0.png", fidelity=1.0, stop="progress")) == 2
    assert "stop is about sampling, and this result of ITER has none" in capfd.readouterr().err


def test_help_loads_no_more_than_it_needs():
    code = "import sys; sys.argv = ['restore.py', '--help']\nfrom scripts.main import start\ntry: start('restore')\n"
    code += "finally: sys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules}))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert finished.returncode == 0 and "--fidelity" in finished.stdout
    heavy = {"diffusers", "transformers", "accelerate", "torchvision", "skimage", "matplotlib", "open_clip", "trimesh"}
    assert not heavy & set(finished.stderr.split())
