"""What reinforcement keeps of its rollouts, what it learns next, when it begins anew, what parts of a reply earn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reward_vlm.rl.curriculum import AdaptiveCurriculum, difficulty_shift, guided
from reward_vlm.rl.duel import duel_loss
from reward_vlm.rl.objective import group_advantages, token_returns
from reward_vlm.rl.reference import ReferenceReset
from reward_vlm.rl.selectors import downsample, error_penalty, format_penalty, mixed_groups
from reward_vlm.rl.spans import message_rewards, progress_reward, span_advantages
from reward_vlm.rl.steps import sentence_ends, step_rewards
from vision.strategies.progress import BestOfKProver

# Down-sampling


def draw(seed, total, share=0.5):
    draws = np.random.default_rng(seed)
    return (draws.random(total) < share).astype(float).tolist(), draws.random(total).round(1).tolist()


@pytest.mark.parametrize("total", [2, 3, 7, 10, 16, 33])
@pytest.mark.parametrize("minima", [(-1, -1), (0, 0), (1, 1), (2, 0)])
def test_every_group_gives_exactly_what_is_kept_odd_ones_too(total, minima):
    for seed in range(40):
        rewards, penalties = draw(seed, total, [0.1, 0.5, 0.9][seed % 3])
        for keep in range(max(1, sum(max(m, 0) for m in minima)), total + 1):
            kept = downsample(rewards, penalties, keep, *minima)
            assert len(kept) == keep and kept == sorted(set(kept))
            right = sum(rewards[place] for place in kept)
            assert right >= min(minima[0], sum(rewards)) and keep - right >= min(minima[1], total - sum(rewards))


def test_the_remainder_of_two_half_shares_goes_to_the_right_ones():
    """5 and 5 of 10 for 5: both shares are 2.5, which Python rounds to 2; the published code stops here."""
    kept = downsample([1.0] * 5 + [0.0] * 5, [0.0] * 10, 5)
    assert kept == [0, 1, 2, 5, 6]


def test_right_ones_are_chosen_by_form_and_wrong_ones_are_not():
    rewards = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    penalties = [0.9, 0.1, 0.9, 0.0, 0.1, 0.0, 0.5, 0.0]
    assert downsample(rewards, penalties, 4) == [1, 2, 3, 4]


def test_classes_are_kept_in_their_shares_and_faults_of_the_right_fall():
    for seed in range(20):
        rewards, penalties = draw(seed, 32, 0.4)
        kept = downsample(rewards, penalties, 16)
        assert abs(np.mean([rewards[i] for i in kept]) - np.mean(rewards)) <= 1 / 16
        right = [i for i, reward in enumerate(rewards) if reward]
        assert np.mean([penalties[i] for i in kept if rewards[i]]) <= np.mean([penalties[i] for i in right])


def test_too_few_rollouts_are_dropped_and_wrong_numbers_told():
    assert downsample([1.0, 0.0], [0.0, 0.0], 3) == [] and downsample([1.0, 0.0], [0.0, 0.0], 2) == [0, 1]
    assert mixed_groups("aabb", [1.0, 0.0, 1.0, 1.0]) == [0, 1]
    for wrong in ({"keep": 0}, {"keep": 3, "min_positive": 2, "min_negative": 2}):
        with pytest.raises(ValueError, match="no fewer than its minima"):
            downsample([1.0] * 4, [0.0] * 4, **wrong)
    with pytest.raises(ValueError, match="Every rollout has a penalty"):
        downsample([1.0] * 4, [0.0], 2)


def test_penalties_of_errors_and_of_form():
    turn = "<|im_start|>assistant\n"
    assert [error_penalty(text) for text in ("no tool", "<tool_response>ok\nERROR</tool_response>")] == [0.5, 1.0]
    assert error_penalty("<tool_response>a</tool_response><tool_response>an error</tool_response>") == 0.5
    assert format_penalty(turn + "<answer>1</answer>") == 0.0
    assert format_penalty(turn + "<answer>1") == format_penalty("<answer>1</answer>") == format_penalty(turn) == 1.0
    assert format_penalty((turn + "<answer>1</answer>") * 2) == 0.5


# Curriculum


class Growing:
    """A policy that solves row d with a chance that falls with d and rises with its skill, but for row 0, which it
    unlearns; it counts what it was asked."""

    def __init__(self):
        self.skill, self.asked = 0, []

    def __call__(self, rows):
        self.asked.append(list(rows))
        return [max(0.0, 1 - self.skill) if row == 0 else 1 / (1 + row) + self.skill * (row % 3) for row in rows]


def test_only_the_next_batch_is_measured_again_and_sorted_by_the_policy_as_it_is():
    policy = Growing()
    curriculum = AdaptiveCurriculum(tuple(policy(range(10))), 3)
    batches, shifts = [], []
    for number in range(3):
        batch, shift = curriculum.batch(number, policy)
        batches.append(batch)
        shifts.append(shift)
        policy.skill += 1
    assert [len(asked) for asked in policy.asked] == [10, 3, 3]
    assert batches[0] == [0, 1, 2, 3] and sorted(row for batch in batches for row in batch) == list(range(10))
    for number in (1, 2):
        rates = [1 / (1 + row) + number * (row % 3) for row in batches[number]]
        assert rates == sorted(rates, reverse=True) and sorted(batches[number]) == sorted(policy.asked[number])
    assert shifts[0] is None and all(shift > 0 for shift in shifts[1:])


def test_a_policy_that_does_not_change_keeps_the_order():
    rates = (0.1, 0.8, 0.5, 0.9)
    curriculum = AdaptiveCurriculum(rates, 2)
    batches = [curriculum.batch(number, lambda places: [rates[i] for i in places]) for number in range(2)]
    assert batches == [([3, 1], None), ([2, 0], pytest.approx(0.0))]
    assert difficulty_shift([1, 2, 3], [30, 20, 10]) == pytest.approx(2.0)
    assert difficulty_shift([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(0.0) and difficulty_shift([1, 1], [1, 2]) == 0
    with pytest.raises(ValueError, match="not into 5"):
        AdaptiveCurriculum((0.5, 0.5), 5)


def test_every_batch_has_the_same_mix_of_answers_whatever_the_policy_prefers():
    answers = tuple("1121221212")
    rates = tuple(1.0 if answer == "1" else place / 100 for place, answer in enumerate(answers))
    curriculum = AdaptiveCurriculum(rates, 5, answers)
    for number in range(5):
        batch, _ = curriculum.batch(number, lambda places: [rates[i] for i in places])
        assert sorted(answers[place] for place in batch) == ["1", "2"]
    hard = [place for n in range(5) for place in curriculum.batch(n, lambda places: [0.0] * len(places))[0]]
    assert [place for place in hard if answers[place] == "2"] == [9, 7, 5, 4, 2]  # the easiest of its kind is the first
    plain = AdaptiveCurriculum(rates, 5)
    assert {answers[place] for n in (0, 1) for place in plain.batch(n, lambda p: [rates[i] for i in p])[0]} == {"1"}
    with pytest.raises(ValueError, match="one for each of 10 rows, got 1"):
        AdaptiveCurriculum(rates, 5, ("1",))


def test_help_goes_only_where_every_try_fails():
    asked = []

    def teacher(group):
        asked.append(group)
        return [("bad", 0.0), ("good", 1.0), ("better", 2.0)]

    rewards = [0.0, 1.0, 0.0, 0.0, -1.0, 0.0, 1.0, 1.0]
    samples, earned, helped = guided(rewards, list("abcdefgh"), teacher, size=2, most=2)
    assert asked == [1, 2] and helped == [2, 3, 4, 5]
    assert samples == ["a", "b", "better", "good", "better", "good", "g", "h"]
    assert earned == [0.0, 1.0, 2.0, 1.0, 2.0, 1.0, 1.0, 1.0]
    assert guided(rewards, list("abcdefgh"), lambda group: [], 2)[0] == list("abcdefgh")
    for size, most in ((3, 1), (2, 3), (2, 0)):
        with pytest.raises(ValueError):
            guided(rewards, list("abcdefgh"), teacher, size, most)


# Resets


def test_resets_come_at_exact_steps():
    rule = ReferenceReset(patience=2, min_delta=0.01)
    rising = [0.5, 0.6, 0.7, 0.8]
    assert rule.places(rising) == []
    stalls = [0.5, 0.6, 0.605, 0.6, 0.61, 0.62, 0.62, 0.62, 0.62]
    assert rule.places(stalls) == [3, 7]
    assert [rule.due(stalls[: n + 1]) for n in range(len(stalls))] == [n in (3, 7) for n in range(len(stalls))]
    assert rule.places([float("nan")] * 3) == [1] and rule.places([]) == [] and not rule.due([])
    assert ReferenceReset(1).places([0.5, 0.5, 0.5]) == [1, 2]
    with pytest.raises(ValueError, match="patience must be at least 1"):
        ReferenceReset(0)


# Spans, messages, progress


def test_every_span_earns_its_own_reward_and_nothing_else_does():
    think = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    answer = torch.tensor([[0, 0, 0, 1, 0], [0, 0, 1, 1, 0]]).bool()
    rewards = {"think": torch.tensor([1.0, -1.0]), "answer": torch.tensor([0.0, 2.0])}
    found = span_advantages(rewards, {"think": think, "answer": answer})
    assert torch.equal(found, torch.tensor([[1.0, 1, 0, 0, 0], [-1, 0, 2, 2, 0]]))
    changed = span_advantages(rewards | {"answer": torch.tensor([9.0, 9.0])}, {"think": think, "answer": answer})
    assert torch.equal(changed[think], found[think])
    grouped = span_advantages(rewards, {"think": think, "answer": answer}, 2, "rloo")
    assert torch.equal(grouped[0, 0], group_advantages(rewards["think"], 2, "rloo")[0])


def test_spans_that_overlap_or_have_no_reward_are_told():
    mask, rewards = torch.ones(1, 2).bool(), torch.ones(1)
    with pytest.raises(ValueError, match="lies in two spans"):
        span_advantages({"a": rewards, "b": rewards}, {"a": mask, "b": mask})
    with pytest.raises(ValueError, match="same names"):
        span_advantages({"a": rewards}, {"b": mask})


def test_progress_rewards_sum_to_the_final_one_and_the_whole_progress():
    values = [0.2, 0.5, 0.5, 0.9]
    rewards = progress_reward(values, 1.0, 2.0)
    assert rewards == pytest.approx([0.6, 0.0, 0.8 + 1.0])
    prover = BestOfKProver(4)
    assert sum(progress_reward(values, 1.0, 2.0, prover)) == pytest.approx(1 + 2 * (prover(0.9) - prover(0.2)))
    with pytest.raises(ValueError, match="at least one step"):
        progress_reward([0.5], 1.0, 1.0)


def test_sentences_end_where_their_signs_do_and_the_reasoning_ends_the_last():
    words = "a b . c ! 0.5 d".split()
    ids, span = torch.arange(9)[None].repeat(2, 1), torch.zeros(2, 9).bool()
    span[0, 1:8] = True
    decode = lambda tokens: " ".join(words[token - 1] for token in tokens)  # noqa: E731
    assert sentence_ends(ids, span, decode) == [[3, 5, 7], []]
    assert sentence_ends(ids, span, decode, most=2) == [[5, 7], []]


def test_steps_earn_their_progress_where_they_end():
    chances = torch.tensor([[0.2, 0.5, 0.4], [0.5, 0.9, 0.0], [0.3, 0.3, 0.3]])
    found = step_rewards([[1, 3], [2], []], chances, 5, 2.0, lambda chance: chance)
    wanted = torch.zeros(3, 5)
    wanted[0, 1], wanted[0, 3], wanted[1, 2] = 0.6, -0.2, 0.8
    torch.testing.assert_close(found, wanted)
    surer = step_rewards([[1, 3], [2], []], chances, 5, 1.0)
    assert surer[0].sum() == pytest.approx(0.8**4 - 0.6**4)  # of the best of four, whatever lies between


def test_what_a_step_earns_counts_for_all_tokens_up_to_its_end():
    mask, steps = torch.tensor([[1, 1, 1, 0]]).bool(), torch.tensor([[0.0, 0.5, 0.25, 9.0]])
    plain = token_returns(torch.tensor([2.0]), torch.zeros(1, 4), mask)
    found = token_returns(torch.tensor([2.0]), torch.zeros(1, 4), mask, steps=steps)
    assert (found - plain).tolist() == [[0.75, 0.75, 0.25, 0.0]]
    late = token_returns(torch.tensor([2.0]), torch.zeros(1, 4), mask, gamma=0.5, steps=steps)
    assert late.tolist() == [[0.5 * (0.5 + 0.5 * 2.25), 0.5 + 0.5 * 2.25, 2.25, 0.0]]


def test_messages_earn_what_they_say():
    assert message_rewards([False, True], [False, True]) == [0, 1, 1, 1]
    assert message_rewards([False, True], [True]) == [0, 0, 1]
    assert message_rewards([True], []) == [1]
    with pytest.raises(ValueError, match="alternate"):
        message_rewards([True], [True, False])


# Duel


def test_the_loss_of_a_batch_is_that_of_its_rows():
    generator = torch.Generator().manual_seed(0)
    own, other = (-torch.rand(4, 6, generator=generator) for _ in range(2))
    mask = torch.rand(4, 6, generator=generator) > 0.3
    rewards, supervised = torch.tensor([1.0, -1, 1, 1]), torch.tensor([False, False, True, True])
    whole = duel_loss(own, other, mask, rewards, supervised)
    rows = [duel_loss(*(x[i : i + 1] for x in (own, other, mask, rewards, supervised))) for i in range(4)]
    assert whole == pytest.approx(float((rows[0] + rows[1]) / 2 + (rows[2] + rows[3]) / 2), rel=1e-6)
    heavy = duel_loss(own, other, mask, rewards, supervised, weights=torch.tensor([3.0, 1, 0, 2]))
    assert heavy == pytest.approx(float((3 * rows[0] + rows[1]) / 2 + 2 * rows[3] / 2), rel=1e-6)


def test_padding_and_masked_tokens_do_not_matter():
    own = torch.tensor([[-1.0, float("nan")]], requires_grad=True)
    loss = duel_loss(own, torch.tensor([[-2.0, -1.0]]), torch.tensor([[1, 0]]), torch.ones(1), torch.zeros(1))
    loss.backward()
    assert loss.item() == pytest.approx(-1.2) and torch.equal(own.grad, torch.zeros(1, 2))
