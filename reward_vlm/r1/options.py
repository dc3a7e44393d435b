"""What a judge's weights, a call and a training may choose."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reward_vlm.endpoint import Endpoint
from reward_vlm.options import TRLTraining
from reward_vlm.templates import Pair
from reward_vlm.vlm import Sampling
from vision.config import added

CONFIG = "judge.json"


@dataclass(frozen=True)
class R1Config:
    """How the weights were taught to be asked; saved beside them. The defaults are the published model's."""

    template: Pair = "short"
    """How it is asked and its reply read; a published judge's own template has its name."""
    image_first: bool = True
    """Pictures stand before the text (the published evaluation) or after it (the published training rows)."""
    max_new_tokens: int = 4096
    """Longest judgement."""
    max_pixels: int | None = 501_760
    """Pictures are shrunk to so many pixels; None: the processor's own limit."""
    frames: int = 32
    """Frames of a film."""
    question: str | None = added(None)
    """The one question that the weights were taught; None: any."""
    answers: Literal["any", "texts", "pictures"] = added("any")
    """The answers that the weights were taught to compare."""


@dataclass(frozen=True)
class R1Options:
    """What a call may choose."""

    votes: int = 1
    """Samples of each comparison and order."""
    orders: Literal["both", "given", "random"] = "both"
    """Show the answers in both orders (twice the work, no position bias), as given, or in a random one."""
    temperature: float | None = None
    """None: 0 for one vote, 1 for more."""
    top_p: float = 1.0
    """Sample among the most probable tokens that together have this probability."""
    tournament: Literal["round_robin", "knockout"] = "round_robin"
    """With more than two answers: every pair is compared, or winners meet winners (n - 1 comparisons)."""
    batch_size: int = 8
    """Prompts that the model reads at once."""
    max_new_tokens: int | None = None
    """Longest judgement; None: the weights' own."""
    seed: int = 0
    """Of the samples and of random orders; comparison i of a call draws from seed + i."""

    def __post_init__(self) -> None:
        if self.votes < 1 or self.batch_size < 1:
            raise ValueError(f"votes and batch_size must be at least 1, got {self.votes} and {self.batch_size}.")
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("Several votes at temperature 0 are all the same; leave temperature out or raise it.")
        limit = 1 if self.max_new_tokens is None else self.max_new_tokens
        Sampling(limit, self.temperature or 0.0, self.top_p)  # its own checks

    def comparisons(self, answers: int) -> int:
        """How many replies a question with so many answers takes; of a tournament by knockout, at most."""
        return answers * (answers - 1) // 2 * self.votes * (2 if self.orders == "both" else 1)


@dataclass(frozen=True)
class StableReinforce:
    """The objective of reinforcement."""

    samples: int = 1
    """Judgements per prompt."""
    estimator: Literal["reinforce", "rloo", "group_mean"] = "reinforce"
    """Baseline from the samples of a prompt."""
    filter: Literal["sigma", "published", "none"] = "sigma"
    """Which advantages are dropped."""
    filter_width: float = 3.0
    """Of the filter, in standard deviations."""
    preclip: float | None = 1000.0
    """Bound of the ratio before the exponential; None: no bound."""
    beta: float = 1e-3
    """Weight of the divergence from the start."""
    epsilon: float = 0.2
    """Ratios outside 1 -/+ epsilon gain nothing."""
    skip_equal: bool = True
    """A rollout whose judgements all earn the same teaches nothing and moves no weights. The published code whitens
    what is left of its advantages, which is noise."""
    rollout_updates: int = 2
    """Updates that one set of judgements is used for."""
    temperature: float = 1.0
    """Of the judgements."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon must lie in (0, 1), got {self.epsilon}.")
        if self.samples < 1 or self.rollout_updates < 1:
            raise ValueError(
                f"samples and rollout_updates must be at least 1, got {self.samples} and {self.rollout_updates}."
            )


@dataclass(frozen=True)
class R1Training(TRLTraining):
    """Train a judge on your own rows."""

    rows: Path
    """JSON lines of preferences (with rationales for sft) or of prompts."""
    folder: Path = field(default=Path("runs/r1"), kw_only=True)
    """Checkpoints, log.jsonl and the finished `weights`; a run that finds its own state goes on from it."""
    stage: Literal["sft", "rl"] = "sft"
    """Cold start, or reinforcement."""
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
    """Longest judgement in training and of held-out pairs; None: the judge's own limit."""
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
    oversample: int | None = None
    """Draw so many times as many judgements as are learnt from, and keep the well formed ones among the right; needs
    two samples per prompt (--objective.samples) or more."""
    spans: tuple[str, ...] | None = None
    """Rewards of parts of a judgement, each on its own tokens: "think=consistency answer=consistency"; what lies in
    no span earns the form. None: all tokens earn the whole."""
    progress: float | None = None
    """Every sentence of the reasoning earns so many times what it adds to the chance of the right answer; None: only
    the whole earns."""
    curriculum: Literal["adaptive"] | None = None
    """Rounds go from easy to hard prompts, each measured again before it; None: any prompts."""
    guide: Path | None = None
    """JSON lines of preferences with rationales, by the ids of the rows: where every judgement of a prompt fails, what
    stands there takes the place of one; needs two samples per prompt (--objective.samples) or more."""
    mine: tuple[Path, ...] = ()
    """Folders that `benchmark restorers --keep` wrote: the pairs of windows that the start gets wrong are learnt from
    beside the rows. For judges of pictures."""
    reset: Literal["on-stall"] | None = None
    """Where two rounds in a row do not raise the held-out accuracy, divergence is measured from the policy as it is
    and the optimiser begins anew."""
    tolerance: float = 0.02
    """A round may lose so much held-out accuracy against the best before it is undone."""
    lora_rank: int = 0
    """Train low-rank adapters of the language part and merge them at the end; 0 trains everything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "rounds", "batch_size", "accumulate"):
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
        self._check_strategies()
        if self.consistency != "rule":
            Endpoint(self.consistency)  # its own checks
        if self.lora_rank and self.rounds > 1:
            raise ValueError("LoRA trains in one round; leave --rounds out.")

    def _check_strategies(self) -> None:
        """Which strategies go with which kind of run."""
        used = {
            name: getattr(self, name) is not None
            for name in ("oversample", "spans", "progress", "curriculum", "guide", "reset")
        } | {"mine": self.mine != ()}
        for name in (name for name, asked in used.items() if asked and self.stage != "rl"):
            raise ValueError(f"{name} belongs to reinforcement (--stage rl).")
        for name in (name for name in ("curriculum", "reset") if used[name] and self.rounds == 1):
            raise ValueError(f"{name} is about rounds; give more than one (--rounds).")
        if used["curriculum"] and self.select != "all":
            raise ValueError("An adaptive curriculum selects the prompts itself; leave --select out.")
        if used["oversample"] and (self.oversample < 2 or self.objective.samples < 2):
            raise ValueError(
                "oversample must be at least 2, with at least 2 samples per prompt (--objective.samples), "
                f"got {self.oversample} and {self.objective.samples}."
            )
        if used["guide"] and self.objective.samples < 2:
            raise ValueError(
                "guide needs at least 2 samples per prompt (--objective.samples): with one, help would replace every "
                "wrong judgement, and equal rewards teach nothing."
            )
        if used["progress"] and not 0 < self.progress < math.inf:
            raise ValueError(f"progress must be above 0, got {self.progress}; leave it out to reward the whole alone.")
        if used["progress"] and used["spans"]:
            raise ValueError("spans and progress are two ways to reward the parts of a judgement; give one.")
        pairs = [pair.partition("=") for pair in self.spans or ()]
        parts = ("format", "result", "consistency")
        if used["spans"] and (
            not pairs or any(span not in ("think", "answer") or part not in parts for span, _, part in pairs)
        ):
            raise ValueError(
                f"spans are think=PART and answer=PART, where PART is {' or '.join(parts)}, "
                f"got {' '.join(self.spans)!r}."
            )
