"""What pictures carry besides 8-bit colours is kept: more bits, transparency, frames, texts, tags."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import tifffile
from PIL import ImageCms

from tests.vision.test_images import png_of
from vision import png
from vision.images import (
    BadImage,
    Metadata,
    bits_of,
    check_frames,
    left_out,
    load_frames,
    load_image,
    read_image,
    save_frames,
    save_image,
)
from vision.images.transparency import bleed, enlarge_alpha

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (13, 21, 3), dtype=np.uint16)
OPACITY = RNG.integers(16, 256, (13, 21), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# 16 bits


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
def test_16_bits_come_back(ending, grey, transparent, tmp_path):
    values = DEEP[..., 0] if grey else DEEP
    if grey and transparent and ending == ".tif":
        pytest.skip("Pillow reads no such TIFF")
    alpha = PIL.Image.fromarray(OPACITY) if transparent else None
    save_image(values, tmp_path / f"a{ending}", alpha=alpha)
    loaded = load_image(tmp_path / f"a{ending}")
    assert np.array_equal(loaded.deep, values)
    assert (loaded.alpha is None) == (alpha is None) and (alpha is None or np.array_equal(loaded.alpha, OPACITY))
    assert np.abs(np.asarray(loaded.rgb).astype(int) - (DEEP[..., :1] if grey else DEEP) / 257).max() <= 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "adobe_deflate"])
def test_16_bit_colours_of_every_byte_order(order, compression, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb", byteorder=order, compression=compression)
    assert np.array_equal(load_image(tmp_path / "a.tif").deep, DEEP)
    planes = np.moveaxis(DEEP, 2, 0)
    tifffile.imwrite(tmp_path / "b.tif", planes, photometric="rgb", planarconfig="separate", compression=compression)
    with pytest.raises(BadImage, match="has its 16-bit colours in separate planes; save it with interleaved ones"):
        load_image(tmp_path / "b.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colours_are_turned_with_the_picture(orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    chunks = [(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))]
    png.write_png(tmp_path / "a.png", [DEEP], width=21, height=13, bits=16, chunks=chunks)
    loaded = load_image(tmp_path / "a.png")
    assert loaded.deep.shape[1::-1] == loaded.rgb.size
    assert np.array_equal(loaded.deep >> 8, np.asarray(loaded.rgb))


def test_transparent_colours_of_16_bit_pictures(tmp_path):
    """A tRNS chunk names one colour, to the last bit."""
    for values, colour in ((DEEP, DEEP[3, 4]), (DEEP[..., 0], DEEP[3, 4, :1])):
        chunk = (b"tRNS", struct.pack(f">{len(colour)}H", *colour))
        flat = values.reshape(13, 21, -1)
        png.write_png(tmp_path / "a.png", [flat], width=21, height=13, channels=flat.shape[2], bits=16, chunks=[chunk])
        alpha = np.asarray(load_image(tmp_path / "a.png").alpha)
        assert np.array_equal(alpha == 0, (flat == colour).all(axis=2)) and alpha[3, 4] == 0


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_transparent_greys_of_few_bits(bits):
    """A tRNS chunk counts in the bits of the file."""
    levels = np.arange(2**bits, dtype=np.uint8)
    row = np.packbits((levels[:, None] >> np.arange(bits)[::-1]) & 1).tobytes()
    for hidden in levels.tolist():
        file = png_of((len(levels), 1), bits, 0, b"\0" + row, (b"tRNS", struct.pack(">H", hidden)))
        assert np.asarray(read_image(file, "a.png").alpha).tolist() == [[255 * (n != hidden) for n in levels.tolist()]]


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_grey_whose_zero_is_white(tmp_path, kind):
    white = 1 if kind == "f4" else np.iinfo(kind).max
    values = (np.linspace(0, 1, 13 * 21).reshape(13, 21) * white).astype(kind)
    for name, photometric, stored in (("a", "minisblack", values), ("b", "miniswhite", white - values)):
        tifffile.imwrite(tmp_path / f"{name}.tif", stored.astype(kind), photometric=photometric)
    black, white_is_zero = load_image(tmp_path / "a.tif"), load_image(tmp_path / "b.tif")
    assert np.allclose(black.rgb, white_is_zero.rgb, atol=kind == "f4")  # 1 - x is rounded
    if kind != "u1":
        assert np.allclose(black.deep, white_is_zero.deep, atol=1e-6)


def test_bits_that_are_not_read_are_told(tmp_path):
    colours = np.random.default_rng(0).integers(0, 65536, (13, 21, 3), dtype=np.uint16)
    (tmp_path / "a.ppm").write_bytes(b"P6 21 # wide\n13 65535\n" + colours.astype(">u2").tobytes())
    (tmp_path / "b.ppm").write_bytes(b"P6 21 13 255\n" + (colours >> 8).astype(np.uint8).tobytes())
    PIL.Image.fromarray((colours >> 8).astype(np.uint8)).save(tmp_path / "c.jp2")
    told = ("Of its more than 8 bits per channel, 8 are read.",)
    assert load_image(tmp_path / "a.ppm").remarks == told
    assert not load_image(tmp_path / "b.ppm").remarks and not load_image(tmp_path / "c.jp2").remarks
    data = bytearray((tmp_path / "c.jp2").read_bytes())
    for component in range(3):  # as its header would say of 12 bits
        data[data.index(b"\xff\x51") + 40 + 3 * component] = 11
    assert read_image(bytes(data), "c").remarks == told


@pytest.mark.parametrize(("extra", "read"), [([0], 3), ([0, 0], 3), ([2], 4), ([2, 0], 4), ([1], 4)])
@pytest.mark.parametrize("bits", [8, 16])
def test_channels_of_a_tiff_that_are_not_read_are_told(tmp_path, extra, read, bits):
    channels = np.full((13, 21, 3 + len(extra)), 200, f"u{bits // 8}")
    tifffile.imwrite(tmp_path / "a.tif", channels, photometric="rgb", extrasamples=extra)
    told = [f"Not all of its channels are read: {read} of {3 + len(extra)}."]
    if bits == 16 and len(extra) == 2:
        with pytest.raises(ValueError, match=r"a\.tif is a TIFF that is damaged, or whose numbers are of a kind"):
            load_image(tmp_path / "a.tif")
    else:
        found = [remark for remark in load_image(tmp_path / "a.tif").remarks if "channels are" in remark]
        assert found == (told if read < 3 + len(extra) else [])


def test_pictures_of_fewer_bits_and_of_other_coding_have_no_remark(tmp_path):
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 70 + 26, 0, 0, 66, 40, 3, -4, 1, 16, 3, 32, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    (tmp_path / "a.bmp").write_bytes(header + masks + struct.pack("<4H", 0xF800, 0x7E0, 0x1F, 0) * 4)  # 5, 6, 5 bits
    picture = PIL.Image.fromarray(np.zeros((13, 21, 3), np.uint8))
    for name, written in (("b", picture), ("c", picture.quantize(4)), ("d", picture.convert("CMYK"))):
        written.save(tmp_path / f"{name}.tif")
    picture.save(tmp_path / "e.tif", compression="jpeg")
    picture.convert("LAB").save(tmp_path / "f.tif")
    for path in tmp_path.iterdir():
        assert load_image(path).remarks == (), path.name


def test_a_tiff_of_unknown_numbers_says_so(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((13, 21, 3), np.float32), photometric="rgb")
    with pytest.raises(ValueError, match=r"a\.tif is a TIFF that is damaged, or whose numbers are of a kind"):
        load_image(tmp_path / "a.tif")


def test_few_bits_in_16_are_told(tmp_path):
    save_image(DEEP >> 4, tmp_path / "a.png")
    assert "of 65535, so it is almost black; if it holds 12 bits" in (load_image(tmp_path / "a.png").darkness or "")
    save_image(DEEP, tmp_path / "b.png")
    assert load_image(tmp_path / "b.png").darkness is None


def test_formats_of_8_bits_say_so(tmp_path):
    save_image(DEEP, tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert [bits_of(loaded, f"x{ending}") for ending in (".png", ".tif", ".jpg", ".webp")] == [16, 16, 8, 8]
    assert left_out(loaded, "x.png") is None
    assert left_out(loaded, "x.jpg") == "JPEG files hold no more than 8 bits per channel; left out."


# transparency


@pytest.mark.parametrize("hidden", [0, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_hidden_colours_are_gone(hidden, dtype):
    """A red disc in a sea of another colour that nobody sees."""
    rows, columns = np.mgrid[:40, :40]
    alpha = np.where((rows - 20) ** 2 + (columns - 20) ** 2 < 100, 255, 0).astype(np.uint8)
    colours = np.where(alpha[..., None] == 255, [230, 60, 40], hidden).astype(dtype)
    clean = bleed(colours, alpha)
    assert clean.dtype == dtype and np.allclose(clean, [230, 60, 40], atol=1e-3)


def test_what_is_faint_counts_by_its_opacity():
    """A shade around a disc keeps its colour, apart from what lies beside the disc."""
    alpha = np.full((64, 64), 8, np.uint8)
    alpha[:8] = 255
    colours = np.full((64, 64, 3), [0, 0, 200], np.uint8)
    colours[:8] = [230, 60, 40]
    clean = bleed(colours, alpha).astype(int)
    assert np.abs(clean[40:] - [0, 0, 200]).max() < 40
    assert clean[8, 0, 0] > 20


def test_what_can_be_seen_keeps_its_colours():
    colours = RNG.integers(0, 256, (33, 20, 3), dtype=np.uint8)
    alpha = RNG.integers(0, 256, (33, 20), dtype=np.uint8)
    assert np.array_equal(bleed(colours, alpha)[alpha >= 16], colours[alpha >= 16])
    nothing = np.zeros_like(alpha)
    assert np.array_equal(bleed(colours, nothing), colours)
    for shape in ((1, 9), (9, 1), (1, 1)):
        assert bleed(np.ones((*shape, 3), np.uint8), np.zeros(shape, np.uint8)).shape == (*shape, 3)


def disc(size: int, softness: float) -> PIL.Image.Image:
    """A disc whose edge is this many pixels wide, at a radius of a third."""
    rows, columns = np.mgrid[:size, :size] + 0.5 - size / 2
    distance = np.hypot(rows, columns) - size / 3
    return PIL.Image.fromarray(np.uint8(np.round(255 * (0.5 - distance / softness).clip(0, 1))))


def test_hard_edges_of_transparency_stay_hard_and_soft_ones_soft():
    for softness, most in ((1, 6), (12, 3)):
        drawn = np.asarray(disc(192, softness * 4 if softness > 1 else 1)).astype(int)
        enlarged = np.asarray(enlarge_alpha(disc(48, softness), (192, 192))).astype(int)
        bicubic = np.asarray(disc(48, softness).resize((192, 192), PIL.Image.Resampling.BICUBIC)).astype(int)
        error, before = np.abs(enlarged - drawn).mean(), np.abs(bicubic - drawn).mean()
        assert error < most
        assert error < 0.6 * before if softness == 1 else error < before + 0.5
    assert np.asarray(enlarge_alpha(PIL.Image.new("L", (7, 5), 255), (28, 20))).min() == 255
    assert np.array_equal(enlarge_alpha(disc(48, 1), (48, 48)), disc(48, 1))
    assert enlarge_alpha(disc(48, 1), (20, 9)).size == (20, 9)


@pytest.mark.parametrize("grey", [False, True])
def test_16_bits_stay_on_a_background(grey, tmp_path):
    values = DEEP[..., 0] if grey else DEEP
    save_image(values, tmp_path / "a.png", alpha=PIL.Image.fromarray(OPACITY))
    flat = load_image(tmp_path / "a.png").on("#ff8000")
    share = OPACITY[..., None] / 255
    expected = share * (DEEP[..., :1] if grey else DEEP) + (1 - share) * np.array([65535, 128 * 257, 0])
    assert flat.alpha is None and np.abs(flat.deep - expected).max() <= 0.5
    assert np.abs(np.asarray(flat.rgb) - expected / 257).max() <= 2


# texts, profiles, tags


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (3, 2), "red").save(buffer, "PNG")
    data = buffer.getvalue()
    return data[:33] + b"".join(png._chunk(*chunk) for chunk in chunks) + data[33:]


def test_long_texts_and_profiles_of_png_are_read_and_written(tmp_path):
    """Pillow alone refuses files whose texts or profiles become longer than a megabyte."""
    text, profile = "step " * 400_000, SRGB + bytes(3_000_000)
    content = png_with((b"zTXt", b"workflow\0\0" + zlib.compress(text.encode())), png.profile_chunk(profile))
    loaded = read_image(content, "a.png")
    assert loaded.metadata.texts == {"workflow": text} and loaded.icc == profile
    save_image(loaded.rgb, tmp_path / "b.png", icc=loaded.icc, metadata=loaded.metadata)
    again = load_image(tmp_path / "b.png")
    assert again.metadata == loaded.metadata and again.icc == profile


def test_texts_that_become_too_long_are_left_out_and_said():
    content = png_with(
        (b"zTXt", b"bomb\0\0" + zlib.compress(bytes(65 << 20))),
        (b"iTXt", b"broken\0\1\0\0\0nonsense"),
        (b"tEXt", b"Title\0A tree"),
    )
    loaded = read_image(content, "a.png")
    assert loaded.metadata.texts == {"Title": "A tree"}
    assert loaded.remarks == ("Its texts bomb, broken are damaged or too long and are left out.",)


def test_texts_of_every_kind_come_back(tmp_path):
    texts = {"Comment": "caf\xe9", "parameters": "a tree\nSteps: 20", "note": "日本語 🌲"}
    save_image(PIL.Image.new("RGB", (3, 2)), tmp_path / "a.png", metadata=Metadata(texts=texts))
    assert load_image(tmp_path / "a.png").metadata.texts == texts
    with PIL.Image.open(tmp_path / "a.png") as image:
        assert image.text == texts
    assert left_out(load_image(tmp_path / "a.png"), "x.jpg") == (
        "JPEG files hold no texts (parameters, note); left out."
    )


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6" dc:rights="mine"/></x:xmpmeta>'


def photo(path, **more) -> None:
    """A picture as cameras write them, lying on its side."""
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x8298], exif[0x010F] = 6, "mine", "Maker"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0xA002: 21, 0xA003: 13})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    if path.suffix == ".tif":
        exif[700] = XMP
    picture = PIL.Image.fromarray(np.uint8(DEEP >> 8))
    picture.save(path, exif=exif.tobytes(), xmp=XMP, dpi=(300, 300), icc_profile=SRGB, **more)


@pytest.mark.parametrize("source", [".jpg", ".tif"])
@pytest.mark.parametrize("result", [".jpg", ".png", ".tif", ".webp"])
def test_photographs_keep_what_their_cameras_wrote(source, result, tmp_path):
    photo(tmp_path / f"a{source}")
    loaded = load_image(tmp_path / f"a{source}")
    assert loaded.rgb.size == (13, 21)
    enlarged = loaded.rgb.resize((26, 42))
    save_image(enlarged, tmp_path / f"b{result}", icc=loaded.icc, metadata=loaded.metadata)
    again = load_image(tmp_path / f"b{result}")
    assert again.rgb.size == (26, 42) and again.icc == SRGB  # upright, and not turned again
    with PIL.Image.open(tmp_path / f"b{result}") as image:
        exif = image.getexif()
        assert (exif[0x8298], exif[0x010F]) == ("mine", "Maker") and exif.get(0x0112, 1) == 1
        assert 0xA002 not in exif.get_ifd(0x8769)
        assert exif.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
        assert [float(number) for number in exif.get_ifd(0x8825)[2]] == [48, 8, 0]
        assert image.info.get("dpi") is None or np.allclose([float(x) for x in image.info["dpi"]], 300, atol=0.1)
    assert b'dc:rights="mine"' in again.metadata.xmp and b'Orientation="6"' not in again.metadata.xmp
    if result == ".webp":
        assert left_out(loaded, "x.webp") == "WEBP files hold no resolution (300 dpi); left out."
    else:
        assert left_out(loaded, f"x{result}") is None and again.metadata.dpi is not None


def test_too_long_for_jpeg_is_left_out_and_said(tmp_path):
    xmp = b"<x>" + bytes(70_000)
    loaded = read_image(png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)), "a.png")
    assert left_out(loaded, "x.jpg") == "JPEG files hold no XMP; left out."
    save_image(loaded.rgb, tmp_path / "x.jpg", metadata=loaded.metadata)
    assert load_image(tmp_path / "x.jpg").metadata.xmp is None


def test_tags_of_gamma_and_high_range_stay_in_png(tmp_path):
    tags = ((b"gAMA", struct.pack(">I", 100_000)), (b"cICP", bytes((9, 16, 0, 1))))
    loaded = read_image(png_with(*tags), "a.png")
    assert loaded.metadata.display == tags
    assert "coded for a high range (PQ)" in loaded.remarks[0]
    save_image(loaded.rgb, tmp_path / "b.png", metadata=loaded.metadata)
    assert load_image(tmp_path / "b.png").metadata.display == tags
    assert left_out(loaded, "x.webp") == "WEBP files hold no tags of gamma and colours (gAMA, cICP); left out."


# frames and pages


def animation(path, form: str, **more) -> None:
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, form, save_all=True, append_images=frames[1:], **more)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_one_frame_of_several_is_read_when_it_is_named(form, tmp_path):
    animation(tmp_path / "a", form, **({"lossless": True} if form == "WEBP" else {}))
    with pytest.raises(BadImage, match=r"animated or has several pages \(3\); restore takes one \(--frames 1\)"):
        load_image(tmp_path / "a")
    for number, colour in ((1, (255, 0, 0)), (2, (0, 255, 0)), (3, (0, 0, 255))):
        assert load_image(tmp_path / "a", frame=number).rgb.getpixel((0, 0)) == colour
    with pytest.raises(BadImage, match="has 3 frames or pages; there is no number 4"):
        load_image(tmp_path / "a", frame=4)


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_reduced_copies_of_a_page_are_no_pages(marked, first, tmp_path):
    rows, columns = np.mgrid[:40, :60]
    page = np.stack([rows * 6, columns * 4, rows + columns], axis=2).astype(np.uint8)
    pages = [(page, 0), (page[::4, ::4], int(marked))]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for values, kind in reversed(pages) if first else pages:
            file.write(values, photometric="rgb", subfiletype=kind, metadata=None)
    assert np.array_equal(load_image(tmp_path / "a.tif").rgb, page)


def test_small_pages_with_other_content_are_pages(tmp_path):
    small, large = np.zeros((10, 10, 3), np.uint8), np.full((40, 40, 3), 200, np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for values in (large, small):
            file.write(values, photometric="rgb", metadata=None)
    with pytest.raises(BadImage, match=r"several pages \(2\)"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", [".png", ".webp"])
@pytest.mark.parametrize("channels", [3, 4])
def test_animations_are_written_as_they_were_read(ending, channels, tmp_path):
    rows, columns = np.mgrid[:16, :24]
    shades = [np.uint8(40 * number + rows * 3 + columns) for number in range(3)]
    pictures = [np.dstack([shade, shade // 2, 255 - shade, shade * 0 + 200][:channels]) for shade in shades]
    path = tmp_path / f"a{ending}"
    save_frames(iter(pictures), path, durations=[40, 1000, 70], loops=2, icc=SRGB)
    frames = load_frames(path)
    assert (frames.count, frames.durations, frames.loops) == (3, (40, 1000, 70), 2)
    assert frames.transparent == (channels == 4)
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.icc == SRGB
        difference = np.abs(np.asarray(frame.rgb).astype(int) - picture[..., :3])
        assert difference.max() == 0 if ending == ".png" else difference.mean() < 6


def test_pages_of_a_document_are_written_as_they_were_read(tmp_path):
    pictures = [RNG.integers(0, 256, (8 + number, 9, 3), dtype=np.uint8) for number in range(3)]
    save_frames(pictures, tmp_path / "a.tif", durations=None, metadata=Metadata(dpi=(300, 300)))
    frames = load_frames(tmp_path / "a.tif")
    assert (frames.count, frames.durations) == (3, None)
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.array_equal(frame.rgb, picture) and frame.metadata.dpi == (300, 300)


def test_formats_that_hold_no_animation_or_no_pages_are_refused_before_the_work(tmp_path):
    animation(tmp_path / "a.gif", "GIF", duration=50)
    animation(tmp_path / "a.tif", "TIFF")
    moving, pages = load_frames(tmp_path / "a.gif"), load_frames(tmp_path / "a.tif")
    for path, frames, wanted in (("x.jpg", moving, "webp"), ("x.tif", moving, "webp"), ("x.png", pages, "tif")):
        with pytest.raises(ValueError, match=f"has 3 frames or pages, and .* {wanted}; choose it with --format"):
            check_frames(path, frames, (32, 32))
    with pytest.raises(ValueError, match="are too many for WebP; save as png"):
        check_frames("x.webp", moving, (16_000, 40_000))
    check_frames("x.png", moving, (16_000, 40_000))


def test_later_pages_may_not_be_larger_than_allowed(tmp_path):
    pictures = [np.zeros((side, side, 3), np.uint8) for side in (4, 40)]
    save_frames(pictures, tmp_path / "a.tif", durations=None)
    with pytest.raises(BadImage, match="40 x 40 pixels, more than the limit of 100"):
        load_image(tmp_path / "a.tif", frame=1, max_pixels=100)


# formats with a plug-in


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "is a HEIC picture; to read it, install pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix" + bytes(64), "is a HEIC picture; to read it, install pillow-heif"),
        (b"\xff\x0a" + bytes(64), "is a JPEG XL picture; to read it, install pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "is a JPEG XL picture; to read it, install pillow-jxl-plugin"),
    ],
)
def test_a_missing_plugin_is_named(content, sentence, monkeypatch):
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadImage, match=sentence):
        read_image(content, "a.png")


@pytest.mark.parametrize(("module", "ending"), [("pillow_heif", ".heic"), ("pillow_jxl", ".jxl")])
def test_formats_of_plugins_are_read(module, ending, tmp_path):
    plugin = pytest.importorskip(module)
    if module == "pillow_heif":
        plugin.register_heif_opener()
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8)
    PIL.Image.fromarray(np.dstack([smooth, smooth * 2, 255 - smooth])).save(tmp_path / f"a{ending}", icc_profile=SRGB)
    loaded = load_image(tmp_path / f"a{ending}")
    assert loaded.icc is not None and (loaded.icc == SRGB or ending == ".jxl")  # JPEG XL writes profiles its own way
    assert np.abs(np.asarray(loaded.rgb)[..., 0].astype(int) - smooth).mean() < 6
