"""Restoring a picture gives back what the picture carries, or says what its result cannot hold."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.PngImagePlugin
import pytest

from restoration.iter import ITEROptions
from restoration.job import RestoreOptions, restore
from restoration.plain import PlainOptions
from vision import png
from vision.images import Metadata, load_frames, load_image, save_image
from vision.job import Event

SMOOTH = np.add.outer(np.arange(12) * 4000, np.arange(15) * 900).astype(np.uint16)
COLOURS = np.dstack([SMOOTH, SMOOTH[::-1], SMOOTH // 2])


def run(picture: Path, **changes) -> tuple[Path, list[str], list[str]]:
    """(output folder, notes, problems) of a run with the plain enlarger, or with a small network."""
    notes = []
    system = changes.setdefault("system", "bicubic")
    chosen = ITEROptions() if system == "iter" else PlainOptions()
    options = RestoreOptions((picture,), picture.parent / "out", chosen, **changes)

    def show(event: Event) -> None:
        notes.extend([event.text] if event.kind == "note" else [])

    return options.out, notes, list(restore(options, show).problems)


@pytest.mark.parametrize("system", ["bicubic", "iter"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_give_16_bits(system, ending, tmp_path):
    save_image(COLOURS, tmp_path / f"a.{ending}")
    source = {"source": "builtin:tiny-mini"} if system == "iter" else {}
    out, notes, problems = run(tmp_path / f"a.{ending}", format=ending, system=system, **source)
    result = load_image(out / f"a.{ending}").deep
    assert not notes and not problems and result.shape == (48, 60, 3)
    assert np.unique(result).size > 1000 and (result % 257 != 0).mean() > 0.9
    if system == "bicubic":
        assert np.abs(result[2::4, 2::4].astype(int) - COLOURS)[1:-1, 1:-1].max() < 3500  # half a pixel of the slope


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "RGB"])
@pytest.mark.parametrize(("ending", "one"), [("png", True), ("jpg", True), ("webp", False), ("tif", False)])
def test_grey_pictures_give_grey_files(mode, ending, one, tmp_path):
    smooth = (SMOOTH >> 8).astype(np.uint8)
    grey = PIL.Image.fromarray(SMOOTH) if mode == "I;16" else PIL.Image.fromarray(smooth).convert(mode)
    grey.save(tmp_path / "a.png")
    name = "a.png" if ending == "png" else f"a_png.{ending}"
    background = {"background": "white"} if mode == "LA" and ending == "jpg" else {}
    out, _, problems = run(tmp_path / "a.png", system="iter", source="builtin:tiny-mini", format=ending, **background)
    result = PIL.Image.open(out / name)
    assert not problems and (len(result.getbands()) <= 2) is one
    pixels = np.asarray(load_image(out / name).rgb)
    assert np.ptp(pixels, axis=2).max() <= (3 if ending == "webp" else 0)  # WebP keeps colours apart in 8 bits
    if mode == "I;16" and ending == "png":
        assert load_image(out / name).deep.shape == (48, 60) and (load_image(out / name).deep % 257).any()


def test_a_grey_picture_with_a_profile_of_colours_keeps_it_and_previews_have_no_colours(tmp_path):
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    PIL.Image.fromarray((SMOOTH >> 8).astype(np.uint8)).convert("RGB").save(tmp_path / "a.png", icc_profile=profile)
    options = RestoreOptions(
        (tmp_path / "a.png",), tmp_path / "out", ITEROptions(fidelity=0.0, steps=2, threshold=2.0), previews=True,
        source="builtin:tiny-mini",
    )  # fmt: skip
    assert not restore(options).problems
    result = PIL.Image.open(tmp_path / "out" / "a.png")
    assert result.mode == "RGB" and result.info["icc_profile"] == profile
    steps = sorted((tmp_path / "out" / "previews").rglob("*.png"))
    assert len(steps) == 2
    for path in (tmp_path / "out" / "a.png", *steps):
        assert np.ptp(np.asarray(PIL.Image.open(path)), axis=2).max() == 0
    assert np.array_equal(np.asarray(PIL.Image.open(steps[-1])), np.asarray(result))


def test_what_the_format_cannot_hold_is_said_once(tmp_path):
    save_image(COLOURS, tmp_path / "a.png")
    out, notes, _ = run(tmp_path / "a.png", format="jpg")
    assert notes == [f"{tmp_path / 'a.png'}: JPEG files hold no more than 8 bits per channel; left out."]
    assert load_image(out / "a_png.jpg").deep is None
    assert run(tmp_path / "a.png", format="jpg")[1] == []  # done before


def test_values_of_few_bits_are_told(tmp_path):
    save_image(SMOOTH >> 5, tmp_path / "a.png")
    assert "so it is almost black" in run(tmp_path / "a.png")[1][0]


def test_metadata_and_transparency_come_out(tmp_path):
    exif, texts = PIL.Image.Exif(), PIL.PngImagePlugin.PngInfo()
    exif[0x8298], exif[0x0112] = "mine", 6
    texts.add_text("parameters", "a tree")
    rgba = PIL.Image.new("RGBA", (12, 8), (0, 255, 0, 0))
    rgba.paste((230, 60, 40, 255), (3, 2, 9, 6))
    rgba.save(tmp_path / "a.png", exif=exif, pnginfo=texts, dpi=(300, 300))
    out, notes, _ = run(tmp_path / "a.png")
    made = load_image(out / "a.png")
    assert not notes and made.rgb.size == (32, 48)
    with PIL.Image.open(out / "a.png") as image:
        assert np.abs(np.asarray(image)[..., :3].astype(int) - [230, 60, 40]).max() <= 1  # no green, hidden or not
        alpha = np.asarray(image.getchannel("A"))
    assert (alpha[16:32, 12:28] == 255).mean() > 0.7 and (alpha[:4] == 0).all()
    assert ((alpha > 0) & (alpha < 255)).mean() < 0.1
    assert made.metadata.texts == {"parameters": "a tree"} and round(made.metadata.dpi[0]) == 300
    with PIL.Image.open(out / "a.png") as image:
        assert dict(image.getexif()) == {0x8298: "mine"}


def moving(path: Path, transparent: bool = False) -> None:
    frames = [PIL.Image.new("RGBA", (10, 8), (255 * (n == 0), 255 * (n == 1), 255 * (n == 2), 255)) for n in range(3)]
    if transparent:
        frames[1].paste((0, 0, 0, 0), (0, 0, 4, 4))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[40, 500, 70], loop=0, disposal=2)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("ending", ["png", "webp"])
def test_animations_are_restored_frame_by_frame(transparent, ending, tmp_path):
    source = tmp_path / ("a.png" if transparent else "a.gif")
    moving(source, transparent)
    out, _, problems = run(source, frames="all", format=ending)
    assert not problems
    frames = load_frames(next(out.glob(f"a*.{ending}")))
    assert frames.durations == (40, 500, 70) and frames.loops == 0 and frames.transparent == transparent
    for number, frame in enumerate(frames):
        assert frame.rgb.size == (40, 32)
        assert int(np.asarray(frame.rgb.resize((1, 1), PIL.Image.Resampling.BOX)).argmax()) == number
    assert run(source, frames="all", format=ending)[2] == []


def test_one_frame_can_be_named_and_several_are_refused(tmp_path):
    moving(tmp_path / "a.gif")
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    assert "is animated or has several pages (3); restore takes one (--frames 1)" in run(tmp_path / "a.gif")[2][0]
    out, _, problems = run(tmp_path / "a.gif", frames=2)
    assert not problems and load_image(out / "a_gif.png").rgb.getpixel((20, 16)) == (0, 255, 0)
    assert "choose it with --format" in run(tmp_path / "a.gif", frames="all", format="jpg", overwrite=True)[2][0]
    assert run(tmp_path / "b.png", frames="all")[2] == []
    with pytest.raises(ValueError, match="frames all goes without best_of, compare and previews"):
        RestoreOptions((tmp_path,), tmp_path / "o", PlainOptions(), frames="all", compare=True)


def test_pages_are_restored_to_pages(tmp_path):
    pages = [PIL.Image.new("RGB", (9, 7), colour) for colour in ("red", "lime")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], dpi=(200, 200))
    out, _, problems = run(tmp_path / "a.tif", frames="all", format="tif")
    assert not problems
    assert [page.rgb.getpixel((18, 14)) for page in load_frames(out / "a.tif")] == [(255, 0, 0), (0, 255, 0)]


def test_copies_keep_long_texts(tmp_path):
    """The file is copied whole, whatever Pillow thinks of the length of its texts."""
    texts = Metadata(texts={"workflow": "step " * 400_000})
    save_image(PIL.Image.new("RGB", (5, 4)), tmp_path / "a.png", metadata=texts)
    packed = tmp_path / "b.png"
    chunk = (b"zTXt", b"workflow\0\0" + zlib.compress(b"step " * 400_000))
    png.write_png(packed, [np.zeros((4, 5, 3), np.uint8)], width=5, height=4, chunks=[chunk])
    for path in (tmp_path / "a.png", packed):
        out, _, problems = run(path, system="none")
        assert not problems and (out / path.name).read_bytes() == path.read_bytes()
