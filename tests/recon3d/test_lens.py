"""Lens distortion: OpenCV's numbers, its inverse, and pictures without it."""

import math

import pytest
import torch

from recon3d import lens as module
from recon3d.lens import PINHOLE_MODELS, Distortion, lens_of, undistort

BENT = Distortion(k1=-0.31, k2=0.12, p1=0.003, p2=-0.002, k3=0.01, k4=0.05, k5=0.02, k6=-0.01)


def test_points_are_bent_as_opencv_does():
    """Expected: `cv2.projectPoints` of OpenCV 5.0 with this distortion and no other lens."""
    points = torch.tensor([[0.2, -0.3], [-0.6, 0.5]], dtype=torch.float64)
    expected = torch.tensor(
        [[0.190267806420007, -0.285401709630011], [-0.501425247275781, 0.418667706063151]], dtype=torch.float64
    )
    torch.testing.assert_close(BENT.bend(points), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(BENT.straighten(expected), points, atol=1e-9, rtol=0)


def test_models_fold_where_their_radius_stops_growing():
    assert Distortion().reach() == math.inf and Distortion(k1=0.1).reach() == math.inf
    assert Distortion(k1=-0.3).reach() == pytest.approx(1 / math.sqrt(0.9), abs=2e-3)
    with pytest.raises(ValueError, match="folds over"):
        Distortion(k1=-0.3).straighten(torch.tensor([[0.9, 0.0]], dtype=torch.float64))


def test_an_undistorted_picture_is_that_of_a_pinhole(monkeypatch):
    """A smooth pattern of the plane, seen through the lens and through a pinhole."""
    intrinsics = torch.tensor([70.0, 72.0, 50.0, 37.0], dtype=torch.float64)
    size = torch.tensor([96, 80])
    y, x = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], -1).double()

    def seen(points):
        return (0.5 + 0.25 * torch.sin(9 * points[..., 0]) + 0.25 * torch.cos(7 * points[..., 1]))[None, None].float()

    for distortion in (Distortion(k1=-0.2, k2=0.05, p1=0.003), Distortion(k1=0.2, p2=-0.004)):
        given = seen(distortion.straighten((pixels - intrinsics[2:]) / intrinsics[:2]))
        made, lens = undistort(given, intrinsics, distortion)
        monkeypatch.setattr(module, "BAND", 300)
        assert torch.equal(undistort(given, intrinsics, distortion)[0], made)
        points = (pixels - lens[2:]) / lens[:2]
        source = distortion.bend(points) * intrinsics[:2] + intrinsics[2:]
        inside = ((source > 1) & (source < size - 1)).all(-1)
        assert inside.float().mean() > 0.7
        assert float((made - seen(points))[0, 0][inside].abs().max()) < 0.01
        # Nothing of the picture is lost: its corners lie in the new one.
        corners = torch.tensor([[0.0, 0.0], [96.0, 0.0], [0.0, 80.0], [96.0, 80.0]], dtype=torch.float64)
        placed = distortion.straighten((corners - intrinsics[2:]) / intrinsics[:2]) * lens[:2] + lens[2:]
        assert bool(((placed > -0.5) & (placed < size + 0.5)).all())


def test_a_lens_that_folds_inside_the_picture_is_refused():
    intrinsics = torch.tensor([40.0, 40.0, 48.0, 40.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="folds over"):
        undistort(torch.zeros(1, 1, 80, 96), intrinsics, Distortion(k1=-0.4))


def test_every_model_gives_its_numbers():
    for model, names in PINHOLE_MODELS.items():
        numbers = [40.0, 41.0, 16.0, 12.0][-len(names[:4]) :] if "f" not in names else [40.0, 16.0, 12.0]
        rest = [0.01 * n for n in range(1, len(names) - len(numbers) + 1)]
        lens, distortion = lens_of(model, [*numbers, *rest], "It")
        assert lens["fl_x"] == 40 and lens["cx"] == 16 and bool(distortion) == bool(rest)
