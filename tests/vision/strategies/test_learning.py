"""Best of several, ranking and prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vision.refine import Verdict
from vision.strategies.best import best_of_n, distil, found_by, sharpened
from vision.strategies.prompts import prompt_scores, search_prompts
from vision.strategies.ranking import Row, Weights, rank
from vision.strategies.values import Candidate, Choice

# Best of several


@pytest.mark.parametrize("n", [1, 2, 8])
def test_best_of_n_finds_the_likeliest_as_often_as_it_must(n):
    chances, tries = np.array([0.15, 0.5, 0.35]), 2000
    draws = np.random.default_rng(0).choice(3, size=(tries, n), p=chances)
    order = [1.0, 0.2, 0.1]  # a score by which the rarest answer is the best
    kept = [
        best_of_n(lambda seed, row=row: Candidate("q", row[seed], "x"), lambda c: Verdict(order[c.value]), range(n))
        for row in draws.tolist()
    ]
    share, expected = np.mean([choice.kept.value == 0 for choice in kept]), found_by(0.15, n)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / tries)
    with pytest.raises(ValueError, match="nothing to choose from"):
        best_of_n(lambda seed: None, lambda c: Verdict(0.0), [])


def test_the_sharpened_optimum_maximises_the_regularised_reward():
    """E[log p] - beta KL(q, p) has no better q nearby."""
    p, beta = np.array([0.2, 0.5, 0.3]), 0.7

    def value(q):
        return (q * np.log(p)).sum() - beta * (q * np.log(q / p)).sum()

    q = np.array(sharpened(p.tolist(), beta))
    assert q.sum() == pytest.approx(1) and q.argmax() == 1 and q[1] > p[1]
    draws = np.random.default_rng(0)
    for _ in range(50):
        other = np.clip(q + draws.normal(0, 0.02, 3), 1e-6, None)
        assert value(other / other.sum()) <= value(q) + 1e-12
    assert sharpened([0.0, 1.0], 1.0) == [0.0, 1.0]
    with pytest.raises(ValueError, match="beta > 0"):
        sharpened([0.5, 0.5], 0.0)


def test_distillation_raises_the_mass_of_the_best_and_learns_nothing_from_equals():
    chances, draws = np.array([0.1, 0.6, 0.3]), np.random.default_rng(0)
    choices = []
    for row in draws.choice(3, size=(500, 6), p=chances).tolist():
        found = [Candidate("q", value, "x") for value in row]
        verdicts = tuple(Verdict(float(np.log(chances[value]))) for value in row)
        choices.append(Choice("q", tuple(found), verdicts, int(np.argmax([v.score for v in verdicts]))))
    learnt = [candidate.value for candidate in distil(choices)]
    assert np.mean(np.equal(learnt, 1)) > 0.95 > chances[1]
    same = Choice("q", (Candidate("q", 1, "x"),) * 3, (Verdict(0.5),) * 3, 0)
    assert distil([same]) == []


# Ranking

ROWS = [Row("small", 0.4, 0.5, 0.5, 1.0), Row("large", 0.8, 0.9, 0.7, 8.0), Row("wasteful", 0.4, 0.5, 0.5, 9.0)]


def names(g, rows=ROWS):
    return [name for name, _ in rank(rows, g=g).scores]


def test_places_flip_at_the_computed_cost_sensitivity_and_nowhere_else():
    flips = rank(ROWS).flips
    assert [(flip.cheaper, flip.dearer) for flip in flips] == [("small", "large")]
    g = flips[0].g
    assert names(g - 1e-6)[0] == "large" and names(g + 1e-6)[0] == "small"
    assert names(0.0) == ["large", "small", "wasteful"] and names(50.0) == ["small", "large", "wasteful"]


def test_scores_are_monotone_and_free_of_units():
    base = dict(rank(ROWS).scores)
    scaled = [Row(r.name, r.baseline, r.refined, r.external, r.cost * 3600) for r in ROWS]
    assert dict(rank(scaled).scores) == pytest.approx(base)
    dearer = [ROWS[0], Row("large", 0.8, 0.9, 0.7, 9.0), ROWS[2]]
    better = [ROWS[0], Row("large", 0.8, 0.95, 0.7, 8.0), ROWS[2]]
    assert dict(rank(dearer).scores)["large"] < base["large"] < dict(rank(better).scores)["large"]
    assert dict(rank(ROWS, g=0.0).scores)["small"] == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    spoils = Row("spoils", 0.8, 0.5, 0.0, 1.0)  # refinement that harms counts against
    assert Weights().of(spoils) == pytest.approx(0.25)


def test_ranking_refuses_what_means_nothing():
    for wrong in (
        lambda: rank([Row("free", 0.5, 0.5, 0.5, 0.0)]),
        lambda: rank(ROWS, g=-1.0),
        lambda: Weights(0.7, 0.7),
    ):
        with pytest.raises(ValueError):
            wrong()


# Prompts


def test_rare_successes_weigh_more_and_unsolved_tasks_nothing():
    scores = prompt_scores([[True, True, False], [True, False, False], [True, False, False]])
    assert scores == [4 / 3 + 4, 4 / 3, 4 / 3]
    assert prompt_scores([[False], [False]]) == [0.0, 0.0]
    with pytest.raises(ValueError, match="inverse_success"):
        prompt_scores([[True]], "other")


def solves(prompt):
    """Task i is solved by prompts with more than i times the word "step"."""
    return [prompt.count("step") > i for i in range(4)]


def test_a_search_climbs_and_stops_when_the_best_stay_the_same():
    rounds = []

    def mutate(prompt, number):
        rounds.append(number)
        return [prompt + " step", prompt + " please", prompt.replace("step", "", 1)]

    found = search_prompts(["solve it"], mutate, solves, rounds=20)
    assert found.passed[0] == (True,) * 4 and "solve it step step step step" in found.prompts and found.unchanged == 2
    assert len(rounds) == 6  # four that climb, two that change nothing


def test_a_search_is_never_worse_than_its_seeds():
    """Mutants solve one rare task and lose three; by the weights alone they would win."""
    table = {"seed": [True, True, True, False], "mutant": [False, False, False, True]}
    asked = []

    def evaluate(prompt):
        asked.append(prompt)
        return table[prompt]

    found = search_prompts(["seed"], lambda prompt, number: ["mutant", "seed"], evaluate, rounds=5)
    assert found.prompts == ("seed",) and asked == ["seed", "mutant"]  # and nothing is asked twice
    with pytest.raises(ValueError, match="at least one prompt"):
        search_prompts([], lambda prompt, number: [], solves)
