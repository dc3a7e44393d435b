"""Tables, plots and pictures are written whole and can be read back."""

from __future__ import annotations

import csv
import importlib.util
import json
import math

import numpy as np
import PIL.Image
import pytest
import torch
from rich.console import Console

from vision import report

ROWS = [
    {"image": "a", "psnr": 30.123456, "count": 3},
    {"image": "b, c", "psnr": math.nan, "tensor": torch.tensor(0.5)},
]
COLOURS = [PIL.Image.new("RGB", (40, 31), colour) for colour in ("red", "green", "blue")]


def test_tables_read_back(tmp_path):
    report.write_table(ROWS, tmp_path / "new" / "t.json", tmp_path / "new" / "t.csv")
    data = json.loads((tmp_path / "new" / "t.json").read_text())
    assert data == [
        {"image": "a", "psnr": 30.123456, "count": 3},
        {"image": "b, c", "psnr": None, "tensor": 0.5},
    ]
    with open(tmp_path / "new" / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"image": "b, c", "psnr": "", "count": "", "tensor": "0.5"}
    assert float(rows[0]["psnr"]) == ROWS[0]["psnr"]


def test_printed_tables_show_every_column():
    console = Console(record=True, width=100, file=open("/dev/null", "w"))
    console.print(report.table(ROWS, "Results", digits=2))
    text = console.export_text()
    assert all(word in text for word in ("Results", "image", "psnr", "count", "tensor", "30.12", "b, c"))


def test_plots_are_pictures(tmp_path):
    curves = {"a": ([1, 2, 3], [3.0, 2.0, 1.0]), "b": ([1, 2], [1.0, 4.0])}
    report.plot(tmp_path / "p.png", curves, title="t", xlabel="x", ylabel="y", log=True)
    rows = [{"method": "bicubic", "psnr": 28.0, "niqe": None}, {"method": "ours", "psnr": 30.0, "niqe": 4.0}]
    report.plot_bars(tmp_path / "b.png", rows, "method", ["psnr", "niqe"], title="t")
    for name in ("p.png", "b.png"):
        pixels = np.asarray(PIL.Image.open(tmp_path / name).convert("L"))
        assert pixels.min() < 100 and min(pixels.shape) > 300


def test_side_by_side_scales_to_one_height_and_writes_labels():
    small = PIL.Image.new("L", (10, 15))
    row = report.side_by_side([small, COLOURS[0]], ["input", "result"], height=60)
    assert row.width == 40 + 4 + round(40 * 60 / 31)
    pixels = np.asarray(row)
    bar = pixels[: len(pixels) - 60]
    assert (bar[:, :40] < 128).any() and (bar[:, 44:] < 128).any()
    assert (pixels[-60:, 44:] == [255, 0, 0]).all()
    with pytest.raises(ValueError, match="got 1 pictures and 2 labels"):
        report.side_by_side([small], ["a", "b"])


def test_strips_keep_the_pictures():
    row = np.asarray(report.strip(COLOURS, gap=2))
    column = np.asarray(report.strip(COLOURS, gap=2, vertical=True))
    assert row.shape == (31, 124, 3) and column.shape == (97, 40, 3)
    assert (row[:, 42:82] == [0, 128, 0]).all() and (column[33:64] == [0, 128, 0]).all()
    assert (row[:, 40:42] == 255).all()
    with pytest.raises(ValueError, match="at least one picture"):
        report.strip([])


def test_gif_has_all_frames(tmp_path):
    report.save_gif(iter(COLOURS), tmp_path / "a.gif", fps=10)
    film = PIL.Image.open(tmp_path / "a.gif")
    assert film.n_frames == 3 and film.info["duration"] == 100
    film.seek(2)
    assert film.convert("RGB").getpixel((5, 5)) == (0, 0, 255)
    with pytest.raises(ValueError, match="pictures of one size, got 10 x 10, 40 x 31"):
        report.save_gif([*COLOURS, PIL.Image.new("RGB", (10, 10))], tmp_path / "b.gif")
    with pytest.raises(ValueError, match="one size, got none"):
        report.save_gif([], tmp_path / "b.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_mp4_is_written_or_the_missing_package_is_named(tmp_path):
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        with pytest.raises(ValueError, match="need the package imageio-ffmpeg"):
            report.save_mp4(COLOURS, tmp_path / "a.mp4")
    else:
        report.save_mp4(COLOURS, tmp_path / "a.mp4")
        assert b"ftyp" in (tmp_path / "a.mp4").read_bytes()[:16]


def test_run_json_holds_facts_and_versions(tmp_path):
    report.write_run(
        tmp_path / "run.json", options={"seed": 3, "out": tmp_path, "loss": math.inf}, seconds=1.5, dtype=torch.float16
    )
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["options"] == {"seed": 3, "out": str(tmp_path), "loss": None}
    assert run["seconds"] == 1.5 and run["dtype"] == "torch.float16"
    assert run["versions"].keys() >= {"burnish", "python", "torch"}


def test_panels_hold_their_curves(tmp_path):
    curves = {"a": ([0, 1], [1.0, 2.0]), "b": ([0, 1], [2.0, 1.0])}
    report.plot_panels(tmp_path / "panels.png", {str(number): curves for number in range(5)}, columns=3, title="five")
    picture = PIL.Image.open(tmp_path / "panels.png")
    assert picture.format == "PNG" and picture.width > picture.height


def test_the_interval_of_a_share():
    low, high = report.wilson(90, 100)
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)
    assert report.wilson(0, 10)[0] == 0 and report.wilson(10, 10)[1] == 1


def test_tables_show_names_as_they_are():
    shown = report.text_table([{"name": "[red]a[/x] \x1b[31mb\nc", "value": 1.0}], title="[b]")
    assert "[red]a[/x] \\x1b[31mb c" in shown and "[b]" in shown and "\x1b" not in shown
