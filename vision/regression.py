"""Multinomial regression in closed steps, for the few numbers that strategies decide by."""

from __future__ import annotations

import torch
from torch import Tensor

NEWTON_STEPS = 50
"""At most; the loss is convex, and some ten are taken."""


def regression(inputs: Tensor, targets: Tensor, counts: Tensor, classes: int, decay: float) -> Tensor:
    """(classes, columns) float64 weights of a multinomial regression of (n, columns) inputs on (n,) classes, by damped
    Newton steps on the convex loss; the last column is the offset.

    Args:
        counts: (n,) how much each row counts; they sum to 1.
        decay: weight of the squared weights, offsets left out.
    """
    columns = inputs.shape[1]
    wanted = torch.nn.functional.one_hot(targets, classes).double()
    ridge = torch.full((classes, columns), 2 * decay, dtype=torch.float64)
    ridge[:, -1] = 1e-9  # equal offsets of all classes change nothing, and must not make the system singular
    weights = torch.zeros_like(ridge)

    def loss(at: Tensor) -> Tensor:
        fit = -(counts[:, None] * wanted * (inputs @ at.T).log_softmax(1)).sum()
        return fit + (ridge * at.square()).sum() / 2

    for _ in range(NEWTON_STEPS):
        chances = (inputs @ weights.T).softmax(1)
        gradient = (counts[:, None] * (chances - wanted)).T @ inputs + ridge * weights
        spread = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None, :]
        curvature = torch.einsum("n,nab,nf,ng->afbg", counts, spread, inputs, inputs)
        curvature = curvature.reshape(classes * columns, -1) + torch.diag(ridge.flatten())
        step = torch.linalg.solve(curvature, gradient.flatten()).view_as(weights)
        before, size = loss(weights), 1.0
        while size > 1e-6 and loss(weights - size * step) > before:
            size /= 2
        weights = weights - size * step
        if step.abs().max() < 1e-9:
            break
    return weights
