"""Verifying own samples, and whether a verifier is worth asking."""

from __future__ import annotations

import numpy as np
import pytest

from reward_vlm.verifier import process_f1, self_verify, verifier_report


def test_among_what_is_judged_right_the_majority_decides_and_else_among_all():
    samples = ["a", "a", "a", "b", "b"]
    assert self_verify(samples, lambda s: s == "b").answer == "b"
    none = self_verify(samples, lambda s: False)
    assert none.answer == "a" and none.fell_back
    assert self_verify(samples, lambda s: True).answer == "a"
    with pytest.raises(ValueError, match="no samples"):
        self_verify([], lambda s: True)


def test_a_report_has_exact_rates_and_tells_difficulties_apart():
    said = [True, True, True, False, False, True]
    truth = [True, True, False, True, False, False]
    report = verifier_report(said, truth, [0, 0, 0, 1, 1, 1])
    assert (report.all.precision, report.all.recall, report.all.specificity) == (2 / 4, 2 / 3, 1 / 3)
    assert dict(report.by_difficulty)[0].precision == 2 / 3 and dict(report.by_difficulty)[1].precision == 0
    assert dict(report.by_difficulty)[0].count == 3


def test_a_verifier_that_always_says_yes_or_is_at_chance_is_flagged_and_a_good_one_is_not():
    draws = np.random.default_rng(0)
    truth = (draws.random(400) < 0.7).tolist()
    assert "always says right" in verifier_report([True] * 400, truth).warning
    assert "always says wrong" in verifier_report([False] * 400, truth).warning
    assert "at chance" in verifier_report((draws.random(400) < 0.7).tolist(), truth).warning
    good = [t if draws.random() < 0.8 else not t for t in truth]
    assert verifier_report(good, truth).warning is None
    assert verifier_report([True, False], [True, True]).all.specificity is None


def test_the_f1_of_first_errors_is_a_harmonic_mean():
    assert process_f1([2, 1, None, None], [2, 3, None, 0]) == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert process_f1([None, None], [None, 1]) == 0.0 and process_f1([], []) == 0.0
