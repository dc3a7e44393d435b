"""Sharpening: which samples are learnt from, that nothing but the refinement net learns, and what is measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from restoration.benchmark_restorers import RestorerBenchmark, benchmark
from restoration.iter import ITEROptions, ITERRestorer
from restoration.iter.evaluate_sharpened import SharpenedEvaluation, evaluate, table
from restoration.iter.recipe_sharpen import Crops, SharpenTraining, lesson, train
from restoration.judge import RestorationJudge
from restoration.known import known
from restoration.train_judge import window_psnr
from tests.restoration.photographs import photograph
from vision.harm import read_harm
from vision.images import save_image
from vision.strategies import read_choices, write_choices


@pytest.fixture(scope="module")
def tries(tmp_path_factory):
    """A folder with a photograph, samples of it with three seeds, and the weights that learnt from them."""
    folder = tmp_path_factory.mktemp("tries")
    save_image(photograph(0, 112), folder / "photos" / "0.png")
    measured = RestorerBenchmark(
        folder / "photos",
        folder / "known",
        ("none", "iter:clean@0"),
        kinds=("bicubic",),
        cuts=1,
        size=112,
        seeds=3,
        keep=True,
    )
    assert benchmark(measured).code == 0
    options = SharpenTraining((folder / "known",), folder / "run", steps=3, batch_size=2, crop=16)
    assert train(options) == folder / "run" / "weights"
    return folder


@pytest.mark.parametrize("score", ["truth", "judge"])
def test_every_window_gets_the_tokens_of_its_best_sample(tries, score):
    item = next(iter(known([tries / "known"])))
    restorer, judge = ITERRestorer.from_pretrained(variant="clean"), RestorationJudge.from_pretrained()
    options = SharpenTraining((tries / "known",), score=score)
    found = lesson(item, restorer, judge, options)
    samples = [(c, p) for c, p in zip(item.choice.candidates, item.made, strict=True) if c.origin == "iter:clean@0"]
    tokens = []
    for candidate, _ in samples:
        *_, last = restorer.steps(item.low, ITEROptions(fidelity=0.0, seed=candidate.seed))
        tokens.append(last.state.tokens[0])
    scores = torch.stack(
        [
            window_psnr(p, item.high, 56) if score == "truth" else judge.windows(p, item.low).flatten()
            for _, p in samples
        ]
    )
    assert found.taught.all() and found.tokens.shape == (1, 28, 28) == found.taught.shape
    for window, best in enumerate(scores.argmax(0).tolist()):
        row, column = divmod(window, 2)
        place = (..., slice(14 * row, 14 * row + 14), slice(14 * column, 14 * column + 14))
        assert torch.equal(found.tokens[place], tokens[best][place])
    others = [lesson(item, restorer, judge, replace(options, keep="any", seed=seed)) for seed in range(3)]
    assert not all(torch.equal(other.tokens, found.tokens) for other in others)
    crop = Crops([found], 16, 0)[5]
    assert crop["low"].shape == (3, 16, 16) and crop["tokens"].shape == (1, 16, 16)


def test_only_the_refinement_net_learns(tries):
    start = ITERRestorer.from_pretrained(variant="clean").model.state_dict()
    after = ITERRestorer.from_pretrained(tries / "run" / "weights").model.state_dict()
    changed = {name.split(".")[0] for name in start if not torch.equal(start[name], after[name])}
    assert changed == {"refiner"}


def test_samples_of_other_weights_teach_nothing(tries, tmp_path):
    again = SharpenTraining((tries / "known",), tmp_path / "a", start="photo", steps=1)
    with pytest.raises(ValueError, match="is no sample of the weights photo at fidelity 0"):
        train(again)
    with pytest.raises(ValueError, match="no two samples of iter:photo@0"):
        train(replace(again, folder=tmp_path / "b", system="iter:photo@0"))
    with pytest.raises(ValueError, match="choices must name at least one folder"):
        SharpenTraining()
    assert len(read_choices(tries / "known")) == 1 and write_choices(tmp_path / "none", []).exists()


def test_wins_are_counted_against_the_start_with_the_same_seeds(tries, tmp_path):
    options = SharpenedEvaluation(
        tries / "photos", tries / "run" / "weights", tmp_path, size=112, seeds=2, temperature=1.0
    )
    assert evaluate(options).code == 0
    sharpened, same = json.loads((tmp_path / "wins.json").read_text())
    assert sharpened["samples"] == 2 and same["sample of"] == "temperature 1"
    assert all(same[f"{key} wins"] == 0.5 and same[f"{key} gained"] == 0 for key in ("judge", "psnr_y", "tex"))
    (harm,) = read_harm(tmp_path)
    assert harm["difference"] == pytest.approx(sharpened["psnr_y gained"]) and harm["items"] == sharpened["samples"]
    rows = table({"a": [({"judge": 0, "psnr_y": 30, "tex": -1}, {"judge": 1, "psnr_y": 29, "tex": -1})]})
    assert (rows[0]["judge wins"], rows[0]["psnr_y gained"], rows[0]["tex wins"]) == (1, -1, 0.5)
