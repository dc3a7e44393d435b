"""The denoising loop on the refinement core."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vision.refine import Step, refine_steps


class At(NamedTuple):
    """One element of the schedule."""

    index: int
    """Of the step, from 0."""
    timestep: Tensor
    """0-D, as the scheduler has it."""


@dataclass(frozen=True)
class Denoising:
    """The state of a run."""

    latents: Tensor
    """(b, c, h, w)."""
    noise_pred: Tensor | None = None
    """(b, c, h, w) what the scheduler was given in the last step, after guidance; None before the first."""


Predict = Callable[[Tensor, At], Tensor]
"""Latents as the network sees them -> noise, or what else the scheduler's prediction type wants."""


def guide(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, equation 6 with w = scale - 1)."""
    return negative + scale * (positive - negative)


def set_steps(scheduler: Any, steps: int, device: torch.device | str = "cpu") -> Any:
    """A copy of the scheduler with its timesteps set; the original stays as it is, so runs do not disturb each other.

    Raises:
        ValueError: there are more steps than the scheduler was trained with.
    """
    limit = scheduler.config.num_train_timesteps
    if not 1 <= steps <= limit:
        raise ValueError(f"steps must lie in [1, {limit}], got {steps}.")
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, device=device)
    return scheduler


def denoise_steps(
    latents: Tensor,
    predict: Predict,
    scheduler: Any,
    *,
    generators: Sequence[torch.Generator] | None = None,
    begin: int = 0,
    step_arguments: Mapping[str, Any] | None = None,
    **rules: Any,
) -> Iterator[Step[Denoising, At]]:
    """Fold the scheduler's step over its timesteps and yield every step.

    Args:
        latents: (b, c, h, w) at the first noise level, times the scheduler's `init_noise_sigma`.
        predict: what the networks say.
        scheduler: a diffusers scheduler after `set_steps`; its own history makes it good for one run.
        generators: one per item, for schedulers that draw noise.
        begin: index of the first timestep.
        step_arguments: for the scheduler's step, such as DDIM's eta.
        rules: further keyword arguments of `vision.refine.refine_steps`.

    Raises:
        ValueError: a scheduler with a history is asked to resume or to drop finished items.
    """
    if (rules.get("resume") or rules.get("drop_finished")) and hasattr(scheduler, "model_outputs"):
        raise ValueError(
            f"{type(scheduler).__name__} remembers earlier predictions, so a run can neither resume nor drop items; "
            "use a scheduler without history, such as DDIM."
        )
    takes = inspect.signature(scheduler.step).parameters
    more = dict(step_arguments or {})
    if generators is not None and "generator" in takes:
        more["generator"] = list(generators)

    def propose(state: Denoising, at: At) -> Denoising:
        with torch.no_grad():
            noise = predict(scheduler.scale_model_input(state.latents, at.timestep), at)
            latents = scheduler.step(noise, at.timestep, state.latents, return_dict=False, **more)[0]
        return Denoising(latents, noise)

    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    schedule = [At(i, timestep) for i, timestep in enumerate(scheduler.timesteps)][begin:]
    # A first state without a prediction has another shape than later ones, which only resuming would notice.
    yield from refine_steps(Denoising(latents), propose, schedule, **rules)
