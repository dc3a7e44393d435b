"""The expensive restorer where it gains: which tiles it gets, and that they are as it alone would make them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from restoration.effort import CALL, TILE, RoutedRestorer, cover, lost_by_enlarging
from restoration.plain import PlainRestorer
from restoration.restorer import Facts
from vision.strategies.routing import worth_most


class Counting:
    """Enlarges by repeating pixels, and counts the input pixels that it was given."""

    @dataclass(frozen=True)
    class Options:
        scale: float | None = None
        seed: int = 0

    def __init__(self):
        self.pixels = 0

    def facts(self, options=None):
        scale = 2 if options is None or options.scale is None else options.scale
        return Facts("counting", scale, keeps_grey=True)

    def output_size(self, height, width, options=None):
        scale = self.facts(options).scale
        return round(height * scale), round(width * scale)

    def bands(self, image, options=None, *, finish=None, observers=(), progress=None):
        self.pixels += image[0, 0].numel()
        result = image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        yield result if finish is None else finish(result)


def half_flat(side: int = 256) -> torch.Tensor:
    """(1, 3, side, side): noise in the left half, grey in the right one."""
    image = torch.full((1, 3, side, side), 0.5)
    image[..., : side // 2] = torch.rand(1, 3, side, side // 2, generator=torch.Generator().manual_seed(0))
    return image


def run(restorer, image, options=None):
    return torch.cat(list(restorer.bands(image, options)), 2)


def test_the_fewest_tasks_that_hold_the_share_are_worth_most():
    gains = [1.0, 0.0, 5.0, -2.0, 4.0]
    assert worth_most(gains, 0.5) == {2} and worth_most(gains, 0.9) == {2, 4} and worth_most(gains, 1.0) == {0, 2, 4}
    assert worth_most([0.0, -1.0], 0.9) == worth_most([], 1.0) == frozenset()
    with pytest.raises(ValueError, match="share must lie in"):
        worth_most(gains, 0)


def test_flat_tiles_are_enlarged_plainly_and_the_others_are_the_restorers():
    image, inner = half_flat(), Counting()
    route = RoutedRestorer(inner, share=1.0).route(image)
    assert 0 < route.expensive < route.tiles and not route.whole
    made, alone = run(RoutedRestorer(inner, share=1.0), image), run(Counting(), image)
    assert made.shape == alone.shape and inner.pixels < 256 * 256
    assert torch.allclose(made[..., :200], alone[..., :200], atol=1e-6)
    assert torch.allclose(made[..., 320:], torch.tensor(0.5), atol=1e-6)


def test_what_has_detail_everywhere_is_restored_as_one_and_what_has_none_not_at_all():
    inner, image = Counting(), half_flat(96)[..., :48]
    assert torch.equal(run(RoutedRestorer(inner), image), run(Counting(), image)) and inner.pixels == 96 * 48
    flat, inner = torch.full((1, 3, 90, 131), 0.25), Counting()
    made = run(RoutedRestorer(inner), flat)
    assert inner.pixels == 0 and made.shape == (1, 3, 180, 262) and torch.allclose(made, torch.tensor(0.25))
    assert float(lost_by_enlarging(torch.full((1, 3, 8, 8), 0.3)).max()) < 1e-12


@pytest.mark.parametrize("share", [0.3, 0.9, 0.965])
def test_the_restored_rectangles_hold_the_share_of_what_is_lost_and_hardly_more(share):
    image = torch.rand(1, 3, 200, 328, generator=torch.Generator().manual_seed(1)) * torch.linspace(0, 1, 328) ** 4
    lost, held = lost_by_enlarging(image)[0, 0], torch.zeros(200, 328)
    route = RoutedRestorer(Counting(), share).route(image)
    for box in route.boxes:
        held[box.top : box.bottom, box.left : box.right] = 1
    assert share <= float((lost * held).sum() / lost.sum()) < share + 0.05
    assert held.mean() < share and route.expensive * TILE**2 == held.sum()


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.95])
def test_rectangles_hold_every_tile_once_and_never_cost_more_than_one_around_all(share):
    wanted = np.argwhere(np.random.default_rng(int(share * 100)).random((24, 24)) < share)
    boxes = cover(wanted, 0.5)
    held = np.zeros((24, 24), dtype=int)
    for box in boxes:
        held[box.top : box.bottom, box.left : box.right] += 1
    assert held.max() == 1 and held[wanted[:, 0], wanted[:, 1]].min() == 1

    def cost(sides):
        return float(np.prod(np.array(sides) + 1) + CALL)

    around = wanted.max(0) - wanted.min(0) + 1
    assert sum(cost((b.bottom - b.top, b.right - b.left)) for b in boxes) <= cost(around)


def test_distant_tiles_get_rectangles_of_their_own_and_a_full_rectangle_is_one():
    full = np.argwhere(np.ones((5, 7)))
    assert cover(full, 0.5) == [(0, 0, 5, 7)]
    assert sorted(cover(np.concatenate([full, full + 17]), 0.5)) == [(0, 0, 5, 7), (17, 17, 22, 24)]


def test_tall_pictures_are_joined_without_a_seam_where_a_restorer_needs_no_context():
    """What is restored on both sides of a block's border is as if there were none."""
    image = half_flat(400)
    alone, routed = run(Counting(), image), RoutedRestorer(Counting(), share=1.0)
    made = run(routed, image)
    assert not routed.last.whole and len({box.top // (24 * TILE) for box in routed.last.boxes}) == 3
    assert made.shape == alone.shape and torch.allclose(made[..., :384], alone[..., :384], atol=1e-6)


def test_tiles_are_as_large_as_the_restorer_needs_them():
    class Demanding(Counting):
        def facts(self, options=None):
            return Facts("demanding", 2, smallest=32, keeps_grey=True)

        def bands(self, image, options=None, **more):
            assert min(image.shape[-2:]) >= 32
            yield from super().bands(image, options, **more)

    image = torch.full((1, 3, 128, 225), 0.5)
    image[..., 60:62, 20], image[..., 60:62, 224] = 1, 0
    routed = RoutedRestorer(Demanding())
    assert run(routed, image).shape == (1, 3, 256, 450) and len(routed.last.boxes) > 1 and not routed.last.whole


def test_any_scale_is_reached_and_pieces_are_finished():
    image, asked = half_flat(), Counting.Options(scale=1.5)
    assert run(RoutedRestorer(Counting()), image, asked).shape == (1, 3, 384, 384)
    shown = []
    bands = list(RoutedRestorer(Counting()).bands(image, finish=lambda t: t.half(), progress=shown.append))
    assert all(band.dtype == torch.float16 for band in bands) and sum(band.shape[2] for band in bands) == 512
    assert shown[-1] == 1.0 and shown == sorted(shown)
    with pytest.raises(ValueError, match=r"own scale is a whole number, got 1\.5"):
        list(RoutedRestorer(PlainRestorer(1.5)).bands(image))
