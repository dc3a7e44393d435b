"""Resampling needs no more memory than its pictures, and comes in bands as it does whole."""

from __future__ import annotations

import copy
import gc

import pytest
import torch

from vision.resize import imresize, imresize_bands, resize


def waves(height: int, width: int) -> torch.Tensor:
    """(1, 3, height, width) smooth, in [0, 1]."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return torch.stack([(rows / 5).sin() + (columns / n).cos() for n in (3, 7, 11)])[None] / 4 + 0.5


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("size", [(80, 66), (13, 100), (1, 1), (40, 33), (133, 20)])
def test_bands_are_the_whole(rows, size):
    image = waves(40, 33)
    bands = list(imresize_bands(image.split(rows, dim=-2), 40, size))
    assert torch.equal(torch.cat(bands, dim=-2), imresize(image, size=size))
    assert rows == 40 or size[0] == 1 or len(bands) > 1


def test_bands_are_given_as_soon_as_they_can_be():
    """Enlarging to the double needs two rows below."""
    taken = iter(waves(40, 8).split(1, dim=-2))
    done = 0
    for band in imresize_bands(taken, 40, (80, 16)):
        done += band.shape[-2]
        left = sum(1 for _ in copy.copy(taken))
        assert done >= 2 * (40 - left - 3)


@pytest.mark.parametrize("mode", ["cubic", "linear", "area"])
def test_a_long_side_is_resized_as_its_parts_are(mode):
    """A matrix for this side would have gigabytes."""
    image = waves(2, 40_000)
    wide = resize(image, (2, 20_000), mode) if mode == "area" else resize(image, (2, 80_000), mode)
    share = wide.shape[-1] // 40_000 if mode != "area" else 0.5
    part = resize(image[..., 1000:2000], (2, int(1000 * share)), mode)
    ends = slice(int(4 * share), int(996 * share))
    torch.testing.assert_close(
        wide[..., int(1000 * share) : int(2000 * share)][..., ends], part[..., ends], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("factor", [2, 0.5])
def test_a_long_side_is_resized_bicubically_as_its_parts_are(factor):
    image = waves(2, 40_000)
    wide, part = imresize(image, factor), imresize(image[..., 1000:2000], factor)
    wide, ends = wide[..., int(1000 * factor) : int(2000 * factor)], slice(int(8 * factor), int(-8 * factor))
    torch.testing.assert_close(wide[..., ends], part[..., ends], rtol=0, atol=1e-5)


def test_many_sizes_leave_nothing_behind():
    def held() -> int:
        gc.collect()
        return sum(item.numel() for item in gc.get_objects() if type(item) is torch.Tensor)

    before = held()
    for side in range(300, 320):
        imresize(waves(2, side), 2)
        resize(waves(2, side), (4, 2 * side), "cubic")
    assert held() - before < 1000


def test_half_precision_is_summed_in_float32():
    image = waves(9, 1).half()
    enlarged = imresize(image, size=(18, 1))
    assert enlarged.dtype == torch.float16
    assert torch.equal(enlarged, imresize(image.float(), size=(18, 1)).half())
