"""The offline loss that both sides of a duel (`vision.duel`) learn by, where they are language models.

Source: "SPC: Evolving Self-Play Critic via Adversarial Games for LLM Reasoning" (arXiv 2504.19162), and its published
code: a clipped ratio of whole sequences, with the likelihood of supervised rows beside it.

Difference from the published code: rows may stand in a batch; there they stand alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def duel_loss(
    log_probs: Tensor,
    ref_log_probs: Tensor,
    mask: Tensor,
    rewards: Tensor,
    supervised: Tensor,
    *,
    weights: Tensor | None = None,
    clip: float = 0.2,
    coefficient: float = 0.15,
) -> Tensor:
    """Mean over the played rows of -min(r rho, r clip(rho, 1 -/+ clip)), plus coefficient times the mean negative
    log-likelihood per token of the supervised rows; rho = exp of the mean difference of the log-probabilities.

    With a reward of -1 the loss grows with rho without a bound, as in the published code.

    Args:
        log_probs: (B, T) of the policy, with gradients.
        ref_log_probs: (B, T) of the policy that played.
        mask: (B, T) true on the tokens of the answer.
        rewards: (B,) 1 or -1; of no matter for supervised rows.
        supervised: (B,) bool.
        weights: (B,) how much each row counts; None: all the same.
    """
    mask, supervised = mask.bool(), supervised.bool()
    counts = mask.sum(1).clamp(min=1)
    own = torch.where(mask, log_probs, 0.0).sum(1) / counts
    other = torch.where(mask, ref_log_probs, 0.0).sum(1) / counts
    ratio = torch.exp(torch.where(supervised, 0.0, own - other))
    played = -torch.minimum(rewards * ratio, rewards * ratio.clamp(1 - clip, 1 + clip))
    counted = torch.ones_like(own) if weights is None else weights
    return _mean(counted * played, ~supervised) + coefficient * _mean(-counted * own, supervised)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over the rows of a mask; 0 without any."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
