"""Stability and cost of StableReinforce; what `burnish benchmark r1` runs.

    burnish benchmark r1 --task overhead --out runs/r1-overhead
    burnish benchmark r1 --task stress --out runs/r1-stress

overhead: seconds of an update (rollout included) of StableReinforce and of TRL's GRPO with the same model, prompts,
batch and length, the two taking turns in one process. stress: judges of rendered scenes that are nine times of ten
right are trained on, with the rate and the age of the judgements raised beyond what training uses, with
StableReinforce, without its filter of advantages, and with the plain algorithm (no bound of the ratio either); several
seeds, one picture; `docs/r1_reward.md` tells what came out. Writes a table (json, csv), curves.png (stress) and
run.json; finished runs are not repeated.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from reward_vlm.r1.curves import read_log
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, R1Training, StableReinforce
from reward_vlm.r1.recipe_mini import MiniR1Training
from reward_vlm.r1.recipe_mini import train as train_recipe
from reward_vlm.r1.rewards import JudgementReward
from reward_vlm.r1.rows import judgement_row, training_set
from reward_vlm.r1.train import train
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import TinySize, tiny_chat_model
from vision.checkpoints import one_at_a_time
from vision.config import to_dict
from vision.files import atomic_path
from vision.job import Event, Job, Outcome, Show, keep_to, silent
from vision.report import plot_panels, text_table, write_table

ARMS = {
    "StableReinforce": StableReinforce(beta=0.0, skip_equal=False),
    "without the filter": StableReinforce(beta=0.0, filter="none", skip_equal=False),
    "plain": StableReinforce(beta=0.0, filter="none", preclip=None, skip_equal=False),
}
"""The paper's method, its bound of the ratio alone, and REINFORCE++ with the clipped loss alone."""


@dataclass(frozen=True)
class R1Benchmark:
    """Time updates, or drive them until the plain algorithm fails."""

    out: Path
    """Folder for the results."""
    task: Literal["overhead", "stress"] = "overhead"
    """What to measure."""
    seeds: int = 3
    """Runs per arm (stress)."""
    optimizer: Literal["adamw", "sgd"] = "sgd"
    """What makes steps of gradients (stress)."""
    rate: float = 1.0
    """Learning rate (stress)."""
    age: int = 16
    """Updates from one set of judgements (stress)."""
    rounds: int = 3
    """Sets of judgements (stress)."""
    batch: int = 128
    """Judgements per update, at most 32 or a multiple of 32 (stress)."""
    temperature: float = 0.5
    """Of the judgements (stress)."""
    pairs: int = 500
    """Unseen pairs that accuracy is measured on (stress)."""
    updates: int = 12
    """Timed updates per trainer (overhead)."""

    def __post_init__(self) -> None:
        if min(self.seeds, self.age, self.rounds, self.batch, self.pairs, self.updates) < 1:
            raise ValueError("seeds, age, rounds, batch, pairs and updates must be at least 1.")
        if self.batch > 32 and self.batch % 32:
            raise ValueError(f"batch must be at most 32 or a multiple of 32, got {self.batch}.")


@one_at_a_time
def benchmark(options: R1Benchmark, show: Show = silent) -> Outcome:
    """Measure what is not measured yet, and show the table.

    Raises:
        ValueError: the folder holds runs of other options.
    """
    job = Job(options.out, options, show=show)
    rows = overhead(options) if options.task == "overhead" else stress(options, job)
    show(Event("result", text_table(rows, digits=3), path=options.out))
    write_table(rows, options.out / f"{options.task}.json", options.out / f"{options.task}.csv")
    job.conclude("runs", len(rows), 0)
    return Outcome(options.out, {f"{number}": row for number, row in enumerate(rows)})


def overhead(options: R1Benchmark) -> list[dict[str, Any]]:
    """CPU seconds per update (on a GPU: wall clock) of both trainers, which take turns; medians."""
    from trl import GRPOConfig, GRPOTrainer

    from reward_vlm.r1.trainer import StableReinforceConfig, StableReinforceTrainer
    from reward_vlm.training import quiet

    judge = R1Judge(tiny_chat_model(size=TinySize()), R1Config("plain", True, 32, None))
    start = options.out / "start"
    judge.save_pretrained(start)
    data = training_set([judgement_row(pair, judge.config) for pair in scene_pairs(7, 256)], targets=False)
    common: dict[str, Any] = {
        "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "steps_per_generation": 2,
        "num_generations": 2, "max_completion_length": 32, "max_steps": options.updates, "beta": 0.01,
        "generation_kwargs": {"min_new_tokens": 32}, "loss_type": "grpo", "learning_rate": 1e-5, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "use_cpu": not torch.cuda.is_available(),
        "bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False,
    }  # fmt: skip
    clock = time.monotonic if torch.cuda.is_available() else time.process_time
    seconds: dict[str, list[float]] = {"GRPO": [], "StableReinforce": []}
    kinds = {"GRPO": (GRPOConfig, GRPOTrainer), "StableReinforce": (StableReinforceConfig, StableReinforceTrainer)}
    for repeat in range(3):
        for name, (configuration, trainer_class) in kinds.items():
            chat = R1Judge.from_pretrained(start).chat
            with torch.random.fork_rng():
                trainer = trainer_class(
                    model=chat.model, processing_class=chat.processor, reward_funcs=[JudgementReward()],
                    args=configuration(output_dir=str(options.out / "trl"), seed=repeat, **common), train_dataset=data,
                )  # fmt: skip
                before = clock()
                quiet(trainer).train()
                seconds[name].append((clock() - before) / options.updates)
    rows = [{"trainer": name, "seconds_per_update": statistics.median(times)} for name, times in seconds.items()]
    for row in rows:
        row["of_grpo"] = row["seconds_per_update"] / rows[0]["seconds_per_update"]
    return rows


def stress(options: R1Benchmark, job: Job) -> list[dict[str, Any]]:
    """Accuracy on unseen pairs before and after every run, its largest gradient, and why it ended early.

    Raises:
        ValueError: the folder holds runs of other options.
    """
    facts = {name: value for name, value in to_dict(options).items() if name not in ("out", "task", "seeds", "updates")}
    keep_to(options.out / "begun.json", facts)
    rows, accuracies, gradients = [], {}, {}
    for seed in range(options.seeds):
        recipe = MiniR1Training(
            folder=options.out / f"start-{seed}", stage="sft", sft_steps=100, sft_schedule="cosine", sft_every=5,
            sft_until=0.9, tests=options.pairs, seed=seed,
        )  # fmt: skip
        start, data = recipe.folder / "sft" / "weights", recipe.folder / "data"
        if not start.exists():
            train_recipe(recipe)
        for arm, objective in ARMS.items():
            folder = options.out / f"{arm}-{seed}"
            ended = run_to_the_end(R1Training(
                rows=data / "rl.jsonl", held_out=data / "test.jsonl", folder=folder, stage="rl", start=str(start),
                rounds=options.rounds, steps=options.age, batch_size=min(options.batch, 32),
                accumulate=max(1, options.batch // 32),
                learning_rate=options.rate, optimizer=options.optimizer, schedule="constant", warmup=0.0,
                tolerance=1.0, seed=seed,
                objective=replace(objective, rollout_updates=options.age, temperature=options.temperature),
            ))  # fmt: skip
            job.progress("training", len(rows) + 1, options.seeds * len(ARMS))
            log = read_log(folder / "log.jsonl")
            held = [(row["step"], row["held_out/accuracy"]) for row in log if "held_out/accuracy" in row]
            norms = [(row["step"], row["grad_norm"]) for row in log if "grad_norm" in row]
            rows.append({
                "arm": arm,
                "seed": seed,
                "accuracy_before": held[0][1],
                "accuracy_after": held[-1][1],
                "largest_gradient": max((norm for _, norm in norms), default=0.0),
                "largest_ratio": max((row["ratio_max"] for row in log if "ratio_max" in row), default=1.0),
                "filtered": statistics.mean([row["filtered"] for row in log if "filtered" in row] or [0.0]),
                "ended": ended or "as planned",
            })  # fmt: skip
            for panels, name, points in ((accuracies, "accuracy", held), (gradients, "norm of the gradient", norms)):
                panels.setdefault(f"{name}, seed {seed}", {})[arm] = ([x for x, _ in points], [y for _, y in points])
    plot_panels(
        options.out / "curves.png", accuracies | gradients, columns=options.seeds, log=gradients, xlabel="update",
        title=f"{options.optimizer}, rate {options.rate:g}, one set of judgements for {options.age} updates",
    )  # fmt: skip
    return rows


def run_to_the_end(options: R1Training) -> str:
    """Train; returns why it could not go on, or an empty text. A run that ended is not repeated."""
    mark = options.folder / "ended.txt"
    if mark.exists():
        return mark.read_text()
    try:
        train(options)
        why = ""
    except RuntimeError as error:  # sampling from a policy that is NaN
        if "probability tensor" not in str(error):
            raise
        why = "probabilities are NaN"
    with atomic_path(mark) as part:
        part.write_text(why)
    return why
