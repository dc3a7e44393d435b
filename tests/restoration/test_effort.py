"""The expensive restorer where it gains: which tiles it gets, and that they are as it alone would make them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from restoration.benchmark_effort import EffortBenchmark, benchmark, measured, middle, table
from restoration.effort import CONTEXT, PRICE, TILE, RoutedRestorer, lost_by_enlarging, widened
from restoration.plain import PlainRestorer
from restoration.rectangles import AT_ONCE, BLOCK, Grid, worth_their_cost
from restoration.restorer import Facts
from vision.images import save_image
from vision.tiles import Box


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


def test_flat_tiles_are_enlarged_plainly_and_the_others_are_the_restorers():
    image, inner = half_flat(), Counting()
    route = RoutedRestorer(inner, price=0.01).route(image)
    assert 0 < route.expensive < route.tiles and not route.whole
    made, alone = run(RoutedRestorer(inner, price=0.01), image), run(Counting(), image)
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


@pytest.mark.parametrize("price", [0.1, PRICE, 0.8])
def test_every_rectangle_holds_what_its_pixels_cost_and_a_higher_price_buys_fewer(price):
    image = torch.rand(1, 3, 200, 328, generator=torch.Generator().manual_seed(1)) * torch.linspace(0, 1, 328) ** 4
    lost = lost_by_enlarging(image)[0, 0]
    routed = RoutedRestorer(Counting(), price)
    route = routed.route(image)
    around = [widened(box, CONTEXT, 200, 328) for box in route.boxes]
    assert route.pixels == sum((b.bottom - b.top) * (b.right - b.left) for b in around)
    for box, (top, left, bottom, right) in zip(route.boxes, around, strict=True):
        held = float(lost[box.top : box.bottom, box.left : box.right].sum() / lost.mean())
        assert held > price * (bottom - top) * (right - left)
    assert route.pixels > RoutedRestorer(Counting(), price * 2).route(image).pixels > 0


def test_a_price_is_above_nothing():
    with pytest.raises(ValueError, match="price must be above 0, got 0"):
        RoutedRestorer(Counting(), 0)


def left_over(worth, grid, box):
    """What is left of a rectangle that is taken as one, in plain words."""
    top, left = max(box.top * grid.tile - grid.context, 0), max(box.left * grid.tile - grid.context, 0)
    bottom = min(box.bottom * grid.tile + grid.context, grid.height)
    right = min(box.right * grid.tile + grid.context, grid.width)
    held = worth[box.top : box.bottom, box.left : box.right].sum()
    return held - (bottom - top) * (right - left) - grid.call


def most(worth, grid, box):
    """The most that any way to cut a rectangle leaves, by trying all of them."""
    best = max(0.0, left_over(worth, grid, box))
    for row in range(box.top + 1, box.bottom):
        parts = box._replace(bottom=row), box._replace(top=row)
        best = max(best, sum(most(worth, grid, part) for part in parts))
    for column in range(box.left + 1, box.right):
        parts = box._replace(right=column), box._replace(left=column)
        best = max(best, sum(most(worth, grid, part) for part in parts))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_no_way_to_cut_a_picture_leaves_more_than_the_one_that_is_taken(seed):
    rng = np.random.default_rng(seed)
    worth, grid = rng.exponential(80, (4, 5)) * (rng.random((4, 5)) < 0.6), Grid(30, 37, 8, 2, 20)
    boxes = worth_their_cost(worth, grid)
    assert boxes and sum(left_over(worth, grid, box) for box in boxes) == pytest.approx(
        most(worth, grid, Box(0, 0, 4, 5))
    )


def test_rectangles_never_meet_and_blocks_are_searched_each_for_itself():
    rng = np.random.default_rng(0)
    rows, columns = 2 * BLOCK + 3, AT_ONCE * BLOCK // 2 + 5
    worth = rng.exponential(40, (rows, columns)) * (rng.random((rows, columns)) < 0.3)
    boxes = worth_their_cost(worth, Grid(rows * 8 - 3, columns * 8, 8, 2, 64))
    held = np.zeros((rows, columns), dtype=int)
    for box in boxes:
        held[box.top : box.bottom, box.left : box.right] += 1
        assert box.top // BLOCK == (box.bottom - 1) // BLOCK and box.left // BLOCK == (box.right - 1) // BLOCK
    assert held.max() == 1 and 0 < held.mean() < 1
    corner = worth_their_cost(worth[:BLOCK, :BLOCK], Grid(8 * rows - 3, columns * 8, 8, 2, 64))
    assert corner == [box for box in boxes if box.bottom <= BLOCK and box.right <= BLOCK]


def test_distant_tiles_get_rectangles_of_their_own_and_what_is_worth_nothing_gets_none():
    worth, grid = np.zeros((24, 24)), Grid(192, 192, 8, 2, 64)
    assert worth_their_cost(worth, grid) == []
    worth[0:5, 0:7], worth[10:14, 11:15] = 400, 400
    assert worth_their_cost(worth, grid) == [(0, 0, 5, 7), (10, 11, 14, 15)]


def test_tall_pictures_are_joined_without_a_seam_where_a_restorer_needs_no_context():
    """What is restored on both sides of a block's border is as if there were none."""
    image = half_flat(400)
    alone, routed = run(Counting(), image), RoutedRestorer(Counting(), price=0.01)
    made = run(routed, image)
    assert not routed.last.whole and len({box.top // (BLOCK * TILE) for box in routed.last.boxes}) == 4
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


def test_the_benchmark_takes_the_middle_and_names_what_each_way_reaches(tmp_path):
    photo = half_flat(160)[..., :150, :]
    assert torch.equal(middle(photo, 80, 2), photo[..., 45:105, 40:120])
    assert middle(photo.transpose(2, 3), 1280, 4).shape[-2:] == (160, 148)
    with pytest.raises(ValueError, match="need 64 pixels per side, got 160 x 40"):
        middle(photo[..., :40, :], 1280, 4)
    rows = measured("half", half_flat(256), Counting(), Counting.Options(), PRICE)
    means = {row["way"]: row for row in table(rows)}
    assert means["plain enlargement"]["of_the_gain"] == 0 and means["everywhere"]["of_the_gain"] == 1
    assert means["effort, misplaced"]["pixels"] == pytest.approx(means["effort auto"]["pixels"], rel=0.1)
    assert 0 < means["effort auto"]["pixels"] < 0.7
    with pytest.raises(ValueError, match="name a system whose scale is a whole number above 1"):
        benchmark(EffortBenchmark(write_photo(tmp_path), tmp_path / "out", system="none"))


def write_photo(folder):
    save_image(half_flat(96), folder / "photos" / "half.png")
    return folder / "photos"


def test_the_benchmark_of_effort_writes_its_tables(tmp_path):
    outcome = benchmark(EffortBenchmark(write_photo(tmp_path), tmp_path / "out", device="cpu"))
    rows = json.loads((tmp_path / "out" / "effort.json").read_text())
    assert [row["way"] for row in rows] == ["plain enlargement", "effort auto", "effort, misplaced", "everywhere"]
    assert len(json.loads((tmp_path / "out" / "pictures.json").read_text())) == 4 and outcome is not None
    with pytest.raises(ValueError, match="holds no images"):
        benchmark(EffortBenchmark(tmp_path / "out", tmp_path / "other"))
