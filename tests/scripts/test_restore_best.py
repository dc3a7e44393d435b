"""scripts/restore.py --best-of: several seeds, one judge, one result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restoration.iter import ITEROptions
from restoration.job import restore as restore_job
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.pictures import PictureJudge
from scripts import restore
from scripts.restore import RestoreOptions, main
from vision.faults import KINDS, spoil

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


@pytest.fixture
def picture(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    return tmp_path / "a.png"


class Prefers:
    """Prefers the candidate of one seed."""

    def __init__(self, seed):
        self.seed, self.asked = seed, []

    def prefers(self, first, second):
        self.asked.append((first.name, second.name))
        return first.name == f"seed_{self.seed}.png"

    def told(self, job):
        return {"judged": len(self.asked)}


def test_the_result_is_the_seed_that_the_judge_prefers(picture, tmp_path, monkeypatch):
    options = RestoreOptions(
        (picture,),
        tmp_path / "best",
        ITEROptions(seed=5, fidelity=0.0),
        source="builtin:tiny-mini",
        best_of=3,
        judge="r1",
    )
    judge = Prefers(6)
    monkeypatch.setattr(restore, "_judge", lambda source, device: judge)
    assert main(options) == 0
    assert judge.asked == [("seed_6.png", "seed_5.png"), ("seed_7.png", "seed_6.png")]
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == [
        ".done",
        "a.png",
        "choices.jsonl",
        "run.json",
    ]
    run = json.loads((tmp_path / "best" / "run.json").read_text())
    assert run["images"]["a.png"]["kept_seed"] == 6 and run["judge"] == {"judged": 2}
    alone = {}
    for seed in (5, 6):
        one = replace(
            options, out=tmp_path / str(seed), best_of=1, judge="judge", options=ITEROptions(seed=seed, fidelity=0.0)
        )
        assert main(one) == 0
        alone[seed] = (tmp_path / str(seed) / "a.png").read_bytes()
    assert (tmp_path / "best" / "a.png").read_bytes() == alone[6] != alone[5]
    asked = len(judge.asked)
    assert main(options) == 0 and len(judge.asked) == asked  # finished pictures are not judged again


def test_a_judge_compares_the_windows_with_most_structure_in_both_orders():
    judge = PictureJudge(R1Judge.from_pretrained("builtin:tiny"), windows=2)
    judge.judge.config = replace(judge.judge.config, max_new_tokens=2)
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 256, (130, 150, 3), dtype=np.uint8)
    noisy[:56, :56] = 7  # nothing to see there
    assert judge.preference(noisy, np.roll(noisy, 3, 1)) == 0.5  # random weights say nothing that can be read
    with pytest.raises(ValueError, match="one size, got 150 x 130 and 150 x 120"):
        judge.preference(noisy, noisy[:120])
    with pytest.raises(ValueError, match="at least 56 pixels per side, got 40 x 130"):
        judge.preference(noisy[:, :40], noisy[:, :40])


def test_seeds_that_change_nothing_are_not_compared(picture, tmp_path):
    options = RestoreOptions(
        (picture,), tmp_path / "best", ITEROptions(fidelity=1.0), source="builtin:tiny-mini", best_of=2
    )
    outcome = restore_job(options, load_judge=lambda source, device: pytest.fail("no judge is needed"))
    assert outcome.code == 2 and "give a --fidelity below 1" in outcome.problems[0]


def test_a_judge_alone_is_refused(picture, tmp_path):
    with pytest.raises(ValueError, match="give --best-of as well"):
        RestoreOptions((picture,), tmp_path, ITEROptions(), judge="niqe")
    with pytest.raises(ValueError, match="best_of must be at least 1, got 0"):
        RestoreOptions((picture,), tmp_path, ITEROptions(), best_of=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_that_ships_prefers_the_less_degraded_picture(kind):
    judge, rng = PictureJudge.from_pretrained(windows=4), np.random.default_rng(0)
    good = Image.open(CAT).convert("RGB")
    bad, worse = (spoil(good, kind, strength, rng) for strength in (0.4, 0.9))
    assert judge.prefers(good, worse) and judge.prefers(bad, worse) and not judge.prefers(worse, bad)
    found = judge([worse, good, bad])
    assert found.choice in (1, 2) and float(found.scores[0]) < 0.25 and len(found.votes) == 4 * 3 * 2
