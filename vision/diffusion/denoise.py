"""The denoising loop on the refinement core."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vision.diffusion.memory import Kept, Remembering, SolverMemory
from vision.refine import PerItem, Step, clone_items, refine_steps
from vision.refine.step import Accept, Evaluate, Stop


class At(NamedTuple):
    """One element of the schedule."""

    index: int
    """Of the step, from 0."""
    timestep: Tensor
    """0-D, as the scheduler has it."""


@dataclass(frozen=True)
class Denoising:
    """The state of a run: all that decides the next step, so that a run can resume anywhere and drop items."""

    latents: Tensor
    """(b, c, h, w)."""
    noise_pred: Tensor | None = None
    """(b, c, h, w) what the scheduler was given in the last step, after guidance; None before the first."""
    items: Tensor | None = None
    """(b,) int64 which items of the run these are."""
    made: Tensor | None = None
    """(b,) int64 steps that each item has made; finished ones make no more."""
    generators: PerItem[torch.Generator] | None = None
    """For schedulers that draw noise."""
    solver: PerItem[Kept] | None = None
    """What the scheduler remembers of earlier steps."""
    network: PerItem[Kept] | None = None
    """What a predictor remembers of earlier steps, if it does."""


Predict = Callable[[Tensor, At], Tensor]
"""Latents as the network sees them -> noise, or what else the scheduler's type of prediction is; with or without
gradients, as it decides."""


def guide(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on predictions (b, c, h, w) (Ho and Salimans 2022, equation 6 with w = scale - 1)."""
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
    network: Remembering | None = None,
    evaluate: Evaluate[Denoising, At] | None = None,
    accept: Accept[Denoising, At] | None = None,
    stop: Stop[Denoising, At] | None = None,
    keep_best: Callable[[Denoising], Any] | None = None,
    resume: Step[Denoising, At] | None = None,
    drop_finished: bool = False,
) -> Iterator[Step[Denoising, At]]:
    """Fold the scheduler's step over its timesteps and yield every step.

    Args:
        latents: (b, c, h, w) at the first noise level, times the scheduler's `init_noise_sigma`.
        predict: what the networks say.
        scheduler: a diffusers scheduler after `set_steps`, before any step.
        generators: one per item, for schedulers that draw noise; they stay as they are, the state holds those that
            have drawn.
        begin: index of the first timestep.
        step_arguments: for the scheduler's step, such as DDIM's eta.
        network: a predictor that remembers between steps, or has conditions for every item; needed to drop items
            whose conditions differ.
        evaluate, accept, stop, keep_best, resume, drop_finished: as in `vision.refine.refine_steps`.
    """
    more = dict(step_arguments or {})
    draws = generators is not None and "generator" in inspect.signature(scheduler.step).parameters
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    solver, batch = SolverMemory(scheduler), len(latents)

    def propose(state: Denoising, at: At) -> Denoising:
        drawing = clone_items(state.generators)
        if draws:
            more["generator"] = list(drawing)
        solver.recall(state.items, _of_newest(state.solver, state.made))
        if network is not None:
            network.recall(state.items, _of_newest(state.network, state.made))
        noise = predict(scheduler.scale_model_input(state.latents, at.timestep), at)
        moved = scheduler.step(noise, at.timestep, state.latents, return_dict=False, **more)[0]
        kept = None if network is None else network.memory()
        return Denoising(moved, noise, state.items, state.made + 1, drawing, solver.memory(), kept)

    start = Denoising(
        latents,
        items=torch.arange(batch),
        made=torch.zeros(batch, dtype=torch.long),
        generators=PerItem(generators) if draws else None,
        solver=PerItem({} for _ in range(batch)),
        network=None if network is None else PerItem({} for _ in range(batch)),
    )
    schedule = [At(i, timestep) for i, timestep in enumerate(scheduler.timesteps)][begin:]
    return refine_steps(
        start, propose, schedule, evaluate=evaluate, accept=accept, stop=stop, keep_best=keep_best, resume=resume,
        drop_finished=drop_finished,
    )  # fmt: skip


def _of_newest(memory: PerItem[Kept], made: Tensor) -> PerItem[Kept]:
    """Memories of one age: finished items, whose next latents are not kept, take that of one that goes on."""
    newest = int(made.argmax())
    return PerItem(own if made[i] == made[newest] else memory[newest] for i, own in enumerate(memory))
