"""The modules that a training steps, with optimizers and averages: updates, log rows, and checkpoints to go on from."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vision.checkpoints import Log, forget_after, load_state, save_state
from vision.files import append
from vision.training_options import TrainOptions
from vision.weights import refuse_mismatch

Batch = Any


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


class TrainingRun:
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
                    for key, value in _unwrapped(entries):
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


def _unwrapped(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of an optimizer's state. bitsandbytes wraps some of them once more, and takes them plain too."""
    for key, value in entries.items():
        yield from value.items() if isinstance(value, Mapping) else [(key, value)]
