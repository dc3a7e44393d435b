"""What the objective promises: bounded gradients, padding without effect, filters that drop what their rules say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_vlm.rl.objective import group_advantages, stable_reinforce_loss, token_kl, token_returns, whiten_and_filter


def batch(seed=0, rows=6, tokens=9):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (rows,), generator=draw)
    mask = torch.arange(tokens) < lengths[:, None]
    new, old, advantages = (torch.randn(rows, tokens, generator=draw) for _ in range(3))
    return new, old, advantages, mask


def loss_and_gradient(new, old, advantages, mask, **options):
    new = new.clone().requires_grad_()
    loss = stable_reinforce_loss(new, old, advantages, mask, **options)
    loss.backward()
    return loss.detach(), new.grad


def test_on_policy_the_gradient_is_that_of_reinforce():
    new, _, advantages, mask = batch()
    loss, gradient = loss_and_gradient(new, new, advantages, mask)
    lengths = mask.sum(1, keepdim=True)
    expected = torch.where(mask, -advantages / lengths / len(mask), 0.0)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(loss, expected.sum())


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_padding_never_matters(poison):
    new, old, advantages, mask = batch()
    clean = loss_and_gradient(new, old, advantages, mask)
    spoiled = loss_and_gradient(*(torch.where(mask, x, poison) for x in (new, old, advantages)), mask)
    assert all(torch.equal(a, b) for a, b in zip(clean, spoiled, strict=True))


def test_sequences_without_tokens_count_nothing():
    new, old, advantages, mask = batch()
    mask[0] = False
    loss, gradient = loss_and_gradient(new, old, advantages, mask)
    rest = stable_reinforce_loss(new[1:], old[1:], advantages[1:], mask[1:])
    torch.testing.assert_close(loss, rest * 5 / 6)
    assert gradient[0].abs().sum() == 0


@pytest.mark.parametrize("gap", [100.0, 1e4])
def test_impossible_tokens_have_finite_losses_only_with_the_bound(gap):
    new, old = torch.tensor([[0.0, 0.0]]), torch.tensor([[-gap, 0.0]])
    advantages, mask = torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2)
    loss, gradient = loss_and_gradient(new, old, advantages, mask)
    assert float(loss) == pytest.approx(499.5, rel=1e-5)
    assert gradient.tolist() == [[0.0, -0.5]]
    loss, gradient = loss_and_gradient(new, old, advantages, mask, preclip=None)
    assert loss.isinf() and not gradient.isfinite().all()


@given(st.floats(-200, 200), st.integers(-3000, 3000).map(lambda n: n / 1000), st.floats(0.05, 0.5))
def test_a_token_moves_only_inside_the_bounds_of_ppo(log_ratio, advantage, epsilon):
    new, old = torch.tensor([[log_ratio]]), torch.zeros(1, 1)
    loss, gradient = loss_and_gradient(new, old, torch.tensor([[advantage]]), None, epsilon=epsilon)
    assert loss.isfinite() and gradient.isfinite().all()
    outside = abs(log_ratio) > math.log(1000) + 1e-4
    gained = (advantage > 0 and log_ratio > math.log1p(epsilon) + 1e-4) or (
        advantage < 0 and log_ratio < math.log1p(-epsilon) - 1e-4
    )
    if outside or gained:
        assert gradient.item() == 0
    elif abs(log_ratio - math.log1p(epsilon)) > 1e-3 and abs(log_ratio - math.log1p(-epsilon)) > 1e-3:
        assert gradient.item() == pytest.approx(-advantage * math.exp(log_ratio), rel=1e-3, abs=1e-5)


def test_weights_scale_the_losses_of_tokens():
    new, old, advantages, mask = batch()
    weights = torch.rand(6, 1, generator=torch.Generator().manual_seed(1))
    whole = stable_reinforce_loss(new, old, advantages, mask, weights=weights)
    rows = [stable_reinforce_loss(*(x[i : i + 1] for x in (new, old, advantages, mask))) for i in range(6)]
    torch.testing.assert_close(whole, (torch.stack(rows) * weights[:, 0]).mean())


def rewards_at(accuracy, rows=50, tokens=4):
    """Returns of a batch in which a share of the judgements is right: 2.0, the others 0.5."""
    right = torch.arange(rows) < round(accuracy * rows)
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    returns = token_returns(torch.where(right, 2.0, 0.5), torch.zeros(rows, tokens), mask)
    return right, returns, mask


def test_at_high_accuracy_the_release_drops_every_negative_and_the_paper_none():
    right, returns, mask = rewards_at(0.8)
    published = whiten_and_filter(returns, mask, "published")
    assert (published.advantages[~right] == 0).all() and (published.advantages[right] > 0).all()
    assert float(published.filtered) == pytest.approx(0.2)
    paper = whiten_and_filter(returns, mask, "sigma")
    assert (paper.advantages[~right] < 0).all() and float(paper.filtered) == 0


def test_sigma_drops_what_lies_beyond_three_deviations():
    right, returns, mask = rewards_at(0.98)
    found = whiten_and_filter(returns, mask, "sigma")
    assert (found.advantages[~right] == 0).all() and float(found.filtered) == pytest.approx(0.02)
    wide = whiten_and_filter(returns, mask, "sigma", width=8.0)
    assert (wide.advantages[~right] < -3).all()


def test_whitened_tokens_have_mean_zero_and_deviation_one():
    _, returns, _, mask = batch(3, 40, 12)
    found = whiten_and_filter(returns, mask, "none").advantages[mask]
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert (whiten_and_filter(returns, mask, "none").advantages[~mask] == 0).all()


def test_one_nan_reward_empties_the_batch_of_the_release_and_costs_one_row_here():
    _, returns, mask = rewards_at(0.5)
    returns[3] = math.nan
    assert (whiten_and_filter(returns, mask, "published").advantages == 0).all()
    rest = torch.arange(50) != 3
    found = whiten_and_filter(returns, mask, "sigma").advantages
    assert (found[3] == 0).all()
    torch.testing.assert_close(found[rest], whiten_and_filter(returns[rest], mask[rest], "sigma").advantages)


def test_two_processes_whiten_as_one():
    _, returns, _, mask = batch(4, 16, 7)
    whole = whiten_and_filter(returns, mask, "sigma")
    sums = [torch.stack([returns[i][mask[i]].sum(), mask[i].sum().float()]) for i in (slice(0, 8), slice(8, 16))]
    mean = (sums[0] + sums[1])[0] / (sums[0] + sums[1])[1]
    squares = [(((returns - mean) ** 2)[i][mask[i]]).sum()[None] for i in (slice(0, 8), slice(8, 16))]
    for part, rows in enumerate((slice(0, 8), slice(8, 16))):
        other = iter([sums[1 - part], squares[1 - part]])
        found = whiten_and_filter(returns[rows], mask[rows], "sigma", reduce=lambda own, other=other: own + next(other))
        torch.testing.assert_close(found.advantages, whole.advantages[rows], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.mean, whole.mean)


def test_returns_put_the_reward_at_the_end_and_the_divergence_on_every_token():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    kl = torch.where(mask, 0.5, 0.0)
    found = token_returns(torch.tensor([1.0, 50.0]), kl, mask, beta=0.1)
    torch.testing.assert_close(found, torch.tensor([[0.85, 0.9, 0.95, 0.0], [9.95, 0, 0, 0]]))
    halved = token_returns(torch.tensor([1.0, 1.0]), kl, mask, beta=0.0, gamma=0.5)
    torch.testing.assert_close(halved, torch.tensor([[0.25, 0.5, 1.0, 0.0], [1.0, 0, 0, 0]]))


def test_divergence_estimators_agree_in_the_mean_and_k3_is_never_negative():
    draw = torch.Generator().manual_seed(0)
    reference, policy = torch.randn(2, 1000, generator=draw).mul(0.3).log_softmax(-1)
    tokens = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=draw)
    mask = torch.ones(1, len(tokens), dtype=torch.bool)
    exact = float((policy.exp() * (policy - reference)).sum())
    k1, k3 = (token_kl(policy[tokens][None], reference[tokens][None], mask, kind) for kind in ("k1", "k3"))
    assert float(k1.mean()) == pytest.approx(exact, rel=0.05) and float(k3.mean()) == pytest.approx(exact, rel=0.05)
    assert (k3 >= -1e-6).all()


def test_group_baselines_centre_the_groups():
    rewards = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert torch.equal(group_advantages(rewards, 1), rewards)
    assert group_advantages(rewards, 2, "group_mean").tolist() == [-0.5, 0.5, -1.5, 1.5]
    assert group_advantages(rewards, 2, "rloo").tolist() == [-1.0, 1.0, -3.0, 3.0]
    with pytest.raises(ValueError, match="rloo needs at least 2 samples"):
        group_advantages(rewards, 1, "rloo")
    with pytest.raises(ValueError, match="sigma, published or none"):
        whiten_and_filter(rewards[None], torch.ones(1, 4), "two")
