"""Mask a share of an earlier draft, so that a model that refines it cannot copy it.

Source: "CYCLE: Learning to Self-Refine the Code Generation" (arXiv 2403.18746), section 3.2 (past generation mask).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PastMask:
    """Replaces tokens of drafts by a mask token."""

    share: float = 0.05
    """Of the draft's tokens, in [0, 1]."""
    seed: int = 0
    """Row i of the data draws from (seed, i)."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"The share of masked tokens must lie in [0, 1], got {self.share}.")

    def __call__(self, tokens: Tensor, draft: Tensor, mask_token: int, first: int = 0) -> Tensor:
        """Tokens with masks in the drafts; what is learnt is left as it is.

        Args:
            tokens: (B, T) int64.
            draft: (B, T) bool, true on the draft's tokens.
            mask_token: what stands in their place.
            first: number of the first row in the data, so that a row's mask does not depend on its batch.
        """
        rows = []
        for number, place in enumerate(draft):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + first + number)
            rows.append(torch.rand(len(place), generator=generator) < self.share)
        return torch.where(torch.stack(rows).to(draft.device) & draft, mask_token, tokens)
