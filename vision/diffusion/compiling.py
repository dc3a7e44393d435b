"""Compiled networks whose weights are constants."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def frozen_forward(module: nn.Module) -> Callable[..., Any]:
    """The compiled forward function of `module`, for use without gradients.

    Inductor packs constant weights for the kernels once. Its option of `torch.compile` is not enough: the tracer, which
    decides whether weights become arguments, reads the setting itself, and both must see it in the call that compiles.
    """
    from torch._inductor import config

    compiled = torch.compile(module.forward)

    @functools.wraps(module.forward)
    def forward(*arguments: Any, **named: Any) -> Any:
        with config.patch(freezing=True):
            return compiled(*arguments, **named)

    return forward
