"""Masked token sampling: refine tokens step by step, keeping what the evaluation net trusts.

ITER (arXiv 2312.05616), inference as in the published code. The evaluation net judges the first tokens; those above a
threshold are trusted, and the run starts at the first step of the schedule that asks for at least as many. Each step
draws all tokens anew from the refinement net, which sees the visible ones; then the evaluation net judges the draw,
and more positions become visible, drawn without replacement in proportion to their probability of being right.
Visible positions stay visible; their tokens change with every draw. The result is the last draw.

Differences from the published code, none of which changes a single picture's result: every item of a batch counts its
own tokens (the code sums over the batch, and uses the first item's count); visible positions are never drawn again
(the code's weights leave them a chance of 1e-8). `batch_counts` brings both back.

Shapes: b batch, h x w token grid, n codes. Masks are (b, 1, h, w) with 1 = visible.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from restoration.iter.model import ITERModel, Observed
from vision.refine import PerItem, Step, Verdict, refine_steps
from vision.strategies.progress import stalled


@dataclass(frozen=True)
class TokenState:
    """What a run of token sampling holds."""

    observed: Observed
    """First tokens and context."""
    trusted: Tensor
    """(b, 1, h, w): first tokens that the evaluation net accepted."""
    start: Tensor
    """(b,) int64: first step of the schedule in which the item takes part."""
    tokens: Tensor
    """(b, 1, h, w) int64: current tokens."""
    visible: Tensor
    """(b, 1, h, w): positions that the next step may see."""
    confidence: Tensor
    """(b, 1, h, w): probability that the current tokens are right, at the mask's temperature."""
    noise: PerItem[Any]
    """Where each item's random numbers come from: a generator or a `Noise`."""


@dataclass(frozen=True)
class Keep:
    """One step of the schedule."""

    index: int
    """Number of the step in the full schedule."""
    now: int
    """Positions that are visible in this step."""
    next: int | None
    """Positions that are visible in the next step; None in the last one."""


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are sampled."""

    steps: int = 8
    """Steps of the full schedule."""
    schedule: str = "linear"
    """Mask schedule: linear, cosine, powP or expE with a number P > 0 or E > 1."""
    threshold: float = 0.7
    """Probability from which first tokens are trusted."""
    temperature_tokens: float = 1.0
    """Above 1 tokens vary more, below 1 less."""
    temperature_mask: float = 1.0
    """Above 1 the choice of visible positions is more random, below 1 less."""
    adaptive: bool = True
    """Start from the trusted tokens; False starts with everything masked."""
    batch_counts: bool = False
    """Count tokens as the published code does (see the module docstring)."""
    progress: float | None = None
    """End when a step adds less than this to the mean probability that the tokens are right; None: make all steps."""


class Noise(Protocol):
    """A source of random numbers that knows what they are for."""

    def exponential(self, size: tuple[int, ...], kind: str, step: int) -> Tensor:
        """Draws of the exponential distribution; `kind` is "tokens" (h * w, n) or "mask" (h * w,)."""
        ...


@dataclass(frozen=True)
class PlacedNoise:
    """Random numbers that depend on the place in the picture, so that tiles draw alike where they overlap."""

    seed: int
    """Of the picture."""
    top: int
    """First token row of the tile in the picture's token grid."""
    left: int
    """First token column."""
    width: int
    """Token columns of the tile."""
    block: int = 16
    """Side of the squares of tokens that share a generator."""

    def exponential(self, size: tuple[int, ...], kind: str, step: int) -> Tensor:
        """See `Noise`."""
        height = size[0] // self.width
        result = torch.empty(height, self.width, *size[1:])
        rows = range(self.top // self.block, (self.top + height - 1) // self.block + 1)
        columns = range(self.left // self.block, (self.left + self.width - 1) // self.block + 1)
        for row in rows:
            for column in columns:
                key = f"{self.seed} {kind} {step} {row} {column}".encode()
                seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
                generator = torch.Generator().manual_seed(seed)
                draw = torch.rand(self.block, self.block, *size[1:], generator=generator).log_().neg_()
                top, left = row * self.block - self.top, column * self.block - self.left
                area = result[max(top, 0) : top + self.block, max(left, 0) : left + self.block]
                area.copy_(draw[max(-top, 0) :, max(-left, 0) :][: area.shape[0], : area.shape[1]])
        return result.view(size)


def mask_schedule(name: str, progress: Tensor) -> Tensor:
    """Share of masked tokens, in [0, 1], at `progress` in [0, 1]: 1 (or less, for exp) at 0, and 0 at 1.

    linear 1 - r, cosine cos(pi r / 2), powP 1 - r^P, expE (E - 1) / E (1 - E^(r - 1)).

    Raises:
        ValueError: there is no such schedule.
    """
    if name == "linear":
        return 1 - progress
    if name == "cosine":
        return torch.cos(progress * (math.pi / 2))
    match = re.fullmatch(r"(pow|exp)(\d+\.?\d*|\.\d+)", name)
    number = float(match[2]) if match else 0.0
    if match and match[1] == "pow" and number > 0:
        return 1 - progress**number
    if match and match[1] == "exp" and number > 1:
        return (number - 1) / number * (1 - torch.pow(number, progress - 1))
    raise ValueError(
        f"The mask schedule must be linear, cosine, powP with P > 0 or expE with E > 1 (pow2, exp10), got {name}."
    )


def keep_counts(schedule: str, steps: int, height: int, width: int) -> list[int]:
    """Visible tokens that each step asks for, in float32 as the published code counts."""
    progress = torch.tensor([i / steps for i in range(steps)], dtype=torch.float32)
    return [int(k) for k in ((1 - mask_schedule(schedule, progress)) * width * height).tolist()]


def draw_tokens(logits: Tensor, temperature: float, noise: PerItem[Any], step: int) -> Tensor:
    """Tokens (b, 1, h, w) int64 drawn from logits (b, n, h, w), an exponential race per position."""
    b, n, h, w = logits.shape
    drawn = []
    for item in range(b):
        weights = (logits[item] / temperature).softmax(0).flatten(1).t().float().contiguous()  # (h * w, n)
        race = weights.div_(_exponential(noise[item], (h * w, n), "tokens", step).to(weights.device))
        drawn.append(race.argmax(1).view(1, h, w))
    return torch.stack(drawn)


def draw_positions(weights: Tensor, count: int, noise: Any, step: int) -> Tensor:
    """Mask (h * w,) with `count` ones, drawn without replacement in proportion to weights (h * w,); never below 0."""
    race = weights.float() / _exponential(noise, (weights.numel(),), "mask", step).to(weights.device)
    return torch.zeros_like(race).index_fill_(0, race.topk(count).indices, 1.0)


def _exponential(source: Any, size: tuple[int, ...], kind: str, step: int) -> Tensor:
    if isinstance(source, torch.Generator):
        return torch.empty(size, device=source.device).exponential_(1, generator=source)
    return source.exponential(size, kind, step)


class TokenSampler:
    """The moves of token sampling on the refinement core.

    Args:
        model: the network.
        options: how to sample.
    """

    def __init__(self, model: ITERModel, options: SamplingOptions):
        self.model, self.options = model, options

    @torch.no_grad()
    def start(self, image: Tensor, noise: PerItem[Any]) -> TokenState:
        """The state before the first step: first tokens, and which of them are trusted.

        Args:
            image: (b, 3, h, w) RGB in [0, 1], sides multiples of the model's unit.
            noise: one source per item.
        """
        return self.start_from(self.model.observe(image), noise)

    @torch.no_grad()
    def start_from(self, observed: Observed, noise: PerItem[Any]) -> TokenState:
        """As `start`, when the picture was observed already."""
        first = observed.first
        if self.options.adaptive:
            probability = self.model.confidence(observed, first).softmax(1)[:, 1:]
            trusted = (probability >= self.options.threshold).to(probability.dtype)
        else:
            probability = trusted = torch.zeros(first.shape, device=first.device)
        counts = _count(trusted, (1, 2, 3)).tolist()
        if self.options.batch_counts:
            counts = [sum(counts)] * len(counts)
        asked = self._asked(first)
        starts = [next((i for i, k in enumerate(asked) if k >= count), len(asked)) for count in counts]
        start = torch.tensor(starts, device=first.device)
        return TokenState(observed, trusted, start, first, trusted, probability, noise)

    def schedule(self, state: TokenState) -> list[Keep]:
        """The steps in which any item takes part; empty when all first tokens are trusted."""
        asked = self._asked(state.tokens)
        following = [*asked[1:], None]
        first = int(state.start.min())
        return [Keep(i, k, after) for i, (k, after) in enumerate(zip(asked, following, strict=True)) if i >= first]

    @torch.no_grad()
    def propose(self, state: TokenState, at: Keep) -> TokenState:
        """Draw all tokens anew from what the refinement net makes of the visible ones."""
        logits = self.model.token_logits(state.observed, state.trusted, state.tokens, state.visible)
        return replace(state, tokens=draw_tokens(logits, self.options.temperature_tokens, state.noise, at.index))

    @torch.no_grad()
    def evaluate(self, state: TokenState, at: Keep) -> Verdict:
        """Score (b,): mean probability that the tokens are right; detail (b, 1, h, w): the same per token, tempered."""
        logits = self.model.confidence(state.observed, state.tokens)
        confidence = (logits / self.options.temperature_mask).softmax(1)[:, 1:]
        return Verdict(logits.softmax(1)[:, 1].float().mean((1, 2)), confidence)

    @torch.no_grad()
    def accept(self, step: Step[TokenState, Keep]) -> TokenState:
        """Take the tokens, and make as many positions visible as the next step asks for, the confident ones first."""
        state = replace(step.candidate, confidence=step.verdict.detail)
        if step.at.next is None:
            return state
        visible = [self._more_visible(state, item, step.at) for item in range(len(state.visible))]
        return replace(state, visible=torch.stack(visible))

    def steps(
        self, state: TokenState, resume: Step[TokenState, Keep] | None = None
    ) -> Iterator[Step[TokenState, Keep]]:
        """The loop, from the first step that any item takes part in; `resume` goes on after a step of an earlier run.

        Until its own start has come, an item waits with its first tokens; its score is then NaN.
        """
        schedule = self.schedule(state)
        return refine_steps(
            state,
            self.propose,
            schedule,
            evaluate=self.evaluate,
            accept=self.accept,
            stop=None if self.options.progress is None else stalled(self.options.progress),
            begins=state.start - schedule[0].index if schedule else None,
            resume=resume,
        )

    def reports(self, state: TokenState, steps: list[Step[TokenState, Keep]]) -> tuple[list[Tensor], list[Tensor]]:
        """Tokens after, and the visible mask in, every step of the schedule that was made or skipped at its begin."""
        skipped = steps[0].at.index if steps else self.options.steps
        tokens = [state.tokens] * skipped + [step.state.tokens for step in steps]
        before = [state, *[step.state for step in steps[:-1]]] if steps else []
        return tokens, [state.visible] * skipped + [s.visible for s in before]

    def _more_visible(self, state: TokenState, item: int, at: Keep) -> Tensor:
        """The visible mask (1, h, w) of one item with as many positions added as the next step needs."""
        visible = state.visible[item]
        confidence = (state.confidence[item] * (1 - visible)).flatten().float() + 1e-8
        counted = state.visible[0] if self.options.batch_counts else visible
        count = max(1, max(1, at.next) - int(_count(counted)))
        if not self.options.batch_counts:
            hidden = visible.flatten() == 0
            count = min(count, int(hidden.sum()))
            confidence = torch.where(hidden, confidence, -1.0)
        added = draw_positions(confidence, count, state.noise[item], at.index)
        return visible + added.view(visible.shape).to(visible)

    def _asked(self, tokens: Tensor) -> list[int]:
        return keep_counts(self.options.schedule, self.options.steps, *tokens.shape[-2:])


def _count(mask: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """How many positions a mask (b, 1, h, w), or one item's, of any type holds, over `dims` or all; whole numbers,
    which half precision would round."""
    return mask.sum(dims, dtype=torch.int64)
