"""The refinement loop's properties, on small noisy states."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vision.refine import (
    PerItem,
    ProgressBar,
    Refined,
    Trace,
    Verdict,
    any_of,
    clone_items,
    composite_outside,
    drain,
    go_on_from_best,
    item_generators,
    max_seconds,
    no_progress,
    reaches,
    refine,
    refine_steps,
    roll_back_if_worse,
)


@dataclass(frozen=True)
class Walk:
    """A noisy walk per item towards its own goal."""

    place: Tensor
    goal: Tensor
    noise: PerItem[torch.Generator]


def walks(seed: int, batch: int, first: int = 0) -> Walk:
    goals = torch.linspace(1, 3, 8)[first : first + batch]
    return Walk(torch.zeros(batch, 2), goals[:, None].repeat(1, 2), item_generators(seed + first, batch))


def move(walk: Walk, rate: float) -> Walk:
    noise = torch.cat([torch.randn(1, 2, generator=g) for g in walk.noise])
    return replace(walk, place=walk.place + rate * (walk.goal - walk.place) + 0.1 * noise)


def closeness(walk: Walk, rate: float) -> Verdict:
    return Verdict(-(walk.goal - walk.place).abs().sum(1))


def run(state: Walk, steps: int = 12, **rules):
    rules = {"evaluate": closeness, "keep_best": clone_items, "stop": reaches(-0.5), **rules}
    return refine(state, move, [0.3] * steps, **rules)


def same(a: Refined, b: Refined) -> bool:
    fields = [(a.state.place, b.state.place), (a.score, b.score), (a.last.best.place, b.last.best.place)]
    fields += [(a.last.best_score, b.last.best_score), (a.last.steps_since_best, b.last.steps_since_best)]
    return all(torch.equal(x, y) for x, y in fields)


accepts = pytest.mark.parametrize("accept", [None, go_on_from_best, roll_back_if_worse(0.05)])


@accepts
@pytest.mark.parametrize("seed", range(5))
def test_frozen_items_equal_dropped_items(accept, seed):
    assert same(run(walks(seed, 6), accept=accept), run(walks(seed, 6), accept=accept, drop_finished=True))


@accepts
@pytest.mark.parametrize("drop", [False, True])
def test_an_item_does_not_depend_on_its_batch(accept, drop):
    together = run(walks(3, 5), accept=accept, drop_finished=drop)
    for item in range(5):
        alone = run(walks(3, 1, first=item), accept=accept)
        assert torch.equal(together.state.place[item : item + 1], alone.state.place)
        assert torch.equal(together.last.best.place[item : item + 1], alone.last.best.place)


@given(stops=st.lists(st.integers(1, 6), min_size=3, max_size=3), drop=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_rule_that_stops_one_item_changes_no_other(stops, drop):
    free = {step.index: step.state.place for step in refine_steps(walks(0, 3), move, [0.2] * 7)}
    when = torch.tensor(stops)
    result = refine(walks(0, 3), move, [0.2] * 7, stop=lambda step: when <= step.index + 1, drop_finished=drop)
    for item in range(3):
        assert torch.equal(result.state.place[item], free[stops[item] - 1][item])


def test_finished_items_stay_unchanged_and_the_run_ends_with_the_last():
    steps = list(refine_steps(walks(1, 4), move, [0.5] * 30, evaluate=closeness, stop=reaches(-0.4)))
    assert len(steps) < 30 and not steps[-1].active.any()
    for before, after in itertools.pairwise(steps):
        done = torch.ones(4, dtype=torch.bool) if before.active is None else ~before.active
        if before.active is not None:
            assert torch.equal(before.state.place[done], after.state.place[done])
            assert torch.equal(before.score[done], after.score[done])


def test_best_is_a_true_copy_when_moves_write_in_place():
    def descend(state, at):
        state.add_(at)
        return state

    result = refine(
        torch.zeros(1),
        descend,
        [1.0, 1.0, 1.0, 1.0],
        evaluate=lambda s, _: Verdict(-abs(float(s) - 2)),
        keep_best=clone_items,
        result="best",
    )
    assert result.state.item() == 2 and result.score == 0
    assert result.last.state.item() == 4


def test_a_refused_candidate_keeps_its_score_with_it():
    result = refine(
        torch.zeros(1),
        lambda s, at: s + at,
        [1.0, 5.0, 0.5],
        evaluate=lambda s, _: Verdict(-abs(float(s) - 2)),
        keep_best=clone_items,
        accept=go_on_from_best,
    )
    assert result.state.item() == 1.5 and result.last.best_score == -0.5


def test_nan_scores_never_win():
    scores = iter([math.nan, 1.0, math.nan, 0.5])
    result = refine(
        0, lambda s, at: at, range(4), evaluate=lambda s, _: Verdict(next(scores)), keep_best=lambda s: s, result="best"
    )
    assert result.state == 1 and result.score == 1.0
    per_item = iter([torch.tensor([math.nan, 1.0]), torch.tensor([0.0, math.nan]), torch.tensor([-1.0, 2.0])])
    result = refine(
        torch.zeros(2),
        lambda s, at: s + 1,
        range(3),
        evaluate=lambda s, _: Verdict(next(per_item)),
        keep_best=clone_items,
        result="best",
    )
    assert result.score.tolist() == [0.0, 2.0] and result.state.tolist() == [2.0, 3.0]


def test_an_empty_schedule_returns_the_initial_state():
    state = walks(0, 2)
    result = refine(state, move, [])
    assert result.state is state and result.last is None and result.steps == 0


def test_nothing_runs_until_iterated():
    called = []
    steps = refine_steps(0, lambda s, at: called.append(at), range(3))
    assert called == []
    next(steps)
    assert called == [0]


def test_the_start_is_judged_before_the_first_move():
    rules = {"evaluate": lambda s, at: Verdict(-abs(s - 2.0), at), "keep_best": lambda s: s, "evaluate_start": True}
    first, *rest = refine_steps(2.0, lambda s, at: s + at, [1.0, -3.0], **rules)
    assert (first.index, first.at, first.state, first.score, first.verdict.detail) == (-1, None, 2.0, 0.0, None)
    assert [step.index for step in rest] == [0, 1] and rest[-1].best == 2.0
    result = refine(2.0, lambda s, at: s + at, [1.0, -3.0], result="best", **rules)
    assert (result.state, result.score, result.steps) == (2.0, 0.0, 2)
    assert [step.start_score for step in (first, *rest)] == [0.0] * 3
    good_enough = refine(2.0, lambda s, at: s + at, [1.0], stop=reaches(0.0), **rules)
    assert good_enough.steps == 0 and good_enough.last.index == -1
    with pytest.raises(ValueError, match="needs evaluate"):
        refine(2.0, lambda s, at: s, [1.0], evaluate_start=True)


def test_items_whose_start_is_good_enough_are_not_moved():
    start = walks(0, 3)
    done = torch.tensor([True, False, False])
    stop = lambda step: done if step.index < 0 else torch.zeros(3, dtype=torch.bool)  # noqa: E731
    for drop in (False, True):
        rules = {"evaluate": closeness_or_start, "keep_best": clone_items, "evaluate_start": True, "stop": stop}
        result = refine(walks(0, 3), move, [0.3] * 4, drop_finished=drop, **rules)
        assert torch.equal(result.state.place[0], start.place[0])
        assert not torch.equal(result.state.place[1], start.place[1])


def closeness_or_start(walk: Walk, rate: float | None) -> Verdict:
    return closeness(walk, 0.0)


@accepts
@given(begins=st.lists(st.integers(0, 6), min_size=4, max_size=4))
@settings(max_examples=20, deadline=None)
def test_items_that_begin_late_end_as_those_that_run_the_rest_alone(accept, begins):
    schedule = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    rules = {"evaluate": closeness, "keep_best": clone_items, "stop": reaches(-0.5), "accept": accept}
    together = refine(walks(0, 4), move, schedule, begins=torch.tensor(begins), **rules)
    for item, begin in enumerate(begins):
        alone = refine(walks(0, 1, first=item), move, schedule[begin:], **rules)
        assert torch.equal(together.state.place[item : item + 1], alone.state.place)
        if begin == 6 and together.score is not None:
            assert together.score[item].isnan()
        if begin < 6:
            assert together.score[item] == alone.score[0]
            assert together.last.best_score[item] == alone.last.best_score[0]
            assert torch.equal(together.last.best.place[item : item + 1], alone.last.best.place)


def test_items_that_finish_before_the_first_verdict_have_no_score():
    finished = torch.tensor([True, False, False])
    for drop in (False, True):
        result = refine(
            walks(0, 3),
            move,
            range(3),
            evaluate=lambda walk, at: closeness(walk, 0.0) if at else Verdict(),
            keep_best=clone_items,
            stop=lambda step: finished,
            drop_finished=drop,
        )
        assert result.score.isnan().tolist() == [True, False, False]


def test_right_or_wrong_is_a_score():
    right = lambda walk, at: Verdict((walk.goal[:, 0] < 1.1) & (at > 0))  # noqa: E731
    result = refine(walks(0, 2), lambda walk, at: walk, range(3), evaluate=right, stop=reaches(1.0), drop_finished=True)
    assert result.score.tolist() == [1.0, 0.0]


def test_drain_shows_every_step_and_gives_the_last():
    seen = []
    last = drain(refine_steps(0, lambda s, at: s + at, [1, 2, 3]), [lambda step: seen.append(step.state)])
    assert seen == [1, 3, 6] and last.state == 6
    assert drain(refine_steps(0, lambda s, at: s, [])) is None


def test_a_bar_is_an_observer_with_a_context(capsys):
    with ProgressBar("walking", 3) as bar:
        refine(0, lambda s, at: s, range(3), observers=[bar])
        assert bar.bar.tasks[0].completed == 3
    assert bar.bar.finished and not bar.bar.live.is_started


def test_best_without_scores_is_refused():
    with pytest.raises(ValueError, match="needs evaluate"):
        refine(0, lambda s, at: s, range(3), result="best")
    with pytest.raises(ValueError, match="no best candidate"):
        refine(0, lambda s, at: s, range(3), accept=go_on_from_best)


def test_rules():
    flat = lambda s, _: Verdict(0.0)  # noqa: E731
    assert refine(0, lambda s, at: s + 1, range(9), evaluate=flat, stop=no_progress(3)).steps == 4
    slow = refine(0, lambda s, at: time.sleep(0.01), range(100), stop=max_seconds(0.05))
    assert slow.steps < 10 and slow.seconds >= 0.05
    assert (
        refine(
            0, lambda s, at: s + 1, range(9), evaluate=lambda s, _: Verdict(s), stop=any_of(max_seconds(9), reaches(4))
        ).state
        == 4
    )
    mask = torch.tensor([[1.0, 0.0]])
    inside = refine(
        torch.zeros(1, 2), lambda s, at: s + 1, range(3), accept=composite_outside(mask, lambda step: step.state)
    )
    assert inside.state.tolist() == [[3.0, 0.0]]


def test_trace_keeps_numbers_only():
    trace = Trace(row=lambda step: {"rate": step.at})
    refine(walks(0, 2), move, [0.1, 0.2], evaluate=closeness, observers=[trace])
    assert [row["rate"] for row in trace.rows] == [0.1, 0.2]
    assert all(len(row["score"]) == 2 and isinstance(row["score"][0], float) for row in trace.rows)


def test_overhead_per_step_is_below_50_microseconds():
    def seconds() -> float:
        began = time.process_time()
        for _ in refine_steps(
            0.0, lambda s, at: s, range(2000), evaluate=lambda s, at: Verdict(0.0), stop=no_progress(10**9)
        ):
            pass
        return (time.process_time() - began) / 2000

    assert min(seconds() for _ in range(5)) < 50e-6
