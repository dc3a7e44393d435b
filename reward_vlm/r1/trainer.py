"""StableReinforce on TRL's GRPOTrainer: rollouts, batching and scaling are TRL's, the advantages and the loss ours.

TRL samples (with transformers or vLLM, on one GPU or many), computes the log-probabilities of policy and reference with
the pictures in view, and calls the reward; three of its methods are overridden here (and two that draw in
`reward_vlm.rl.rollouts`):

- `_calculate_rewards` keeps the rewards of all processes;
- `_generate_and_score_completions` replaces the group-normalised advantages by whitened token returns; with
  spans, every span has returns of its own, whitened among its own tokens; with progress, sentences earn beside;
- `_compute_loss` is the pre-clipped loss; there is no divergence term in it, `beta` acts in the returns.

The overridden methods are private to TRL: `tests/reward_vlm/r1/test_trainer.py` fails when they change.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig

from reward_vlm.parse import choice
from reward_vlm.rl.objective import (
    Whitened,
    group_advantages,
    stable_reinforce_loss,
    token_kl,
    token_returns,
    whiten_and_filter,
)
from reward_vlm.rl.rollouts import SelectedRollouts
from reward_vlm.rl.spans import span_advantages, token_spans
from reward_vlm.rl.steps import sentence_ends, step_rewards


@dataclass
class StableReinforceConfig(GRPOConfig):
    """TRL's configuration with the defaults of the paper's method and its own fields."""

    loss_type: str = "grpo"
    """Fixed: mean over tokens, then sequences."""
    num_generations: int = 1
    """Samples per prompt."""
    beta: float = 1e-3
    """Weight of the k1 divergence in the token rewards."""
    adam_beta2: float = 0.95
    """As in the published code."""
    preclip: float | None = 1000.0
    """Bound of the ratio before exp; None: no bound."""
    advantage_filter: str = "sigma"
    """sigma, published or none."""
    filter_width: float = 3.0
    """Of the filter, in standard deviations."""
    advantage_estimator: str = "reinforce"
    """reinforce, rloo or group_mean."""
    gamma: float = 1.0
    """Discount of the token rewards."""
    skip_equal: bool = False
    """Rollouts with equal rewards move no weights; with spans, neither do spans with equal rewards."""
    reward_clip: float = 10.0
    """Largest sequence reward, in absolute value."""
    spans: list[str] = field(default_factory=list)
    """SPAN=PART: rewards of spans' own; empty: every token earns the whole."""
    oversample: int = 1
    """Times as many rollouts are drawn as are kept."""
    progress: float = 0.0
    """Weight of what every sentence of the reasoning adds to the chance of the right answer."""

    lr_scheduler_type: str = "cosine_with_min_lr"
    """As in the published code."""
    lr_scheduler_kwargs: Any = field(default_factory=lambda: {"min_lr_rate": 0.1})
    """Lowest rate."""
    warmup_steps: float = 0.03
    """Updates, or below 1 their share of all."""

    def __post_init__(self) -> None:
        if self.steps_per_generation is None and self.generation_batch_size is None:
            self.steps_per_generation = 2 * self.gradient_accumulation_steps  # as published: two updates a rollout
        samples = self.num_generations
        if samples == 1:  # TRL refuses one sample per prompt because its own advantages would be 0; ours are not
            self.num_generations = self._group_for_checks()
        super().__post_init__()
        self.num_generations = samples
        ignored = {
            "loss_type": self.loss_type != "grpo",
            "delta": self.delta is not None,
            "top_entropy_quantile": self.top_entropy_quantile != 1.0,
            "importance_sampling_level": self.importance_sampling_level != "token",
            "off_policy_mask_threshold": self.off_policy_mask_threshold is not None,
            "entropy_coef": bool(self.entropy_coef) or self.use_adaptive_entropy,
        }
        wrong = [name for name, used in ignored.items() if used]
        if wrong:
            raise ValueError(f"StableReinforce has its own loss, which does not use {wrong[0]}; leave it out.")

    def _group_for_checks(self) -> int:
        """The smallest group size that TRL accepts for this batch."""
        batch = self.generation_batch_size or self.per_device_train_batch_size * self.steps_per_generation
        divisor = next((n for n in range(2, batch + 1) if batch % n == 0), None)
        if divisor is None:
            raise ValueError(f"A rollout needs at least 2 judgements per process, got {batch}.")
        return divisor


class StableReinforceTrainer(SelectedRollouts):
    """GRPOTrainer with the advantages and the loss of StableReinforce."""

    args: StableReinforceConfig
    skips = False
    """Whether the rollout in use teaches nothing."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.judge = getattr(self.reward_funcs[0], "parts", None)
        for model in filter(None, (self.model, self.ref_model)):
            model.register_forward_pre_hook(_without_empty_pictures, with_kwargs=True)
        self.add_callback(_SkippedUpdates(self))

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        self._rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.args.spans:
            self._parts = self.judge(completions, [row["answer"] for row in inputs])
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        mask = _action_mask(batch)
        if self.beta != 0.0 and "old_per_token_logps" not in batch:
            with torch.no_grad():
                batch["old_per_token_logps"] = self._log_probs(self.model, batch)[0]
        if self.beta != 0.0:
            kl = token_kl(batch["old_per_token_logps"], batch["ref_per_token_logps"], mask)
        else:
            kl = torch.zeros(mask.shape, device=mask.device)
        rewards = (self._rewards * self.reward_weights.to(self._rewards)).nansum(1)
        rewards = torch.where(self._rewards.isnan().all(1), torch.nan, rewards)  # nobody could tell
        size = self.num_generations if self.model.training else self.num_generations_eval
        shaped = group_advantages(rewards, size, self.args.advantage_estimator)
        own = slice(self.accelerator.process_index * len(mask), (self.accelerator.process_index + 1) * len(mask))
        limit = self.args.reward_clip
        steps = self._step_rewards(batch, mask).to(kl) if self.args.progress else None
        if self.args.spans:
            whitened = self._whitened_spans(batch, kl, mask, size)
        else:
            returns = token_returns(
                shaped[own], kl, mask, beta=self.beta, gamma=self.args.gamma, clip=(-limit, limit), steps=steps
            )
            whitened = self._whitened(returns, mask)
        told = shaped[shaped.isfinite()]
        equal = self.args.skip_equal and steps is None and bool((told == told[:1]).all())
        if self.model.training:
            self.skips = equal
        batch["advantages"] = torch.zeros_like(whitened.advantages) if equal else whitened.advantages
        tokens = mask.sum()
        self._note(
            {
                "whitening/mean": whitened.mean,
                "whitening/rstd": whitened.rstd,
                "filtered": whitened.filtered,
                "skipped": torch.tensor(float(equal), device=mask.device),
                "updated_tokens": tokens,
                "reward_per_token": rewards[own].nansum() / tokens.clamp(min=1),
            },
            {"kl_k1": kl},
            mask,
        )
        return batch

    def _whitened(self, returns: Tensor, mask: Tensor) -> Whitened:
        """Whitened and filtered over the tokens of a mask, in all processes."""
        return whiten_and_filter(
            returns, mask, self.args.advantage_filter, self.args.filter_width,
            reduce=lambda tensor: self.accelerator.reduce(tensor, "sum"),
        )  # fmt: skip

    def _whitened_spans(self, batch: dict[str, Any], kl: Tensor, mask: Tensor, size: int) -> Whitened:
        """Every span by its own reward, 1 or 0, and among its own tokens; what lies in no span by the form."""
        wanted = dict(pair.split("=") for pair in self.args.spans)
        spans = token_spans(batch["completion_ids"], mask, list(wanted), self._tokenizer.decode)
        spans["rest"] = mask & ~torch.stack(list(spans.values())).any(0)
        rewards = {  # what is bad is bad: no part lies in the middle, where the filter would let it pass
            name: torch.tensor([max(getattr(part, wanted.get(name, "format")), 0.0) for part in self._parts]).to(kl)
            for name in spans
        }
        own = span_advantages(rewards, spans, size, self.args.advantage_estimator)
        returns = own + token_returns(torch.zeros_like(own[:, 0]), kl, mask, beta=self.beta, gamma=self.args.gamma)
        parts = [self._whitened(returns, span) for span in spans.values()]
        if self.args.skip_equal:  # what is left of a span whose tokens earn the same is divergence, blown up to 1
            taught = [self._varies(own, span) for span in spans.values()]
            parts = [
                replace(part, advantages=part.advantages * counts) for part, counts in zip(parts, taught, strict=True)
            ]
        shares = torch.stack([span.sum() / mask.sum().clamp(min=1) for span in spans.values()])
        filtered = (torch.stack([part.filtered for part in parts]) * shares).sum()
        return Whitened(sum(part.advantages for part in parts), parts[0].mean, parts[0].rstd, filtered)

    @torch.no_grad()
    def _step_rewards(self, batch: dict[str, Any], mask: Tensor) -> Tensor:
        """(B, T): what every sentence of the reasoning adds to the chance of the right digit, see `rl.steps`."""
        ids, decode = batch["completion_ids"], self._tokenizer.decode
        span = token_spans(ids, mask, ["think"], decode)["think"]
        ends = sentence_ends(ids, span, decode)
        # a row without reasoning, and one with fewer sentences, is asked for company: all processes ask equally often
        most = int(self.accelerator.gather(torch.tensor([max(map(len, ends))], device=mask.device)).max())
        begins = [int(inside.int().argmax()) for inside in span]
        cuts = [[begin, *(place + 1 for place in places)] for begin, places in zip(begins, ends, strict=True)]
        asked = [self._chances(batch, [cut[min(step, len(cut) - 1)] for cut in cuts]) for step in range(most + 1)]
        return step_rewards(ends, torch.stack(asked, 1), mask.shape[1], self.args.progress)

    def _chances(self, batch: dict[str, Any], cuts: Sequence[int]) -> Tensor:
        """(B,) probabilities of the right digit, if reasoning ended after so many tokens of each completion."""
        encode, ids = self._tokenizer, batch["completion_ids"]
        end = encode("</think><answer>", add_special_tokens=False)["input_ids"]
        digits = [encode(str(_digit(row["answer"][0])), add_special_tokens=False)["input_ids"] for row in self._rows]
        lines = [[*line[:count], *end, *digit] for line, count, digit in zip(ids.tolist(), cuts, digits, strict=True)]
        width = max(map(len, lines))
        padded = ids.new_tensor([[*line, *[encode.pad_token_id] * (width - len(line))] for line in lines])
        real = ids.new_tensor([[1] * len(line) + [0] * (width - len(line)) for line in lines])
        prompt = batch["prompt_ids"].shape[1]
        types = {
            name: torch.cat([value[:, :prompt], value.new_zeros(padded.shape)], 1)
            for name, value in batch.items()
            if name.endswith("token_type_ids")
        }
        cut = {**batch, **types, "completion_ids": padded, "completion_mask": real}
        log_probs, _ = self._log_probs(self.model, cut)
        ends = zip(log_probs, lines, digits, strict=True)
        return torch.stack([row[len(line) - len(digit) : len(line)].sum() for row, line, digit in ends]).exp()

    def _varies(self, values: Tensor, mask: Tensor) -> bool:
        """Whether values (B, T) differ inside a mask, in all processes together."""
        inside = mask.bool()
        ends = torch.stack([value.where(inside, math.inf).min() for value in (values, -values)])
        low, high = self.accelerator.gather(ends).view(-1, 2).amin(0)
        return bool(low < -high)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        mask = _action_mask(inputs)
        log_probs, entropies = self._log_probs(model, inputs, compute_entropy=True)
        old = inputs.get("old_per_token_logps")
        old = log_probs.detach() if old is None else old
        loss = stable_reinforce_loss(
            log_probs, old, inputs["advantages"], mask, epsilon=self.epsilon_low, preclip=self.args.preclip,
            weights=inputs.get("importance_sampling_ratio"),
        )  # fmt: skip
        with torch.no_grad():
            log_ratio = torch.where(mask, log_probs - old, 0.0)
            bound = math.inf if self.args.preclip is None else math.log(self.args.preclip)
            rising = (log_ratio > math.log1p(self.epsilon_low)) & (inputs["advantages"] > 0)
            falling = (log_ratio < math.log1p(-self.epsilon_low)) & (inputs["advantages"] < 0)
            means = {
                "entropy": entropies,
                "clipped": (rising | falling).float(),
                "preclipped": (log_ratio.abs() > bound).float(),
            }
            self._note({"policy_loss": loss, "ratio_max": log_ratio.max().exp()}, means, mask)
        return loss / (self.current_gradient_accumulation_steps if self.model.training else 1)

    def _log_probs(self, model: Any, batch: dict[str, Any], compute_entropy: bool = False) -> tuple[Tensor, Any]:
        """(B, T) of the completions and, when asked for, their entropies; pictures of the batch included."""
        score = self._get_per_token_logps_and_entropies
        media = {key: batch[key] for key in inspect.signature(score).parameters if key in batch}
        result = score(
            model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
            batch["completion_ids"].shape[1],
            batch_size=None if compute_entropy else self.args.per_device_train_batch_size,
            compute_entropy=compute_entropy,
            **media,
        )
        return result[0], result[1]

    def _note(self, numbers: dict[str, Tensor], tokens: dict[str, Tensor], mask: Tensor) -> None:
        """Log numbers (mean over processes) and token values (mean over all tokens) with one reduction."""
        sums = [torch.where(mask, value, 0.0).sum() for value in tokens.values()]
        values = [*(value.float() for value in numbers.values()), *sums, mask.sum().float()]
        reduced = self.accelerator.reduce(torch.stack([value.detach() for value in values]), "sum").tolist()
        metrics, count = self._metrics["train" if self.model.training else "eval"], max(reduced[-1], 1.0)
        for name, value in zip(numbers, reduced, strict=False):
            metrics[name].append(value / self.accelerator.num_processes)
        for name, value in zip(tokens, reduced[len(numbers) :], strict=False):
            metrics[name].append(value / count)


class _SkippedUpdates(TrainerCallback):
    """Takes the gradients away from an update that has nothing to learn from: zeros would still move the weights, along
    the optimiser's moments."""

    def __init__(self, trainer: StableReinforceTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self.trainer.skips:
            for value in self.trainer.model.parameters():
                value.grad = None


def _without_empty_pictures(model: Any, arguments: tuple[Any, ...], inputs: dict[str, Any]) -> Any:
    """Before a forward pass: a batch of rows without pictures, cut out of one with some, has none at all."""
    pixels = inputs.get("pixel_values")
    if not isinstance(pixels, Tensor):
        return None
    padded = pixels.ndim == 5  # (rows, pictures, channels, height, width): pictures that are missing are zeros
    if pixels.numel() and not (padded and not pixels.any()):
        return None
    words = ("pixel", "image")
    return arguments, {name: value for name, value in inputs.items() if not name.startswith(words)}


def _digit(answer: str) -> int:
    """The number in an accepted answer, tagged or bare."""
    digit = choice(answer if "<answer>" in answer else f"<answer>{answer}</answer>")
    assert digit is not None  # the reader of rows refuses others
    return digit


def _action_mask(batch: dict[str, Any]) -> Tensor:
    mask = batch["completion_mask"] if "tool_mask" not in batch else batch["completion_mask"] * batch["tool_mask"]
    return mask.bool()
