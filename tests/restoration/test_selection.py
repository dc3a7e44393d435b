"""Which restorer a picture gets: numbers about pictures, the trace of all restorers, the gate and the selector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from restoration.benchmark_restorers import RestorerBenchmark, benchmark, mean_details, ranked, scored
from restoration.drawn import text_page
from restoration.features import features
from restoration.jpeg import jpeg
from restoration.kinds import KINDS, cuts, items
from restoration.selection import Selection
from restoration.train_selector import (
    CAUTIONS,
    TRUSTS,
    SelectorTraining,
    fit_nearest,
    fit_selector,
    harmless_caution,
    harmless_trust,
)
from tests.restoration.photographs import photograph
from vision.images import to_tensor
from vision.refine import Verdict
from vision.strategies import Candidate, Choice, Cost, read_choices, write_choices


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        array = (photograph(seed, 96)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        PIL.Image.fromarray(array).save(tmp_path / "photos" / f"{seed}.png")
    return tmp_path / "photos"


def test_features_follow_what_was_done_to_a_picture():
    image = photograph(0, 96)
    plain = features(image)
    noisy = features((image + 0.08 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1))
    blocky, grey = features(jpeg(image[0], 10)[None]), features(image.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    soft = features(torch.nn.functional.avg_pool2d(image, 5, 1, 2))
    assert noisy["quiet_noise"] > plain["quiet_noise"] + 5 and blocky["blockiness"] > plain["blockiness"] + 0.5
    assert soft["spectrum_slope"] < plain["spectrum_slope"] and soft["high_share"] < plain["high_share"]
    assert grey["chroma"] < 0.01 < plain["chroma"] and grey["grey_share"] == 1
    page = to_tensor(text_page(np.random.default_rng(3), 128))
    assert features(page)["two_tones"] > plain["two_tones"] and features(page)["flat_share"] > plain["flat_share"]
    assert features(photograph(0, 192))["log_pixels"] == plain["log_pixels"] + 2


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3), (16, 16), (50, 1100)])
@pytest.mark.parametrize("tone", [0.0, 0.5, 1.0, None])
def test_features_of_any_picture_are_finite(size, tone):
    image = torch.rand(1, 3, *size) if tone is None else torch.full((1, 3, *size), tone)
    found = features(image)
    assert np.isfinite(list(found.values())).all() and found.keys() == features(photograph(0, 96)).keys()


def test_cuts_are_the_sharpest_and_overlap_by_half_at_most():
    image = torch.full((1, 3, 64, 96), 0.5)
    image[..., 32:, 64:] = torch.rand(1, 3, 32, 32)
    found = cuts(image, 32, 3)
    assert len(found) == 3 and torch.equal(found[0], image[..., 32:, 64:])
    assert torch.equal(cuts(image, 128, 2)[0], image)


def test_equal_restorations_share_a_rank():
    verdicts = scored([{"psnr_y": 30.0, "tex": 0.2}, {"psnr_y": 30.0, "tex": 0.1}, {"psnr_y": 20.0, "tex": 0.3}])
    assert [verdict.score for verdict in verdicts] == [-(1.5 + 2) / 2, -(1.5 + 1) / 2, -3.0]


def test_a_perfect_restoration_leaves_no_infinite_mean(tmp_path):
    verdicts = scored([{"psnr_y": float("inf"), "tex": 0.0}, {"psnr_y": 30.0, "tex": 0.1}])
    assert [verdict.score for verdict in verdicts] == [-1.0, -2.0]
    assert mean_details(verdicts) == {"psnr_y": 30.0, "tex": 0.05}
    made = tuple(Candidate("a/flat", None, name, Cost(1.0)) for name in ("none", "bicubic"))
    write_choices(tmp_path, [Choice("a/flat", made, verdicts, 0)])
    assert ranked(read_choices(tmp_path), 0.5)[0][0]["psnr_y"] is None


def test_every_restorer_is_measured_once_and_a_stopped_run_goes_on(photos, tmp_path):
    chosen = {"systems": ("none", "iter:clean@1"), "cuts": 1, "size": 64}
    options = RestorerBenchmark(photos, tmp_path / "out", **chosen, kinds=("jpeg", "flat"), device="cpu")
    assert benchmark(options).code == 0
    trace = tmp_path / "out" / "choices.jsonl"
    choices, before = read_choices(trace), trace.read_bytes()
    assert [choice.task for choice in choices] == ["0_0/jpeg", "flat_000/flat", "1_0/jpeg", "flat_001/flat"]
    for choice in choices:
        assert [candidate.origin for candidate in choice.candidates] == ["none", "iter:clean@1"]
        assert {verdict.score for verdict in choice.verdicts} <= {-1.0, -1.5, -2.0}
        assert choice.verdicts[choice.chosen].score == max(verdict.score for verdict in choice.verdicts)
    trace.write_bytes(before[: before.rindex(b"\n", 0, -1) + 20])  # as a kill leaves it
    assert benchmark(options).code == 0
    again = read_choices(trace)
    assert [(c.task, c.verdicts, c.facts) for c in again] == [(c.task, c.verdicts, c.facts) for c in choices]
    assert benchmark(replace(options, cost=0.0)).code == 0  # of the table alone
    with pytest.raises(ValueError, match=r"was begun with other options or data: seed \(0, now 3\)"):
        benchmark(replace(options, seed=3))
    photograph_file = next(photos.iterdir())
    photograph_file.rename(photos / f"other{photograph_file.suffix}")
    with pytest.raises(ValueError, match=r"was begun with other options or data: hr \("):
        benchmark(options)
    wanted = [(c.task.rsplit("/")[-1], c.kept.origin) for c in read_choices(tmp_path / "out" / "need")]
    assert len(wanted) == 2 * 2 * 3 and all(name == need for name, need in wanted)
    rows, ranking = ranked(choices, 0.0)
    assert sorted(row["mean_rank"] for row in rows) == [row["mean_rank"] for row in rows]
    assert {name for name, _ in ranking.scores} == set(options.systems)


def test_pictures_depend_on_their_seed_alone(photos):
    wanted = {"cuts_each": 1, "size": 64, "scale": 4}
    first, again, other = (list(items(photos, KINDS, **wanted, seed=seed)) for seed in (0, 0, 1))
    assert len(first) == 2 * len(KINDS) and {item.kind for item in first} == set(KINDS)
    assert all(torch.equal(a.low, b.low) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a.low, b.low) for a, b in zip(first, other, strict=True))
    alone = list(items(photos, ("noise",), **wanted, seed=0))
    assert torch.equal(alone[1].low, next(item for item in first if item.name == "1_0/noise").low)
    for item in first:
        assert item.low.shape == (1, 3, 16, 16) and item.high.shape == (1, 3, 64, 64)
        assert torch.equal(item.low, (item.low * 255).round() / 255)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"systems": ("none",)}, "systems must name at least two restorers, got none"),
        ({"kinds": ("fog",)}, "kinds must be some of bicubic, .* got fog"),
        ({"size": 62}, "size a multiple of scale from 16 times it, got 4, 4 and 62"),
        ({"cost": -1.0}, "cost must be at least 0, got -1.0"),
    ],
)
def test_wrong_measurements_are_refused(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        RestorerBenchmark(tmp_path, tmp_path, **changes)


def full_size(number: int, kind: str, gain: float, noise: float) -> Choice:
    """A picture that keeps its size: as it is, and restored, which gains so many decibels."""
    tried = tuple(Candidate(f"photo{number}_0/{kind}", None, name) for name in ("none", "iter:photo@1"))
    near = [{"psnr_y": 30.0, "tex": 0.1}, {"psnr_y": 30.0 + gain, "tex": 0.1}]
    return Choice(tried[0].task, tried, scored(near), 0, "", {"noise": noise, "log_pixels": 13.0, "other": number % 3})


def test_a_restorer_is_trusted_as_soon_as_no_kind_of_picture_loses():
    rng = np.random.default_rng(0)
    clear = [full_size(n, "noise", 3.0, 5 + rng.normal()) for n in range(30)]
    doubtful = [full_size(n, "jpeg", (1.5, -0.5)[n % 3 == 0], 2 + 0.5 * rng.normal()) for n in range(30)]
    harmful = [full_size(n, "jpeg", -2.0, 5 + rng.normal()) for n in range(30)]  # which nothing tells from noise
    assert harmless_trust([*clear, *doubtful], 0.1) == TRUSTS[0]
    trust = harmless_trust([*clear, *harmful], 0.1)
    assert trust > TRUSTS[0]
    assert harmless_trust(harmful, 0.1) in (TRUSTS[0], 1.0)
    with pytest.raises(ValueError, match="pictures of at least two"):
        harmless_trust(clear[:1], 0.1)
    bare = replace(clear[0], candidates=clear[0].candidates[1:], verdicts=clear[0].verdicts[1:])
    with pytest.raises(ValueError, match="photo0_0/noise was not measured as it is"):
        harmless_trust([bare, *clear[1:]], 0.1)


def enlarged(number: int, kind: str, gain: float, noise: float) -> Choice:
    """An enlargement, plain and by a restorer, which has the better texture and gains so many decibels."""
    tried = tuple(Candidate(f"photo{number}_0/{kind}", None, name) for name in ("none", "iter:photo@1"))
    near = [{"psnr_y": 30.0, "tex": 0.3}, {"psnr_y": 30.0 + gain, "tex": 0.1}]
    verdicts = (Verdict(-1.8, near[0]), Verdict(-1.2, near[1]))
    return Choice(tried[0].task, tried, verdicts, 1, "", {"noise": noise, "log_pixels": 13.0, "other": number % 3})


def test_enlargements_that_lose_are_plain_and_no_others():
    rng = np.random.default_rng(0)
    gaining = [enlarged(n, "bicubic", 2.0, rng.normal()) for n in range(30)]
    losing = [enlarged(n, "jpeg", -1.0, 6 + rng.normal()) for n in range(30)]
    options = SelectorTraining(Path("out"), (Path("full"),), (Path("choices"),), decay=0.1, nearest_decay=0.1)
    caution = harmless_caution([*gaining, *losing], options)
    assert harmless_caution(gaining, options) == CAUTIONS[0] > caution > CAUTIONS[-1]
    selector, nearest = fit_selector([*gaining, *losing], "regret", 0.1), fit_nearest([*gaining, *losing], 0.1)
    config = Selection.from_pretrained().config
    careless = Selection(replace(config, selector=selector, nearest=None))
    careful = Selection(replace(config, selector=selector, nearest=nearest, caution=caution))
    for choice in gaining:
        assert careful.pick(choice.facts) == careless.pick(choice.facts) and not careful.pick(choice.facts).cautious
    for choice in losing:
        assert careless.pick(choice.facts).name == "iter:photo@1"
        assert careful.pick(choice.facts)[::2] == ("none", True)
        assert careful.pick(choice.facts, ["iter:photo@1"]).name == "iter:photo@1"  # none is not to be had
