"""The judge of restorations: what it learns, the best of several seeds by it, and that repair never harms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from restoration import best
from restoration.benchmark_harm import HarmBenchmark
from restoration.benchmark_harm import benchmark as benchmark_harm
from restoration.benchmark_restorers import INPUT, TRUTH, scored
from restoration.evaluate_judge import JudgeEvaluation, evaluate
from restoration.iter import ITEROptions, ITERRestorer
from restoration.judge import AGAINST, ALONE, RINGS, JudgeConfig, RestorationJudge, numbers_of
from restoration.kinds import items
from restoration.repair import RepairingRestorer
from restoration.train_judge import JudgeTraining, Pairs, fit, train
from tests.restoration.photographs import photograph
from vision.faults import spoil
from vision.harm import harm_rows, write_harm
from vision.images import save_image, to_pil
from vision.metrics import psnr
from vision.resize import imresize
from vision.strategies import Candidate, Choice, read_choices, write_choices


def noisy(image: torch.Tensor, strength: float, seed: int) -> torch.Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return ((image + strength * noise).clamp(0, 1) * 255).round() / 255


def known_folder(folder: Path, numbers: range) -> Path:
    """As `benchmark restorers --keep` writes it; one restorer leaves more noise than the other, its seeds differ."""
    for number in numbers:
        high = (photograph(number) * 255).round() / 255
        task = f"{number}_0/bicubic"
        pictures = folder / "pictures" / task
        save_image(imresize(high, 0.25).clamp(0, 1), pictures / INPUT)
        save_image(high, pictures / TRUTH)
        made, found = [], []
        for place, (origin, seed, strength) in enumerate((("a", None, 0.02), ("b", 0, 0.05), ("b", 1, 0.09))):
            result = noisy(high, strength, 10 * number + place)
            save_image(result, pictures / f"{place}.png")
            made.append(Candidate(task, pictures / f"{place}.png", origin, seed=seed))
            found.append({"psnr_y": float(psnr(result, high, border=4)), "tex": 0.0})
        write_choices(folder, [Choice(task, tuple(made), scored(found), 0)])
    return folder


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Path:
    """A folder with photographs, known restorations, others, and the judge that learnt from the former."""
    folder = tmp_path_factory.mktemp("judge")
    for number in range(3):
        save_image(photograph(number, 160), folder / "photos" / f"{number}.png")
    known_folder(folder / "known", range(4))
    known_folder(folder / "held_out", range(10, 14))
    options = JudgeTraining((folder / "known",), folder / "photos", folder / "weights", spoiled=60, steps=150, width=8)
    assert train(options) == folder / "weights"
    return folder


def test_windows_have_as_many_numbers_with_an_input_as_without():
    image = photograph(0, 120)
    low = imresize(image, 0.25).clamp(0, 1)
    alone, shape = numbers_of(image, None, 56)
    against, same = numbers_of(image, low, 56)
    assert shape == same == (2, 2) and alone.shape == against.shape == (4, ALONE + AGAINST)
    assert torch.equal(alone[:, :ALONE], against[:, :ALONE]) and not alone[:, ALONE:].any() and against[:, -1].all()
    assert numbers_of(image[..., :20, :30], None, 56)[1] == (1, 1)
    for picture in (torch.zeros(1, 3, 56, 56), torch.ones(1, 3, 56, 56)):
        assert numbers_of(picture, picture, 56)[0].isfinite().all()
    with pytest.raises(ValueError, match="A result of 30 x 30 pixels is smaller than its input of 120 x 120"):
        numbers_of(low, image, 56)


def test_a_picture_that_is_not_saved_yet_is_judged_as_the_saved_one():
    low = (imresize(photograph(0, 120), 0.25).clamp(0, 1) * 255).round() / 255
    plain = imresize(low, 4).clamp(0, 1)
    saved = (plain * 255).round() / 255
    assert torch.equal(numbers_of(plain, low, 56)[0], numbers_of(saved, low, 56)[0])


def test_numbers_of_a_window_tell_lost_detail_overshoot_and_clipped_values():
    crop = to_pil(photograph(2, 56))
    rings = slice(16, 16 + RINGS)
    as_it_is, coarse, sharpened = (
        numbers_of(picture, None, 56)[0][0, :ALONE]
        for picture in (crop, *(spoil(crop, kind, 0.8, np.random.default_rng(0)) for kind in ("coarse", "ringing")))
    )
    assert (coarse - as_it_is)[rings][RINGS // 2 :].max() < -1 and (sharpened - as_it_is)[rings].max() > 1
    assert as_it_is[-4] < sharpened[-4]  # clipped
    assert coarse[-2] < as_it_is[-2] < sharpened[-2]  # turns


def test_what_is_better_of_restorations_does_not_weaken_what_is_better_of_photographs_without_an_input(tmp_path):
    """Both differ in one number, in opposite ways; only the last one says whether there is an input."""
    high, low = torch.zeros(64, ALONE + AGAINST), torch.zeros(64, ALONE + AGAINST)
    high[:, 0], low[:, 0] = 1.0, -1.0
    known, alone = (high.clone(), low.clone()), (high.clone(), low.clone())
    for against, pair in ((1.0, known), (0.0, alone)):
        for numbers in pair:
            numbers[:, ALONE:], numbers[:, -1] = 0.0, against
    better_low, better_high = Pairs(known[1], known[0], torch.ones(64)), Pairs(*alone, torch.ones(64))
    options = JudgeTraining((tmp_path,), tmp_path, tmp_path, width=16, steps=800)
    network = fit([better_low, better_low, better_high], JudgeConfig(16), options).network
    for pairs in (better_low, better_high):
        assert (network(pairs.better) - network(pairs.worse)).min() > 2


def test_a_judge_learns_which_restoration_is_nearer_and_says_the_same_when_it_is_loaded(learnt, tmp_path):
    judge = RestorationJudge.from_pretrained(learnt / "weights")
    out = evaluate(
        JudgeEvaluation(
            (learnt / "held_out",),
            learnt / "photos",
            tmp_path / "out",
            (f"judge:{learnt / 'weights'}", "consistency"),
            spoiled=40,
        )
    )
    assert out.code == 0
    row = json.loads((tmp_path / "out" / "agreement.json").read_text())[0]
    assert row["two seeds"] >= 0.75 and row["two methods"] >= 0.75 and row["spoiled"] > 0.6
    assert (row["pairs of two seeds"], row["pairs of two methods"], row["pairs of spoiled"]) == (4, 8, 40)
    judge.save_pretrained(tmp_path / "again")
    image = photograph(9)
    again = RestorationJudge.from_pretrained(tmp_path / "again")
    assert torch.equal(again.windows(image), judge.windows(image)) and judge.windows(image).shape == (2, 2)


def test_folders_without_pictures_and_restorers_without_seeds_teach_nothing(learnt, tmp_path):
    verdicts = scored([{"psnr_y": 30.0, "tex": 0.2}, {"psnr_y": 20.0, "tex": 0.1}])
    candidates = (Candidate("0_0/x", None, "a"), Candidate("0_0/x", None, "b"))
    write_choices(tmp_path / "bare", [Choice("0_0/x", candidates, verdicts, 0)])
    with pytest.raises(ValueError, match="holds no pictures; let benchmark restorers --keep write it"):
        train(JudgeTraining((tmp_path / "bare",), learnt / "photos", tmp_path / "out"))
    one = read_choices(learnt / "known")[0]
    write_choices(learnt / "single", [])
    kept = replace(one, candidates=one.candidates[:2], verdicts=one.verdicts[:2])
    single = learnt / "known" / "single"
    with pytest.raises(ValueError, match="lies outside"):
        write_choices(single, [kept])
    with pytest.raises(ValueError, match="Name at least one folder"):
        JudgeTraining((), tmp_path, tmp_path)


def test_the_benchmark_of_harm_names_the_jobs_that_it_knows(tmp_path):
    with pytest.raises(ValueError, match=r"jobs must be some of auto, .*, stop, got sharpen\."):
        HarmBenchmark(tmp_path, tmp_path / "out", jobs=("auto", "sharpen"))


def test_harm_goes_on_and_has_the_rows_of_other_measurements_below_its_own(tmp_path, monkeypatch):
    save_image(photograph(0, 64), tmp_path / "photos" / "0.png")
    others = harm_rows("reconstruct --mesh", {"spoiled meshes": [(20.0, 24.0)]}, "dB", 0.1)
    write_harm(tmp_path / "gtr", others)
    asked = HarmBenchmark(
        tmp_path / "photos",
        tmp_path / "out",
        jobs=("stop",),
        kinds=("bicubic",),
        size=64,
        system="iter:clean@0",
        measured=(tmp_path / "gtr",),
    )
    assert benchmark_harm(asked).code == 0
    stopped, *rest = json.loads((tmp_path / "out" / "harm.json").read_text())
    assert rest == others
    item = next(items(tmp_path / "photos", ("bicubic",), cuts_each=1, size=64, scale=4, seed=0))
    for name, stop in (("nothing", "end"), ("with", "progress")):
        restorer = ITERRestorer.from_pretrained(variant="clean")
        made = torch.cat(list(restorer.bands(item.low, ITEROptions(fidelity=0.0, stop=stop))), 2)
        near = float(psnr((made.clamp(0, 1) * 255).round() / 255, item.high, border=4))
        assert stopped[name] == pytest.approx(near, abs=1e-4)
    assert (stopped["job"], stopped["items"]) == ("stop", 1)
    more = benchmark_harm(replace(asked, jobs=("stop", "auto"), measured=()))  # goes on: stop is not measured again
    assert [row["job"] for row in json.loads((tmp_path / "out" / "harm.json").read_text())] == ["stop", "auto"]
    tasks = [choice.task for choice in read_choices(tmp_path / "out")]
    assert tasks == [f"stop/{item.name}", f"auto/{item.name}"]
    assert not any(told["was_done"] for told in more.items.values())
    with monkeypatch.context() as patch:
        patch.setattr("restoration.benchmark_harm._near", lambda *pair: pytest.fail("nothing is measured again"))
        again = benchmark_harm(replace(asked, jobs=("auto", "stop")))
    assert all(told["was_done"] for told in again.items.values())
    assert json.loads((tmp_path / "out" / "harm.json").read_text())[1:] == [stopped, *others]
    with pytest.raises(ValueError, match="was begun with other options or data: seed"):
        benchmark_harm(replace(asked, seed=1))
    with pytest.raises(FileNotFoundError, match=r"There is no .*harm\.json"):
        benchmark_harm(replace(asked, out=tmp_path / "again", measured=(tmp_path,)))
    assert not (tmp_path / "again").exists()


class Closeness:
    """A judge that knows the truth."""

    config = JudgeConfig()

    def __init__(self, truth: torch.Tensor):
        self.truth = truth
        self.pictures = 0

    def windows(self, picture, image=None):
        side = self.config.side
        if picture.shape != self.truth.shape:  # a single window: found by what it resembles
            cut = self.truth.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
            return -(cut - picture).square().mean((1, 2, 3)).min().view(1, 1) * 1e4
        self.pictures += 1
        error = (picture - self.truth).square().mean(1, keepdim=True)
        return -torch.nn.functional.avg_pool2d(error, side)[0, 0] * 1e4


@pytest.fixture
def mini():
    return ITERRestorer.from_pretrained("builtin:tiny-mini")


def test_faulty_windows_are_made_anew_and_the_others_stay(mini):
    truth = photograph(3, 112)
    image = imresize(truth, 0.25).clamp(0, 1)
    draft = imresize(image, 4).clamp(0, 1)
    draft[..., :56, 56:] = torch.rand(1, 3, 56, 56)
    judge = Closeness(truth)
    done = RepairingRestorer(mini, judge).repair(draft, image, ITEROptions(fidelity=0.0))
    kept = done.choice.kept
    assert (done.windows, done.faulty) == (4, 1) and kept.origin != "draft" and "1 of 4 windows faulty" in str(done)
    assert torch.equal(done.choice.candidates[1].value[..., 56:, :], draft[..., 56:, :])
    assert float(psnr(kept.value, truth)) > float(psnr(draft, truth)) + 3
    assert judge.pictures == 3  # draft, enlarged input and repaired picture, each once


@pytest.mark.parametrize("seed", range(3))
def test_a_repair_is_never_below_its_draft_by_the_judge(mini, seed, learnt):
    judge = RestorationJudge.from_pretrained(learnt / "weights")
    image = imresize(photograph(seed, 120), 0.25).clamp(0, 1)
    draft = torch.cat(list(mini.bands(image, ITEROptions(fidelity=0.0))), 2)
    done = RepairingRestorer(mini, judge).repair(draft, image, ITEROptions(fidelity=0.0))
    score = lambda picture: float(judge.windows(picture, image).mean())  # noqa: E731
    assert score(done.choice.kept.value) >= score(draft)
    if not done.faulty:
        assert done.choice.kept.value is draft


def seeded(truth):
    """Candidates whose noise falls with the seed."""
    return lambda seed: Candidate("t", noisy(truth, 0.3 / (1 + seed) ** 2, seed), "x", seed=seed)


def test_until_sure_makes_no_more_where_seeds_hardly_differ(learnt):
    truth, name = photograph(20, 224), f"judge:{learnt / 'weights'}"
    image = imresize(truth, 0.25).clamp(0, 1)
    choice = best.until_sure(seeded(truth), range(4), name, image)
    assert len(choice.candidates) == 4 and choice.kept.seed == 3 and choice.why == "all 4 seeds made"  # each was better
    same = best.until_sure(lambda seed: Candidate("t", truth, "x", seed=seed), range(4), name, image)
    assert len(same.candidates) == 2 and same.chosen == 0 and same.why.startswith("2 seeds made, since one more")
    with pytest.raises(ValueError, match="not of niqe; leave judge out"):
        best.until_sure(seeded(truth), range(3), "niqe", image)


def test_the_best_seed_is_the_one_with_the_highest_score(learnt):
    truth = photograph(21)
    low = imresize(truth, 0.25).clamp(0, 1)
    score = best.named(f"judge:{learnt / 'weights'}", lambda task: low)
    choice = best.best_seed(seeded(truth), range(3), score)
    assert choice.kept.seed == 2 and len(choice.candidates) == 3


def test_evaluators_that_are_not_known_to_beat_chance_are_told(tmp_path, monkeypatch):
    rows = [("good", 0.7, 200), ("small", 0.7, 5), ("chance", 0.5, 2000)]
    told = [{"evaluator": name, "two seeds": share, "pairs of two seeds": pairs} for name, share, pairs in rows]
    (tmp_path / "agreement.json").write_text(json.dumps(told))
    monkeypatch.setattr(best, "EMBEDDED", tmp_path)
    assert best.doubt("good") is None and "was not measured" in best.doubt("niqe")
    assert "right about two seeds in 0.50 of 2000 pairs" in best.doubt("chance") and "no better" in best.doubt("small")


def test_the_judge_that_ships_prefers_the_less_noisy_picture_and_is_known_to_beat_chance():
    judge = RestorationJudge.from_pretrained()
    cat = np.array(PIL.Image.open(Path(__file__).parents[2] / "examples" / "cat.jpg").convert("RGB"))
    good = torch.from_numpy(cat).permute(2, 0, 1)[None].float() / 255
    assert judge.windows(good).mean() > judge.windows(noisy(good, 0.15, 0)).mean()
    assert best.doubt("judge") is None
