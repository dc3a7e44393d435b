"""Folders of pictures with cameras, as people and programs leave them."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from recon3d import cameras as cams
from recon3d import view_files
from recon3d.camera_files import save_gtr_camera, save_transforms
from recon3d.lens import Distortion
from recon3d.render import render
from recon3d.vase import vase
from recon3d.view_files import load_views, save_views
from recon3d.views import Views
from tests.recon3d.test_colmap import write_binary, write_text

NAMES = [f"view_{number:03d}.png" for number in range(6)]


@pytest.fixture(scope="module")
def views():
    """Six views, wider than high, whose principal point is not in the middle."""
    cameras = cams.gtr_rig(48)
    lens = cameras.intrinsics + torch.tensor([0.0, 0.0, 10.0, 2.0])
    return render(vase(32, 32, 32), replace(cameras, intrinsics=lens, width=64))


@pytest.fixture
def folder(views, tmp_path):
    save_views(views, tmp_path)
    return tmp_path


def change(folder, edit):
    """Edit the transforms.json of a folder."""
    data = json.loads((folder / "transforms.json").read_text())
    edit(data)
    (folder / "transforms.json").write_text(json.dumps(data))


def rename(folder, name):
    """Let the camera file call its pictures otherwise."""

    def edit(data):
        for frame in data["frames"]:
            frame["file_path"] = name(frame["file_path"])

    change(folder, edit)


def assert_same(loaded, views, pixels=0.01):
    assert float((loaded.images - views.images).abs().mean()) < pixels
    assert float((loaded.masks - views.masks).abs().mean()) < pixels
    torch.testing.assert_close(loaded.cameras.c2w.float(), views.cameras.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded.cameras.intrinsics.float(), views.cameras.intrinsics)


def test_saved_views_load_equal(views, folder):
    again = load_views(folder)
    assert float((again.images - views.images).abs().max()) < 0.01  # 8 bits
    assert float((again.masks - views.masks).abs().max()) < 0.003
    assert again.notes == ()
    assert_same(again, views)


def test_the_gtr_rig_needs_no_camera_files(tmp_path):
    views = render(vase(32, 32, 32), cams.gtr_rig(48))
    save_views(views, tmp_path)
    (tmp_path / "transforms.json").unlink()
    with pytest.raises(ValueError, match=r"no poses.*six views of GTR"):
        load_views(tmp_path)
    assert_same(load_views(tmp_path, rig="gtr"), views)


def test_text_cameras_beside_the_pictures(views, folder):
    (folder / "transforms.json").unlink()
    for number, name in enumerate(NAMES):
        save_gtr_camera((folder / name).with_suffix(".txt"), views.cameras[number])
    assert_same(load_views(folder), views)


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_colmap_models_with_pictures_and_masks(views, folder, write):
    (folder / "transforms.json").unlink()
    for place in ("images", "masks", "sparse/0"):
        (folder / place).mkdir(parents=True)
    for name in NAMES:  # no transparency, a background that is not white
        picture = Image.open(folder / name)
        picture.getchannel("A").save(folder / "masks" / f"{name}.png")
        Image.alpha_composite(Image.new("RGBA", picture.size, "teal"), picture).convert("RGB").save(
            folder / "images" / name
        )
        (folder / name).unlink()
    pictures = [(name, pose(w2c), 1) for name, w2c in zip(NAMES, views.cameras.w2c, strict=True)]
    rows = {1: ("PINHOLE", views.cameras.intrinsics[0].tolist())}
    write(folder / "sparse/0", pictures, rows, size=(64, 48))
    loaded = load_views(folder)
    assert loaded.notes == ("6 masks were read from files.",)
    assert_same(loaded, views)


def pose(w2c):
    """COLMAP's quaternion and translation of a matrix whose rotation is not a half turn."""
    r = w2c.double()
    w = (1 + r[0, 0] + r[1, 1] + r[2, 2]).sqrt() / 2
    axis = torch.stack([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]) / (4 * w)
    return [float(w), *axis.tolist(), *r[:3, 3].tolist()]


@pytest.mark.parametrize(
    "name",
    [
        lambda name: "./images/" + name,
        lambda name: "/home/someone/data/images/" + name,
        lambda name: "..\\data\\images\\" + name,
        lambda name: "C:\\data\\images\\" + name,
        lambda name: "images/" + name.removesuffix(".png"),
        lambda name: "Images/" + name.upper(),
        lambda name: name,
    ],
)
def test_pictures_are_found_whatever_wrote_their_names(views, folder, name):
    (folder / "images").mkdir()
    for given in NAMES:
        (folder / given).rename(folder / "images" / given)
    rename(folder, name)
    assert_same(load_views(folder), views)


def test_endings_may_be_left_out(views, folder):
    for given, ending in zip(NAMES, (".PNG", ".jpeg", ".webp", ".JPG", ".tif", ".png"), strict=True):
        picture = Image.open(folder / given)
        opaque = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        (folder / given).unlink()
        opaque.save((folder / given).with_suffix(ending), quality=95)
    rename(folder, lambda name: name.removesuffix(".png"))
    assert_same(load_views(folder, "white"), views, 0.02)


def test_links_of_the_folder_are_followed(views, folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in NAMES:
        (folder / name).rename(elsewhere / name)
    os.symlink(elsewhere, folder / "images")
    rename(folder, lambda name: "images/" + name)
    assert_same(load_views(folder), views)


def test_missing_foreign_and_doubled_pictures_are_refused(views, folder):
    (folder / "view_003.png").rename(folder.parent / "x.png")
    with pytest.raises(FileNotFoundError, match=r"view_003\.png"):
        load_views(folder)
    for outside in ("../x.png", str(folder.parent / "x.png"), "..\\x.png", "\0", ".", "a/" * 3000 + "x.png"):
        save_transforms(folder / "transforms.json", [outside] * 6, views.cameras)
        with pytest.raises((ValueError, FileNotFoundError), match=r"outside its own folder|is missing|is not read"):
            load_views(folder)
    save_transforms(folder / "transforms.json", ["/a/view_000.png", "/b/view_000.png"] * 3, views.cameras)
    with pytest.raises(ValueError, match=r"/a/view_000\.png and /b/view_000\.png are for one picture"):
        load_views(folder)
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_views(folder / "nothing")
    (folder / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"0 pictures and no poses: give a transforms\.json"):
        load_views(folder / "nothing")


@pytest.mark.parametrize("known", [True, False])
def test_poses_are_for_pixels_as_they_are_stored(views, folder, known):
    """Orientation 6 asks viewers to turn the picture; the programs that find poses do not."""
    tag = Image.Exif()
    tag[0x0112] = 6
    for name in NAMES:
        Image.open(folder / name).save(folder / name, exif=tag)
    if not known:
        change(folder, lambda data: [data.pop(side) for side in ("w", "h")])
    assert_same(load_views(folder), views)


def test_a_picture_may_have_been_turned_before_its_pose_was_found(views, folder):
    tag = Image.Exif()
    tag[0x0112] = 8
    for name in NAMES:  # viewers, and here the program that found poses, turn it back
        Image.open(folder / name).transpose(Image.Transpose.ROTATE_270).save(folder / name, exif=tag)
    assert_same(load_views(folder), views)
    change(folder, lambda data: data.update(w=50))
    with pytest.raises(ValueError, match=r"for 48 x 50 pixels, .* 64 x 48, or 48 x 64 turned as its EXIF"):
        load_views(folder)


@pytest.mark.parametrize("kind", ["grey", "labels", "parts", "labels of 16 bits", "half size", "layer"])
def test_masks_named_by_the_camera_file_cut_the_object_out(views, folder, kind):
    (folder / "m").mkdir()
    for name in NAMES:
        picture = Image.open(folder / name)
        mask = picture.getchannel("A")
        if kind == "labels":
            mask = mask.point(lambda value: value > 127)
        elif kind == "parts":
            upper = np.arange(mask.height)[:, None] < mask.height // 2
            mask = Image.fromarray((np.array(mask) > 127) * np.where(upper, 1, 3).astype(np.uint8))
        elif kind == "labels of 16 bits":
            mask = Image.fromarray((np.array(mask) > 127).astype(np.uint16))
        elif kind == "half size":
            mask = mask.resize((32, 24))
        elif kind == "layer":
            mask = Image.merge("LA", [Image.new("L", mask.size, 0), mask])
        mask.save(folder / "m" / name)
        Image.alpha_composite(Image.new("RGBA", picture.size, "teal"), picture).convert("RGB").save(folder / name)
    change(folder, lambda data: [frame.update(mask_path="m/" + frame["file_path"]) for frame in data["frames"]])
    assert_same(load_views(folder), views, 0.03)
    with pytest.raises(ValueError, match="neither transparency nor a white background"):
        load_views(folder, "white")
    Image.new("L", (48, 48)).save(folder / "m" / NAMES[2])
    with pytest.raises(ValueError, match=r"has 48 x 48 pixels, its picture 48 x 64"):
        load_views(folder)
    (folder / "m" / NAMES[2]).unlink()
    with pytest.raises(FileNotFoundError, match=r"the mask m/view_002\.png"):
        load_views(folder)


def test_smaller_pictures_of_the_same_camera_are_read(views, folder):
    large = views.cameras.resized(96, 128)
    save_transforms(folder / "transforms.json", NAMES, large)
    assert_same(load_views(folder), views)


def test_mixed_sizes_are_brought_to_the_largest(views, folder):
    """Half as large, cut at the right, and cut below: each with its own intrinsics."""
    one, two, three = (Image.open(folder / NAMES[number]) for number in (0, 1, 3))
    one.resize((32, 24), Image.Resampling.BOX).save(folder / NAMES[0])
    two.crop((0, 0, 52, 48)).save(folder / NAMES[1])
    three.crop((0, 0, 64, 46)).save(folder / NAMES[3])

    def edit(data):
        data["frames"][0].update({key: data["frames"][0][key] / 2 for key in ("fl_x", "fl_y", "cx", "cy")}, w=32, h=24)
        data["frames"][1].update(w=52)
        data["frames"][3].update(h=46)

    change(folder, edit)
    loaded = load_views(folder)
    assert loaded.notes == ("3 pictures were brought to the size of the others, 48 x 64.",)
    assert_same(loaded, views, 0.02)
    Image.open(folder / NAMES[1]).crop((0, 0, 30, 48)).save(folder / NAMES[1])
    change(folder, lambda data: data["frames"][1].update(w=30))
    with pytest.raises(ValueError, match=r"view_001\.png has other sides .* cut off by the border"):
        load_views(folder)


def test_many_large_pictures_are_made_smaller(views, folder, monkeypatch):
    monkeypatch.setattr(view_files, "MAX_PIXELS", 6 * 24 * 32)
    loaded = load_views(folder)
    assert loaded.notes == ("6 pictures were made smaller, for the memory that all need together.",)
    assert_same(loaded, views.resized(24, 32))


def test_lens_distortion_is_removed(folder):
    """Wide pictures through a bent lens, drawn by looking straight ones up along the model."""
    straight = cams.gtr_rig(48, radius=1.7, fov_degrees=65.0)
    lens, bent = straight.intrinsics[0].double(), Distortion(k1=-0.35, k2=0.1, p1=0.03)
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    points = bent.straighten((torch.stack([x, y], -1).double() - lens[2:]) / lens[:2]) * lens[:2] + lens[2:]
    grid = (points / 48 * 2 - 1).float().expand(6, -1, -1, -1)
    large = render(vase(32, 32, 32), straight.resized(96, 96), supersample=1)

    def seen(pictures):
        return torch.nn.functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    save_views(Views(seen(large.images), seen(large.masks), straight), folder)
    change(folder, lambda data: data.update(k1=-0.35, k2=0.1, p1=0.03, camera_model="OPENCV"))
    loaded = load_views(folder)
    assert loaded.notes == ("The lens distortion of 6 pictures was removed.",)
    truth = render(vase(32, 32, 32), loaded.cameras.to(dtype=torch.float32))
    ignored = float((seen(large.masks) - large.resized(48, 48).masks).abs().mean())
    error = float((loaded.masks - truth.masks).abs().mean())
    assert error < 0.01 and error < ignored / 4, (error, ignored)
    change(folder, lambda data: data.update(k1=-40.0))
    with pytest.raises(ValueError, match=r"camera of view_000\.png cannot be used: its distortion folds over"):
        load_views(folder)
