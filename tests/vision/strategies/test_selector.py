"""What to try first, and whether to do anything."""

from __future__ import annotations

import numpy as np
import pytest

from vision.config import load_config, save_config
from vision.refine import Verdict
from vision.strategies.need import believe_none, gate_metrics, need
from vision.strategies.selector import Lesson, StrategySelector, regret_lessons, relabel_first_attempt
from vision.strategies.values import Candidate, Choice


def attempts(task, scores, facts=None):
    """A choice whose candidates are attempts with strategies "s0", "s1" and so on."""
    candidates = tuple(Candidate(task, None, f"s{i}") for i in range(len(scores)))
    return Choice(task, candidates, tuple(Verdict(score) for score in scores), 0, facts=facts or {})


def test_the_first_attempt_that_passes_becomes_the_target_of_the_first():
    history = [
        attempts("right at once", [1, 0, 1]),
        attempts("right at last", [0, 0, 1]),
        attempts("never", [0, 0, 0]),
        attempts("second", [0, 1, 1], {"x": 2.0}),
    ]
    lessons = relabel_first_attempt(history, lambda verdict: verdict.score == 1)
    assert lessons == [
        Lesson("right at once", {}, "s0"),
        Lesson("right at last", {}, "s2"),
        Lesson("second", {"x": 2.0}, "s1"),
    ]


def test_without_a_rule_the_best_attempt_is_the_target():
    assert [lesson.strategy for lesson in relabel_first_attempt([attempts("a", [0.1, 0.7, 0.7])])] == ["s1"]


def test_every_attempt_teaches_by_what_it_gains_on_the_worst_of_its_task():
    lessons = regret_lessons([attempts("a", [0.5, 2.0, 1.0], {"x": 1.0}), attempts("all alike", [1, 1, 1])])
    assert lessons == [Lesson("a", {"x": 1.0}, "s1", 1.5), Lesson("a", {"x": 1.0}, "s2", 0.5)]


def planted(count, seed):
    """Tasks whose right strategy depends on the numbers, by a rule that a linear choice can express."""
    draws = np.random.default_rng(seed).normal(size=(count, 3)) * [1.0, 50.0, 1.0]
    rules = np.stack([draws[:, 0], draws[:, 1] / 50, -draws[:, 0] - draws[:, 1] / 50], 1)
    rows = [{"edge": a, "noise": b, "useless": c} for a, b, c in draws.tolist()]
    return [Lesson(str(i), row, f"s{place}") for i, (row, place) in enumerate(zip(rows, rules.argmax(1), strict=True))]


def test_a_selector_learns_which_strategy_suits_and_beats_every_fixed_one():
    selector = StrategySelector.fit(planted(300, 0), decay=0.01)
    unseen = planted(300, 1)
    right = np.mean([selector.pick(lesson.facts) == lesson.strategy for lesson in unseen])
    fixed = max(np.mean([lesson.strategy == name for lesson in unseen]) for name in selector.strategies)
    assert right > 0.95 > 0.5 > fixed


def test_picks_do_not_depend_on_the_units_of_a_number():
    lessons = planted(60, 0)
    scaled = [Lesson(at.task, at.facts | {"noise": at.facts["noise"] * 1000 + 7}, at.strategy) for at in lessons]
    first, second = StrategySelector.fit(lessons), StrategySelector.fit(scaled)
    assert [first.pick(at.facts) for at in lessons] == [second.pick(at.facts) for at in scaled]


def test_a_selector_picks_only_what_is_allowed():
    selector = StrategySelector.fit(planted(60, 0))
    facts = {"edge": 5.0, "noise": 0.0, "useless": 0.0}
    assert selector.pick(facts) == "s0" and selector.pick(facts, ["s1", "s9"]) == "s1"
    with pytest.raises(ValueError, match="None of the strategies s0, s1, s2"):
        selector.pick(facts, ["s9"])


def test_weights_of_lessons_count():
    lessons = [Lesson("a", {"x": 0.0}, "s0"), Lesson("b", {"x": 0.0}, "s1", 3.0)]
    chances = StrategySelector.fit(lessons).chances({"x": 0.0})
    assert chances["s1"] == pytest.approx(0.75, abs=1e-6)


def test_a_selector_is_saved_and_read(tmp_path):
    selector = StrategySelector.fit(planted(60, 0))
    save_config(selector, tmp_path / "selector.json")
    assert load_config(StrategySelector, tmp_path / "selector.json") == selector


def test_a_number_that_is_missing_or_infinite_is_told():
    selector = StrategySelector.fit(planted(60, 0))
    for facts in ({"edge": 1.0, "useless": 0.0}, {"edge": 1.0, "noise": float("nan"), "useless": 0.0}):
        with pytest.raises(ValueError, match="looks at noise, which the task lacks"):
            selector.pick(facts)
    with pytest.raises(ValueError, match="at least one solved task"):
        StrategySelector.fit([])


# The gate


def gate():
    """Knows that little blur needs nothing, small things want enlarging and blurred ones restoring."""
    lessons = []
    for i in range(40):
        lessons += [
            Lesson(f"good {i}", {"blur": 0.1 * i / 40, "size": 1000.0 + i}, "none"),
            Lesson(f"small {i}", {"blur": 0.1 * i / 40, "size": 100.0 + i}, "enlarge"),
            Lesson(f"bad {i}", {"blur": 3 + 0.1 * i / 40, "size": 1000.0 - i}, "restore"),
        ]
    return StrategySelector.fit(lessons, decay=1e-3)


def test_a_gate_tells_apart_what_needs_something():
    facts = [{"blur": 0.05, "size": 1010.0}, {"blur": 0.05, "size": 110.0}, {"blur": 3.0, "size": 1000.0}]
    assert [need(row, gate()) for row in facts] == ["none", "enlarge", "restore"]


def test_doubt_moves_the_gate_one_way():
    row, doubtful = {"blur": 1.5, "size": 1000.0}, gate()
    answers = [need(row, doubtful, doubt) == "none" for doubt in np.linspace(0.001, 1, 50)]
    assert answers == sorted(answers, reverse=True) and answers[0] and not answers[-1]


def test_a_gate_that_never_learnt_to_do_nothing_is_refused():
    with pytest.raises(ValueError, match="cannot leave a thing alone"):
        need({"edge": 0.0, "noise": 0.0, "useless": 0.0}, StrategySelector.fit(planted(60, 0)))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_doubt_that_is_set_misses_no_more_than_asked(share):
    draws = np.random.default_rng(0)
    needed = draws.random(200) < 0.5
    chances = np.where(needed, draws.random(200) ** 2, draws.random(200) ** 0.5)
    doubt = believe_none(chances.tolist(), needed.tolist(), share)
    missed = np.mean(chances[needed] >= doubt)
    assert missed <= share and (doubt == chances[needed].min() or np.mean(chances[needed] >= doubt - 2e-6) > share)


def test_a_gate_that_always_refines_has_recall_one():
    found = gate_metrics(["task"] * 10, [True] * 4 + [False] * 6)
    assert found.recall == pytest.approx(1) and found.false_alarm == pytest.approx(0.6) == 1 - found.precision


def test_a_gate_that_never_proposes_and_one_without_things_have_zeros():
    never = gate_metrics([None] * 4, [True, True, True, False])
    assert (never.recall, never.precision, never.f1) == (0, 0, 0) and never.accuracy == pytest.approx(0.75)
    assert set(vars(gate_metrics([], [])).values()) == {0.0}
