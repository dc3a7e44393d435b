"""Cameras: conventions, conversions and files."""

from dataclasses import replace

import pytest
import torch

from recon3d import camera_files
from recon3d import cameras as cams


def random_cameras(views=4, height=24, width=32):
    generator = torch.Generator().manual_seed(3)
    positions = torch.randn(views, 3, generator=generator) * 2 + 3
    intrinsics = torch.tensor([[40.0, 42.0, 15.0, 13.0]]).repeat(views, 1)
    return cams.Cameras(cams.opengl_to_opencv(cams.look_at(positions)), intrinsics, height, width)


def test_poses_are_rotations():
    for cameras in (random_cameras(), cams.gtr_rig(), cams.orbit([0.0, 50.0], [90.0, -90.0])):
        rotation = cameras.c2w[:, :3, :3]
        torch.testing.assert_close(
            rotation @ rotation.transpose(1, 2), torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(len(cameras)), atol=1e-5, rtol=0)


def test_points_on_rays_project_back_to_their_pixels():
    cameras = random_cameras()
    origins, directions = cameras.rays()
    points = origins + directions * 2.5
    for view in range(len(cameras)):
        clip = cameras.clip(points[view].reshape(-1, 3))[view]
        x = (clip[:, 0] / clip[:, 3] + 1) / 2 * cameras.width
        y = (clip[:, 1] / clip[:, 3] + 1) / 2 * cameras.height
        v, u = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
        torch.testing.assert_close(x, u.flatten(), atol=1e-3, rtol=0)
        torch.testing.assert_close(y, v.flatten(), atol=1e-3, rtol=0)


def test_turntable_of_the_release_is_ours_unless_three_cameras_mix():
    azimuth, elevation = [0.0, 37.0, 190.0, 250.0], [20.0, -15.0, 60.0, 5.0]
    ours = cams.opencv_to_opengl(cams.orbit(azimuth, elevation, 3.5).c2w)
    torch.testing.assert_close(cams.release_orbit(azimuth, elevation, 3.5), ours, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(cams.release_orbit(azimuth[:3], elevation[:3], 3.5), ours[:3], atol=0.1)


def test_instantmesh_rig_is_the_gtr_rig_in_another_world():
    cameras = cams.instantmesh_rig(64)
    elevation = torch.deg2rad(torch.tensor(20.0))
    azimuth = torch.deg2rad(torch.tensor(30.0))
    expected = 4 * torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()])
    torch.testing.assert_close(cameras.positions[0], expected, atol=1e-5, rtol=0)
    assert torch.equal(cams.instantmesh_to_gtr(cameras.c2w), cams.gtr_rig(64).c2w)
    assert cams.instantmesh_vectors(cameras).shape == (6, 16)
    assert cams.instantmesh_vectors(cameras)[0, 12:].tolist() == pytest.approx([1.8660, 1.8660, 0.5, 0.5], abs=1e-4)


def test_transforms_json_round_trip(tmp_path):
    cameras = random_cameras()
    names = [f"{n}.png" for n in range(4)]
    camera_files.save_transforms(tmp_path / "transforms.json", names, cameras)
    shots = camera_files.load_transforms(tmp_path / "transforms.json")
    assert [shot.name for shot in shots] == names and {shot.size for shot in shots} == {(24, 32)}
    torch.testing.assert_close(torch.stack([shot.c2w for shot in shots]), cameras.c2w)
    torch.testing.assert_close(torch.stack([shot.intrinsics(24, 32) for shot in shots]), cameras.intrinsics)
    with pytest.raises(ValueError, match=r"for 24 x 32 pixels, but the picture has 48 x 64"):
        shots[0].intrinsics(48, 64)


def test_camera_angle_is_understood():
    shot = camera_files.Shot("a.png", torch.eye(4), {"camera_angle_x": 0.6911112070083618})
    assert shot.intrinsics(800, 800).tolist() == pytest.approx([1111.1110, 1111.1110, 400, 400], rel=1e-5)
    with pytest.raises(ValueError, match="no focal length"):
        replace(shot, lens={}).intrinsics(8, 8)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "{}",
        '{"frames": []}',
        '{"frames": [{"file_path": "a"}]}',
        '{"frames": ["a"]}',
        '{"frames": [{"file_path": "a", "transform_matrix": [[1, 2], [3]]}]}',
        '{"frames": [{"file_path": "a", "transform_matrix": [[1, 2], [3, 4]]}]}',
        '{"k1": 0.1, "frames": [{"file_path": "a", "transform_matrix": '
        "[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}]}",
    ],
)
def test_damaged_transforms_are_refused(tmp_path, text):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(ValueError, match=r"transforms\.json"):
        camera_files.load_transforms(tmp_path / "transforms.json")


def test_colmap_text_model(tmp_path):
    (tmp_path / "cameras.txt").write_text("# comment\n1 PINHOLE 32 24 40 42 15 13\n2 SIMPLE_PINHOLE 32 24 40 16 12\n")
    half = 0.5**0.5
    (tmp_path / "images.txt").write_text(
        f"# comment\n1 {half} 0 {half} 0 1 2 3 1 a.png\n\n2 1 0 0 0 0 0 4 2 b.png\n1 2 3\n"
    )
    first, second = camera_files.load_colmap(tmp_path)
    assert (first.name, second.name) == ("a.png", "b.png") and first.size == second.size == (24, 32)
    assert first.intrinsics(24, 32).tolist() == [40, 42, 15, 13]
    assert second.intrinsics(24, 32).tolist() == [40, 40, 16, 12]
    torch.testing.assert_close(second.c2w[:3, 3], torch.tensor([0.0, 0.0, -4.0]))
    # A quarter turn around y sends world z to camera x; the camera centre is -R^T t.
    torch.testing.assert_close(first.c2w[:3, 3], torch.tensor([3.0, -2.0, -1.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("cameras", "images"), [("1 PINHOLE 32\n", ""), ("1 PINHOLE 32 24 1 1 1 1\n", "1 1 0 0\n")])
def test_damaged_colmap_models_are_refused(tmp_path, cameras, images):
    (tmp_path / "cameras.txt").write_text(cameras)
    (tmp_path / "images.txt").write_text(images)
    with pytest.raises(ValueError, match="damaged line"):
        camera_files.load_colmap(tmp_path)


def test_distorted_colmap_cameras_are_refused(tmp_path):
    (tmp_path / "cameras.txt").write_text("1 OPENCV 32 24 40 42 15 13 0.1 0 0 0\n")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 4 1 b.png\n\n")
    with pytest.raises(ValueError, match="distortion"):
        camera_files.load_colmap(tmp_path)


def test_text_cameras_of_the_release_round_trip(tmp_path):
    cameras = cams.gtr_rig(48)
    camera_files.save_gtr_camera(tmp_path / "0.txt", cameras[3])
    shot = camera_files.load_gtr_camera(tmp_path / "0.txt", "0.png")
    torch.testing.assert_close(shot.c2w, cameras.c2w[3], atol=1e-5, rtol=0)
    torch.testing.assert_close(shot.intrinsics(48, 48), cameras.intrinsics[3])
    (tmp_path / "1.txt").write_text("extrinsic\n1 2\n")
    with pytest.raises(ValueError, match="not a camera file"):
        camera_files.load_gtr_camera(tmp_path / "1.txt", "1.png")


def test_moved_cameras_see_the_moved_world():
    cameras, point = random_cameras(), torch.tensor([[0.3, -0.2, 0.5]])
    centre, scale = torch.tensor([1.0, 2.0, -1.0]), 0.25
    before = cameras.clip(point)[:, 0]
    after = cameras.moved(centre, scale).clip((point - centre) * scale)[:, 0]
    torch.testing.assert_close(before[:, :2] / before[:, 3:], after[:, :2] / after[:, 3:], atol=1e-5, rtol=0)
