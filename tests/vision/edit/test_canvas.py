"""Pictures at their own size: what an edit changes, what it leaves, and what a mask says."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from tests.vision.edit.conftest import picture
from vision.edit import PIEOptions
from vision.edit.canvas import Canvas
from vision.edit.masks import load_region, remarks
from vision.edit.pictures import resize_and_cut
from vision.images import as_loaded, from_pil
from vision.painted import painted

QUICK = PIEOptions(frames=2, steps=4)


def disc(height: int, width: int, value: int = 255) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.where((y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 4) ** 2, value, 0).astype("u1")


@pytest.mark.parametrize("size", [(97, 130), (32, 32), (20, 200), (151, 90)])
def test_outside_of_the_region_stays_bit_identical_at_full_size(editor, size):
    given, mask = picture(0, *size), disc(*size)
    found = editor(given, mask=Image.fromarray(mask), options=QUICK)
    before = np.asarray(given)
    for frame in found:
        assert np.array_equal(np.asarray(frame)[mask == 0], before[mask == 0])
    assert np.array_equal(np.asarray(found[0]), before)
    assert (np.asarray(found[-1])[mask > 0] != before[mask > 0]).any()


def test_sixteen_bits_stay_sixteen_bits(editor):
    values = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)  # 12 bits in 16
    given, mask = Image.fromarray(values), disc(64, 48)
    canvas = Canvas.of(from_pil(given))
    assert canvas.high == 4095 and canvas.visible().getextrema()[0] == (0, 255)
    last = np.asarray(editor(given, mask=Image.fromarray(mask), options=QUICK)[-1])
    assert last.dtype == np.uint16 and np.array_equal(last[mask == 0], values[mask == 0])
    assert len(np.unique(last)) > 256 and last.max() <= 4095


def test_grey_with_a_profile_of_colours_stays_grey(editor):
    from PIL import ImageCms

    given = picture(0).convert("L").convert("RGB")
    given.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    last = editor(given, mask=Image.fromarray(disc(32, 32)), options=QUICK)[-1]
    assert last.mode == "RGB" and not np.ptp(np.asarray(last), axis=2).any()
    assert last.info["icc_profile"] == given.info["icc_profile"] and last.tobytes() != given.tobytes()


def test_a_change_is_added_and_fades_to_the_border():
    canvas = Canvas(np.full((90, 90), 200, np.uint8), 0, 255, region=disc(90, 90))
    after = canvas.with_change(torch.full((3, 9, 9), -0.5), (0, 0, 90, 90)).astype(int)
    assert after[45, 45] == round(200 - 127.5)
    edge = after[45, 20:46]
    assert (np.diff(edge) <= 0).all() and np.abs(np.diff(edge)).max() < 30


def test_detail_of_the_picture_stays_below_the_change():
    texture = np.random.RandomState(0).randint(80, 176, (96, 96)).astype(np.uint8)
    canvas = Canvas(texture, 0, 255, region=disc(96, 96))
    after = canvas.with_change(torch.full((3, 8, 8), 0.1), (0, 0, 96, 96)).astype(int)
    middle = np.s_[40:56, 40:56]
    assert after[middle] - texture[middle].astype(int) == pytest.approx(25.5, abs=0.51)


def test_the_window_moves_to_the_region():
    values = np.zeros((40, 200), np.uint8)
    assert Canvas(values, 0, 255).window(32) == (80, 0, 120, 40)
    region = values.copy()
    region[10:20, 180:190] = 255
    assert Canvas(values, 0, 255, region=region).window(32) == (150, 0, 190, 40)
    assert Canvas(values, 0, 255, region=region).window(0) == (0, 0, 200, 40)


def test_hidden_colours_do_not_reach_the_networks():
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[..., :3] = (0, 255, 0)
    rgba[5:15, 5:15] = (200, 40, 30, 255)
    canvas = Canvas.of(from_pil(Image.fromarray(rgba)))
    assert np.unique(np.asarray(canvas.visible()).reshape(-1, 3), axis=0).tolist() == [[200, 40, 30]]


def layer(colour: tuple[int, int, int], hidden: tuple[int, int, int]) -> Image.Image:
    """Strokes of one colour on a transparent layer."""
    array = np.zeros((40, 40, 4), np.uint8)
    array[..., :3], array[..., 3] = hidden, disc(40, 40)
    array[disc(40, 40) > 0, :3] = colour
    return Image.fromarray(array)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (200, 30, 30)])
@pytest.mark.parametrize("hidden", [(255, 255, 255), (0, 0, 0), (9, 99, 199)])
def test_what_is_painted_on_a_transparent_layer_decides(colour, hidden):
    assert np.array_equal(np.asarray(painted(as_loaded(layer(colour, hidden)))), disc(40, 40))


def test_several_colours_on_a_transparent_layer_count_by_brightness_and_opacity():
    array = np.zeros((2, 3, 4), np.uint8)
    array[0] = (255, 255, 255, 255), (255, 255, 255, 128), (0, 0, 0, 255)
    found = np.asarray(painted(as_loaded(Image.fromarray(array))))
    assert found.tolist() == [[255, 128, 0], [0, 0, 0]]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "RGB"])
@pytest.mark.parametrize("stray", [1, 12, 31])
def test_a_black_and_white_mask_with_stray_values_is_no_mask_of_labels(stray, kind):
    array = disc(60, 60)
    array[2, 3], array[50:52, 55] = stray, 1
    given = {"uint8": array, "uint16": array * np.uint16(257), "RGB": np.dstack([array, array, array // 2 * 2])}[kind]
    found = np.asarray(painted(from_pil(Image.fromarray(given))))
    assert np.array_equal(found, array)


@pytest.mark.parametrize("most", [1, 5, 30])
def test_a_noisy_black_beside_white_is_no_mask_of_labels(most):
    noise = np.random.default_rng(0).integers(0, most + 1, (60, 60)).astype(np.uint8)
    array = np.where(disc(60, 60) > 0, 255, noise).astype(np.uint8)
    assert np.array_equal(np.asarray(painted(from_pil(Image.fromarray(array)))), array)


@pytest.mark.parametrize("quality", [30, 60, 90, 97])
def test_a_black_and_white_mask_stays_one_after_compression(quality):
    buffer = io.BytesIO()
    Image.fromarray(disc(60, 60)).save(buffer, "JPEG", quality=quality)
    found = np.asarray(painted(as_loaded(buffer.getvalue()))).astype(int)
    assert np.abs(found - disc(60, 60)).mean() < 12 and (found[:4, :4] < 32).all()


def test_soft_edges_stay_soft_and_values_up_to_white_stay_brightness():
    soft = np.asarray(Image.fromarray(disc(60, 60)).resize((20, 20), Image.Resampling.LANCZOS))
    assert np.array_equal(np.asarray(painted(from_pil(Image.fromarray(soft)))), soft)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    assert np.array_equal(np.asarray(painted(from_pil(Image.fromarray(ramp)))), ramp)


@pytest.mark.parametrize("labels", [(0, 1), (0, 1, 2, 3, 4, 5), (0, 2, 3), (0, 7, 31), (0, 1, 2, 255)])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "palette"])
def test_labels_are_painted(labels, kind):
    array = np.zeros((30, 30), np.uint8 if kind != "uint16" else np.uint16)
    for i, label in enumerate(labels[1:]):
        array[5 + 5 * i : 9 + 5 * i, 5:20] = 65535 if kind == "uint16" and label == 255 else label
    image = Image.fromarray(array)
    if kind == "palette":
        image = Image.fromarray(array, "P")
        image.putpalette([0, 0, 0] + [128, 0, 60] * 255)
    found = np.asarray(painted(from_pil(image)))
    assert np.array_equal(found > 0, array > 0) and found.max() == 255
    assert np.asarray(load_region(painted(from_pil(image)), (30, 30))).max() == 255


def test_masks_that_do_nothing_or_everything_say_so(editor, image):
    assert "white everywhere" in remarks(Image.new("L", (8, 8), 255))[0]
    assert "100 of 255" in remarks(Image.fromarray(disc(20, 20, 100)))[0]
    assert remarks(Image.fromarray(disc(20, 20))) == []
    assert "is it a photograph" in remarks(Image.linear_gradient("L").point(lambda v: 20 + v // 2))[0]
    assert remarks(Image.linear_gradient("L")) == []
    assert remarks(Image.fromarray(disc(20, 20)).filter(ImageFilter.GaussianBlur(2))) == []
    with pytest.raises(ValueError, match="empty"):
        load_region(layer((255, 255, 255), (0, 0, 0)).point(lambda x: 0), (40, 40))
    with pytest.raises(ValueError, match="another shape than the picture's 40 x 40"):
        load_region(Image.fromarray(disc(40, 80)), (40, 40))
    dot = np.zeros((320, 320), np.uint8)
    dot[0, 0] = 255
    with pytest.raises(ValueError, match="so small that the networks do not see it"):
        editor(picture(0, 320, 320), mask=Image.fromarray(dot), options=QUICK)


def test_of_a_very_long_picture_only_the_middle_is_resized():
    long = Image.new("L", (1, 600_000))
    long.putpixel((0, 299_999), 200)
    assert resize_and_cut(long, 4096).getextrema() == (200, 200)


def test_a_window_around_the_region_keeps_within_the_picture():
    values, region = np.zeros((100, 200), np.uint8), np.zeros((100, 200), np.uint8)
    region[20:30, 150:190] = 255
    canvas = Canvas(values, 0, 255, region=region)
    assert canvas.window(0, 1.0) == (150, 9, 190, 41)
    assert canvas.window(0, 2.0) == (130, 9, 200, 41)
    assert canvas.window(0, 50.0) == (0, 0, 200, 100) == Canvas(values, 0, 255).window(0, 2.0)
