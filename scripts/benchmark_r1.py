"""Stability and cost of StableReinforce; called by `scripts/benchmark.py r1`.

    python scripts/benchmark.py r1 --task overhead --out runs/r1-overhead
    python scripts/benchmark.py r1 --task stress --start runs/r1-swayed/sft/weights --out runs/r1-stress

overhead: seconds of an update (rollout included) of StableReinforce and of TRL's GRPO with the same model, prompts,
batch and length, the two taking turns in one process. stress: rendered scenes, with the rate and the age of the
judgements raised beyond what training uses, with StableReinforce and with the plain algorithm (no bound of the ratio,
no filter of advantages); several seeds, one picture; `docs/r1_reward.md` tells what came out. Writes a table (json,
csv), curves.png (stress) and run.json; finished runs are not repeated.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from reward_vlm.data import preference_json, write_rows
from reward_vlm.r1.judge import R1Config, R1Judge
from reward_vlm.r1.rewards import JudgementReward
from reward_vlm.r1.rows import judgement_row, training_set
from reward_vlm.r1.train import R1Training, StableReinforce, train
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import TinySize, tiny_chat_model
from vision.config import to_dict
from vision.report import plot, table, write_run, write_table

ARMS = {
    "StableReinforce": StableReinforce(beta=0.0),
    "plain": StableReinforce(beta=0.0, filter="none", preclip=None),
}
"""The paper's method, and REINFORCE++ with the clipped loss alone."""


@dataclass(frozen=True)
class R1Benchmark:
    """Time updates, or drive them until the plain algorithm fails."""

    out: Path
    """Folder for the results."""
    task: Literal["overhead", "stress"] = "overhead"
    """What to measure."""
    start: str | None = None
    """Weights that the stress runs start from; None: the embedded judge."""
    seeds: int = 3
    """Runs per arm (stress)."""
    rate: float = 1e-3
    """Learning rate (stress)."""
    age: int = 16
    """Updates from one set of judgements (stress)."""
    rounds: int = 3
    """Sets of judgements (stress)."""
    batch: int = 32
    """Judgements per update (stress)."""
    temperature: float = 1.0
    """Of the judgements (stress)."""
    updates: int = 12
    """Timed updates per trainer (overhead)."""

    def __post_init__(self) -> None:
        if min(self.seeds, self.age, self.rounds, self.batch, self.updates) < 1:
            raise ValueError("seeds, age, rounds, batch and updates must be at least 1.")


def main(options: R1Benchmark) -> int:
    """Measure and write; returns 0."""
    started = time.monotonic()
    rows = overhead(options) if options.task == "overhead" else stress(options)
    Console(width=160).print(table(rows))
    write_table(rows, options.out / f"{options.task}.json", options.out / f"{options.task}.csv")
    write_run(options.out, options=to_dict(options), seconds=round(time.monotonic() - started, 1))
    return 0


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


def stress(options: R1Benchmark) -> list[dict[str, Any]]:
    """Held-out accuracy before and after of every run, and why a run ended early."""
    data = options.out / "data"
    for name, seed, count in (("rl", 7, 3000), ("held_out", 98, 200)):
        if not (data / f"{name}.jsonl").exists():
            write_rows(data / f"{name}.jsonl", [preference_json(pair, data) for pair in scene_pairs(seed, count)])
    rows, curves = [], {}
    for seed in range(options.seeds):
        for arm, objective in ARMS.items():
            folder = options.out / f"{arm}-{seed}"
            ended = run_to_the_end(R1Training(
                rows=data / "rl.jsonl", held_out=data / "held_out.jsonl", folder=folder, stage="rl",
                start=options.start, rounds=options.rounds, steps=options.age, batch_size=options.batch, accumulate=1,
                learning_rate=options.rate, schedule="constant", warmup=0.0, tolerance=1.0, seed=seed,
                objective=replace(objective, rollout_updates=options.age, temperature=options.temperature),
            ))  # fmt: skip
            log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
            held = [(row["step"], row["held_out/accuracy"]) for row in log if "held_out/accuracy" in row]
            losses = [abs(row["policy_loss"]) for row in log if "policy_loss" in row]
            facts = {"arm": arm, "seed": seed, "accuracy_before": held[0][1], "accuracy_after": held[-1][1]}
            facts["largest_ratio"] = max((row["ratio_max"] for row in log if "ratio_max" in row), default=1.0)
            rows.append({**facts, "largest_loss": max(losses, default=0.0), "ended": ended or "as planned"})
            curves[f"{arm}, seed {seed}"] = ([step for step, _ in held], [accuracy for _, accuracy in held])
    title = f"rate {options.rate:g}, one set of judgements for {options.age} updates"
    plot(options.out / "curves.png", curves, title=title, xlabel="update", ylabel="held-out accuracy, random order")
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
    mark.write_text(why)
    return why
