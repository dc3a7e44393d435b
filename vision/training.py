"""One training loop for every recipe: accumulation, EMA, mixed precision, clipping, logging, checkpoints, exact resume.

A recipe describes what it trains as a list of `Objective`s. An ordinary training has one; an adversarial one has two
(the generator, then the discriminator), which are stepped in that order on the same batch. Devices, processes and
precision are accelerate's: `accelerate launch --num_processes 8 scripts/train.py ...` needs no other code.

A run is a function of its options: sample i of step s is drawn from the seed, s and the process alone, and a run that
was stopped and started again ends with the weights of the run that was not (bit for bit on a CPU).
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from vision.files import atomic_path

Batch = Any


@dataclass(frozen=True)
class TrainOptions:
    """What every training run may choose."""

    folder: Path = Path("runs/train")
    """Checkpoints, the log and the finished weights go here; a run that finds its own checkpoint goes on from it."""
    steps: int = 1000
    """Optimiser updates."""
    batch_size: int = 16
    """Samples per process and micro-batch."""
    accumulate: int = 1
    """Micro-batches per update."""
    learning_rate: float = 1e-4
    """Peak learning rate of objectives that do not name their own."""
    final_learning_rate: float | None = None
    """End of the cosine decay; None keeps the peak rate."""
    warmup: int = 0
    """Updates of linear warm-up."""
    max_grad_norm: float | None = None
    """Gradients are clipped to this norm; None leaves them."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights of the first objective; None keeps none."""
    mixed_precision: str = "no"
    """no, bf16 or fp16."""
    eight_bit: bool = False
    """Keep the optimizer's state in 8 bits, a quarter of the memory; needs the package bitsandbytes."""
    seed: int = 0
    """Of the data and of every random number of the losses."""
    workers: int = 0
    """Processes that load data."""
    save_every: int = 500
    """Updates between checkpoints."""
    log_every: int = 50
    """Updates between log rows."""
    evaluate_every: int = 0
    """Updates between evaluations; 0 evaluates only at the end."""
    trackers: tuple[str, ...] = ()
    """Names of accelerate's trackers to report to, e.g. tensorboard or wandb."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"mixed_precision must be no, bf16 or fp16, got {self.mixed_precision}.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1), got {self.ema_decay}.")


@dataclass(frozen=True)
class Objective:
    """A module and the loss that its parameters descend on.

    `loss(batch, context)` returns (loss, logs); it calls `context.modules[name]` so that gradients of several processes
    are averaged. Parameters without `requires_grad` stay frozen.
    """

    name: str
    module: nn.Module
    loss: Callable[[Batch, Context], tuple[Tensor, Mapping[str, Tensor | float]]]
    learning_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    start: int = 0
    """First update in which this objective is stepped."""


@dataclass(frozen=True)
class Context:
    """What a loss may use beside its batch."""

    step: int
    """Number of the current update, from 0."""
    generator: torch.Generator
    """CPU generator, seeded by the run's seed, the update, the micro-batch and the process."""
    modules: Mapping[str, nn.Module]
    """The prepared modules by their objectives' names."""
    device: torch.device
    shared: dict[str, Any]
    """What an earlier objective of this update left for later ones on the same batch, e.g. generated pictures."""


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
    log: Callable[[str], None] | None = None,
    max_seconds: float | None = None,
) -> dict[str, nn.Module]:
    """Train and return the plain modules by objective name, the first one with its averaged weights when EMA is on.

    Args:
        objectives: stepped in this order in every update.
        data: map-style dataset whose item i is the i-th sample of the run; i grows without end.
        evaluate: called with the modules (EMA weights in the first) on the main process; its numbers are logged.
        log: receives one line per log row.
        max_seconds: stop after this time with a checkpoint; the next call goes on.

    Raises:
        FloatingPointError: a loss is not finite; the last checkpoint is left as it was.
    """
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        gradient_accumulation_steps=1,
        log_with=list(options.trackers) or None,
        project_dir=str(options.folder),
    )
    ema = copy.deepcopy(objectives[0].module).requires_grad_(False) if options.ema_decay else None
    modules: dict[str, nn.Module] = {}
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for objective in objectives:
        parameters = [p for p in objective.module.parameters() if p.requires_grad]
        rate = objective.learning_rate or options.learning_rate
        optimizer = _adam(options.eight_bit)(
            parameters, lr=rate, betas=objective.betas, weight_decay=objective.weight_decay
        )
        modules[objective.name], optimizers[objective.name] = accelerator.prepare(objective.module, optimizer)
    progress = _Progress(ema)
    accelerator.register_for_checkpointing(progress)
    if ema is not None:
        ema.to(accelerator.device)
    checkpoint = options.folder / "checkpoint"
    _recover(checkpoint)
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
    if options.trackers:
        accelerator.init_trackers(options.folder.name, config=_flat(asdict(options)))

    per_step = options.batch_size * options.accumulate
    rank, world = accelerator.process_index, accelerator.num_processes
    sampler = StepSampler(progress.step, per_step * world, per_step * rank, per_step)
    loader = DataLoader(data, options.batch_size, sampler=sampler, num_workers=options.workers)
    batches = iter(loader)
    began, window, sums = time.monotonic(), time.monotonic(), {}

    while progress.step < options.steps:
        step = progress.step
        micro = [_to_device(next(batches), accelerator.device) for _ in range(options.accumulate)]
        shared: list[dict[str, Any]] = [{} for _ in micro]
        for objective in objectives:
            if step < objective.start:
                continue
            module, optimizer = modules[objective.name], optimizers[objective.name]
            _set_rate(optimizer, objective.learning_rate or options.learning_rate, step, options)
            others = [p for name, m in modules.items() if name != objective.name for p in m.parameters()]
            with _frozen(others):
                for number, batch in enumerate(micro):
                    seed = ((options.seed * 1_000_003 + step) * 64 + number) * 4096 + rank
                    generator = torch.Generator().manual_seed(seed % (2**63))
                    context = Context(step, generator, modules, accelerator.device, shared[number])
                    synchronise = number + 1 == options.accumulate
                    with accelerator.autocast(), _synchronise(accelerator, module, synchronise):
                        loss, logs = objective.loss(batch, context)
                        accelerator.backward(loss / options.accumulate)
                    for key, value in {f"{objective.name}.loss": loss, **logs}.items():
                        value = (
                            value.detach().float().mean() if isinstance(value, Tensor) else torch.tensor(float(value))
                        )
                        total, count = sums.get(key, (0.0, 0))
                        sums[key] = (total + value, count + 1)
            if options.max_grad_norm is not None:
                accelerator.clip_grad_norm_(module.parameters(), options.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            _average(ema, accelerator.unwrap_model(modules[objectives[0].name]), options.ema_decay, step)
        progress.step += 1

        done = progress.step == options.steps
        late = max_seconds is not None and time.monotonic() - began > max_seconds
        if progress.step % options.log_every == 0 or done or late:
            row = {key: float(total) / count for key, (total, count) in sums.items()}
            bad = [key for key, value in row.items() if not math.isfinite(value)]
            if bad:
                raise FloatingPointError(
                    f"{bad[0]} is not finite at update {progress.step}; lower the learning rate. "
                    f"The last checkpoint in {checkpoint} is intact."
                )
            now = time.monotonic()
            row["seconds_per_step"] = (now - window) / (progress.step - progress.logged)
            progress.seconds += now - window
            window, progress.logged, sums = now, progress.step, {}
            _report(accelerator, options, progress, row, log)
        if progress.step % options.save_every == 0 or done or late:
            _save(accelerator, checkpoint)
        wanted = options.evaluate_every and progress.step % options.evaluate_every == 0
        if evaluate is not None and (wanted or done) and accelerator.is_main_process:
            row = dict(evaluate(_plain(accelerator, modules, objectives, ema)))
            _report(accelerator, options, progress, row, log)
        if late and not done:
            break
    accelerator.wait_for_everyone()
    if options.trackers:
        accelerator.end_training()
    return _plain(accelerator, modules, objectives, ema)


def fit_stage(
    file: Path,
    objectives: list[Objective],
    data: Dataset[Any],
    options: TrainOptions,
    *,
    evaluate: Callable[[Mapping[str, nn.Module]], Mapping[str, float]] | None = None,
    log: Callable[[str], None] | None = None,
    max_seconds: float | None = None,
) -> nn.Module | None:
    """One stage of a recipe: the trained first module, or None when time ran out.

    Args:
        file: safetensors file of the finished module. When it exists its tensors are loaded and nothing is trained.
        objectives, data, options, evaluate, log, max_seconds: as in `fit`.
    """
    module = objectives[0].module
    if file.exists():
        module.load_state_dict(load_file(file))
        return module
    found = fit(objectives, data, options, evaluate=evaluate, log=log, max_seconds=max_seconds)
    trained = found[objectives[0].name]
    if not finished(options.folder, options.steps):
        return None
    with atomic_path(file) as part:
        save_file({key: value.detach().clone().contiguous() for key, value in trained.state_dict().items()}, part)
    return trained


def finished(folder: Path, steps: int) -> bool:
    """Whether the run in `folder` has made all its updates."""
    log = folder / "log.jsonl"
    if not log.exists():
        return False
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return bool(rows) and max(row["step"] for row in rows) >= steps


def _adam(eight_bit: bool) -> Callable[..., torch.optim.Optimizer]:
    """AdamW, or that of Dettmers et al. 2021 (8-bit optimizers via block-wise quantization)."""
    if not eight_bit:
        return partial(torch.optim.AdamW, foreach=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError(
            "The 8-bit optimizer needs the package bitsandbytes; install it, or switch eight_bit off."
        ) from None
    return AdamW8bit


class _Progress:
    """What a checkpoint holds beside accelerate's own state."""

    def __init__(self, ema: nn.Module | None):
        self.step, self.logged, self.seconds, self.ema = 0, 0, 0.0, ema

    def state_dict(self) -> dict[str, Any]:
        ema = {} if self.ema is None else self.ema.state_dict()
        return {"step": self.step, "logged": self.logged, "seconds": self.seconds, "ema": ema}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.logged, self.seconds = state["step"], state["logged"], state["seconds"]
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])


def _plain(
    accelerator: Accelerator, modules: Mapping[str, nn.Module], objectives: list[Objective], ema: nn.Module | None
) -> dict[str, nn.Module]:
    plain = {name: accelerator.unwrap_model(module) for name, module in modules.items()}
    if ema is not None:
        plain[objectives[0].name] = ema
    return plain


def _average(ema: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        averaged = [p for p in ema.parameters() if p.is_floating_point()]
        current = [p for p in module.parameters() if p.is_floating_point()]
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for mine, theirs in zip(ema.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)


def _set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, options: TrainOptions) -> None:
    rate = peak
    if options.final_learning_rate is not None:
        floor = options.final_learning_rate * peak / options.learning_rate
        rate = floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * step / options.steps))
    if step < options.warmup:
        rate *= (step + 1) / options.warmup
    for group in optimizer.param_groups:
        group["lr"] = rate


class _frozen:
    """Parameters that need no gradient while another objective is stepped."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.parameters = [p for p in parameters if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def _synchronise(accelerator: Accelerator, module: nn.Module, now: bool) -> Any:
    return contextlib.nullcontext() if now else accelerator.no_sync(module)


def _to_device(batch: Batch, device: torch.device) -> Batch:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(_to_device(value, device) for value in batch)
    return batch


def _save(accelerator: Accelerator, checkpoint: Path) -> None:
    """Write beside the old checkpoint, then swap, so that a kill at any moment leaves a whole one."""
    new, old = checkpoint.with_name("checkpoint.new"), checkpoint.with_name("checkpoint.old")
    if accelerator.is_main_process and new.exists():
        shutil.rmtree(new)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(new))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if checkpoint.exists():
            os.replace(checkpoint, old)
        os.replace(new, checkpoint)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _recover(checkpoint: Path) -> None:
    """Finish a swap that a kill interrupted between its two renames."""
    old = checkpoint.with_name("checkpoint.old")
    if not checkpoint.exists() and old.exists():
        os.replace(old, checkpoint)


def _report(
    accelerator: Accelerator,
    options: TrainOptions,
    progress: _Progress,
    row: Mapping[str, float],
    log: Callable[[str], None] | None,
) -> None:
    if options.trackers:
        accelerator.log(dict(row), step=progress.step)
    if not accelerator.is_main_process:
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    with open(options.folder / "log.jsonl", "a") as file:
        file.write(json.dumps({"step": progress.step, "seconds": round(progress.seconds, 1), **row}) + "\n")
    if log is not None:
        values = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
        log(f"{progress.step}/{options.steps}  {progress.seconds:.0f} s  {values}")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in values.items()}
