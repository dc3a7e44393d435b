"""Folders of images as training samples: reproducible, paired, and clear about what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from restoration.data import DegradedImages, PairedImages


def write_images(folder, sizes, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index, (width, height) in enumerate(sizes):
        array = np.random.default_rng(start + index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "photos", [(40, 36), (33, 50), (48, 32)])


@pytest.fixture
def pairs(tmp_path):
    high = write_images(tmp_path / "pairs" / "hr", [(40, 32), (48, 64)])
    for path in sorted(high.iterdir()):
        image = Image.open(path)
        low = tmp_path / "pairs" / "lr" / path.with_suffix(".png").name
        low.parent.mkdir(exist_ok=True)
        image.resize((image.width // 4, image.height // 4), Image.Resampling.BOX).save(low)
    return tmp_path / "pairs"


def same(first, second):
    return all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


def test_samples_do_not_depend_on_the_number_of_workers(folder):
    data = DegradedImages(folder, "bsrgan_light", crop=32, seed=5, repeats=2)
    straight = list(data)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert same(straight, list(loader))
    assert straight[0]["high"].shape == (3, 32, 32) and straight[0]["low"].shape == (3, 8, 8)


def test_a_seed_decides_about_samples(folder):
    data = DegradedImages(folder, "bicubic", crop=16)
    first = list(data)
    assert same(first, list(data))
    assert not same(first, list(DegradedImages(folder, "bicubic", crop=16, seed=1)))


def test_images_kept_in_memory_give_the_same_samples(folder):
    fresh = DegradedImages(folder, "bicubic", crop=16)
    kept = DegradedImages(folder, "bicubic", crop=16, in_memory=True)
    assert same(list(fresh), list(kept)) and same(list(fresh), list(kept))


def test_whole_images_are_cut_to_multiples_of_the_scale(folder):
    sample = DegradedImages(folder, "bicubic", crop=None, augment=False)[1]
    assert sample["high"].shape == (3, 48, 32) and sample["low"].shape == (3, 12, 8)


def test_crops_of_pairs_show_the_same_place(pairs):
    data = PairedImages(pairs, crop=16, augment=True, repeats=8)
    for sample in data:
        shrunk = torch.nn.functional.avg_pool2d(sample["high"][None], 4)[0]
        assert (shrunk - sample["low"]).abs().max() < 1.1 / 255  # both passes of the shrinking round


def test_pairs_may_shrink_before_the_crop(pairs):
    data = PairedImages(pairs, crop=24, rescale=True, repeats=4)
    assert all(sample["high"].shape == (3, 24, 24) and sample["low"].shape == (3, 6, 6) for sample in data)
    assert not same(list(data), list(PairedImages(pairs, crop=24, repeats=4)))


def test_a_picture_with_two_partners_is_refused(pairs):
    low = next((pairs / "lr").iterdir())
    Image.open(low).save(low.with_suffix(".bmp"))
    assert len(PairedImages(pairs)) > 0  # the ending decides
    low.rename(low.with_suffix(".tif"))
    with pytest.raises(ValueError, match="may belong to"):
        PairedImages(pairs)


def test_two_folders_can_be_named(pairs):
    assert same(list(PairedImages(pairs)), list(PairedImages(pairs / "hr", pairs / "lr")))


def test_errors_are_sentences(tmp_path, folder, pairs):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        DegradedImages(tmp_path / "nowhere", "bicubic")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        DegradedImages(tmp_path / "empty", "bicubic")
    with pytest.raises(ValueError, match="multiple of the scale 4, got 30"):
        DegradedImages(folder, "bicubic", crop=30)
    with pytest.raises(ValueError, match="40 x 36 pixels, too few for a crop of 64 x 64"):
        DegradedImages(folder, "bicubic", crop=64)[0]
    (folder / "bad.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"bad\.png is not an image"):
        list(DegradedImages(folder, "bicubic", crop=16))
    with pytest.raises(IndexError):
        DegradedImages(folder, "bicubic", crop=16)[99]
    (pairs / "lr" / "1.png").rename(pairs / "lr" / "other.png")
    with pytest.raises(ValueError, match=r"1 images of .* have no partner in .*; first: 1\.png"):
        PairedImages(pairs)
    Image.new("RGB", (9, 8)).save(pairs / "lr" / "1.png")
    with pytest.raises(ValueError, match=r"48 x 64 pixels are no whole multiple of its partner's 9 x 8"):
        PairedImages(pairs)[1]
