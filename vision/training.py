"""One training loop for every recipe: accumulation, EMA, mixed precision, clipping, logging, checkpoints, exact resume.

A recipe describes what it trains as a list of `Objective`s. An ordinary training has one; an adversarial one has two
(the generator, then the discriminator), which are stepped in that order on the same batch. Devices, processes and
precision are accelerate's: `accelerate launch --num_processes 8 scripts/train.py ...` needs no other code.

A run is a function of its options: sample i of step s is drawn from the seed, s and the process alone, torch's own
random numbers (dropout) too, and a run that was stopped or killed and started again ends with the weights and the log
of the run that was not (bit for bit on a CPU). What is done is what the checkpoint says; the log follows it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from vision.checkpoints import Log, forget_after, load_state, save_state
from vision.config import check_trackers
from vision.files import append
from vision.weights import fill, refuse_mismatch

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
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
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
    """Names of trackers to report to, such as tensorboard, trackio or wandb; each needs its package."""

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
    """By which losses find the module."""
    module: nn.Module
    """Whose parameters are trained."""
    loss: Callable[[Batch, Context], tuple[Tensor, Mapping[str, Tensor | float]]]
    """See above."""
    learning_rate: float | None = None
    """None: the run's own."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    weight_decay: float = 0.0
    """Of AdamW."""
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
    """Where batches and modules are."""
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


def stage_settings(
    options: Any, stages: Sequence[str], stage: str, *, folder: Path | None = None, fall: float = 100, **chosen: Any
) -> TrainOptions:
    """Settings of `fit_stage` for one stage of a small recipe: a cosine after a short warm-up, and averaged weights.

    Args:
        options: the recipe's dataclass, with `folder`, `seed`, and `steps`, `batch_sizes` and `rates` of every stage.
        stages: their names.
        stage: which one.
        folder: of the run, in which the stage gets its own; None: that of the options.
        fall: the learning rate at the start, over that at the end.
        chosen: further fields of `TrainOptions`.
    """
    number = stages.index(stage)
    steps, rate = options.steps[number], options.rates[number]
    same = {name: getattr(options, name) for name in ("mixed_precision", "workers") if hasattr(options, name)}
    shape = {"steps": steps, "batch_size": options.batch_sizes[number], "learning_rate": rate}
    shape |= {"final_learning_rate": rate / fall, "warmup": min(200, steps // 10), "max_grad_norm": 1.0}
    usual = {"ema_decay": 0.999, "seed": options.seed * len(stages) + number, "log_every": min(100, steps)}
    return TrainOptions((folder or options.folder) / stage, **{**same, **shape, **usual, **chosen})


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
        mixed_precision=options.mixed_precision,
        gradient_accumulation_steps=1,
        log_with=list(options.trackers) or None,
        project_dir=str(options.folder),
        # The others wait while the main process evaluates, however long that takes.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=30))],
    )
    run = _Run(accelerator, objectives, options)
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
        run.update([_to_device(next(batches), accelerator.device) for _ in range(options.accumulate)])
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


@dataclass
class _Progress:
    """What a checkpoint holds beside tensors."""

    step: int = 0
    seconds: float = 0.0
    logged_step: int = 0
    logged_seconds: float = 0.0
    sums: dict[str, tuple[Any, int]] = field(default_factory=dict)
    """Of every number since the last log row, and how many."""

    def add(self, key: str, value: Tensor | float) -> None:
        """Count a number in; it stays on its device."""
        value = value.detach().float().mean() if isinstance(value, Tensor) else torch.tensor(float(value))
        total, count = self.sums.get(key, (0.0, 0))
        self.sums[key] = (total + value, count + 1)

    def row(self) -> dict[str, float]:
        """The means since the last row, which begin anew."""
        row = {key: float(total) / count for key, (total, count) in self.sums.items()}
        row["seconds_per_step"] = (self.seconds - self.logged_seconds) / (self.step - self.logged_step)
        self.logged_step, self.logged_seconds, self.sums = self.step, self.seconds, {}
        return row

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return self.__dict__ | {"sums": {key: (float(total), count) for key, (total, count) in self.sums.items()}}

    def take(self, facts: Mapping[str, Any]) -> None:
        """Go on from `facts`."""
        for name in self.__dict__:
            setattr(self, name, facts[name])
        self.sums = {key: (torch.tensor(total), count) for key, (total, count) in self.sums.items()}


class _Run:
    """The modules of a training with their optimizers and averages, and how far it is."""

    def __init__(self, accelerator: Accelerator, objectives: list[Objective], options: TrainOptions):
        self.accelerator, self.objectives, self.options = accelerator, objectives, options
        self.progress, self.first = _Progress(), objectives[0].name
        self.checkpoint, self.log = options.folder / "checkpoint.safetensors", options.folder / "log.jsonl"
        self.ema = copy.deepcopy(objectives[0].module).requires_grad_(False) if options.ema_decay else None
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for objective in objectives:
            parameters = [p for p in objective.module.parameters() if p.requires_grad]
            optimizer = _adam(options.eight_bit)(
                parameters, lr=self.rate(objective), betas=objective.betas, weight_decay=objective.weight_decay
            )
            prepared = accelerator.prepare(objective.module, optimizer)
            self.modules[objective.name], self.optimizers[objective.name] = prepared
        if self.ema is not None:
            self.ema.to(accelerator.device)

    def rate(self, objective: Objective) -> float:
        """Peak learning rate."""
        return objective.learning_rate or self.options.learning_rate

    def plain(self, unwrapped: bool = False) -> dict[str, nn.Module]:
        """The modules, averaged weights in the first; `unwrapped` also ends their mixed precision."""
        unwrap = self.accelerator.unwrap_model
        found = {name: unwrap(module, keep_fp32_wrapper=not unwrapped) for name, module in self.modules.items()}
        return found if self.ema is None else found | {self.first: self.ema}

    def update(self, micro: list[Batch]) -> None:
        """One update of every objective on the same micro-batches."""
        step, options, accelerator = self.progress.step, self.options, self.accelerator
        shared: list[dict[str, Any]] = [{} for _ in micro]
        for objective in self.objectives:
            if step < objective.start:
                continue
            module, optimizer = self.modules[objective.name], self.optimizers[objective.name]
            _set_rate(optimizer, self.rate(objective), step, options)
            others = [p for name, m in self.modules.items() if name != objective.name for p in m.parameters()]
            with _frozen(others):
                for number, batch in enumerate(micro):
                    seed = ((options.seed * 1_000_003 + step) * 64 + number) * 4096 + accelerator.process_index
                    generator = torch.Generator().manual_seed(seed % (2**63))
                    context = Context(step, generator, self.modules, accelerator.device, shared[number])
                    synchronise = number + 1 == options.accumulate
                    with (
                        _seeded(seed % (2**63), accelerator.device),
                        accelerator.autocast(),
                        _synchronise(accelerator, module, synchronise),
                    ):
                        loss, logs = objective.loss(batch, context)
                        accelerator.backward(loss / options.accumulate)
                    for key, value in {f"{objective.name}.loss": loss, **logs}.items():
                        self.progress.add(key, value)
            if options.max_grad_norm is not None:
                accelerator.clip_grad_norm_(module.parameters(), options.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            _average(self.ema, accelerator.unwrap_model(self.modules[self.first]), options.ema_decay, step)
        self.progress.step += 1

    def refuse_infinite_losses(self) -> None:
        """
        Raises:
            FloatingPointError: a number since the last log row was not finite.
        """
        for key, (total, _) in self.progress.sums.items():
            if not math.isfinite(total):
                raise self._infinite(key)

    def _infinite(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} is not finite at update {self.progress.step}; lower the learning rate. "
            f"The last checkpoint {self.checkpoint} is left as it was."
        )

    def report(self, row: Mapping[str, float], log: Log | None) -> None:
        """Log a row."""
        progress = self.progress
        if self.options.trackers:
            self.accelerator.log(dict(row), step=progress.step)
        if not self.accelerator.is_main_process:
            return
        append(self.log, json.dumps({"step": progress.step, "seconds": round(progress.seconds, 1), **row}) + "\n")
        if log is not None:
            values = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
            log(f"{progress.step}/{self.options.steps}  {progress.seconds:.0f} s  {values}")

    def networks(self) -> dict[str, nn.Module]:
        """Everything whose tensors a checkpoint holds, by the prefix of their names."""
        found = {name: self.accelerator.unwrap_model(module) for name, module in self.modules.items()}
        return found if self.ema is None else found | {"ema of " + self.first: self.ema}

    def weights(self) -> dict[str, Tensor]:
        """The tensors of all networks as a checkpoint names them."""
        networks = self.networks().items()
        return {f"{name}:{key}": value for name, net in networks for key, value in net.state_dict().items()}

    def save(self) -> None:
        """Write the checkpoint; the log is what it says as well."""
        if self.accelerator.is_main_process:
            tensors = self.weights()
            for name, value in tensors.items():
                if value.is_floating_point() and not value.isfinite().all():
                    raise self._infinite(name)
            numbers: dict[str, float] = {}
            for name, optimizer in self.optimizers.items():
                for index, entries in optimizer.state_dict()["state"].items():
                    for key, value in entries.items():
                        where = tensors if isinstance(value, Tensor) else numbers
                        where[f"{name}:optimizer:{index}:{key}"] = value
            scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}
            save_state(self.checkpoint, tensors, {**self.progress.facts(), "numbers": numbers, "scaler": scaler})
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one; log rows behind it are dropped.

        Raises:
            ValueError: it is damaged, does not fit, or is none of this version's.
        """
        if self.checkpoint.with_suffix("").is_dir():
            raise ValueError(
                f"{self.checkpoint.with_suffix('')} is a checkpoint of an earlier version, which is pickled; "
                "finish the run with that version, or name another folder."
            )
        if self.checkpoint.exists():
            self._load(*load_state(self.checkpoint))
        if self.progress.step > self.options.steps:
            raise ValueError(
                f"{self.options.folder} has made {self.progress.step} updates, more than the {self.options.steps} "
                "steps that are asked for; name another folder."
            )
        if self.accelerator.is_main_process:
            forget_after(self.log, self.progress.step)
        self.accelerator.wait_for_everyone()

    def _load(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        networks, moments = self.networks(), {name: value for name, value in tensors.items() if ":optimizer:" in name}
        found = {name: value for name, value in tensors.items() if name not in moments}
        refuse_mismatch(self.checkpoint, self.weights(), found, "the networks of this run")
        for name, net in networks.items():
            net.load_state_dict({key: tensors[f"{name}:{key}"] for key in net.state_dict()})
        states: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in self.optimizers}
        for place, value in (moments | facts["numbers"]).items():
            name, _, index, key = place.split(":", 3)
            states[name].setdefault(int(index), {})[key] = value
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizer.state_dict() | {"state": states[name]})
        if self.accelerator.scaler and facts["scaler"]:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self.progress.take(facts)


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


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's own generators, which dropout draws from, begin at `seed` inside and are as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


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


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in values.items()}
