"""Routing, repair, progress, look-ahead and interleaving: their limits and exact values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vision.refine import Verdict, refine_steps
from vision.strategies.interleave import expected_gain, gains_little, interleave, says_yes
from vision.strategies.lookahead import find_first_error, step_score, td_lookahead
from vision.strategies.progress import BestOfKProver, effective, progress, stalled
from vision.strategies.repair import first_bad, from_first_bad, refine_and_rerank
from vision.strategies.routing import route
from vision.strategies.values import Candidate, best
from vision.strategies.voting import Evidence, Solution, confidence, majority, weighted_vote

# Routing


def candidates(rows, origin="cheap"):
    """Rows of (answer, outcome, steps)."""
    return [Candidate("t", row, origin) for row in rows]


def evaluate(candidate):
    answer, outcome, steps = candidate.value
    return Verdict(outcome, Evidence(answer, steps))


SURE = [("A", 0.9, (0.9, 0.9))] * 4
UNSURE = [(letter, 0.3, (0.4,)) for letter in "ABCD"]
GOOD = [("D", 0.9, (0.95,))] * 4
BAD = [("X", 0.0, (0.0,))] * 4


def routed(tables, refined, **options):
    asked = []

    def expensive(task, solutions):
        asked.append(task)
        return candidates(refined, "refined")

    end = route(range(len(tables)), lambda task: candidates(tables[task]), expensive, evaluate, **options)
    return end, asked


def test_only_the_unsure_and_poor_are_refined_and_they_gain():
    end, asked = routed([SURE, UNSURE, SURE], GOOD)
    assert asked == [1] and end.hard == (False, True, False)
    assert [vote.answer for vote in end.votes] == ["A", "D", "A"]
    choices = end.choices()
    assert choices[1].kept.origin == "refined" and choices[0].kept.origin == "cheap"
    assert choices[1].why.startswith("refined") and choices[0].why.startswith("cheap")


def test_a_refiner_that_only_spoils_changes_nothing():
    plain, _ = routed([SURE, UNSURE], BAD, rounds=0)
    end, asked = routed([SURE, UNSURE], BAD, rounds=3)
    assert asked == [1, 1, 1] and end.votes == plain.votes


def test_an_improved_set_is_kept_where_the_release_forgets_it():
    """After a good round a task is easy; the published code then goes back to the first set, and refines it once
    more."""
    end, asked = routed([SURE, UNSURE], GOOD, rounds=3)
    assert asked == [1] and end.current[1] == end.voted[1] and end.votes[1].answer == "D"
    forgetful, again = routed([SURE, UNSURE], GOOD, rounds=3, published=True)
    assert again == [1, 1] and forgetful.hard == (False, True)


def test_confidence_is_half_at_three_equal_answers():
    assert confidence([5.0]) == 1 and confidence([0.0, 0.0]) == 1
    assert confidence([2.0] * 3) == pytest.approx(0.5) and confidence([1.0] * 4) < 0.5 < confidence([1.0] * 2)
    assert confidence([1, 2, 3]) == pytest.approx(confidence([10, 20, 30]))


def test_votes_leave_out_what_cannot_be_read():
    solutions = [Solution(c, evaluate(c)) for c in candidates([(None, 9.0, (0.0,)), ("A", 0.5, (0.5,))])]
    assert weighted_vote(solutions).answer == "A" and weighted_vote(solutions).weight == 1.0
    assert weighted_vote(solutions[:1]).answer is None and majority(solutions) is None


def test_a_task_without_solutions_is_told():
    with pytest.raises(ValueError, match="at least one cheap solution"):
        routed([SURE, []], GOOD)


# Repair

DRAFT = Candidate("t", 0.4, "draft")


def scored(candidate):
    return Verdict(candidate.value)


@pytest.mark.parametrize(
    ("made", "kept"), [((0.3, 0.2), "draft"), ((0.5, 0.2), "whole"), ((0.5, 0.6), "local"), ((0.4, 0.4), "draft")]
)
def test_the_best_of_draft_and_refinements_is_kept_and_the_draft_at_equality(made, kept):
    refiners = [lambda d, v=v, n=n: Candidate("t", v, n) for v, n in zip(made, ("whole", "local"), strict=True)]
    choice = refine_and_rerank(DRAFT, refiners, scored)
    assert choice.kept.origin == kept and choice.kept.value >= DRAFT.value


def test_an_oracle_reaches_the_union_and_a_random_score_does_not():
    draws = np.random.default_rng(0).random((200, 3)) < 0.4
    noise = np.random.default_rng(1).random((200, 3))

    def accuracy(score):
        right = 0
        for row in range(200):
            made = [Candidate(str(row), place, "x") for place in range(3)]
            refiners = [lambda d, c=c: c for c in made[1:]]
            right += draws[row, refine_and_rerank(made[0], refiners, score).kept.value]
        return right

    assert accuracy(lambda c: Verdict(float(draws[int(c.task), c.value]))) == draws.any(1).sum()
    assert accuracy(lambda c: Verdict(noise[int(c.task), c.value])) < 0.7 * draws.any(1).sum()


def test_a_good_draft_is_left_alone_and_a_good_chain_has_nothing_to_repair():
    assert (
        refine_and_rerank(DRAFT, [lambda d: pytest.fail("asked")], scored, threshold=0.4).why
        == "the draft is good as it is"
    )
    local = from_first_bad(lambda d: [0.9, 0.8], lambda d, place: pytest.fail("asked"))
    assert refine_and_rerank(DRAFT, [local], scored).candidates == (DRAFT,)


def test_a_repair_goes_on_from_the_first_bad_step():
    assert [first_bad(s) for s in ([], [0.5], [0.9, 0.4, 0.1], [math.nan, 0.2])] == [None, None, 1, 1]
    local = from_first_bad(lambda d: [0.9, 0.2, 0.9], lambda d, place: replace(d, value=0.5, origin=f"from {place}"))
    assert refine_and_rerank(DRAFT, [local], scored).kept.origin == "from 1"


# Progress


def test_progress_telescopes_on_every_path_of_a_tree():
    """Chances of success of a tree, each the mean of its children's, as a uniform policy has them."""
    draws = np.random.default_rng(0)

    def grow(depth):
        children = [grow(depth - 1) for _ in range(3)] if depth else []
        return (np.mean([c[0] for c in children]) if children else float(draws.random() < 0.5), children)

    def paths(node):
        return [[node[0], *rest] for child in node[1] for rest in paths(child)] or [[node[0]]]

    tree = grow(3)
    for path in paths(tree):
        assert sum(progress(path)) == pytest.approx(path[-1] - path[0])
    gains = [progress(path)[0] for path in paths(tree)]
    assert np.mean(gains) == pytest.approx(0, abs=1e-12)  # under the policy itself progress is 0 in expectation


def test_provers_have_their_limits():
    assert [BestOfKProver(1)(q) for q in (0.0, 0.3, 1.0)] == pytest.approx([0.0, 0.3, 1.0])
    assert BestOfKProver(4)(0.5) == 1 - 0.5**4
    assert progress([BestOfKProver(10_000)(q) for q in (0.2, 0.5, 0.9)]) == pytest.approx([0, 0])  # too strong: no news
    assert effective([0.2, 0.2, 0.6], BestOfKProver(1), alpha=2.0) == pytest.approx([0.2, 1.4])  # a rephrasing adds 0
    for wrong in (lambda: BestOfKProver(0), lambda: BestOfKProver(2)(1.5), lambda: progress([])):
        with pytest.raises(ValueError):
            wrong()


def run(values, rule, resume=None):
    """A run whose state is its place in the values; they are scores."""
    judge = lambda state, at: Verdict(values[state])  # noqa: E731
    schedule = range(len(values) - 1)
    return list(
        refine_steps(0, lambda s, at: s + 1, schedule, evaluate=judge, stop=rule, resume=resume, evaluate_start=True)
    )


def test_a_run_stops_when_its_progress_ends():
    values = [0.0, 0.5, 0.8, 0.805, 0.806, 0.9]
    whole = run(values, None)
    assert [step.gain for step in whole[1:]] == progress(values) and whole[0].gain is None
    assert [step.index for step in run(values, stalled(0.01))] == [-1, 0, 1, 2]
    assert len(run(values, stalled(0.0))) == 6
    assert len(run([0.0, 0.5, 0.4, 0.9], stalled(0.0))) == 3  # a step back is no progress
    with pytest.raises(ValueError, match="at least 0, got -1"):
        stalled(-1)


def test_a_stalled_run_that_is_resumed_stops_where_the_whole_one_does():
    values, rule = [0.0, 0.5, 0.8, 0.805, 0.806, 0.9], stalled(0.01)
    whole = run(values, rule)
    assert [step.index for step in run(values, rule, resume=whole[2])] == [2]
    assert run(values, rule, resume=whole[-1]) == []


def test_items_of_a_batch_stall_each_for_itself():
    scores = torch.tensor([[0.1, 0.1], [0.5, 0.2], [0.5, 0.6], [0.9, 0.6], [0.9, 0.9]])
    judge = lambda state, at: Verdict(scores[int(state.max()), : len(state)])  # noqa: E731
    state, schedule = torch.zeros(2, 1), range(4)
    steps = list(refine_steps(state, lambda s, at: s + 1, schedule, evaluate=judge, stop=stalled(0.05)))
    assert steps[0].gain.isnan().all() and len(steps) == 3
    assert [step.active.tolist() for step in steps] == [[True, True], [False, True], [False, False]]


# Look-ahead


def test_the_look_ahead_has_its_limits():
    assert td_lookahead([0.3]) == 0.3 and td_lookahead([0.3, 9.0, 10.0], alpha=0.0) == 0.3
    assert td_lookahead([0.0, 1.0, 2.0, 3.0], alpha=1.0) == 3.0
    assert td_lookahead([0.0, 1.0, 0.5, 9.0], alpha=1.0) == 0.5  # it ends after the step that does not gain
    assert step_score(0.0) == 0.5 and step_score(-800.0) == 0.0 and step_score(800.0) == 1.0


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 33, 100])
def test_a_planted_error_is_found_with_few_looks(length):
    for planted in range(length):
        found = find_first_error(lambda n, planted=planted: float(n <= planted) * 0.5, length)
        assert (
            found.step == planted and len(found.looked_at) <= math.ceil(math.log2(length)) + 1 if length > 1 else True
        )


def test_a_prefix_that_always_succeeds_ends_the_search():
    assert find_first_error(lambda n: 1.0, 8).step is None
    with pytest.raises(ValueError, match="at least 1 step"):
        find_first_error(lambda n: 0.0, 0)


# Interleaving


def answers(*marks):
    """A proposer that says the marks in order; its verifier sees them as they are, or as `verify` says."""
    return lambda history, turn: Candidate("q", marks[turn], "policy")


@pytest.mark.parametrize(
    ("marks", "sees", "turns", "answer", "verified"),
    [
        ((True,), lambda right: right, 1, True, True),  # right, and seen so
        ((True, True, True), lambda right: False, 3, True, False),  # right, but never believed
        ((False, False, True), lambda right: right, 3, True, True),  # wrong, and mended
        ((False, True, True), lambda right: True, 1, False, True),  # wrong, and believed
    ],
)
def test_turns_stop_and_answer_of_all_four_cases(marks, sees, turns, answer, verified):
    choice = interleave(answers(*marks), lambda c: Verdict(float(sees(c.value))), len(marks))
    assert len(choice.candidates) == turns and choice.kept.value is answer
    assert choice.why.startswith("verified" if verified else "not verified")


def test_a_verifier_that_always_says_yes_gives_the_single_turn():
    draws = np.random.default_rng(0).random((100, 4)) < 0.3
    kept = [interleave(answers(*row.tolist()), lambda c: Verdict(1.0), 4).kept.value for row in draws]
    assert kept == draws[:, 0].tolist()


def test_the_proposer_sees_what_was_said():
    seen = []

    def propose(history, turn):
        seen.append([(c.value, v.score) for c, v in history])
        return Candidate("q", turn, "policy")

    interleave(propose, lambda c: Verdict(0.0), 3)
    assert seen == [[], [(0, 0.0)], [(0, 0.0), (1, 0.0)]]


def test_until_sure_ends_when_one_more_is_expected_to_add_little():
    def ended(scores, least):
        propose = lambda history, turn: Candidate("q", scores[turn], "x")  # noqa: E731
        choice = interleave(
            propose, lambda c: Verdict(c.value), len(scores), enough=gains_little(least), otherwise=best
        )
        return choice.chosen, len(choice.candidates)

    assert ended([0.5, 0.5, 9.0], 0.01) == (0, 2)  # candidates that do not differ
    assert ended([0.50, 0.51, 9.0], 0.01) == (1, 2) and ended([0.0, 1.0, 0.2, 0.9], 0.01) == (1, 4)
    assert ended([0.0, 1.0, 0.1, 0.2, 0.0, 0.1], 0.1) == (1, 3)  # one leads far
    with pytest.raises(ValueError, match="2 or more"):
        gains_little(0.1, 1)
    with pytest.raises(ValueError, match="above 0"):
        gains_little(0)


def test_the_gain_that_is_expected_is_the_mean_gain_of_draws():
    scores = [0.1, 0.4, 0.9, 0.3]
    spread = torch.tensor(scores, dtype=torch.float64).std() * 1.25**0.5
    draws = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gains = (0.425 + spread * draws - 0.9).clamp(min=0)
    assert expected_gain(scores) == pytest.approx(float(gains.mean()), rel=0.03)


def test_turns_need_at_least_one_and_a_missing_score_satisfies_nobody():
    with pytest.raises(ValueError, match="at least 1 turn"):
        interleave(lambda history, turn: None, evaluate, 0)
    assert says_yes(0.5)([Verdict(None)]) is None
