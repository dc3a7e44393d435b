"""Train a judge: cold start on written judgements, then StableReinforce.

    python scripts/train.py r1 --stage sft --rows judgements.jsonl --start Qwen/Qwen2.5-VL-7B-Instruct --folder runs/sft
    python scripts/train.py r1 --stage rl --rows hard.jsonl --held-out pairs.jsonl --start runs/sft/weights \\
        --folder runs/rl --rounds 10 --steps 40
    accelerate launch --config_file zero3.yaml scripts/train.py r1 --stage rl ... --trl vllm.json

Rows are preferences or prompts as they are sent, see `reward_vlm.data`. `--trl` names a JSON file with further
arguments of TRL's configuration (vLLM, DeepSpeed, FSDP, checkpointing of activations): larger machines need no other
code.

Reinforcement goes in rounds on the refinement core: a round selects prompts, lets TRL sample, score and update for
`steps` updates, and is judged on held-out pairs; a round that makes the judge worse than the best one by more than
`tolerance` is undone. Round r depends on the state before it and on (seed, r) alone, and the state (weights, moments of
the optimiser) is saved after each, so that a killed run ends with the weights of one that was not. With one round the
optimiser, the schedule and the checkpoints are TRL's own: the form for ZeRO-3, FSDP, vLLM and LoRA, where the state
does not fit one process; there a run goes on from TRL's last checkpoint, whose pending rollout is drawn anew, so the
weights may differ from those of an undisturbed run.

Differences from the release: the policy sees the pictures; the learning rate and the weight of the divergence are
choices (the release: 3e-7, 1e-3; the paper: 1e-6, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from reward_vlm.data import JudgementRow, Preference, preference, read_rows
from reward_vlm.r1.evaluate import counts, judge_pairs, summary
from reward_vlm.r1.judge import R1Config, R1Judge
from reward_vlm.r1.rounds import reinforce
from reward_vlm.r1.rows import row_reader, training_set
from reward_vlm.r1.running import lora_config, trl_arguments, write_judge
from reward_vlm.training import common_arguments, kept_start, supervise
from reward_vlm.vlm import ChatModel

Log = Callable[[str], object]


@dataclass(frozen=True)
class StableReinforce:
    """The objective of reinforcement, see `reward_vlm.r1.objective`."""

    samples: int = 1
    """Judgements per prompt."""
    estimator: Literal["reinforce", "rloo", "group_mean"] = "reinforce"
    """Baseline from the samples of a prompt."""
    filter: Literal["sigma", "release", "none"] = "sigma"
    """Which advantages are dropped."""
    filter_width: float = 3.0
    """Of the filter, in standard deviations."""
    preclip: float | None = 1000.0
    """Bound of the ratio before the exponential; None: no bound."""
    beta: float = 1e-3
    """Weight of the divergence from the start."""
    epsilon: float = 0.2
    """Ratios outside 1 -/+ epsilon gain nothing."""
    rollout_updates: int = 2
    """Updates that one set of judgements is used for."""
    temperature: float = 1.0
    """Of the judgements."""


@dataclass(frozen=True)
class R1Training:
    """Train a judge on your own rows."""

    rows: Path
    """JSON lines of preferences (with rationales for sft) or of prompts."""
    folder: Path = Path("runs/r1")
    """Checkpoints, log.jsonl and the finished `weights`; a run that finds its own state goes on from it."""
    stage: Literal["sft", "rl"] = "sft"
    """Cold start, or reinforcement."""
    start: str | None = None
    """Source of the weights to start from; None: the embedded judge."""
    held_out: Path | None = None
    """JSON lines of preferences that judge the rounds; reinforcement needs it."""
    judge: R1Config | None = None
    """How the judge is asked; None: as the start's `judge.json` says."""
    steps: int = 100
    """Updates (of one round, for reinforcement)."""
    rounds: int = 1
    """Rounds of reinforcement."""
    batch_size: int = 2
    """Judgements per process and micro-batch."""
    accumulate: int = 8
    """Micro-batches per update."""
    learning_rate: float = 1e-6
    """Peak learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Falls to a tenth, or stays."""
    warmup: float = 0.03
    """Share of the updates over which the rate rises (of the first round's)."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, whose steps have the size of the rate, or plain gradient descent, whose steps have the gradient's."""
    max_new_tokens: int | None = None
    """Longest judgement in training; None: the judge's own limit."""
    objective: StableReinforce = field(default_factory=StableReinforce)
    """Of reinforcement."""
    consistency: str = "rule"
    """Who judges consistency: "rule" ("response k is better" names the answer), or the url of an OpenAI-compatible
    server, whose key is read from OPENAI_API_KEY."""
    select: Literal["all", "hard"] = "all"
    """Prompts of a round: any, or first those that two samples of the current judge do not both get right."""
    until: float | None = None
    """The cold start ends early when this share of the held-out pairs is right in both orders, looked at with every
    checkpoint; None: it takes all steps."""
    tolerance: float = 0.02
    """A round may lose so much held-out accuracy against the best before it is undone."""
    lora_rank: int = 0
    """Train low-rank adapters of the language part and merge them at the end; 0 trains everything."""
    save_every: int = 25
    """Updates between TRL's checkpoints."""
    seed: int = 0
    """Of the order of the rows and of the judgements."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights while they are trained."""
    skip_bad: bool = False
    """Leave out rows that cannot be used; they are reported by number either way."""
    trl: Path | None = None
    """JSON file with further arguments of TRL's SFTConfig or GRPOConfig."""

    def __post_init__(self) -> None:
        for name in ("steps", "rounds", "batch_size", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.stage == "rl" and self.held_out is None:
            raise ValueError("Reinforcement needs held-out pairs (--held-out) to judge its rounds.")
        if self.until is not None and self.held_out is None:
            raise ValueError("until is about held-out pairs; give them (--held-out).")
        if self.stage == "sft" and self.rounds > 1:
            raise ValueError("Rounds belong to reinforcement (--stage rl).")
        if self.stage == "rl" and self.steps < self.objective.rollout_updates:
            raise ValueError(
                f"A round needs at least as many steps as updates share a rollout ({self.objective.rollout_updates}), "
                f"got {self.steps}; it would make no update."
            )
        if self.lora_rank and self.rounds > 1:
            raise ValueError("LoRA trains in one round; leave --rounds out.")


def train(options: R1Training, *, log: Log | None = None) -> Path:
    """Run a stage to its end and return the folder of the weights.

    Raises:
        ValueError: rows cannot be used; they are named by number.
    """
    say = log or (lambda line: None)
    from transformers import TrainingArguments

    processes = TrainingArguments(**common_arguments(options.folder, options.seed, options.save_every))
    with processes.main_process_first(local=False):
        start = kept_start(options.folder, lambda folder: _judge(options).save_pretrained(folder))
    config = R1Judge.from_pretrained(start).config
    rows, problems = read_rows(options.rows, row_reader(config), skip_bad=options.skip_bad)
    for sentence in problems:
        say(f"left out: {sentence}")
    held_out: list[Preference] = []
    if options.held_out is not None:
        held_out, problems = read_rows(options.held_out, preference, skip_bad=options.skip_bad)
        for sentence in problems:
            say(f"left out: {sentence}")
    if options.stage == "sft":
        return cold_start(start, rows, held_out, options, say)
    return reinforce(start, rows, held_out, options, say)


def _judge(options: R1Training) -> R1Judge:
    """The judge that a run starts from, asked as the options say."""
    judge = R1Judge.from_pretrained(options.start)
    return R1Judge(judge.chat, options.judge or judge.config)


def cold_start(
    start: Path, rows: Sequence[JudgementRow], held_out: Sequence[Preference], options: R1Training, say: Log
) -> Path:
    """Supervised training on written judgements with TRL's SFTTrainer; the loss is on the reply alone."""
    weights = options.folder / "weights"
    if weights.exists():
        return weights
    judge = R1Judge.from_pretrained(start, dtype=getattr(torch, options.dtype))
    assert isinstance(judge.chat, ChatModel)

    def reached(step: int) -> bool:
        """Whether the judge as it is satisfies `until`."""
        found = summary(counts(judge_pairs(judge, held_out)))
        say(f"{step}: right in both orders {found['both_orders']:.3f}, accuracy {found['accuracy']:.3f}")
        return found["both_orders"] >= options.until

    trainer = supervise(
        judge.chat,
        training_set(rows, targets=True),
        trl_arguments(options, {}),
        peft=lora_config(options),
        reached=None if options.until is None else reached,
        say=say,
    )
    return write_judge(trainer, judge, weights)
