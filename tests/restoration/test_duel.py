"""A duel about restorations: what counts as a fault, what the sneaky side learns, and what the judge finds."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from restoration import train_judge
from restoration.duel import KINDS, Sneaky, drafts_of, is_worse, lost, measure, play
from restoration.evaluate_judge import JudgeEvaluation, evaluate
from restoration.judge import RestorationJudge
from restoration.known import known
from restoration.train_duel import DuelTraining, train
from tests.restoration.photographs import photograph
from tests.restoration.test_judge import known_folder
from vision.duel import Bout
from vision.images import save_image
from vision.planted import UNTAUGHT

SIDE = 56


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs, known restorations, and the judges that learnt from them with and without a duel."""
    folder = tmp_path_factory.mktemp("duel")
    for number in range(2):
        save_image(photograph(number, 160), folder / "photos" / f"{number}.png")
    known_folder(folder / "known", range(3))
    for name, rounds in (("duelled", 2), ("plain", 0)):
        options = DuelTraining(
            (folder / "known",),
            folder / "photos",
            folder / name,
            spoiled=30,
            steps=120,
            width=8,
            rounds=rounds,
            bouts=25,
        )
        assert train(options) == folder / name
    return folder


def test_the_judge_finds_nine_faults_of_ten_after_the_duel_and_every_round_is_told(folder):
    rounds = json.loads((folder / "duelled" / "rounds.json").read_text())
    assert len(rounds) == 2 and all(row["faults"] + row["no faults"] == 25 for row in rounds)
    for row in rounds:
        assert sum(kind["faults"] for kind in row["kinds"].values()) == row["faults"] and {*row["kinds"]} == {*KINDS}
    assert json.loads((folder / "plain" / "rounds.json").read_text()) == []
    items = list(known([folder / "known"]))
    rows = measure(RestorationJudge.from_pretrained(folder / "duelled"), items, 6, seed=5)
    assert [row["kind"] for row in rows] == [*KINDS, "all taught", *UNTAUGHT, "all untaught"]
    assert {row["kind"]: row for row in rows}["all taught"]["named"] >= 0.9


def test_a_folder_is_kept_to_the_options_and_the_photographs_that_it_was_begun_with(folder):
    options = DuelTraining(
        (folder / "known",), folder / "photos", folder / "plain", spoiled=30, steps=120, width=8, rounds=0, bouts=25
    )
    before = (folder / "plain" / "model.safetensors").read_bytes()
    changes = {"seed": 1, "photos": folder / "known"}
    for training in (train, train_judge.train):
        for name, value in changes.items():
            with pytest.raises(ValueError, match=f"begun with other options or data: {name}"):
                training(replace(options, **{name: value}))
    assert (folder / "plain" / "model.safetensors").read_bytes() == before


def test_faults_count_only_where_the_truth_says_that_a_window_became_worse(folder):
    drafts = drafts_of(list(known([folder / "known"])), SIDE)
    assert len(drafts) == 6  # two restorers of three items, whatever their seeds
    sneaky = Sneaky(drafts, SIDE, KINDS, seed=0)
    judge = RestorationJudge.from_pretrained(folder / "plain")
    bouts, invalid = play(sneaky, judge, 20)
    assert len(bouts) + invalid == 20
    for bout in bouts:
        fault = bout.planted.value
        draft = drafts[fault.draft]
        before, after = (lost(p, draft.item.high, SIDE) for p in (draft.picture, fault.picture))
        assert is_worse(fault, draft, SIDE) and after[fault.place] > before[fault.place]
        others = [place for place in range(len(before)) if place != fault.place]
        assert (after[others] == before[others]).all()
        assert bout.found == (bout.says == fault.place)


def test_the_sneaky_side_prefers_what_fooled_the_judge_and_never_gives_a_kind_up(folder):
    drafts = drafts_of(list(known([folder / "known"])), SIDE)
    sneaky = Sneaky(drafts, SIDE, KINDS, seed=1)
    start = sneaky.logits.copy()
    for _ in range(4):
        planted = [sneaky(str(number), 0) for number in range(30)]
        sneaky.learn([Bout("t", one, 0, one.value.kind != "tone", 0) for one in planted])
    chances = np.exp(sneaky.logits) / np.exp(sneaky.logits).sum()
    tone = KINDS.index("tone")
    assert (sneaky.logits != start).any() and chances[tone].sum() == max(kind.sum() for kind in chances)
    kinds = {sneaky(str(number), 0).value.kind for number in range(120)}
    assert len(kinds) >= len(KINDS) - 1
    even = Sneaky(drafts, SIDE, KINDS, seed=1, learns=False)
    even.learn([Bout("t", even("0", 0), 0, False, 0)])
    assert not even.logits.any()


def test_planted_faults_are_measured_by_the_command(folder, tmp_path):
    options = JudgeEvaluation(
        (folder / "known",), folder / "photos", tmp_path, (f"judge:{folder / 'duelled'}", "brisque"), 2, planted=2
    )
    assert evaluate(options).code == 0
    rows = json.loads((tmp_path / "planted.json").read_text())
    assert len(rows) == len(KINDS) + len(UNTAUGHT) + 2 and {row["evaluator"] for row in rows} == {options.evaluators[0]}
    assert all(0 <= row["named"] <= 1 for row in rows if row["faults"])


@pytest.mark.parametrize(
    ("more", "sentence"), [({"rounds": -1}, "rounds must be at least 0"), ({"sneaky": "cheats"}, "learns or draws")]
)
def test_wrong_options_are_refused(tmp_path, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        DuelTraining((tmp_path,), tmp_path, tmp_path, **more)
