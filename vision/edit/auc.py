"""Training of a binary classifier for the area under its ROC curve: the AUC-margin loss and its optimiser PESG.

Yuan et al. 2021, "Large-scale robust deep AUC maximization", as the published code trains its confidence classifiers.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class AUCMarginLoss(nn.Module):
    """A min-max objective: the network, a and b descend, alpha ascends.

    Args:
        margin: that scores of positives shall lie above those of negatives; it enters alpha's update alone.
    """

    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin
        self.a, self.b, self.alpha = (nn.Parameter(torch.zeros(1)) for _ in range(3))

    def forward(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Scalar loss of scores (n,) in [0, 1] and labels (n,), 0 or 1. Means are over the whole batch."""
        scores, is_one = scores.flatten(), positive.flatten().to(scores)
        is_zero, share = 1 - is_one, is_one.mean()
        weight = share * (1 - share)
        spread = (1 - share) * ((scores - self.a).square() * is_one).mean()
        spread = spread + share * ((scores - self.b).square() * is_zero).mean()
        gap = weight + (share * scores * is_zero - (1 - share) * scores * is_one).mean()
        return (spread + 2 * self.alpha * gap - weight * self.alpha.square()).sum()


class PESG:
    """Proximal epoch stochastic gradient for `AUCMarginLoss` (Guo et al. 2020).

    Args:
        parameters: of the network.
        loss: whose a, b and alpha are stepped too.
        learning_rate: of all.
        epoch_decay: pull to the reference, which is the mean since its last reset.
        weight_decay: pull to zero.
        reference: first reference of every parameter, of its shape, then of a and b, scalar; None takes their values.
        clip: gradients are clamped to this size.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        loss: AUCMarginLoss,
        *,
        learning_rate: float = 0.01,
        epoch_decay: float = 2e-3,
        weight_decay: float = 1e-5,
        reference: Iterable[Tensor] | None = None,
        clip: float = 1.0,
    ):
        self.loss, self.learning_rate = loss, learning_rate
        self.epoch_decay, self.weight_decay, self.clip = epoch_decay, weight_decay, clip
        self.descending = [*parameters, loss.a, loss.b]
        first = self.descending if reference is None else list(reference)
        self.reference = [value.detach().clone() for value in first]
        self._restart()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in (*self.descending, self.loss.alpha):
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Descend on weights, a and b; then ascend on alpha with the new a and b."""
        for parameter, reference, total in zip(self.descending, self.reference, self.totals, strict=True):
            gradient = parameter.grad.clamp(-self.clip, self.clip)
            gradient = gradient + self.epoch_decay * (parameter - reference) + self.weight_decay * parameter
            parameter -= self.learning_rate * gradient
            total += parameter
        loss = self.loss
        slope = 2 * (loss.margin + loss.b - loss.a) - 2 * loss.alpha
        loss.alpha.copy_((loss.alpha + self.learning_rate * slope).clamp(0, 999))
        self.steps += 1

    def reset(self, decay_factor: float = 2.0) -> None:
        """Divide the rate and move the reference to the mean of the weights since the last reset."""
        self.learning_rate /= decay_factor
        self.reference = [total / max(self.steps, 1) for total in self.totals]
        self._restart()

    def _restart(self) -> None:
        self.steps = 0
        self.totals = [torch.zeros_like(parameter) for parameter in self.descending]


def area_under_curve(scores: Tensor, positive: Tensor) -> float:
    """Share of pairs of a positive and a negative that the scores (n,) order rightly; `positive` (n,) is bool. Ties
    count half.

    Raises:
        ValueError: one of the classes is missing.
    """
    ones, zeros = scores[positive.bool()], scores[~positive.bool()]
    if not len(ones) or not len(zeros):
        raise ValueError("The area under the ROC curve needs positive and negative pictures.")
    above = (ones[:, None] > zeros).double() + 0.5 * (ones[:, None] == zeros).double()
    return float(above.mean())
