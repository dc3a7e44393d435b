"""Rows out of what models did: splices, hard negatives, critics, prefix labels, own answers, masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reward_vlm.writers.critics import critic_rows
from reward_vlm.writers.evolve import self_evolve
from reward_vlm.writers.masks import PastMask
from reward_vlm.writers.negatives import mine_hard_negatives
from reward_vlm.writers.prefixes import Continuation, balanced, label_prefixes
from reward_vlm.writers.splices import GO_ON, Attempt, leaves, splice, until_bad, whole, worth_splicing
from vision.refine import Verdict
from vision.strategies.repair import from_first_bad, refine_and_rerank
from vision.strategies.values import Candidate, Choice

# Splices


def attempt(name, value=0.0, *children):
    return Attempt(name, name.upper(), value, 1, children)


TREE = attempt("task", 0.0, attempt("a", 0.0, attempt("b", 0.1), attempt("c", 0.9)), attempt("d", 0.5))
BAD, GOOD, OTHER = leaves(TREE)


def judge(*names):
    return lambda path: "bad" if path[-1].action in names else "good"


def said(messages):
    return [(message.text, message.trained) for message in messages]


def test_a_splice_turns_back_where_it_is_seen_to_be_bad():
    found = splice(BAD, GOOD, judge("b"), "back")
    assert said(found) == [
        ("task", False), ("a", False), ("A", False), ("b", False), ("B", False),
        ("back", True), (GO_ON, False), ("c", True), ("C", False),
    ]  # fmt: skip
    assert [message.role for message in found[:3]] == ["user", "assistant", "user"]


def test_a_bad_action_that_both_share_is_kept_and_the_good_path_goes_on_behind_it():
    assert said(splice(BAD, GOOD, judge("a"), "back")) == [
        ("task", False), ("a", False), ("A", False), ("back", True), (GO_ON, False), ("c", True), ("C", False),
    ]  # fmt: skip


def test_a_better_judge_cuts_no_later():
    """Judges that see more and more of the faults of one path."""
    path = tuple(attempt(str(i)) for i in range(8))
    faults = ["6", "3", "5", "1"]
    cuts = [len(until_bad(path, judge(*faults[:n]))) for n in range(5)]
    assert cuts == [8, 7, 4, 4, 2] == sorted(cuts, reverse=True)


def test_no_pair_lies_below_the_thresholds():
    pairs = worth_splicing(TREE, alpha=0.4, beta=0.3)
    assert [(good[-1].action, bad[-1].action) for good, bad in pairs] == [("c", "b"), ("c", "d"), ("d", "b")]
    assert worth_splicing(TREE, alpha=0.6, beta=0.3) == pairs[:2] and worth_splicing(TREE, 0.0, 0.9) == []


def test_runs_that_did_not_end_and_nodes_without_visits_are_no_success():
    open_end = Attempt("task", children=(Attempt("a", value=0.9, ended=False), Attempt("b", value=0.5, visits=0)))
    assert [path[-1].action for path in leaves(open_end)] == ["b"]
    pair = Attempt("task", children=(Attempt("a", value=0.9, visits=0), Attempt("b", value=0.2)))
    assert [(good[-1].action, bad[-1].action) for good, bad in worth_splicing(pair, 0.0, 0.1)] == [("b", "a")]


def test_a_good_attempt_is_learnt_whole_and_strange_pairs_are_told():
    assert [message.text for message in whole(GOOD) if message.trained] == ["a", "c"]
    with pytest.raises(ValueError, match="different roots"):
        splice(BAD, leaves(attempt("other")).__next__(), judge())
    with pytest.raises(ValueError, match="nothing to turn back to"):
        splice(GOOD, GOOD[:2], judge())


# Hard negatives


def fooled(count=50):
    """Results of tasks; a scorer that likes the planted feature "shiny" whatever the truth."""
    draws, choices = np.random.default_rng(0), []
    for task in range(count):
        rows = [(float(draws.random() < 0.5), bool(draws.random() < 0.3)) for _ in range(4)]
        made = tuple(Candidate(str(task), row, str(i)) for i, row in enumerate(rows))
        choices.append(Choice(str(task), made, (Verdict(0.0),) * 4, 0))
    return choices


def test_what_fools_the_scorer_is_mined_and_nothing_else():
    choices = fooled()
    pairs = mine_hard_negatives(choices, lambda c: c.value[0] + 2 * c.value[1], lambda c: c.value[0])
    expected = set()
    for choice in choices:
        best = next((c for c in choice.candidates if c.value[0]), None)
        if best is not None:
            limit = 1 + 2 * best.value[1]
            expected |= {(c.task, c.origin) for c in choice.candidates if not c.value[0] and 2 * c.value[1] >= limit}
    assert {(pair.rejected.task, pair.rejected.origin) for pair in pairs} == expected and expected
    assert all(pair.chosen.value[0] > pair.rejected.value[0] for pair in pairs)
    assert mine_hard_negatives(choices, lambda c: c.value[0], lambda c: c.value[0]) == []  # nothing fools the truth


def test_a_margin_mines_what_is_nearly_wrong_and_small_differences_are_left_out():
    made = tuple(Candidate("t", value, str(value)) for value in (1.0, 0.9, 0.2))
    choice = Choice("t", made, (Verdict(0.0),) * 3, 0)
    mined = mine_hard_negatives([choice], lambda c: c.value, lambda c: c.value, margin=0.5)
    assert [pair.rejected.value for pair in mined] == [0.9]
    assert mine_hard_negatives([choice], lambda c: c.value, lambda c: c.value, margin=0.5, least=0.2) == []


def test_retraining_on_mined_pairs_mends_a_small_scorer():
    """A linear scorer of (truth, shiny) that was taught to like what shines."""
    choices = fooled(200)
    weights = torch.tensor([1.0, 2.0], requires_grad=True)

    def score(candidate):
        true, shiny = weights.tolist()
        return true * candidate.value[0] + shiny * candidate.value[1]

    before = mine_hard_negatives(choices, score, lambda c: c.value[0])
    rows = torch.tensor([[p.chosen.value[0], float(p.chosen.value[1]), p.rejected.value[0], float(p.rejected.value[1])]
                         for p in before])  # fmt: skip
    optimizer = torch.optim.SGD([weights], lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        (-torch.nn.functional.logsigmoid(rows[:, :2] @ weights - rows[:, 2:] @ weights).mean()).backward()
        optimizer.step()
    assert len(mine_hard_negatives(choices, score, lambda c: c.value[0])) < 0.1 * len(before)


# Critics


def test_critics_are_labelled_by_the_improvement_they_cause():
    rows = critic_rows([0.2, 0.5, 0.5], [0.6, 0.5, 0.1], ["good", "idle", "harmful"])
    assert [row.label for row in rows] == [True, False, False]
    assert [row.weight for row in rows] == pytest.approx([math.exp(-0.4), 1.0, math.exp(0.4)])
    with pytest.raises(ValueError):
        critic_rows([0.2], [0.6, 0.1], ["a"])


# Prefixes


def tries(*marks):
    return [[Continuation(bool(mark)) for mark in row] for row in marks]


def test_a_step_is_good_while_somebody_can_still_finish_and_so_are_those_before_it():
    assert label_prefixes(tries((0, 1), (0, 0), (1, 0), (0, 0))) == [True, True, True, False]
    assert label_prefixes(tries((0, 0), (0, 0))) == [False, False] and label_prefixes([]) == []


def test_a_continuation_that_starts_anew_does_not_count():
    given = [[Continuation(True, "12 and 7 make 19")], [Continuation(True, "it is 19")]]
    assert label_prefixes(given, [["12"], ["7"]]) == [True, False]
    assert label_prefixes(given) == [True, True]
    with pytest.raises(ValueError, match="2 steps need as many"):
        label_prefixes(given, [["12"]])


def test_answers_are_gone_on_with_from_their_last_good_step_and_reranked():
    """A writer that adds up numbers and slips in one step of four; a chain is its running sums."""
    rng = np.random.default_rng(0)

    def go_on(numbers, begun):
        chain = list(begun)
        for number in numbers[len(begun) :]:
            chain.append((chain[-1] if chain else 0) + number + int(rng.random() < 0.25))
        return chain

    def is_right(chain, numbers):
        return chain[-1] == sum(numbers)

    def step_scores(numbers, chain):
        ways = [[go_on(numbers, chain[: step + 1]) for _ in range(8)] for step in range(len(chain))]
        continuations = [[Continuation(is_right(way, numbers)) for way in row] for row in ways]
        return [float(good) for good in label_prefixes(continuations)]

    kept = {"draft": 0, "local": 0, "whole": 0, "judged": 0, "any": 0}
    for task in range(200):
        numbers = rng.integers(1, 10, 5).tolist()
        draft = Candidate(str(task), go_on(numbers, []), "draft")
        local = from_first_bad(
            lambda d, numbers=numbers: step_scores(numbers, d.value),
            lambda d, place, numbers=numbers: Candidate(d.task, go_on(numbers, d.value[:place]), "local"),
        )
        whole = Candidate(str(task), go_on(numbers, []), "whole")
        noise = iter(rng.random(3) < 0.1)

        def judged(candidate, numbers=numbers, noise=noise):
            return Verdict(float(is_right(candidate.value, numbers) != next(noise)))

        choice = refine_and_rerank(draft, [local, lambda _, whole=whole: whole], judged)
        assert choice.verdicts[choice.chosen].score >= choice.verdicts[0].score
        right = {one.origin: is_right(one.value, numbers) for one in choice.candidates}
        for name in ("draft", "local", "whole"):
            kept[name] += right.get(name, right["draft"])
        kept["judged"] += is_right(choice.kept.value, numbers)
        kept["any"] += any(right.values())
    assert kept["draft"] < kept["local"] and kept["whole"] < kept["local"]  # good steps are not drawn again
    assert kept["local"] < kept["judged"] <= kept["any"]


def test_labels_are_balanced_for_each_number_of_steps():
    draws = np.random.default_rng(0)
    labels = [(draws.random(draws.integers(1, 6)) < 0.7).tolist() for _ in range(100)]
    kept = balanced(labels, seed=3)
    assert kept == balanced(labels, seed=3) and len(set(kept)) == len(kept)
    for step in range(5):
        marks = [labels[place][at] for place, at in kept if at == step]
        have = [row[step] for row in labels if len(row) > step]
        assert sum(marks) == len(marks) - sum(marks) == min(sum(have), len(have) - sum(have))


# Own answers


def evolved(accuracy, rounds=3, seed=0):
    """Prompts are numbers and right answers their doubles; the critic is right with a known share."""
    draws, skill, learnt = np.random.default_rng(seed), [0.3], []

    def ask(prompts):
        return [2 * p if draws.random() < skill[0] else -1 for p in prompts]

    def keep(own):
        return (own.refined == 2 * own.prompt) == (draws.random() < accuracy)

    def train(rows, number):
        learnt.append(rows)
        skill[0] = min(1.0, skill[0] + 0.2)

    end = self_evolve(range(1, 201), ask, lambda p, a: ["?"] * len(a), lambda p, a, f: ask(p), keep, train, rounds)
    return end, learnt


def test_what_was_dropped_is_never_learnt_and_a_run_repeats():
    end, learnt = evolved(0.8)
    assert [len(rows) for rows in learnt] == sorted(len(rows) for rows in learnt) and learnt[-1] == end.kept
    assert not set(end.kept) & set(end.dropped) and len(end.kept) + len(end.dropped) == 600
    assert evolved(0.8) == (end, learnt)


@pytest.mark.parametrize("accuracy", [0.6, 0.8, 1.0])
def test_the_precision_of_what_is_kept_is_that_of_the_critic(accuracy):
    end, _ = evolved(accuracy)
    by_round = [[own for own in end.kept if own.round == number] for number in range(3)]
    for rows, skill in zip(by_round, (0.3, 0.5, 0.7), strict=True):
        precision = np.mean([own.refined == 2 * own.prompt for own in rows])
        expected = skill * accuracy / (skill * accuracy + (1 - skill) * (1 - accuracy))
        assert abs(precision - expected) < 0.12


# Masks


def test_the_share_of_the_draft_is_masked_and_nothing_outside():
    tokens = torch.arange(10, 8010).view(40, 200)
    draft = torch.zeros_like(tokens).bool()
    draft[:, 50:150] = True
    masked = PastMask(0.05, seed=1)(tokens, draft, mask_token=0)
    assert torch.equal(masked[~draft], tokens[~draft])
    share = (masked[draft] == 0).float().mean().item()
    assert 0.04 < share < 0.06 and set(masked[draft][masked[draft] != tokens[draft]].tolist()) == {0}


def test_a_rows_mask_does_not_depend_on_its_batch():
    tokens, draft = torch.arange(1, 401).view(4, 100), torch.ones(4, 100).bool()
    rule = PastMask(0.2, seed=1)
    whole_batch = rule(tokens, draft, 0)
    assert torch.equal(whole_batch[2:], rule(tokens[2:], draft[2:], 0, first=2))
    assert not torch.equal(whole_batch == 0, PastMask(0.2, seed=2)(tokens, draft, 0) == 0)
    assert torch.equal(PastMask(0.0)(tokens, draft, 0), tokens) and (PastMask(1.0)(tokens, draft, 0) == 0).all()
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        PastMask(1.5)
