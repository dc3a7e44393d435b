"""Balance of exploration and exploitation, and the settings that maximise it."""

from __future__ import annotations

import pytest

from reward_vlm.scl.balance import Answer, Tuner, balance_score, mean_balance, select


def test_balance_scores_weigh_number_and_share_of_the_right_ones():
    exact = [balance_score(*pair) for pair in ((0, 5), (8, 8), (4, 4), (8, 16), (0, 0), (20, 20))]
    assert exact == [0, 1, 0.5, 0.5, 0, 1]
    for wrong in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError):
            balance_score(*wrong)
    assert mean_balance([[], []]) == 0


def test_a_selection_keeps_the_best_and_each_text_once():
    answers = [Answer("a", True, 0.9), Answer("b", False, 0.5), Answer("a", True, 0.9), Answer("c", True, 1.1)]
    assert [a.text for a in select(answers, 0.5)] == ["c", "a"]
    assert [a.text for a in select(answers, -1.0, cap=3)] == ["c", "a"]  # the cap counts both of "a"


def test_a_tuner_finds_the_planted_optimum_and_moves_when_the_policy_collapses():
    def policy(diverse):
        """Hot samples differ more and are wrong more often; a collapsed policy says one thing when cold."""

        def sample(temperature):
            different = round(diverse * temperature * 10)
            return [
                [
                    Answer(f"{i % max(different, 1)}", i % 10 >= 9 * (temperature - 0.5), 0.5 + i / 100)
                    for i in range(20)
                ]
                for _ in range(5)
            ]

        return sample

    tuner = Tuner((0.5, 0.8, 1.1), (0.0, 0.6, 2.0))
    fresh, collapsed = tuner.tune(policy(2.0)), tuner.tune(policy(0.4))
    assert fresh.temperature < collapsed.temperature and fresh.balance > collapsed.balance
    grid = [
        mean_balance([select(answers, threshold) for answers in policy(2.0)(temperature)], all_questions=True)
        for temperature in tuner.temperatures
        for threshold in tuner.thresholds
    ]
    assert fresh.balance == max(grid)
    with pytest.raises(ValueError, match="at least one temperature"):
        Tuner((), (0.0,))


def test_a_tuner_does_not_drop_the_hard_questions():
    """A threshold that keeps the easy question alone has the highest mean over what is kept, and not over all."""
    easy = [Answer(text, True, 1.2) for text in "abcd"]
    hard = [Answer("a", True, 1.05), Answer("b", False, 0.1)]
    pools = [easy, hard, hard, hard]
    published = [mean_balance([select(answers, threshold) for answers in pools], 4) for threshold in (1.0, 1.1)]
    assert published == [(1 + 3 / 4) / 4, 1]
    found = Tuner((1.0,), (1.0, 1.1), n_star=4).tune(lambda temperature: pools)
    assert (found.threshold, found.balance) == (1.0, published[0])
    nothing = Tuner((1.0,), (2.0, 1.0), n_star=4).tune(lambda temperature: [hard, []])
    assert (nothing.threshold, nothing.balance) == (1.0, 1 / 8)


def test_of_equal_settings_a_tuner_takes_the_strictest():
    """What the few tried answers do not tell apart, the others of the round may: there a lower threshold keeps more."""
    pools = [[Answer("a", True, 1.2), Answer("b", False, 0.1)]]
    found = Tuner((0.5, 0.9), (0.2, 1.0, 1.5)).tune(lambda temperature: pools)
    assert (found.temperature, found.threshold) == (0.5, 1.0)
