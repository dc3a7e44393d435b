"""What the sampling loop asks of a network, so that the published topology and the small default share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Observed:
    """What a network found in a low-quality picture."""

    first: Tensor
    """(b, 1, h, w) int64: the first guess of every token (S_l in the paper)."""
    context: dict[str, Tensor]
    """Tensors with the batch first that the network's other parts need."""


class ITERModel(Protocol):
    """A network that restores by tokens. Masks are (b, 1, h, w) with 1 = visible; pictures are RGB in [0, 1]."""

    scale: int
    """Output pixels per input pixel."""
    unit: int
    """Sides of the input must be multiples of it."""
    token_pixels: int
    """Output pixels per side of a token."""

    def observe(self, image: Tensor) -> Observed:
        """Picture (b, 3, h, w) -> first tokens and context."""
        ...

    def confidence(self, observed: Observed, tokens: Tensor) -> Tensor:
        """Logits (b, 2, h, w) of the evaluation net; class 1 says that a token is right."""
        ...

    def token_logits(self, observed: Observed, trusted: Tensor, tokens: Tensor, kept: Tensor) -> Tensor:
        """Logits (b, n, h, w) of the refinement net."""
        ...

    def decode(self, observed: Observed, tokens: Tensor, strength: float = 1.0) -> Tensor:
        """Tokens (b, 1, h, w) -> picture (b, 3, H, W)."""
        ...

    def restore_base(self, image: Tensor) -> Tensor:
        """Picture (b, 3, h, w) -> the deterministic result (b, 3, H, W): no sampling."""
        ...
