"""COLMAP models: text and binary, how programs write them, and damaged ones."""

import random
import struct

import pytest
import torch

from recon3d.colmap import BINARY_MODELS, find_colmap, load_colmap
from recon3d.lens import PINHOLE_MODELS, Distortion

HALF = 0.5**0.5
PICTURES = [("a.png", [HALF, 0, HALF, 0, 1, 2, 3], 1), ("sub/b c.png", [1, 0, 0, 0, 0, 0, 4], 2)]
CAMERAS = {1: ("PINHOLE", [40, 42, 15, 13]), 2: ("OPENCV", [40, 41, 16, 12, 0.1, 0.2, 0.3, 0.4])}


def write_text(folder, pictures=PICTURES, cameras=CAMERAS, between="\n", size=(32, 24)):
    rows = [
        f"{number} {model} {size[0]} {size[1]} {' '.join(map(str, values))}"
        for number, (model, values) in cameras.items()
    ]
    (folder / "cameras.txt").write_text("# comment\n" + "\n".join(rows) + "\n")
    rows = [f"{n} {' '.join(map(str, pose))} {camera} {name}\n" for n, (name, pose, camera) in enumerate(pictures)]
    (folder / "images.txt").write_text("# comment\n" + between.join(rows) + between)


def write_binary(folder, pictures=PICTURES, cameras=CAMERAS, size=(32, 24)):
    models = [name for name, _ in BINARY_MODELS]
    rows = [
        struct.pack(f"<IiQQ{len(values)}d", number, models.index(model), *size, *values)
        for number, (model, values) in cameras.items()
    ]
    (folder / "cameras.bin").write_bytes(struct.pack("<Q", len(rows)) + b"".join(rows))
    rows = [
        struct.pack("<I7dI", n, *pose, camera) + name.encode() + b"\0" + struct.pack("<Q2dq", 1, 5.0, 6.0, -1)
        for n, (name, pose, camera) in enumerate(pictures)
    ]
    (folder / "images.bin").write_bytes(struct.pack("<Q", len(rows)) + b"".join(rows))


def test_text_model(tmp_path):
    write_text(tmp_path)
    first, second = load_colmap(tmp_path)
    assert (first.name, second.name) == ("a.png", "sub/b c.png") and first.size == second.size == (24, 32)
    assert first.intrinsics(24, 32).tolist() == [40, 42, 15, 13] and not first.distortion
    assert second.distortion == Distortion(k1=0.1, k2=0.2, p1=0.3, p2=0.4)
    torch.testing.assert_close(second.c2w[:3, 3], torch.tensor([0.0, 0.0, -4.0], dtype=torch.float64))
    # A quarter turn around y sends world z to camera x; the camera centre is -R^T t.
    torch.testing.assert_close(first.c2w[:3, 3], torch.tensor([3.0, -2.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("between", ["", "\n", "10.5 20.5 -1 11 21 7\n", "# nothing\n", "  # nothing\n"])
def test_lines_of_points_may_be_there_empty_or_left_out(tmp_path, between):
    write_text(tmp_path, between=between)
    assert [shot.name for shot in load_colmap(tmp_path)] == ["a.png", "sub/b c.png"]


def test_binary_and_text_models_are_equal(tmp_path):
    write_text(tmp_path)
    text = load_colmap(tmp_path)
    write_binary(tmp_path)
    (tmp_path / "images.txt").write_text("damaged")  # the binary model is read
    for ours, other in zip(load_colmap(tmp_path), text, strict=True):
        assert torch.equal(ours.c2w, other.c2w)
        assert (ours.name, ours.lens, ours.size, ours.distortion) == (
            other.name,
            other.lens,
            other.size,
            other.distortion,
        )


def test_models_are_found_where_programs_write_them(tmp_path):
    assert find_colmap(tmp_path) is None
    for place in ("colmap/sparse/0", "sparse", "sparse/0", "."):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        write_binary(tmp_path / place)
        assert find_colmap(tmp_path) == tmp_path / place


def test_binary_models_have_the_numbers_of_their_names():
    counts = {name: len(numbers) for name, numbers in PINHOLE_MODELS.items()}
    assert {name: count for name, count in BINARY_MODELS if name in counts} == counts


@pytest.mark.parametrize(
    ("model", "count"), [entry for entry in BINARY_MODELS if entry[0] not in PINHOLE_MODELS] + [("NEW_MODEL", 2)]
)
def test_fisheye_lenses_are_refused(tmp_path, model, count):
    write_text(tmp_path, cameras={**CAMERAS, 2: (model, [0.0] * count)})
    with pytest.raises(ValueError, match=f"Camera 2 .* is {model}, which is no pinhole"):
        load_colmap(tmp_path)


@pytest.mark.parametrize(
    ("cameras", "images", "sentence"),
    [
        ("1 PINHOLE 32\n", "", "damaged line"),
        ("1 PINHOLE 32 24 1 1 1 1\n", "1 1 0 0\n", "damaged line"),
        ("1 PINHOLE 32 24 1 1 1 1\n", "1 1 0 0 0 0 0 4 1 a.png\n1 2 3\n1 2 3\n", "damaged line"),
        ("1 PINHOLE 32 24\n", "1 1 0 0 0 0 0 4 1 a.png\n", "4 numbers"),
        ("1 PINHOLE 32 24 1 1 1 nan\n", "1 1 0 0 0 0 0 4 1 a.png\n", "finite"),
        ("1 PINHOLE 32 0 1 1 1 1\n", "1 1 0 0 0 0 0 4 1 a.png\n", "whole pixels"),
        ("1 PINHOLE 32 24 1 1 1 1\n", "1 0 0 0 0 0 0 4 1 a.png\n", "quaternion of zeros"),
        ("1 PINHOLE 32 24 1 1 1 1\n", "1 1 0 0 0 0 0 inf 1 a.png\n", "finite"),
        ("1 PINHOLE 32 24 1 1 1 1\n", "1 1 0 0 0 0 0 4 5 a.png\n", r"camera 5; its cameras are 1\."),
        ("1 PINHOLE 32 24 1 1 1 1\n", "", "names no picture"),
    ],
)
def test_damaged_text_models_are_refused(tmp_path, cameras, images, sentence):
    (tmp_path / "cameras.txt").write_text(cameras)
    (tmp_path / "images.txt").write_text(images)
    with pytest.raises(ValueError, match=sentence):
        load_colmap(tmp_path)


def test_damaged_binary_models_are_refused_or_read(tmp_path):
    """Cut off anywhere, or with any byte changed (counts become huge): a sentence, or numbers."""
    write_binary(tmp_path)
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    chance = random.Random(0)
    for path, data in whole.items():
        for length in range(0, len(data), 3):
            path.write_bytes(data[:length])
            with pytest.raises(ValueError, match=r"cut off"):
                load_colmap(tmp_path)
        for _ in range(120):
            place = chance.randrange(len(data))
            path.write_bytes(data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :])
            try:
                assert all(shot.c2w.isfinite().all() for shot in load_colmap(tmp_path))
            except ValueError as error:
                assert str(error).endswith(".")
        path.write_bytes(data)
