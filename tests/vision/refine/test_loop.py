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
    Refined,
    Trace,
    Verdict,
    any_of,
    clone_items,
    composite_outside,
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


def test_observers_are_closed_after_an_error():
    class Closing:
        closed = False

        def __call__(self, step):
            raise RuntimeError("observer")

        def close(self):
            self.closed = True

    observer = Closing()
    with pytest.raises(RuntimeError, match="observer"):
        refine(0, lambda s, at: s, range(3), observers=[observer])
    assert observer.closed


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
