"""scripts/evaluate.py r1-restorations: the judge beside the distance to the truth."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from reward_vlm.r1.evaluate_pictures import agreement
from scripts import evaluate_pictures
from scripts.evaluate import parse
from scripts.evaluate_pictures import PictureEvaluation
from vision.faults import KINDS

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


def test_restorations_are_compared_with_the_judge_and_with_the_truth(tmp_path):
    (tmp_path / "hr").mkdir()
    Image.open(CAT).crop((40, 20, 104, 84)).save(tmp_path / "hr" / "cat.png")
    module, options = parse(["r1-restorations", "--hr", str(tmp_path / "hr"), "--out", str(tmp_path), "--seeds", "2"])
    assert module is evaluate_pictures and module.evaluate(options).code == 0
    pairs = json.loads((tmp_path / "pairs.json").read_text())
    assert [(row["first"], row["second"]) for row in pairs] == [
        *(("good image", name) for name in ("bicubic", "ITER 1", "seed 0", "seed 1")),
        ("bicubic", "ITER 1"), ("bicubic", "seed 0"), ("bicubic", "seed 1"),
        ("ITER 1", "seed 0"), ("ITER 1", "seed 1"), ("seed 0", "seed 1"), *combinations(KINDS, 2),
    ]  # fmt: skip
    assert pairs[0]["psnr_gap"] is None and pairs[0]["ssim_gap"] > 0 > pairs[4]["psnr_gap"]
    assert pairs[0]["preference"] > 0.5 and all(0 <= row["preference"] <= 1 for row in pairs)
    found = json.loads((tmp_path / "agreement.json").read_text())
    assert [row["comparisons"] for row in found] == [4, 5, 1, 10]
    assert found[0]["agrees with psnr"] is None and found[2]["most"] >= abs(found[2]["gain"])


def test_a_tied_vote_is_half_an_agreement():
    row = {"first": "bicubic", "second": "ITER 1", "psnr_gap": -1.0, "ssim_gap": 0.1}
    seeds = {"first": "seed 0", "second": "seed 1", "psnr_gap": 1.0, "ssim_gap": 0.1, "preference": 0.5}
    found = agreement([row | {"preference": vote} for vote in (0.0, 0.5, 1.0, 0.4)] + [seeds])
    assert found[1] == {"pairs": "two methods", "comparisons": 4, "agrees with psnr": 0.625, "agrees with ssim": 0.375}
    assert found[2]["agrees with psnr"] == 0.5
    with pytest.raises(ValueError, match="seeds must be at least 2, got 1"):
        PictureEvaluation(Path("hr"), Path("out"), seeds=1)
