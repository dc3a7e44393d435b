"""Tiled equals whole, without seams, and with memory that the tile bounds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.images import to_uint8
from vision.tiles import Box, Tiles


class ShiftInvariant(nn.Module):
    """Three convolutions (receptive field 7) and a pixel shuffle."""

    def __init__(self, channels: int, scale: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(channels)
        self.scale = scale
        self.layers = nn.ModuleList(
            [nn.Conv2d(channels, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, channels * scale**2, 3)]
        )
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (3, 3, 3, 3), mode="reflect")
        for layer in self.layers:
            x = layer(x).tanh()
        return F.pixel_shuffle(x, self.scale)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("blend", ["cosine", "linear"])
@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(50, 77), (24, 90), (96, 31)])
def test_tiled_equals_whole_when_the_receptive_field_is_below_the_overlap(height, width, batch, scale, blend):
    net, x = ShiftInvariant(3, scale), noise(2, 3, height, width)
    tiles = Tiles(32, 8, blend=blend, batch=batch)
    torch.testing.assert_close(tiles.run(net, x, scale=scale), net(x), rtol=0, atol=1e-5)


def test_latents_with_any_channels_several_inputs_and_shrinking_scale():
    def encode(latents: Tensor, image: Tensor) -> Tensor:
        return F.avg_pool2d(latents.sum(1, keepdim=True) * image, 8)

    latents, image = noise(1, 7, 64, 120), noise(1, 1, 64, 120)
    tiled = Tiles(48, 8, unit=8).run(encode, latents, image, scale=1 / 8)
    torch.testing.assert_close(tiled, encode(latents, image))


def test_small_images_go_whole():
    calls = []
    x = noise(1, 3, 20, 32)
    assert Tiles(32, 8).run(lambda tile: calls.append(tile.shape) or tile, x) is not None
    assert calls == [x.shape]


@pytest.mark.parametrize("size", [(100, 100), (64, 200), (33, 65)])
def test_no_border_on_a_gradient_even_when_tiles_disagree(size):
    """Each tile is shifted by its own constant: the fade must spread the difference over the overlap."""
    height, width = size
    gradient = torch.linspace(0, 1, width).expand(1, 1, height, width)
    shifts = iter(torch.tensor([0.0, 0.04]).repeat(100))
    result = Tiles(32, 8).run(lambda tile: tile + next(shifts), gradient)
    steps = (result.diff(dim=-1) - 1 / (width - 1)).abs().max(), result.diff(dim=-2).abs().max()
    assert max(steps) < 0.04 / 8 * 2  # a cosine is at most pi / 2 times steeper than a line


def test_tile_weights_sum_to_one():
    result = Tiles(24, 6).run(torch.ones_like, noise(1, 1, 83, 61))
    torch.testing.assert_close(result, torch.ones_like(result), rtol=0, atol=1e-6)


def test_boxes_cover_the_image_have_one_size_and_sit_on_the_unit():
    boxes = Tiles(64, 16, unit=8).boxes(200, 128)
    assert {(box.bottom - box.top, box.right - box.left) for box in boxes} == {(64, 64)}
    assert all(side % 8 == 0 for box in boxes for side in box)
    covered = torch.zeros(200, 128)
    for top, left, bottom, right in boxes:
        covered[top:bottom, left:right] = 1
    assert covered.all()


def test_function_can_learn_the_place_of_its_tiles():
    def fn(boxes: list[Box], tiles: Tensor) -> Tensor:
        rows = [torch.arange(box.top, box.bottom).float()[None, :, None] for box in boxes]
        return torch.stack([row.expand(1, -1, tiles.shape[-1]) for row in rows])

    result = Tiles(16, 4, batch=2).run(fn, noise(1, 3, 50, 40), with_boxes=True)
    torch.testing.assert_close(result, torch.arange(50.0).view(1, 1, 50, 1).expand(1, 1, 50, 40))


def test_bands_are_the_rows_of_run():
    net, x = ShiftInvariant(3, 2), noise(1, 3, 90, 70)
    tiles = Tiles(32, 8)
    bands = list(tiles.bands(net, x, scale=2))
    assert len(bands) > 3 and all(band.shape[-1] == 140 for band in bands)
    assert torch.equal(torch.cat(bands, dim=2), tiles.run(net, x, scale=2))
    finished = list(tiles.bands(net, x, scale=2, finish=to_uint8))
    assert torch.equal(torch.cat(finished, dim=2), to_uint8(tiles.run(net, x, scale=2)))


def test_half_precision_is_blended_in_single_precision_and_comes_back_half():
    x = noise(1, 3, 50, 50).half()
    result = Tiles(32, 8).run(lambda tile: tile, x)
    assert result.dtype == torch.float16 and torch.equal(result, x)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": 32, "overlap": 16}, r"overlap must lie in \[0, size / 2\), got overlap 16 for size 32"),
        ({"size": 36, "overlap": 8, "unit": 8}, "multiples of 8, got size 36"),
        ({"size": 36, "blend": "hard"}, "'cosine' or 'linear', got 'hard'"),
    ],
)
def test_impossible_tiles_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Tiles(**arguments)


def test_wrong_calls_are_refused():
    tiles = Tiles(16, 4, unit=2)
    with pytest.raises(ValueError, match="Sides must be multiples of 2, got 31 x 30"):
        tiles.run(lambda x: x, noise(1, 3, 31, 30))
    with pytest.raises(ValueError, match=r"one batch, height and width, got \(1, 3, 30, 30\), \(1, 3, 30, 32\)"):
        tiles.run(lambda x, y: x, noise(1, 3, 30, 30), noise(1, 3, 30, 32))
    with pytest.raises(ValueError, match="scale x unit must be a whole number"):
        tiles.run(lambda x: x, noise(1, 3, 30, 30), scale=1.3)
    with pytest.raises(ValueError, match="scale 2 needs 1 results of 32 x 32"):
        tiles.run(lambda x: x, noise(1, 3, 40, 40), scale=2)
