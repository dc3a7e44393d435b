"""StableReinforce as pure functions: token returns, whitening and filter of advantages, the policy loss.

Shapes: (B, T) are B sequences of T tokens, padded on the right; masks are true on real tokens, the end of the turn
included. Source: "R1-Reward: Training Multimodal Reward Model Through Stable Reinforcement Learning" (arXiv
2505.02835), section 3, and its published code; `published` modes reproduce the code where it differs from the paper.

Differences from the published code: padding is left out with `where`, so a NaN in it cannot reach the loss, and a
sequence without tokens counts 0 instead of NaN; with the `sigma` filter a sequence with a NaN reward is left out of the
batch instead of emptying it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["reinforce", "rloo", "group_mean"]
Filter = Literal["sigma", "published", "none"]


def group_advantages(rewards: Tensor, size: int, estimator: Estimator = "reinforce") -> Tensor:
    """Sequence rewards (B,) minus a baseline from the samples of the same prompt, which stand next to each other.

    Args:
        rewards: (B,); B is a multiple of `size`.
        size: samples per prompt.
        estimator: "reinforce" takes no baseline, "rloo" the mean of the other samples, "group_mean" the mean of all.

    Raises:
        ValueError: there are too few samples for the estimator.
    """
    if estimator == "reinforce":
        return rewards
    if size < 2 or rewards.numel() % size:
        raise ValueError(
            f"The estimator {estimator} needs at least 2 samples per prompt in whole groups, "
            f"got {rewards.numel()} rewards in groups of {size}."
        )
    groups = rewards.view(-1, size)
    if estimator == "group_mean":
        return (groups - groups.mean(1, keepdim=True)).flatten()
    if estimator == "rloo":
        return (groups - (groups.sum(1, keepdim=True) - groups) / (size - 1)).flatten()
    raise ValueError(f"estimator must be reinforce, rloo or group_mean, got {estimator!r}.")


def token_kl(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, estimator: Literal["k1", "k3"] = "k1") -> Tensor:
    """Estimate (B, T) of the divergence of the policy from the reference, per token; 0 in the padding."""
    ratio = torch.where(mask.bool(), log_probs - ref_log_probs, 0.0)
    return ratio if estimator == "k1" else torch.exp(-ratio) - 1 + ratio


def token_rewards(
    rewards: Tensor, kl: Tensor, mask: Tensor, beta: float = 0.0, clip: tuple[float, float] = (-10.0, 10.0)
) -> Tensor:
    """-beta * kl on every token, plus the clipped reward (B,) of the sequence on its last token; (B, T)."""
    mask = mask.bool()
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, -1).amax(1, keepdim=True)
    at_end = torch.where(places == last, rewards.clamp(*clip)[:, None].to(kl.dtype), 0.0)
    return torch.where(mask, -max(beta, 0.0) * kl, 0.0) + at_end


def token_returns(
    rewards: Tensor,
    kl: Tensor,
    mask: Tensor,
    *,
    beta: float = 0.0,
    gamma: float = 1.0,
    clip: tuple[float, float] = (-10.0, 10.0),
    steps: Tensor | None = None,
) -> Tensor:
    """Returns (B, T): the discounted sum of the token rewards from each token on; 0 in the padding.

    Args:
        rewards: (B,) rewards of whole sequences.
        kl: (B, T) divergence per token, see `token_kl`.
        mask: (B, T).
        beta: weight of the divergence; it acts here alone, there is no such term in the loss.
        gamma: discount.
        clip: lowest and highest sequence reward.
        steps: (B, T) rewards that tokens earn beside; None: none.
    """
    step = token_rewards(rewards, kl, mask, beta, clip)
    if steps is not None:
        step = step + torch.where(mask.bool(), steps, 0.0)
    if gamma == 1.0:
        returns = step.flip(1).cumsum(1).flip(1)
    else:
        running, columns = torch.zeros_like(step[:, 0]), []
        for t in reversed(range(step.shape[1])):
            running = step[:, t] + gamma * running
            columns.append(running)
        returns = torch.stack(columns[::-1], 1)
    return torch.where(mask.bool(), returns, 0.0)


@dataclass(frozen=True)
class Whitened:
    """Advantages and what made them."""

    advantages: Tensor
    """(B, T), 0 in the padding and where the filter took them out."""
    mean: Tensor
    """Of the returns over all tokens and processes."""
    rstd: Tensor
    """1 / their standard deviation."""
    filtered: Tensor
    """Share of this process's tokens that the filter took out."""


def whiten_and_filter(
    returns: Tensor,
    mask: Tensor,
    mode: Filter = "sigma",
    width: float = 3.0,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Whitened:
    """Whitened returns without outliers.

    Args:
        returns: (B, T).
        mask: (B, T).
        mode: "sigma" is the paper's rule: advantages beyond `width` standard deviations become 0. "published" is the
            code's: bounds are the raw mean of the returns -/+ `width`, so that with mostly good answers every negative
            advantage becomes 0; and a NaN anywhere empties the batch. "none" whitens only.
        reduce: adds a tensor up over processes; None: there is one process.
    """
    if mode not in ("sigma", "published", "none"):
        raise ValueError(f"The advantage filter must be sigma, published or none, got {mode!r}.")
    mask, reduce = mask.bool(), reduce or (lambda tensor: tensor)
    counted = mask & returns.isfinite() if mode == "sigma" else mask
    kept = torch.where(counted, returns, 0.0)
    total, count = reduce(torch.stack([kept.sum(), counted.sum().to(kept.dtype)]))
    mean = total / count.clamp(min=1)
    squares = torch.where(counted, (returns - mean) ** 2, 0.0).sum()
    variance = reduce(squares[None])[0] / count.clamp(min=1)
    rstd = variance.clamp(min=1e-8).rsqrt()
    z = torch.where(mask, (returns - mean) * rstd + 1e-8, 0.0)
    if mode == "none":
        return Whitened(z, mean, rstd, torch.zeros_like(mean))
    if mode == "sigma":
        keep = counted & (z.abs() <= width)
    else:
        keep = (z >= mean - width) & (z <= mean + width) & z.isfinite() & (z.abs() <= 10)
    filtered = (mask & ~keep).sum() / mask.sum().clamp(min=1)
    return Whitened(torch.where(mask & keep, z, 0.0), mean, rstd, filtered)


def stable_reinforce_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor | None = None,
    *,
    epsilon: float = 0.2,
    preclip: float | None = 1000.0,
    weights: Tensor | None = None,
) -> Tensor:
    """The clipped policy loss, with the ratio bounded before the exponential: mean over tokens, then sequences.

    The bound stops the gradient where a ratio lies outside [1 / preclip, preclip]; without it (None) the ratio of a
    token that was nearly impossible is infinite and its gradient NaN.

    Args:
        log_probs: (B, T) of the policy, with gradients.
        old_log_probs: (B, T) of the policy that drew the tokens.
        advantages: (B, T).
        mask: (B, T); None: every token counts.
        epsilon: ratios outside 1 -/+ epsilon gain nothing.
        preclip: bound of the ratio.
        weights: (B, T) or (B, 1) factors of the tokens' losses, for samples of another policy.
    """
    real = torch.ones_like(log_probs, dtype=torch.bool) if mask is None else mask.bool()
    losses = token_losses(log_probs, old_log_probs, advantages, real, epsilon=epsilon, preclip=preclip, weights=weights)
    return (losses.sum(1) / real.sum(1).clamp(min=1)).mean()


def token_losses(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    epsilon: float = 0.2,
    preclip: float | None = 1000.0,
    weights: Tensor | None = None,
) -> Tensor:
    """The losses (B, T) of tokens whose mean `stable_reinforce_loss` is, with its arguments; 0 in the padding."""
    log_ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    if preclip is not None:
        log_ratio = log_ratio.clamp(-math.log(preclip), math.log(preclip))
    ratio = log_ratio.exp()
    gain = torch.where(mask, advantages, 0.0)
    losses = -torch.minimum(ratio * gain, ratio.clamp(1 - epsilon, 1 + epsilon) * gain)
    if weights is not None:
        losses = losses * weights
    return torch.where(mask, losses, 0.0)
