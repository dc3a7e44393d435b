"""The measurements of PASD's preset fast and of its tiles, on small pictures."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from restoration.pasd.benchmark import PASDBenchmark
from restoration.pasd.benchmark_pictures import fast_distance, seam_energy, seams


def test_fast_is_near_the_exact_result(tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    (tmp_path / "good").mkdir()
    PIL.Image.fromarray(small).resize((96, 96), PIL.Image.Resampling.BICUBIC).save(tmp_path / "good" / "a.png")
    (row,) = fast_distance(tmp_path / "good", tmp_path, steps=6, size=64)
    assert row["psnr_to_exact"] > 25 and row["cpu_of_exact"] > 0
    with PIL.Image.open(tmp_path / "fast.png") as picture:
        assert picture.width > 4 * 64


def test_seam_energy_sees_a_step_between_tiles():
    flat = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    stepped = flat.clone()
    stepped[..., 16:] += 1
    assert seam_energy(flat, -1, [15]) == pytest.approx(1, abs=0.5)
    assert seam_energy(stepped, -1, [15]) > 2.5
    assert seam_energy(stepped.mT, -2, [15]) == pytest.approx(seam_energy(stepped, -1, [15]))


def test_tiles_are_compared_with_the_whole():
    tiled, whole = seams(512, 384, tile=24, steps=1)
    assert (tiled["what"], whole["what"], whole["of_whole"]) == ("tiled", "whole", 1)
    assert tiled["of_whole"] == pytest.approx(1, abs=0.2)


def test_tasks_say_what_they_need(tmp_path):
    with pytest.raises(ValueError, match="name a folder with --out"):
        PASDBenchmark(task="seams")
    with pytest.raises(ValueError, match="name their folder with --images"):
        PASDBenchmark(task="fast-distance", out=tmp_path)
    with pytest.raises(ValueError, match="multiple of 8 from 64"):
        PASDBenchmark(size=60)
