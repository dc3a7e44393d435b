"""Candidates, costs, the trace of choices and the evaluators."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vision import strategies
from vision.refine import Verdict, refine
from vision.resize import imresize
from vision.strategies.evaluators import against_input, classified, consistency, evaluator, matches_views
from vision.strategies.trace import NAME, read_choices, replay, write_choices
from vision.strategies.values import Candidate, Choice, Cost, CostMeter, best, score_of


def a_choice(task="a.png", chosen=1, scores=(0.25, 0.5)):
    candidates = (
        Candidate(task, "draft", "none"),
        Candidate(task, 3, "iter:photo", Cost(1.5, 2, 100.0, 7), seed=4),
    )
    verdicts = (Verdict(scores[0], {"blur": 1.5}), Verdict(scores[1], [1, "x", None]))
    return Choice(task, candidates, verdicts, chosen, "it is nearer", {"noise": 0.25})


FILES = sorted(Path(strategies.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_strategies_import_no_model(path):
    """Models come in as callables; vision.metrics is asked for BRISQUE alone, when it is called."""
    homes = (
        "config",
        "consistency",
        "files",
        "images",
        "metrics",
        "niqe",
        "refine",
        "regression",
        "resize",
        "strategies",
    )
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vision"):
            assert node.module.split(".")[1] in homes, f"{path.stem} imports {node.module}"
    tops = {node.module for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)}
    assert "vision.metrics" not in tops


def test_strategies_stay_small():
    assert sum(len(path.read_text().splitlines()) for path in FILES) <= 1600


def test_costs_add_up_and_memory_takes_the_larger():
    assert a_choice().cost == Cost(1.5, 2, 100.0, 7)
    assert Cost(1, 1, 2.0, 5) + Cost(2, 3, 4.0, 3) == Cost(3, 4, 6.0, 5)


def test_a_meter_counts_the_steps_of_several_runs():
    meter = CostMeter(units=10.0)
    for _ in range(2):
        last = refine(0, lambda state, at: state + 1, range(3), observers=[meter])
    assert (meter.cost.calls, meter.cost.units) == (6, 60.0) and meter.cost.seconds > last.seconds
    with meter:
        pass
    assert meter.cost.calls == 7


def test_a_meter_counts_a_run_whose_first_step_took_longer_than_the_run_before():
    meter, steps = CostMeter(), []
    refine(0, lambda state, at: state + 1, range(2), observers=[steps.append])
    for seconds in ((0.1, 0.2), (0.3, 0.6)):
        for step, taken in zip(steps, seconds, strict=True):
            meter(replace(step, seconds=taken))
    assert meter.cost.seconds == pytest.approx(0.8) and meter.cost.calls == 4


def test_the_best_is_the_first_of_equals_and_nan_never_wins():
    assert best([Verdict(math.nan), Verdict(0.5), Verdict(torch.tensor(0.5)), Verdict(None)]) == 1
    assert score_of(Verdict(None)) == -math.inf
    with pytest.raises(ValueError, match="nothing to choose"):
        best([])


def test_a_choice_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="chosen must be below 2, got 2"):
        a_choice(chosen=2)
    with pytest.raises(ValueError, match="every candidate needs a verdict"):
        Choice("a", a_choice().candidates, (), 0)


def test_a_trace_comes_back_equal_and_grows(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"1")
    filed = Choice("b", (Candidate("b", tmp_path / "a" / "x.png", "pasd"),), (Verdict(-math.inf),), 0)
    write_choices(tmp_path, [a_choice()])
    path = write_choices(tmp_path, [filed])
    assert read_choices(path) == read_choices(tmp_path) == [a_choice(), filed]


def test_a_trace_that_was_moved_finds_its_files(tmp_path):
    folder = tmp_path / "old"
    write_choices(folder, [Choice("b", (Candidate("b", folder / "x.png", "pasd"),), (Verdict(1.0),), 0)])
    folder.rename(tmp_path / "new")
    assert read_choices(tmp_path / "new")[0].kept.value == tmp_path / "new" / "x.png"


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_a_kill_cut_off_is_left_out_and_overwritten(tmp_path, cut):
    path = write_choices(tmp_path, [a_choice("a"), a_choice("b")])
    path.write_bytes(path.read_bytes()[:-cut])
    assert [choice.task for choice in read_choices(path)] == ["a"]
    write_choices(tmp_path, [a_choice("c")])
    assert [choice.task for choice in read_choices(path)] == ["a", "c"]


def test_a_replay_decides_from_the_trace_alone(tmp_path):
    write_choices(tmp_path, [a_choice("a"), a_choice("b", scores=(0.9, 0.1))])
    again = replay(read_choices(tmp_path), lambda candidates, verdicts: (best(verdicts), "best score"))
    assert [choice.chosen for choice in again] == [1, 0] and again[0].why == "best score"
    assert again[0].candidates == a_choice("a").candidates


def test_a_trace_refuses_what_it_cannot_hold(tmp_path):
    for value in (torch.zeros(1), tmp_path.parent / "elsewhere.png"):
        with pytest.raises(ValueError, match=r"^b: "):
            write_choices(tmp_path, [Choice("b", (Candidate("b", value, "x"),), (Verdict(0.0),), 0)])
    assert not (tmp_path / NAME).exists()
    (tmp_path / NAME).write_text('{"task": 1}\n')
    with pytest.raises(ValueError, match="line 1, is not a choice"):
        read_choices(tmp_path)
    with pytest.raises(FileNotFoundError, match="no trace of choices"):
        read_choices(tmp_path / "nowhere")


# Evaluators


def picture(height=40, width=48, seed=0):
    """Smooth colours with edges, in [0, 1]."""
    rough = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return imresize((rough > 0.5).float(), size=(height, width)).clamp(0, 1)


def test_consistency_prefers_what_the_input_could_come_from():
    """The truth and a wrong picture; the input is the truth, blurred by an unknown width and shrunk."""
    truth, other = picture(160, 192), picture(160, 192, seed=1)
    low = imresize(truth, 0.25).clamp(0, 1)
    judge = evaluator("consistency", lambda task: low)
    scores = [judge(Candidate("a", value, "x")).score for value in (truth, other)]
    assert scores[0] > -0.01 and scores[0] > scores[1] + 0.1


def test_consistency_finds_the_blur_of_the_input():
    from vision.consistency import _gaussian

    truth = picture(160, 192)
    low = imresize(_gaussian(truth, (1.5 * 4, 1.5 * 4)), 0.25).clamp(0, 1)
    found = consistency(Candidate("a", truth, "x"), low)
    assert found.detail == {"blur": 1.5} and found.score > -1e-6


def test_consistency_of_the_input_itself_is_perfect_at_its_own_size():
    low = picture()
    assert consistency(Candidate("a", low, "none"), low).score == 0
    with pytest.raises(ValueError, match=r"a: a result of 24 x 20 pixels is smaller than its input of 48 x 40"):
        consistency(Candidate("a", picture(20, 24), "x"), low)


def test_niqe_turns_its_sign():
    from vision.niqe import niqe

    image = torch.rand(1, 3, 192, 288, generator=torch.Generator().manual_seed(0))
    assert evaluator("niqe")(Candidate("a", image, "x")).score == -float(niqe(image))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("beauty", "no evaluator 'beauty'; known kinds are brisque, consistency, judge, niqe, pyiqa"),
        ("niqe:7", "niqe takes nothing after a colon, got '7'"),
        ("consistency", "there is none; choose another"),
    ],
)
def test_a_wrong_name_is_told(name, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        evaluator(name, more={"judge": lambda source: lambda candidate: Verdict(0.0)})


def test_kinds_with_models_come_from_the_caller():
    def judge(source):
        return against_input(lambda first, second: float(first > second), {"a": len(source)}.__getitem__)

    asked = evaluator("judge:abc", more={"judge": judge})
    assert [asked(Candidate("a", value, "x")).score for value in (2, 3, 4)] == [0.0, 0.0, 1.0]
    assert classified(lambda value: value / 10)(Candidate("a", 7, "x")).score == 0.7


def test_views_are_matched_in_decibels():
    judge = matches_views(lambda value: torch.full((2, 3, 4, 4), value), torch.zeros(2, 3, 4, 4))
    assert judge(Candidate("a", 0.1, "mesh")).score == pytest.approx(20.0, abs=1e-4)
    assert judge(Candidate("a", 0.0, "mesh")).score == 100.0
