"""What a corrector's weights, a call and a training may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reward_vlm.options import TRLTraining
from reward_vlm.scl.extract import Variant
from reward_vlm.scl.prompts import Style, review_text
from reward_vlm.vlm import Sampling
from vision.config import added

CONFIG = "corrector.json"


@dataclass(frozen=True)
class SCLConfig:
    """How the weights were taught to be asked and to answer; saved beside them. The defaults suit any chat model."""

    style: Style = "full"
    """Prompts: full, those of the two published scripts (construction, evaluation), or the words of the small model."""
    extract: Variant = "strict"
    """How the chosen option is read out of a reply: strict, or as the two published scripts do."""
    reviews: tuple[int | str, ...] = (2,)
    """Requests to look again when a call names none: numbers from 0 to 3, or texts; 2 is the published code's
    default."""
    image_each_turn: bool = False
    """Show the pictures with every request (as the published code does for LLaVA), or with the question alone."""
    max_new_tokens: int = 1024
    """Longest reply."""
    max_pixels: int | None = None
    """Pictures are shrunk to so many pixels; None: the processor's own limit."""


@dataclass(frozen=True)
class SCLOptions:
    """What a call may choose."""

    reviews: tuple[int | str, ...] | None = None
    """Requests to look again: numbers from 0 to 3 (critical, details, context, scene) or texts of one's own; with an
    empty list the first answer stands. None: the weights' own."""
    rounds: int = 1
    """How often the reviews are gone through."""
    accept: Literal["last", "better"] = "last"
    """Take every new answer, or only one that the judge finds better; else the dialogue goes on from the old one."""
    votes: int = 0
    """Where a review changes the chosen option, the question is asked afresh so many times, at temperature 1, and the
    new option is taken only if it gets more votes than the old one; 0: without votes."""
    verify: int = 0
    """Draw so many answers, review each, and let the majority decide among those that their review confirms (among all
    where it confirms none); 0: reviews follow the first answer."""
    turns: int = 0
    """Draw answers one after the other until a review confirms one, at most so many; 0: as above."""
    effort: Literal["auto", "review", "all"] | None = None
    """auto: a question whose first answer does not stand when the options are shown in another order is asked --votes
    times more, in other orders, and the majority decides; others are left alone, and nothing is reviewed. review: also
    where a review of the answer names another option, which then is one of the votes. all: every question."""
    strategy: Path | None = added(None)  # noqa: RUF009
    """Folder that train scl --recipe strategy wrote: of the first answer, a review of it and votes, every question gets
    the way that suits it by what was learnt; None: as above."""
    stop_when_unchanged: bool = False
    """End when a review leaves the chosen option as it is."""
    temperature: float = 0.0
    """0 takes the most probable reply; the published code samples at 0.7."""
    top_p: float = 1.0
    """Sample among the most probable tokens that together have this probability."""
    batch_size: int = 8
    """Questions that the model reads at once."""
    max_new_tokens: int | None = None
    """Longest reply; None: the weights' own."""
    seed: int = 0
    """Of the samples; question i of a call draws from seed + i."""

    def __post_init__(self) -> None:
        for prompt in self.reviews or ():
            review_text(prompt)
        if self.rounds < 1 or self.batch_size < 1:
            raise ValueError(f"rounds and batch_size must be at least 1, got {self.rounds} and {self.batch_size}.")
        if self.votes < 0:
            raise ValueError(f"votes must be at least 0, got {self.votes}.")
        if self.votes and self.accept == "better":
            raise ValueError('Either votes decide or the judge does; leave out votes or accept="better".')
        self._check_tries()
        limit = 1 if self.max_new_tokens is None else self.max_new_tokens
        Sampling(limit, self.temperature, self.top_p)  # its own checks

    @property
    def deliberates(self) -> bool:
        """Whether answers rest on more than one try, see `reward_vlm.scl.deliberate`."""
        return bool(self.verify or self.turns or self.effort or self.strategy)

    def _check_tries(self) -> None:
        used = [name for name in ("verify", "turns", "effort", "strategy") if getattr(self, name)]
        if len(used) > 1:
            raise ValueError(f"{used[0]} and {used[1]} are two ways to answer; give one.")
        if self.verify < 0 or self.verify == 1 or self.turns < 0:
            raise ValueError(f"verify must be 2 or more and turns 1 or more, got {self.verify} and {self.turns}.")
        if self.effort and not self.votes:
            raise ValueError(f"effort {self.effort} votes about questions; say how often they are asked (--votes 8).")
        if self.strategy and self.reviews is not None:
            raise ValueError("strategy holds the review that it was learnt with; leave out reviews.")
        if self.deliberates and (self.accept == "better" or self.stop_when_unchanged or self.rounds > 1):
            raise ValueError(f"{used[0]} goes without rounds, accept and stop_when_unchanged.")
        if used and used[0] != "effort" and self.votes:
            raise ValueError(f"{used[0]} and votes are two ways to decide; give one.")


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters; they are merged at the end."""

    rank: int = 8
    """0: no adapters, the weights themselves are trained."""
    alpha: float = 32
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = 0.05
    """Of the adapters' input."""
    modules: str | None = None
    """Regular expression for the full names of the modules that get adapters; None: what makes queries, keys and values
    in the language part. Bare names such as q_proj would also match the image encoder."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"rank must be at least 0, got {self.rank}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}.")


@dataclass(frozen=True)
class Updates:
    """How weights are updated; the defaults are the reference's recipe."""

    epochs: float = 3
    """Passes over the rows."""
    batch_size: int = 1
    """Rows per process and micro-batch."""
    accumulate: int = 16
    """Micro-batches per update."""
    learning_rate: float = 5e-5
    """Peak learning rate; it rises, then falls to 0 along a cosine."""
    warmup: float = 0.03
    """Share of the updates over which the rate rises."""
    weight_decay: float = 0.1
    """Of AdamW."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm."""
    lora: LoRA = field(default_factory=LoRA)
    """Adapters."""
    parts: Literal["language", "all"] = "language"
    """What may be trained: all of the model, or nothing outside the language part (image encoder, projector)."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("epochs", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")


@dataclass(frozen=True)
class DPO(Updates):
    """How a model learns from pairs; the defaults are the reference's recipe."""

    loss_type: tuple[str, ...] = ("sigmoid", "sft")
    """TRL's names of the losses that are summed."""
    loss_weights: tuple[float, ...] = (0.9, 0.1)
    """Of the losses."""
    beta: float = 0.1
    """How strongly the policy is held to the start."""
    swap: bool = False
    """Exchange chosen and rejected: a control, which must make the model worse."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, got {self.beta}.")
        if len(self.loss_type) != len(self.loss_weights):
            raise ValueError(
                f"Each of the losses needs one weight, got {len(self.loss_type)} losses and "
                f"{len(self.loss_weights)} weights."
            )


@dataclass(frozen=True)
class SCLTraining(TRLTraining):
    """Train on preference pairs."""

    pairs: Path
    """JSON lines of preference pairs, as --recipe pairs writes them."""
    folder: Path = field(default=Path("runs/scl"), kw_only=True)
    """Checkpoints, log.jsonl and the finished `weights`; a run that finds its own state goes on from it."""
    dpo: DPO = field(default_factory=DPO)
    """The recipe."""
    seed: int = field(default=42, kw_only=True)
    """Of the order of the pairs, the first adapters and dropout."""
