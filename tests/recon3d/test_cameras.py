"""Cameras: conventions and conversions."""

import pytest
import torch

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


def test_published_turntable_is_ours_unless_three_cameras_mix():
    azimuth, elevation = [0.0, 37.0, 190.0, 250.0], [20.0, -15.0, 60.0, 5.0]
    ours = cams.opencv_to_opengl(cams.orbit(azimuth, elevation, 3.5).c2w)
    torch.testing.assert_close(cams.published_orbit(azimuth, elevation, 3.5), ours, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(cams.published_orbit(azimuth[:3], elevation[:3], 3.5), ours[:3], atol=0.1)


def test_instantmesh_sees_the_views_of_gtr_in_another_world():
    cameras = cams.instantmesh_orbit(
        [90 - phi for phi in cams.GTR_PHI], [90 - theta for theta in cams.GTR_THETA], size=64
    )
    elevation = torch.deg2rad(torch.tensor(20.0))
    azimuth = torch.deg2rad(torch.tensor(30.0))
    expected = 4 * torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()])
    torch.testing.assert_close(cameras.positions[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.c2w, cams.gtr_to_instantmesh(cams.gtr_rig(64).c2w))
    assert cams.instantmesh_vectors(cameras).shape == (6, 16)
    assert cams.instantmesh_vectors(cameras)[0, 12:].tolist() == pytest.approx([1.8660, 1.8660, 0.5, 0.5], abs=1e-4)


def test_moved_cameras_see_the_moved_world():
    cameras, point = random_cameras(), torch.tensor([[0.3, -0.2, 0.5]])
    centre, scale = torch.tensor([1.0, 2.0, -1.0]), 0.25
    before = cameras.clip(point)[:, 0]
    after = cameras.moved(centre, scale).clip((point - centre) * scale)[:, 0]
    torch.testing.assert_close(before[:, :2] / before[:, 3:], after[:, :2] / after[:, 3:], atol=1e-5, rtol=0)


def test_a_world_far_away_keeps_its_places():
    cameras = random_cameras().to(dtype=torch.float64)
    away = torch.tensor([455_000.0, 5_400_000.0, 120.0], dtype=torch.float64)
    there = cameras.moved(-away, 1.0)
    back = there.moved(away, 1.0).to(dtype=torch.float32)
    torch.testing.assert_close(back.c2w, cameras.c2w.float(), atol=1e-6, rtol=0)
    assert random_cameras().moved(-away, 1.0).c2w.dtype == torch.float64
