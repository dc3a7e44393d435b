"""StableReinforce and judges as verl takes them: an advantage estimator, a policy loss, and `compute_score`.

In a script that starts verl, `register()` adds both under the name "stable_reinforce":

    algorithm.adv_estimator=stable_reinforce actor_rollout_ref.actor.policy_loss.loss_mode=stable_reinforce
    actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean algorithm.use_kl_in_reward=true
    reward_model.reward_manager=batch custom_reward_function.name=compute_score
    custom_reward_function.path=.../reward_vlm/rl/for_verl.py +custom_reward_function.reward_kwargs.source=org/name

Tensors are (batch, response length), masks 1 on real tokens. Signatures: verl/trainer/ppo/core_algos.py and
verl/workers/reward_manager/batch.py, January 2026. The divergence acts in the token rewards, as in the published code;
verl puts it there with `use_kl_in_reward`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reward_vlm.judge_reward import Prompt, group_rewards, media_of, question_of
from reward_vlm.open_judge import open_judge
from reward_vlm.rl.objective import token_losses, whiten_and_filter

NAME = "stable_reinforce"


def advantages(
    token_level_rewards: Tensor, response_mask: Tensor, config: Any = None, **others: Any
) -> tuple[Tensor, Tensor]:
    """Whitened and filtered token returns, and the returns, both (batch, response length).

    Args:
        token_level_rewards: rewards of tokens, the divergence included.
        response_mask: 1 on real tokens.
        config: verl's algorithm configuration: gamma; filter and filter_width where it has them.
        others: what verl passes to all estimators (index, reward_baselines) is not used.
    """
    gamma = float(_of(config, "gamma", 1.0))
    mask = response_mask.bool()
    with torch.no_grad():
        rewards = torch.where(mask, token_level_rewards, 0.0)
        running, columns = torch.zeros_like(rewards[:, 0]), []
        for place in reversed(range(rewards.shape[1])):
            running = rewards[:, place] + gamma * running
            columns.append(running)
        returns = torch.where(mask, torch.stack(columns[::-1], 1), 0.0)
        width = float(_of(config, "filter_width", 3.0))
        return whiten_and_filter(returns, mask, _of(config, "filter", "sigma"), width).advantages, returns


def policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """The clipped loss with the ratio bounded before the exponential, a scalar, and verl's numbers for its log.

    Args:
        old_log_prob, log_prob, advantages, response_mask: (batch, response length).
        loss_agg_mode: "seq-mean-token-mean" (the method's) or "token-mean".
        config: verl's actor configuration: clip_ratio, global_batch_info; preclip where it has one.
        rollout_is_weights: (batch, response length) factors of the tokens' losses.

    Raises:
        ValueError: verl is asked to add losses up in another way.
    """
    epsilon, preclip = float(_of(config, "clip_ratio", 0.2)), _of(config, "preclip", 1000.0)
    mask = response_mask.bool()
    losses = token_losses(
        log_prob, old_log_prob, advantages, mask, epsilon=epsilon, preclip=preclip, weights=rollout_is_weights
    )
    with torch.no_grad():
        change = torch.where(mask, log_prob - old_log_prob, 0.0)
        ratio, count = change.exp(), mask.sum().clamp(min=1)
        stopped = ((ratio > 1 + epsilon) & (advantages > 0)) | ((ratio < 1 - epsilon) & (advantages < 0))
        metrics = {
            "actor/pg_clipfrac": float((stopped & mask).sum() / count),
            "actor/ppo_kl": float(-change.sum() / count),
        }
    return _aggregated(losses, mask, loss_agg_mode, dict(_of(config, "global_batch_info", {}) or {})), metrics


def register() -> None:
    """Make the name "stable_reinforce" known to verl, as an advantage estimator and as a policy loss.

    Raises:
        ValueError: verl is not installed.
    """
    try:
        from verl.trainer.ppo import core_algos
    except ImportError as error:
        raise ValueError("Registering with verl needs the package verl (pip install verl).") from error
    core_algos.register_adv_est(NAME)(advantages)
    core_algos.register_policy_loss(NAME)(policy_loss)


def compute_score(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any]],
    *,
    source: str | None = None,
    template: str | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Scores of a batch, for verl's reward manager "batch": the answers to one question are ranked by a judge.

    Args:
        data_sources: not used.
        solution_strs: the answers.
        ground_truths: not used; the judge decides.
        extra_infos: of each answer: question (a text or messages), and image or images where there are any.
        source, template, device: of the judge, see `open_judge`; it is opened once.

    Raises:
        ValueError: a question is missing.
    """
    prompts = [_prompt(info) for info in extra_infos]
    groups: dict[str, tuple[Prompt, list[str]]] = {}
    said = [text.strip() for text in solution_strs]
    for prompt, answer in zip(prompts, said, strict=True):
        groups.setdefault(prompt.key, (prompt, []))[1].append(answer)
    rewards = dict(zip(groups, group_rewards(_opened(source, template, device), list(groups.values())), strict=True))
    return [{"score": rewards[prompt.key][answer]} for prompt, answer in zip(prompts, said, strict=True)]


@functools.cache
def _opened(source: str | None, template: Any, device: str) -> Any:
    return open_judge(source, template, device=device)


def _prompt(info: Mapping[str, Any]) -> Prompt:
    question = info.get("question", info.get("prompt"))
    if question is None:
        raise ValueError("extra_info needs the question (or prompt) that was answered, for a judge to read.")
    media = media_of({name: [info[name]] for name in ("images", "image") if info.get(name) is not None}, 1)
    return Prompt(question_of(question), media[0])


def _aggregated(losses: Tensor, mask: Tensor, mode: str, world: Mapping[str, Any]) -> Tensor:
    """One number of the losses of tokens; `world` has the counts of all processes where verl gives them."""
    processes = world.get("dp_size", 1)
    if mode == "token-mean":
        tokens = world.get("batch_num_tokens")
        return losses.sum() / (mask.sum().clamp(min=1) if tokens is None else tokens) * processes
    if mode == "seq-mean-token-mean":
        counts, sequences = mask.sum(1), world.get("global_batch_size")
        told = (counts > 0).sum().clamp(min=1) if sequences is None else sequences
        return (losses.sum(1) / counts.clamp(min=1)).sum() / told * processes
    raise ValueError(f"StableReinforce adds losses up as seq-mean-token-mean or token-mean, got {mode!r}.")


def _of(config: Any, name: str, default: Any) -> Any:
    """A value of a configuration: a mapping, an object, or nothing."""
    if isinstance(config, Mapping):
        return config.get(name, default)
    return getattr(config, name, default)
