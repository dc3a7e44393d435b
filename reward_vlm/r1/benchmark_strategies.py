"""What each strategy of reinforcement adds, beside the same run without it; `burnish benchmark r1-strategies` runs it.

    burnish benchmark r1-strategies --strategy spans --out runs/r1-spans

Small judges of rendered scenes get a cold start (three seeds), from which every arm goes on with the same rows and as
many updates. The rounds are judged on held-out pairs, the best one at the end on pairs that no stage saw. Writes a
table (json, csv), a picture of the held-out accuracy and run.json; finished runs are not repeated, stopped ones go on.
What came out stands in `docs/strategies`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from reward_vlm.data import preference, read_rows
from reward_vlm.r1.curves import read_log
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.measures import counts, judge_pairs, summary
from reward_vlm.r1.options import R1Training, StableReinforce
from reward_vlm.r1.recipe_mini import MiniR1Training
from reward_vlm.r1.recipe_mini import train as train_recipe
from reward_vlm.r1.recipe_swayed import SwayedJudgeTraining
from reward_vlm.r1.train import train
from vision.checkpoints import one_at_a_time
from vision.config import to_dict
from vision.files import atomic_path
from vision.job import Event, Job, Outcome, Show, keep_to, silent
from vision.report import plot_panels, text_table, write_table


@dataclass(frozen=True)
class Comparison:
    """Runs that differ in a strategy alone."""

    start: MiniR1Training
    """The recipe of the cold start."""
    shared: Mapping[str, Any]
    """Options of `R1Training` that all arms have."""
    arms: Mapping[str, Mapping[str, Any]]
    """Name -> the options that it has beside them. The first one does without the strategy."""


GUIDE = Path("rl.jsonl")
"""Stands for the rows with their rationales, among the data of the cold start."""
EARLY = MiniR1Training(stage="sft", sft_steps=100, sft_until=0.3)
"""Stopped before the judgements have their form and copy the words of the answers; plain rollouts add little to it."""
SWAYED = SwayedJudgeTraining(stage="sft", rows=(4000, 3000, 100))
"""Its judgements have their form, and what it does wrong is a habit that reinforcement undoes: it rises, and goes on
rising as long as it may leave its start."""
LONG = {
    "rounds": 8, "steps": 20, "learning_rate": 5e-4, "warmup": 0.1, "tolerance": 0.1,
    "objective": StableReinforce(samples=2, estimator="group_mean", beta=0.02, rollout_updates=4),
}  # fmt: skip
"""Long enough for the rate to fall: at its peak, rounds go up and down by more than they gain."""
COMPARISONS = {
    "curriculum": Comparison(
        EARLY,
        LONG,
        {
            "plain": {},
            "curriculum and guidance": {"curriculum": "adaptive", "guide": GUIDE},
            "guidance": {"guide": GUIDE},
            "curriculum": {"curriculum": "adaptive"},
        },
    ),
    "downsampling": Comparison(
        EARLY,
        {
            "rounds": 2, "steps": 20, "learning_rate": 5e-4, "warmup": 0.1, "tolerance": 1.0,
            "objective": StableReinforce(samples=4, beta=0.02, rollout_updates=4),
        },
        {"as drawn": {}, "down-sampled": {"oversample": 2}},
    ),
    "progress": Comparison(
        EARLY,
        LONG,
        {"the whole alone": {}, "sentences too": {"progress": 1.0}},
    ),
    "resets": Comparison(
        SWAYED,
        {
            "rounds": 30, "steps": 4, "learning_rate": 3e-4, "schedule": "constant", "tolerance": 1.0,
            "objective": StableReinforce(beta=1.0, rollout_updates=4),
        },
        {"one reference": {}, "resets": {"reset": "on-stall"}},
    ),
    "spans": Comparison(
        MiniR1Training(stage="sft", sft_steps=100, sft_schedule="cosine", sft_every=10, sft_until=0.9),
        {
            "rounds": 3, "steps": 16, "learning_rate": 0.3, "schedule": "constant", "warmup": 0.0, "tolerance": 1.0,
            "optimizer": "sgd",
            "objective": StableReinforce(beta=0.0, skip_equal=False, rollout_updates=16, temperature=0.5),
        },
        {"one reward": {}, "by spans": {"spans": ("think=consistency", "answer=consistency")}},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class StrategyBenchmark:
    """Train with a strategy and without it."""

    out: Path
    """Folder for the starts, the runs and the results."""
    strategy: Literal["curriculum", "downsampling", "progress", "resets", "spans"]
    """What is switched on and off."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the first weights, the order of the rows and the judgements."""
    arms: tuple[str, ...] | None = None
    """Names of the runs to compare; None: all."""
    rounds: int | None = None
    """Rounds of reinforcement; None: the comparison's own."""
    steps: int | None = None
    """Updates per round; None: the comparison's own."""
    judgements: int = 32
    """Judgements per update."""
    rate: float | None = None
    """Learning rate; None: the comparison's own."""
    beta: float | None = None
    """Weight of the divergence; None: the comparison's own."""
    tests: int = 200
    """Unseen pairs that accuracy is measured on."""

    def __post_init__(self) -> None:
        numbers = (self.judgements, self.tests, self.rounds, self.steps)
        if not self.seeds or any(number is not None and number < 1 for number in numbers):
            raise ValueError("There must be a seed, and rounds, steps, judgements and tests must be at least 1.")
        known = COMPARISONS[self.strategy].arms
        for arm in (arm for arm in self.arms or () if arm not in known):
            raise ValueError(f"{self.strategy} compares {', '.join(known)}, got {arm!r}.")


@one_at_a_time
def benchmark(options: StrategyBenchmark, show: Show = silent) -> Outcome:
    """Train what is not trained yet, and show the table.

    Raises:
        ValueError: the folder holds runs of other options, or a comparison of other arms.
    """
    job = Job(options.out, options, show=show)
    comparison = COMPARISONS[options.strategy]
    arms = options.arms or tuple(comparison.arms)  # the table is about these, so they bind the folder
    keep_to(
        options.out / "begun.json",
        {name: value for name, value in to_dict(options).items() if name not in ("out", "seeds")} | {"arms": arms},
    )
    rows, panels = [], {}
    for seed in options.seeds:
        start = replace(comparison.start, folder=options.out / f"start-{seed}", seed=seed, tests=options.tests)
        if not (start.folder / "report.json").exists():
            train_recipe(start, log=job.note)
        before = json.loads((start.folder / "report.json").read_text())["sft"]
        for arm in arms:
            run = training(options, start, arm)
            found = finished(run, start.folder / "data" / "test.jsonl", job)
            rows.append({"arm": arm, "seed": seed, **measured(before, found, read_log(run.folder / "log.jsonl"))})
            panels.setdefault(f"held-out accuracy, seed {seed}", {})[arm] = held_out(run.folder)
            job.progress("training", len(rows), len(options.seeds) * len(arms))
    rows += [average([row for row in rows if row["arm"] == arm]) for arm in arms]
    show(Event("result", text_table(rows, digits=3), path=options.out))
    write_table(rows, options.out / f"{options.strategy}.json", options.out / f"{options.strategy}.csv")
    plot_panels(options.out / "curves.png", panels, columns=len(options.seeds), title=options.strategy, xlabel="update")
    job.conclude("runs", len(rows) - len(arms), 0)
    return Outcome(options.out, {f"{number}": row for number, row in enumerate(rows)})


def training(options: StrategyBenchmark, start: MiniR1Training, arm: str) -> R1Training:
    """The run of an arm from a start."""
    comparison, data = COMPARISONS[options.strategy], start.folder / "data"
    chosen = {**comparison.shared, **comparison.arms[arm]}
    if "guide" in chosen:
        chosen["guide"] = data / chosen["guide"]
    given = {"rounds": options.rounds, "steps": options.steps, "learning_rate": options.rate}
    chosen |= {name: value for name, value in given.items() if value is not None}
    if options.beta is not None:
        chosen["objective"] = replace(chosen["objective"], beta=options.beta)
    return R1Training(
        stage="rl", rows=data / "rl.jsonl", held_out=data / "held_out.jsonl", start=str(start.folder / "sft/weights"),
        folder=options.out / f"{arm.replace(' ', '-')}-{start.seed}", batch_size=min(options.judgements, 32),
        accumulate=max(1, options.judgements // 32), seed=start.seed, **chosen,
    )  # fmt: skip


def finished(run: R1Training, tests: Path, job: Job) -> dict[str, float]:
    """How the weights of a run judge the tests, and the CPU seconds of this process for it; kept beside them."""
    path = run.folder / "tested.json"
    if not path.exists():
        before = time.process_time()
        judge = R1Judge.from_pretrained(train(run, log=job.note))
        seconds = time.process_time() - before
        found = summary(counts(judge_pairs(judge, read_rows(tests, preference)[0])))
        with atomic_path(path) as part:
            part.write_text(json.dumps(found | {"seconds": seconds}) + "\n", encoding="utf-8")
    return json.loads(path.read_text())


def measured(
    before: Mapping[str, float], after: Mapping[str, float], log: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """A row of the table: unseen pairs before and after; held-out accuracy at its lowest and at the end; and of the
    judgements that were learnt from their share of right and of well formed ones, reward and reward per 100 tokens."""
    held = [row["held_out/accuracy"] for row in log if "held_out/accuracy" in row]
    learnt = [row for row in log if "updated_tokens" in row]
    return {
        "accuracy_before": before["accuracy"],
        "accuracy": after["accuracy"],
        "both_before": before["both_orders"],
        "both": after["both_orders"],
        "format": after["format"],
        "held_out_lowest": min(held),
        "held_out_last": held[-1],
        "result": statistics.mean(row["rewards/result"] for row in learnt),
        "formed": statistics.mean(row["rewards/format"] for row in learnt),
        "reward": statistics.mean(row["reward"] for row in learnt),
        "reward_per_100_tokens": 100 * statistics.mean(row["reward_per_token"] for row in learnt),
        "tokens": sum(row["updated_tokens"] for row in learnt),
        "guided": statistics.mean(row.get("guided", 0.0) for row in learnt),
        "seconds": after["seconds"],
    }


def average(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of the rows of an arm, and the spread (standard deviation) of their accuracies."""
    numbers = [name for name in rows[0] if name not in ("arm", "seed")]
    mean = {name: statistics.mean(row[name] for row in rows) for name in numbers}
    spread = {f"{name}_spread": statistics.pstdev(row[name] for row in rows) for name in ("accuracy", "both")}
    return {"arm": rows[0]["arm"], "seed": "mean", **mean, **spread}


def held_out(folder: Path) -> tuple[list[float], list[float]]:
    """Updates and held-out accuracies of a run."""
    points = [
        (row["step"], row["held_out/accuracy"]) for row in read_log(folder / "log.jsonl") if "held_out/accuracy" in row
    ]
    return [x for x, _ in points], [y for _, y in points]
