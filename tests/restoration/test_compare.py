"""Side-by-side measurements: what is read, what is compared, what the means say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from restoration.compare import GOOD, baselines, compare, degraded_samples, means, paired_samples, timed
from vision.resize import imresize


@pytest.fixture
def folder(tmp_path):
    for index, (width, height) in enumerate([(70, 50), (64, 48)]):
        array = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(array).resize((width, height)).save(tmp_path / f"{index}.png")
    return tmp_path


def test_degraded_images_keep_their_middle_and_come_again(folder):
    samples = {name: read for name, read in degraded_samples(folder, "bsrgan_light", scale=4, crop=40)}
    assert list(samples) == ["0", "1"]
    low, high = samples["0"]()
    assert low.shape == (1, 3, 10, 10) and high.shape == (1, 3, 40, 40)
    assert torch.equal(low, samples["0"]()[0])
    whole = dict(degraded_samples(folder, "bicubic", scale=4))["0"]()[1]
    assert whole.shape == (1, 3, 48, 68) and torch.equal(high, whole[..., 4:44, 12:52])


def test_pairs_are_cut_at_the_same_place(folder, tmp_path):
    low_folder = tmp_path / "low"
    low_folder.mkdir()
    Image.open(folder / "1.png").resize((16, 12), Image.Resampling.BOX).save(low_folder / "1.jpg", quality=100)
    samples = dict(paired_samples(low_folder, folder, scale=4, crop=32))
    low, high = samples["1"]()
    assert low.shape == (1, 3, 8, 8) and high.shape == (1, 3, 32, 32)
    assert (torch.nn.functional.avg_pool2d(high, 4) - low).abs().mean() < 0.08
    with pytest.raises(ValueError, match=r"0\.png has no partner of this name"):
        samples["0"]()
    Image.new("RGB", (17, 12)).save(low_folder / "0.png")
    with pytest.raises(ValueError, match="are not 4 times those of"):
        dict(paired_samples(low_folder, folder, scale=4))["0"]()


def test_pictures_of_one_name_are_kept_apart(tmp_path):
    for folder, size in (("high", 32), ("low", 16)):
        (tmp_path / folder).mkdir()
        for ending, value in ((".png", 50), (".jpg", 200)):
            Image.new("L", (size, size), value).save(tmp_path / folder / f"a{ending}")
    assert [name for name, _ in degraded_samples(tmp_path / "high", "bicubic", scale=2)] == ["a.jpg", "a.png"]
    for name, read in paired_samples(tmp_path / "low", tmp_path / "high", scale=2):
        low, high = read()
        assert abs(float(low.mean() - high.mean())) < 0.02, name
    (tmp_path / "high" / "a.jpg").rename(tmp_path / "high" / "a.bmp")
    samples = dict(paired_samples(tmp_path / "low", tmp_path / "high", scale=2))
    samples["a.png"]()
    with pytest.raises(ValueError, match=r"a\.bmp may belong to .*a\.jpg and to .*a\.png"):
        samples["a.bmp"]()


def test_rows_hold_what_was_measured(folder):
    low, high = dict(degraded_samples(folder, "bicubic", scale=4))["1"]()
    methods, _ = baselines(4, ())
    rows, pictures, missing = compare(low, high, {**methods, "perfect": lambda low: high})
    assert [row["method"] for row in rows] == [GOOD, "bicubic", "Lanczos", "perfect"] == list(pictures)
    good, bicubic, _, perfect = rows
    assert perfect["psnr_y"] == good["psnr_y"] == float("inf") and perfect["ssim_y"] == pytest.approx(1)
    assert bicubic["psnr_y"] < 40 and bicubic["seconds_per_mp"] > 0 and good["seconds_per_mp"] is None
    assert bicubic["niqe"] is None and any(sentence.startswith("NIQE needs at least") for sentence in missing)
    assert pictures["bicubic"].size == (64, 48)


def test_peers_are_for_scale_four():
    methods, sentences = baselines(2, ("x4plus",))
    assert list(methods) == ["bicubic", "Lanczos"] and sentences == [
        "Real-ESRGAN enlarges by 4, not 2, and is left out."
    ]


def test_means_count_wins_over_bicubic():
    costs = dict.fromkeys(("psnr_y", "ssim_y", "brisque", "seconds_per_mp", "cpu_per_mp", "peak_mb"))
    rows = [
        {"image": image, "method": method, "niqe": niqe, "tex": tex, **costs}
        for image, method, niqe, tex in (
            ("a", "bicubic", 5, 1),
            ("a", "x", 4, 2),
            ("b", "bicubic", 6, None),
            ("b", "x", 5, 3),
        )
    ]
    bicubic, other = means(rows)
    assert (other["niqe"], other["niqe_wins"], other["tex"], other["tex_wins"]) == (4.5, "2/2", 2.5, "0/1")
    assert bicubic["niqe_wins"] is None and other["psnr_y"] is None


def test_costs_are_per_megapixel():
    low = torch.rand(1, 3, 64, 64)
    result, costs = timed(lambda image: imresize(image, 4), low)
    assert result.shape[-1] == 256 and costs["seconds_per_mp"] > 0 and costs["cpu_per_mp"] >= 0
    assert costs["peak_mb"] is None or costs["peak_mb"] > 10


def test_errors_are_sentences(tmp_path):
    with pytest.raises(ValueError, match="holds no images"):
        list(degraded_samples(tmp_path, "bicubic", scale=4))
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        list(degraded_samples(tmp_path / "nowhere", "bicubic", scale=4))
