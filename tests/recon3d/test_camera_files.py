"""Cameras in files: transforms.json and the text cameras of the published GTR."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch

from recon3d import cameras as cams
from recon3d.camera_files import Shot, load_gtr_camera, load_transforms, save_gtr_camera, save_transforms
from recon3d.lens import Distortion

EYE = torch.eye(4).tolist()


def random_cameras(views=4, height=24, width=32):
    generator = torch.Generator().manual_seed(3)
    positions = torch.randn(views, 3, generator=generator) * 2 + 3
    intrinsics = torch.tensor([[40.0, 42.0, 15.0, 13.0]]).repeat(views, 1)
    return cams.Cameras(cams.opengl_to_opencv(cams.look_at(positions)), intrinsics, height, width)


def written(folder, **more):
    """A transforms.json with one frame and whatever else."""
    path = folder / "transforms.json"
    data = {"fl_x": 40, "w": 32, "h": 24, "frames": [{"file_path": "a.png", "transform_matrix": EYE}]}
    path.write_text(json.dumps({**data, **more}))
    return path


def test_transforms_json_round_trip(tmp_path):
    cameras = random_cameras()
    names = [f"{n}.png" for n in range(4)]
    save_transforms(tmp_path / "transforms.json", names, cameras)
    shots = load_transforms(tmp_path / "transforms.json")
    assert [shot.name for shot in shots] == names and {shot.size for shot in shots} == {(24, 32)}
    torch.testing.assert_close(torch.stack([shot.c2w for shot in shots]).float(), cameras.c2w)
    torch.testing.assert_close(torch.stack([shot.intrinsics(24, 32) for shot in shots]).float(), cameras.intrinsics)


def test_poses_far_from_the_origin_are_exact(tmp_path):
    away = [[1, 0, 0, 455_002.984602451324463], [0, 1, 0, 5_400_001.0944644212722778], [0, 0, 1, 120.4], [0, 0, 0, 1]]
    (shot,) = load_transforms(written(tmp_path, frames=[{"file_path": "a", "transform_matrix": away}]))
    assert shot.c2w[:3, 3].tolist() == [row[3] for row in away[:3]]


def test_pictures_in_another_size_have_other_intrinsics():
    shot = Shot("a.png", torch.eye(4), {"fl_x": 40.0, "fl_y": 42.0, "cx": 15.0, "cy": 13.0}, (25, 33))
    assert shot.intrinsics(25, 33).tolist() == [40, 42, 15, 13]
    assert shot.intrinsics(50, 66).tolist() == [80, 84, 30, 26]
    small = shot.intrinsics(12, 16)  # halved and cut to whole pixels
    assert small.tolist() == pytest.approx([40 * 16 / 33, 42 * 12 / 25, 15 * 16 / 33, 13 * 12 / 25])
    with pytest.raises(ValueError, match=r"for 25 x 33 pixels, but the picture has 33 x 25"):
        shot.intrinsics(33, 25)


def test_one_focal_length_is_enough():
    shot = Shot("a.png", torch.eye(4), {"camera_angle_x": 0.6911112070083618})
    assert shot.intrinsics(800, 800).tolist() == pytest.approx([1111.1110, 1111.1110, 400, 400], rel=1e-5)
    assert replace(shot, lens={"fl_y": 50.0}).intrinsics(40, 60).tolist() == [50, 50, 30, 20]
    quarter = replace(shot, lens={"camera_angle_y": math.pi / 2})
    assert quarter.intrinsics(40, 60).tolist() == pytest.approx([20, 20, 30, 20])
    assert replace(quarter, size=(80, 120)).intrinsics(40, 60).tolist() == pytest.approx([20, 20, 30, 20])
    with pytest.raises(ValueError, match="no focal length"):
        replace(shot, lens={}).intrinsics(8, 8)


@pytest.mark.parametrize("lens", [{"fl_x": 1.2}, {"fl_x": 900.0, "fl_y": 1.6}, {"fl_y": 0.0}, {"fl_x": -900.0}])
@pytest.mark.parametrize("size", [(600, 800), None])
def test_focal_lengths_that_are_shares_of_the_sides_are_refused(lens, size):
    with pytest.raises(ValueError, match=r"a\.png has the focal length fl_. .* must be in pixels"):
        Shot("a.png", torch.eye(4), lens, size).intrinsics(600, 800)


def test_byte_order_marks_and_three_rows_are_read(tmp_path):
    path = written(tmp_path, frames=[{"file_path": "a.png", "transform_matrix": EYE[:3], "mask_path": "m.png"}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (shot,) = load_transforms(path)
    assert torch.equal(shot.c2w, cams.opengl_to_opencv(torch.eye(4, dtype=torch.float64)))
    assert shot.mask == "m.png"


def test_distortion_is_read(tmp_path):
    (shot,) = load_transforms(written(tmp_path, k1=0.1, k2=-0.02, p1=0.003, camera_model="OPENCV", k4=0.0))
    assert shot.distortion == Distortion(k1=0.1, k2=-0.02, p1=0.003)
    (shot,) = load_transforms(written(tmp_path, k1=0.1, k4=0.2, camera_model="FULL_OPENCV"))
    assert shot.distortion == Distortion(k1=0.1, k4=0.2)
    with pytest.raises(ValueError, match="distortion k4"):
        load_transforms(written(tmp_path, k1=0.1, k4=0.2))


@pytest.mark.parametrize(
    "lens",
    [
        {"camera_model": "OPENCV_FISHEYE", "k1": 0.0},
        {"camera_model": "EQUIRECTANGULAR"},
        {"is_fisheye": True},
        {"ftheta_p0": 0.0},
        {"camera_type": "FISHEYE"},
        {"camera_model": ["OPENCV"]},
    ],
)
def test_lenses_that_are_no_pinholes_are_refused(tmp_path, lens):
    with pytest.raises(ValueError, match=r"frame 0 .* is no pinhole|Frame 0 .* is no pinhole"):
        load_transforms(written(tmp_path, **lens))


def test_marks_of_other_lenses_may_say_no(tmp_path):
    load_transforms(written(tmp_path, is_fisheye=0, latlong=False, orthographic=None, camera_type="perspective"))


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1]",
        "{}",
        '{"frames": []}',
        '{"frames": {}}',
        '{"frames": [{"file_path": "a"}]}',
        '{"frames": ["a"]}',
        '{"frames": [{"file_path": "a", "transform_matrix": [[1, 2], [3]]}]}',
        '{"frames": [{"file_path": "a", "transform_matrix": [[1, 2], [3, 4]]}]}',
        '{"frames": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_damaged_transforms_are_refused(tmp_path, text):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(ValueError, match=r"transforms\.json"):
        load_transforms(tmp_path / "transforms.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fl_x", math.nan),
        ("fl_x", "wide"),
        ("w", math.inf),
        ("w", 10**400),
        ("h", 0),
        ("h", 24.5),
        ("k1", [0.1]),
        ("camera_angle_x", 0.0),
        ("camera_angle_y", 4.0),
        ("frames", [{"file_path": 7, "transform_matrix": EYE}]),
        ("frames", [{"transform_matrix": EYE}]),
        ("frames", [{"file_path": "a", "mask_path": "", "transform_matrix": EYE}]),
        ("frames", [{"file_path": "a", "transform_matrix": [[math.inf, 0, 0, 0], *EYE[1:]]}]),
        ("frames", [{"file_path": "a", "transform_matrix": [*EYE[:3], [1, 2, 3, 1]]}]),
    ],
)
def test_impossible_numbers_are_refused_by_name(tmp_path, key, value):
    with pytest.raises(ValueError, match=r"[Ff]rame 0 of .*transforms\.json") as caught:
        load_transforms(written(tmp_path, **{key: value}))
    assert len(str(caught.value)) < 400


def test_text_cameras_of_the_release_round_trip(tmp_path):
    cameras = cams.gtr_rig(48)
    save_gtr_camera(tmp_path / "0.txt", cameras[3])
    shot = load_gtr_camera(tmp_path / "0.txt", "0.png")
    torch.testing.assert_close(shot.c2w.float(), cameras.c2w[3], atol=1e-5, rtol=0)
    torch.testing.assert_close(shot.intrinsics(48, 48).float(), cameras.intrinsics[3])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "extrinsic\n1 2\n",
        lambda text: text.replace("48 48\n", "48 inf\n"),
        lambda text: text.replace("48 48\n", "48\n"),
        lambda text: text.replace("extrinsic\n", "extrinsic\n0 0 0 0\n0 0 0 0\n0 0 0 0\n0 0 0 1\n"),
        lambda text: f"\xe9{text}",
    ],
)
def test_damaged_text_cameras_are_refused(tmp_path, change):
    save_gtr_camera(tmp_path / "1.txt", cams.gtr_rig(48)[3])
    (tmp_path / "1.txt").write_text(change((tmp_path / "1.txt").read_text()), encoding="latin-1")
    with pytest.raises(ValueError, match=r"1\.txt"):
        load_gtr_camera(tmp_path / "1.txt", "1.png")


NUMBERS = [None, True, -1, 0, 1e308, math.inf, math.nan, 10**400, "", "x", "\0", [], {}, [[]], ["a"] * 4]


def changed(data, chance):
    """The data with one value, somewhere inside, that is another or missing."""
    data = json.loads(json.dumps(data))
    place = data
    while True:
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if chance.random() < 0.3 or not isinstance(place[key], (dict, list)) or not place[key]:
            break
        place = place[key]
    if chance.random() < 0.2:
        del place[key]
    else:
        place[key] = chance.choice(NUMBERS)
    return data


def test_whatever_stands_in_a_file_costs_one_sentence(tmp_path):
    frames = [{"file_path": f"{n}.png", "mask_path": "m.png", "transform_matrix": EYE} for n in range(2)]
    lens = {
        "fl_x": 40,
        "camera_angle_y": 0.5,
        "cx": 16,
        "k1": 0.1,
        "k4": 0,
        "camera_model": "OPENCV",
        "is_fisheye": False,
    }
    path, chance = written(tmp_path, frames=frames, **lens), random.Random(0)
    save_gtr_camera(tmp_path / "0.txt", cams.gtr_rig(48)[3])
    data, text = json.loads(path.read_text()), (tmp_path / "0.txt").read_bytes()
    refused = 0
    for _ in range(400):
        path.write_text(json.dumps(changed(data, chance)))
        start = chance.randrange(len(text))
        piece = chance.choice([b"", b"nan", b"1e999", b"\xff", b"\n", b"9" * 500])
        (tmp_path / "0.txt").write_bytes(text[:start] + piece + text[start + chance.randrange(9) :])
        for read in (lambda: load_transforms(path), lambda: [load_gtr_camera(tmp_path / "0.txt", "0.png")]):
            try:
                for shot in read():
                    assert shot.c2w.isfinite().all() and shot.intrinsics(*(shot.size or (24, 32))).isfinite().all()
            except ValueError as error:
                refused += 1
                assert type(error) is ValueError and str(error).endswith(".") and len(str(error)) < 500
    assert 200 < refused < 800
