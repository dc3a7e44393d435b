"""Hard negatives out of restorations: exactly what fools the judge is mined, and is learnt from beside the rows."""

from __future__ import annotations

import pytest
import torch

import reward_vlm.r1.train as training
from reward_vlm.data import preference_json, write_rows
from reward_vlm.judges import Judged
from reward_vlm.photo_pairs import QUESTION
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.mining import corners, mined
from reward_vlm.r1.options import R1Config, R1Options, R1Training
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import tiny_chat_model
from vision.faults import SIDE
from vision.images import save_image, to_tensor
from vision.refine import Verdict
from vision.strategies import Candidate, Choice, write_choices


class LikesBrightness:
    """Scores pictures by their mean, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def batch(self, queries, options=None):
        self.asked += queries
        means = [torch.tensor([float(to_tensor(answer).mean()) for answer in query.answers]) for query in queries]
        return [Judged(mean, int(mean.argmax()), "") for mean in means]


def restorations(folder, **shifts):
    """A trace with one picture of two windows, and restorations that differ from the truth by a constant each."""
    truth = torch.rand(1, 3, SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.35
    where = folder / "pictures" / "item"
    save_image(truth, where / "truth.png")
    candidates = []
    for name, shift in shifts.items():
        save_image(truth + shift, where / f"{name}.png")
        candidates.append(Candidate("item", where / f"{name}.png", name))
    verdicts = tuple(Verdict(-abs(shift)) for shift in shifts.values())
    write_choices(folder, [Choice("item", tuple(candidates), verdicts, 0)])
    return folder


def test_what_is_brighter_and_worse_is_mined_from_every_window_and_nothing_else(tmp_path):
    """The best one is too dark: brighter ones fool the judge, darker ones do not, and what is hardly worse is none."""
    folder = restorations(tmp_path, best=-87 / 255, slightly=88 / 255, bright=90 / 255, dark=-90 / 255)
    judge = LikesBrightness()
    pairs = mined([folder], judge, R1Options())
    assert [query.question for query in judge.asked] == [QUESTION] * 2
    assert len(pairs) == 2 and {pair.category for pair in pairs} == {"mined"}
    assert sorted(pair.better for pair in pairs) == [1, 2]
    for pair in pairs:
        means = [float(to_tensor(answer).mean()) for answer in pair.answers]
        assert means[2 - pair.better] - means[pair.better - 1] == pytest.approx(177 / 255, abs=1e-3)


def test_a_judge_that_is_always_right_leaves_nothing_to_mine(tmp_path):
    with pytest.raises(ValueError, match=r"gets every window of .* right; there is nothing to mine"):
        mined([restorations(tmp_path, best=0.0, dark=-0.2)], LikesBrightness(), R1Options())


def test_windows_are_those_with_most_detail_and_a_small_picture_has_none():
    truth = torch.full((1, 3, 2 * SIDE, 3 * SIDE), 0.5)
    truth[..., SIDE::2, SIDE : 2 * SIDE] = 0.0
    assert corners(truth, 1) == [(SIDE, SIDE)] and len(corners(truth)) == 4
    with pytest.raises(ValueError, match=f"at least {SIDE} pixels per side, got 168 x 20"):
        corners(truth[..., :20, :])


def test_pictures_that_were_not_kept_cost_a_sentence(tmp_path):
    write_choices(tmp_path, [Choice("item", (Candidate("item", None, "none"),), (Verdict(0.0),), 0)])
    with pytest.raises(ValueError, match="item has no pictures; let benchmark restorers --keep write them"):
        mined([tmp_path], LikesBrightness(), R1Options())


def test_what_the_start_gets_wrong_is_learnt_from_beside_the_rows(tmp_path, monkeypatch):
    R1Judge(tiny_chat_model(), R1Config("plain", True, 6, None)).save_pretrained(tmp_path / "start")
    write_rows(tmp_path / "rows.jsonl", [preference_json(pair, tmp_path) for pair in scene_pairs(1, 3)])
    folder = restorations(tmp_path / "runs", best=0.0, dark=-0.2)
    rounds = {}
    monkeypatch.setattr(training, "reinforce", lambda run: rounds.update(rows=run.rows))
    given = {"rows": tmp_path / "rows.jsonl", "held_out": tmp_path / "rows.jsonl", "start": str(tmp_path / "start")}
    told = []
    training.train(
        R1Training(**given, folder=tmp_path / "run", stage="rl", steps=2, mine=(folder,), max_new_tokens=4),
        log=told.append,
    )
    assert len(rounds["rows"]) == 5 and all(len(row.images) == 2 for row in rounds["rows"][3:])
    assert "2 pairs of windows that the start gets wrong are learnt from too" in told
    with pytest.raises(ValueError, match="mine belongs to reinforcement"):
        R1Training(**given, stage="sft", mine=(folder,))
