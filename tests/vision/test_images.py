"""Pictures of every kind become upright RGB; bad ones become a sentence; what is written is whole."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import ImageCms
from safetensors.torch import load_file

from tests.parity.conftest import golden_root
from vision import images
from vision.files import digest
from vision.images import (
    BadImage,
    LoadedImage,
    composite,
    crop,
    image_files,
    load_image,
    match_color,
    pad_to,
    pad_to_multiple,
    save_bands,
    save_image,
    to_pil,
    to_tensor,
    to_uint8,
    to_y,
)
from vision.images.frames import load_frames
from vision.inputs import read_list

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 21, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture() -> PIL.Image.Image:
    return PIL.Image.fromarray(PIXELS)


def png_of(size: tuple[int, int], bits: int, kind: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of a size (width, height), with chunks before its rows, which are not checked."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    for name, data in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


def png16(path: Path, values: np.ndarray) -> None:
    """A 16-bit PNG, grey (h, w) or RGB (h, w, 3), which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(png_of(values.shape[1::-1], 16, 0 if values.ndim == 2 else 2, rows))


def test_tensor_and_picture_are_the_same_numbers():
    tensor = to_tensor(picture())
    assert tensor.shape == (1, 3, 13, 21) and tensor.dtype == torch.float32
    assert torch.equal(to_tensor(PIXELS), tensor) and torch.equal(to_tensor(LoadedImage(picture())), tensor)
    assert torch.equal(to_tensor(tensor[0]), tensor)
    assert np.array_equal(np.asarray(to_pil(tensor)), PIXELS)
    assert to_pil(tensor[:, :1]).mode == "L"
    assert to_uint8(torch.tensor([-1.0, 0.0019, 0.999, 2.0])).tolist() == [0, 0, 255, 255]
    assert to_uint8(torch.tensor([0.999]), truncate=True).tolist() == [254]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 3, 3)),
        np.zeros((3, 3, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        torch.zeros(1, 1, 4, 4),
        torch.zeros(3, 4, 4).int(),
        torch.zeros(0, 3, 4, 4),
        torch.zeros(1, 3, 0, 4),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be .* got "):
        to_tensor(wrong)


@pytest.mark.parametrize("wrong", [255.0, -1.0, float("nan"), float("inf"), 1.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_tensors_with_numbers_that_are_no_colours_are_refused(wrong, dtype):
    image = to_tensor(picture()).to(dtype)
    image[0, 1, 2, 3] = wrong
    with pytest.raises(ValueError, match=r"must hold numbers in \[0, 1\], got .*; divide by 255, or clamp"):
        to_tensor(image)


def test_contents_of_files_are_pictures():
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    expected = to_tensor(picture())
    for content in (buffer.getvalue(), bytearray(buffer.getvalue()), io.BytesIO(buffer.getvalue())):
        assert torch.equal(to_tensor(content), expected)
    with pytest.raises(BadImage, match="the picture is an empty file"):
        to_tensor(b"")
    with pytest.raises(TypeError, match="the content of a file, an array or a tensor, got list"):
        to_tensor([1, 2, 3])


def test_an_animated_object_tells_which_frame_is_taken(tmp_path):
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with PIL.Image.open(tmp_path / "a.gif") as animated:
        animated.seek(1)
        with pytest.warns(UserWarning, match="The picture has 3 frames; frame 2 is taken"):
            tensor = to_tensor(animated)
    assert tensor[0, :, 0, 0].tolist() == [0, 1, 0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_only_regular_files_are_read(tmp_path):
    """A pipe would wait for ever, a device has no end."""
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    for path in ("a.png", "b.png", "c.png"):
        for read in (load_image, digest, read_list):
            with pytest.raises(ValueError, match=f"{path} is no regular file but a pipe, socket or device"):
                read(tmp_path / path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture().save(tmp_path / "a.png", exif=exif)
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(tmp_path / "a.png"))
    loaded = load_image(tmp_path / "a.png").rgb
    assert np.array_equal(np.asarray(loaded), np.asarray(expected.convert("RGB")))
    save_image(loaded, tmp_path / "b.png")
    assert load_image(tmp_path / "b.png").rgb.size == loaded.size
    picture().save(tmp_path / "c.tif", exif=exif)
    for path in ("a.png", "c.tif"):
        with PIL.Image.open(tmp_path / path) as opened:
            assert np.array_equal(images.from_pil(opened).rgb, loaded)
        assert np.array_equal(load_image(tmp_path / path).rgb, loaded)
        assert np.array_equal(load_image(tmp_path / path, upright=False).rgb, PIXELS)


MODES = ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LA", "La", "RGBA", "RGBa", "PA", "RGBX"]


@pytest.mark.parametrize("mode", MODES)
def test_pil_images_of_every_mode_become_rgb(mode):
    source = picture()
    for step in {"LA": ["L"], "PA": ["L"], "La": ["L", "LA"], "RGBa": ["RGBA"]}.get(mode, []):
        source = source.convert(step)
    expected, source = source.convert("RGB"), source.convert(mode)
    expected = expected if mode in ("La", "RGBa") else source.convert("RGB")
    loaded = images.from_pil(source)
    assert loaded.rgb.mode == "RGB" and loaded.alpha is None
    assert np.array_equal(loaded.rgb, expected)


def test_palette_grey_and_cmyk_files(tmp_path):
    picture().quantize(16).save(tmp_path / "p.png")
    picture().convert("L").save(tmp_path / "l.jpg")
    picture().convert("CMYK").save(tmp_path / "c.tif")
    picture().convert("1").save(tmp_path / "b.png")
    assert np.array_equal(load_image(tmp_path / "p.png").rgb, picture().quantize(16).convert("RGB"))
    grey = np.asarray(load_image(tmp_path / "l.jpg").rgb)
    assert (grey[..., :1] == grey).all()
    assert np.array_equal(load_image(tmp_path / "c.tif").rgb, picture())
    assert set(np.unique(load_image(tmp_path / "b.png").rgb)) == {0, 255}


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 13 * 21).round().astype(np.uint16).reshape(13, 21)
    expected = np.round(values / 257).astype(np.uint8)
    png16(tmp_path / "a.png", values)
    PIL.Image.fromarray(values).save(tmp_path / "b.tif")
    for name in ("a.png", "b.tif"):
        assert np.array_equal(np.asarray(load_image(tmp_path / name).rgb)[..., 0], expected)


def test_float_grey(tmp_path):
    PIL.Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)).save(tmp_path / "a.tif")
    assert np.asarray(load_image(tmp_path / "a.tif").rgb)[-1, -1].tolist() == [255, 255, 255]
    PIL.Image.fromarray(np.full((3, 4), 7, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadImage, match=r"a.tif: its grey values must lie in \[0, 1\], got 7 to 7"):
        load_image(tmp_path / "a.tif")


def test_transparency_is_kept_or_composited(tmp_path):
    alpha = PIL.Image.fromarray(np.arange(13 * 21, dtype=np.uint16).astype(np.uint8).reshape(13, 21))
    rgba = picture()
    rgba.putalpha(alpha)
    rgba.save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    visible = np.asarray(alpha) >= 16
    assert np.array_equal(np.asarray(loaded.rgb)[visible], PIXELS[visible]) and np.array_equal(loaded.alpha, alpha)
    flat = loaded.on("#ff0000")
    expected = PIL.Image.alpha_composite(PIL.Image.new("RGBA", rgba.size, "red"), rgba).convert("RGB")
    different = np.abs(np.asarray(flat.rgb).astype(int) - np.asarray(expected))
    assert flat.alpha is None and different[visible].max() <= 1 and different.max() < 16
    with pytest.raises(ValueError, match="'reddish' is not a colour"):
        loaded.on("reddish")


def test_transparent_palette_colours_become_alpha(tmp_path):
    indexed = picture().quantize(4)
    indexed.save(tmp_path / "a.png", transparency=0)
    assert set(np.unique(load_image(tmp_path / "a.png").alpha)) == {0, 255}


def test_colour_profiles_of_rgb_are_kept_and_others_converted(tmp_path):
    picture().save(tmp_path / "a.jpg", icc_profile=SRGB)
    assert load_image(tmp_path / "a.jpg").icc == SRGB
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        save_image(picture(), tmp_path / f"b{suffix}", icc=SRGB)
        assert load_image(tmp_path / f"b{suffix}").icc == SRGB
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture().save(tmp_path / "c.png", icc_profile=lab)  # does not belong to RGB pixels
    assert load_image(tmp_path / "c.png").icc is None
    picture().save(tmp_path / "d.png", icc_profile=b"nonsense")
    assert load_image(tmp_path / "d.png").icc is None


def test_lab_pixels_become_srgb():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    pixels = ImageCms.profileToProfile(PIL.Image.new("RGB", (4, 4), (200, 30, 60)), srgb, lab, outputMode="LAB")
    pixels.info["icc_profile"] = ImageCms.ImageCmsProfile(lab).tobytes()
    colour = np.asarray(images.from_pil(pixels).rgb)[0, 0].astype(int)
    assert np.abs(colour - [200, 30, 60]).max() < 12


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is an empty file"),
        (b"some text, no picture", "is not an image: its content has no known format"),
        (b"\x89PNG\r\n\x1a\n", "is (not an image|damaged)"),
    ],
)
def test_files_without_picture_are_refused(content, sentence, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadImage, match=sentence):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(form, share, tmp_path):
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, form)
    (tmp_path / "a.png").write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    with pytest.raises(BadImage, match=r"a.png is (damaged or cut off|not an image)"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    "side, sentence",
    [(100, r"has 100 x 100 pixels, more than the limit of 9,999"), (65535, r"is damaged or cut off: Image size")],
)
def test_a_later_frame_that_grows_beyond_a_limit_is_a_sentence(tmp_path, side, sentence):
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    first, second = map(PIL.Image.fromarray, noise)
    first.save(tmp_path / "grows.gif", save_all=True, append_images=[second])
    data = (tmp_path / "grows.gif").read_bytes()
    descriptor = b"\x2c\0\0\0\0"  # of a frame at the corner, then its width and height
    start, end = data.split(descriptor + struct.pack("<HH", 8, 8), 2)[1:], struct.pack("<HH", side, side)
    head = data[: data.index(start[0])]
    (tmp_path / "grows.gif").write_bytes(head + start[0] + descriptor + end + start[1])
    with pytest.raises(BadImage, match=rf"grows\.gif {sentence}"):
        [frame.rgb for frame in load_frames(tmp_path / "grows.gif", max_pixels=9999)]


@pytest.mark.parametrize(
    ("values", "tags", "told"),
    [
        (np.array([[0, 3_000_000_000]], np.uint32), {}, r"\[0, 65535\], got 0 to 3e\+09"),
        (np.array([[7, 70_000]], np.uint32), {339: 1}, "got 7 to 70000"),
        (np.array([[-5, 7]], np.int32), {339: 2}, "got -5 to 7"),
    ],
)  # 339: the format of samples, 1 without and 2 with a sign
def test_whole_numbers_beyond_16_bits_are_told_as_they_are(tmp_path, values, tags, told):
    path = tmp_path / "a.tif"
    PIL.Image.frombytes("I", (2, 1), values.tobytes()).save(path)
    data = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<H", data, start := struct.unpack_from("<I", data, 4)[0])
    for place in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, place)[0] == 339:  # Pillow writes 2
            struct.pack_into("<HHIH", data, place, 339, 3, 1, tags.get(339, 1))
    path.write_bytes(data)
    with pytest.raises(BadImage, match=told):
        load_image(path)


def test_frames_without_a_palette_are_a_sentence(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    first, second = (PIL.Image.fromarray(picture).convert("P") for picture in noise)
    first.save(tmp_path / "bare.gif", save_all=True, append_images=[second])
    data = bytearray((tmp_path / "bare.gif").read_bytes())
    del data[13 : 13 + 3 * 2 ** ((data[10] & 7) + 1)]  # the palette of all frames
    data[10] &= 0x7F
    (tmp_path / "bare.gif").write_bytes(data)
    with pytest.raises(BadImage, match=r"bare\.gif is damaged or cut off"):
        [frame.rgb for frame in load_frames(tmp_path / "bare.gif")]


def test_damaged_bytes_give_a_sentence_or_a_picture(tmp_path):
    generator = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"):
        buffer = io.BytesIO()
        picture().save(buffer, form)
        for _ in range(40):
            data = bytearray(buffer.getvalue())
            for place in generator.integers(0, len(data), 6):
                data[place] = generator.integers(256)
            (tmp_path / "a").write_bytes(bytes(data))
            try:
                load_image(tmp_path / "a", max_pixels=10_000)
            except BadImage as error:
                assert "\n" not in str(error)


def test_content_decides_not_the_name(tmp_path):
    picture().save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").rename(tmp_path / "a.jpg")
    assert np.array_equal(load_image(tmp_path / "a.jpg").rgb, PIXELS)


def test_bombs_are_refused_before_decoding(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of((60_000, 50_000), 16, 0, b"\0\0\0"))
    limit = PIL.Image.MAX_IMAGE_PIXELS
    with pytest.raises(BadImage, match=r"60000 x 50000 pixels, more than the limit of 100,000,000; make it smaller"):
        load_image(tmp_path / "a.png")
    assert PIL.Image.MAX_IMAGE_PIXELS == limit
    picture().save(tmp_path / "b.png")
    with pytest.raises(BadImage, match="limit of 100"):
        load_image(tmp_path / "b.png", max_pixels=100)


def test_zero_sized_pictures_are_refused(tmp_path):
    png16(tmp_path / "a.png", np.zeros((0, 5), np.uint16))
    (tmp_path / "b.ppm").write_bytes(b"P6 0 5 255\n")
    for name in ("a.png", "b.ppm"):
        with pytest.raises(BadImage, match=r"has no pixels|is damaged|is not an image"):
            load_image(tmp_path / name)
    with pytest.raises(BadImage, match=r"The picture has no pixels \(0 x 5\)"):
        images.from_pil(PIL.Image.new("RGB", (0, 5)))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(BadImage, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        image_files(tmp_path / "none")


def test_image_files_are_sorted_and_visible(tmp_path):
    for name in ("b.png", "a.JPG", ".c.png", "d.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["a.JPG", "b.png"]


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"Cannot write .*file/a.png: "):
        save_image(picture(), tmp_path / "file" / "a.png")
    with pytest.raises(ValueError, match=r"Cannot save as '.xyz'; use .png"):
        save_image(picture(), tmp_path / "a.xyz")
    with pytest.raises(ValueError, match="JPEG has no transparency"):
        save_image(picture(), tmp_path / "a.jpg", alpha=picture().convert("L"))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match="it is a folder"):
        save_image(picture(), tmp_path / "folder.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize("heights", [[13], [1, 5, 7], [12, 1]])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_streamed_png_equals_the_whole_picture(heights, with_alpha, tmp_path):
    tensor = to_uint8(to_tensor(picture()))
    alpha = PIL.Image.fromarray(PIXELS[:5, :7, 0]) if with_alpha else None
    save_bands(tensor.split(heights, dim=2), tmp_path / "a.png", width=21, height=13, icc=SRGB, alpha=alpha)
    save_image(picture(), tmp_path / "b.png", icc=SRGB, alpha=alpha)
    streamed, whole = (PIL.Image.open(tmp_path / name) for name in ("a.png", "b.png"))
    assert streamed.mode == whole.mode and streamed.info["icc_profile"] == SRGB
    assert np.array_equal(streamed, whole)


def test_streamed_png_of_smooth_pictures_is_small_and_right(tmp_path):
    rows, columns = np.mgrid[0:300, 0:200]
    smooth = np.stack([rows * 0.8, columns, (rows + columns) / 2], axis=2).astype(np.uint8)
    tensor = torch.from_numpy(smooth).permute(2, 0, 1)[None]
    save_bands(tensor.split(70, dim=2), tmp_path / "a.png", width=200, height=300)
    save_image(PIL.Image.fromarray(smooth), tmp_path / "b.png")
    assert np.array_equal(PIL.Image.open(tmp_path / "a.png"), smooth)
    assert (tmp_path / "a.png").stat().st_size < 1.5 * (tmp_path / "b.png").stat().st_size


def test_interrupted_streams_leave_nothing(tmp_path):
    def bands():
        yield torch.zeros(1, 3, 4, 21, dtype=torch.uint8)
        raise RuntimeError("the network broke")

    with pytest.raises(RuntimeError, match="the network broke"):
        save_bands(bands(), tmp_path / "a.png", width=21, height=13)
    with pytest.raises(ValueError, match="have 4 rows together, but the picture has 13"):
        save_bands(list(torch.zeros(1, 1, 3, 4, 21, dtype=torch.uint8)), tmp_path / "a.png", width=21, height=13)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(13, 21), (16, 40), (50, 90)])
def test_padding_mirrors_as_often_as_needed(size):
    image = to_tensor(picture())
    for mode in ("symmetric", "reflect"):
        padded = pad_to(image, *size, mode=mode)
        expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, size[0] - 13), (0, size[1] - 21)), mode)
        assert np.array_equal(padded.numpy(), expected)
        assert torch.equal(crop(padded, 13, 21), image)
    assert pad_to_multiple(image, 8).shape[-2:] == (16, 24)
    assert pad_to_multiple(pad_to_multiple(image, 8), 8).shape[-2:] == (16, 24)


def test_composite_takes_each_side_of_the_mask():
    inside, outside = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    mask = torch.tensor([[[[True, False], [False, True]]]])
    assert torch.equal(composite(mask, inside, outside), mask.float().expand(1, 3, 2, 2))


def test_luma_follows_bt_601():
    rgb = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0]]).T.reshape(1, 3, 1, 3)
    assert torch.allclose(to_y(rgb).flatten() * 255, torch.tensor([16.0, 235.0, 81.481]))


def golden_colorfix() -> list[tuple[str, dict[str, torch.Tensor]]]:
    path = golden_root() / "pasd" / "colorfix.safetensors"
    if not path.exists():
        return []
    tensors = load_file(path)
    return [(key[: -len(".target_u8")], tensors) for key in tensors if key.endswith(".target_u8")]


@pytest.mark.parametrize(("case", "tensors"), golden_colorfix())
def test_colour_transfer_matches_the_reference(case, tensors):
    """Floats to 1e-5; 8-bit values truncate, so one level may differ on a few pixels."""
    target, source = (to_tensor(tensors[f"{case}.{name}_u8"].numpy()) for name in ("target", "source"))
    for method in ("wavelet", "adain"):
        matched = match_color(target, source, method)
        torch.testing.assert_close(matched, tensors[f"{case}.{method}_float"], rtol=0, atol=1e-5)
        pixels = np.asarray(to_pil(matched, truncate=True)).astype(int)
        differences = np.abs(pixels - tensors[f"{case}.{method}_u8"].numpy())
        assert differences.max() <= 1 and (differences > 0).mean() < 1e-3
    high, low = images.split_frequencies(target, levels=3)
    torch.testing.assert_close(high, tensors[f"{case}.target_high_l3"], rtol=0, atol=1e-5)
    torch.testing.assert_close(low, tensors[f"{case}.target_low_l3"], rtol=0, atol=1e-5)
    torch.testing.assert_close(images.blur(target, 4), tensors[f"{case}.blur_r4"], rtol=0, atol=1e-5)


def test_colour_transfer_refuses_other_sizes_and_methods():
    image = to_tensor(picture())
    with pytest.raises(ValueError, match="must have one shape"):
        match_color(image, image[..., :4])
    with pytest.raises(ValueError, match="'wavelet' or 'adain', got 'mean'"):
        match_color(image, image, "mean")


def test_signed_bytes_of_a_tiff_are_no_unsigned_ones(tmp_path):
    for values in ((0, 100), (-3, 100)):
        path = tmp_path / f"{values[0]}.tif"
        tags = PIL.TiffImagePlugin.ImageFileDirectory_v2()
        tags[339] = 2  # the format of samples: with a sign
        PIL.Image.fromarray(np.array([values], np.int8).view(np.uint8)).save(path, tiffinfo=tags)
    assert np.asarray(load_image(tmp_path / "0.tif").rgb)[0, :, 0].tolist() == [0, 100]
    with pytest.raises(BadImage, match=r"must lie in \[0, 255\], got -3 to 100"):
        load_image(tmp_path / "-3.tif")
