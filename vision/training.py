"""One training loop for every recipe: accumulation, EMA, mixed precision, clipping, logging, checkpoints, exact resume.

A recipe describes what it trains as a list of `Objective`s. An ordinary training has one; an adversarial one has two
(the generator, then the discriminator), which are stepped in that order on the same batch. Devices, processes and
precision are accelerate's: `accelerate launch --num_processes 8 scripts/train.py ...` needs no other code.

A run is a function of its options: sample i of step s is drawn from the seed, s and the process alone, torch's own
random numbers (dropout) too, and a run that was stopped or killed and started again ends with the weights and the log
of the run that was not (bit for bit on a CPU). What is done is what the checkpoint says; the log follows it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, Sampler

from vision.checkpoints import Log, load_state, save_state
from vision.config import check_trackers
from vision.job import choose_device
from vision.training_options import TrainOptions
from vision.training_run import Objective, TrainingRun
from vision.weights import fill

Batch = Any


class StepSampler(Sampler[int]):
    """Endless sample numbers of one process, starting at any update: the data's place needs no saving.

    Dataset indices only carry the number; datasets draw their sample from (seed, number).
    """

    def __init__(self, first: int, stride: int, offset: int, per_step: int):
        self.first, self.stride, self.offset, self.per_step = first, stride, offset, per_step

    def __iter__(self) -> Iterator[int]:
        step = self.first
        while True:
            base = step * self.stride + self.offset
            yield from range(base, base + self.per_step)
            step += 1


def fit(
    objectives: list[Objective],
    data: Dataset[Any],
    options: TrainOptions,
    *,
    evaluate: Callable[[Mapping[str, nn.Module]], Mapping[str, float]] | None = None,
    log: Log | None = None,
    max_seconds: float | None = None,
) -> dict[str, nn.Module] | None:
    """Train and return the plain modules by objective name, on the CPU; None when time ran out before the last update.

    Args:
        objectives: stepped in this order in every update. With EMA, the first one's averaged weights are returned.
        data: map-style dataset whose item i is the i-th sample of the run; i grows without end.
        evaluate: called with the modules (EMA weights in the first) on the main process; its numbers are logged.
        log: receives one line per log row.
        max_seconds: stop after this time with a checkpoint; the next call goes on.

    Raises:
        FloatingPointError: a loss or a weight is not finite; the last checkpoint is left as it was.
        ValueError: the checkpoint is damaged, does not fit the modules, or has more updates than are asked for.
    """
    check_trackers(options.trackers, map(str, get_available_trackers()))
    accelerator = Accelerator(
        cpu=choose_device("auto").type == "cpu",  # else processes that torchrun starts there would not know each other
        mixed_precision=options.mixed_precision,
        gradient_accumulation_steps=1,
        log_with=list(options.trackers) or None,
        project_dir=str(options.folder),
        # The others wait while the main process evaluates, however long that takes.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=30))],
    )
    run = TrainingRun(accelerator, objectives, options)
    run.resume()
    if options.trackers:
        accelerator.init_trackers(options.folder.name, config=_flat(asdict(options)))
    progress = run.progress
    per_step = options.batch_size * options.accumulate
    rank, world = accelerator.process_index, accelerator.num_processes
    sampler = StepSampler(progress.step, per_step * world, per_step * rank, per_step)
    batches = iter(DataLoader(data, options.batch_size, sampler=sampler, num_workers=options.workers))
    began = last = time.monotonic()
    late = False

    while progress.step < options.steps and not late:
        micro = [next(batches) for _ in range(options.accumulate)]
        run.update(tree_map_only(Tensor, lambda value: value.to(accelerator.device), micro))
        now = time.monotonic()
        progress.seconds, last = progress.seconds + now - last, now
        done = progress.step == options.steps
        late = max_seconds is not None and now - began > max_seconds
        saves = progress.step % options.save_every == 0 or done or late
        logs = progress.step % options.log_every == 0 or done
        if saves or logs:
            run.refuse_infinite_losses()
        if logs:
            run.report(progress.row(), log)
        wanted = options.evaluate_every and progress.step % options.evaluate_every == 0
        if evaluate is not None and (wanted or done) and accelerator.is_main_process:
            run.report(dict(evaluate(run.plain())), log)
        if saves:
            run.save()
    accelerator.wait_for_everyone()
    if options.trackers:
        accelerator.end_training()
    found = {name: module.cpu() for name, module in run.plain(unwrapped=True).items()}
    return found if progress.step == options.steps else None


def fit_stage(
    file: Path,
    objectives: list[Objective],
    data: Dataset[Any],
    options: TrainOptions,
    *,
    evaluate: Callable[[Mapping[str, nn.Module]], Mapping[str, float]] | None = None,
    log: Log | None = None,
    max_seconds: float | None = None,
) -> nn.Module | None:
    """One stage of a recipe: the trained first module, on the CPU, or None when time ran out.

    Args:
        file: safetensors file of the finished module. When it exists its tensors are loaded and nothing is trained.
        objectives, data, options, evaluate, log, max_seconds: as in `fit`.

    Raises:
        ValueError: the file is damaged or does not fit the module; and as in `fit`.
    """
    module = objectives[0].module
    if file.exists():
        fill(module, load_state(file)[0], file)
        return module.cpu()
    found = fit(objectives, data, options, evaluate=evaluate, log=log, max_seconds=max_seconds)
    if found is None:
        return None
    trained = found[objectives[0].name]
    if int(os.environ.get("RANK", "0")) == 0:
        save_state(file, trained.state_dict(), {"steps": options.steps})
    return trained


def half_precision() -> str:
    """bf16 where the machine computes in it, else no: a GPU before Ampere only imitates it."""
    return "bf16" if not torch.cuda.is_available() or torch.cuda.is_bf16_supported(False) else "no"


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in values.items()}
