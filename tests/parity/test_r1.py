"""R1-Reward against the published code: objective, rewards, prompts, parsing, metrics of three benchmarks.

Every case, option and number is read from the JSON files, so that another folder of the same schema runs unchanged.
Where we mean to differ from the published code (padding never reaches the loss) the test says so.
"""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from reward_vlm.benchmarks import mm_rlhf_category
from reward_vlm.parse import PUBLISHED_PARSERS
from reward_vlm.r1 import published
from reward_vlm.r1.prompts import TEMPLATES, fill
from reward_vlm.r1.rewards import AskedConsistency, consistency_prompt, format_reward, result_reward, total_reward
from reward_vlm.rl.objective import (
    group_advantages,
    stable_reinforce_loss,
    token_kl,
    token_returns,
    token_rewards,
    whiten_and_filter,
)
from tests.parity.conftest import golden_root

ROOT = golden_root() / "r1_reward"
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no reference values of R1-Reward")


@cache
def facts(name: str) -> Any:
    return json.loads((ROOT / f"{name}.json").read_text(encoding="utf-8"))


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(ROOT / f"{name}.safetensors")


def cases(name: str) -> list[Any]:
    path = ROOT / f"{name}.json"
    if not path.exists():
        return []
    found = facts(name)["cases"]
    return [pytest.param(case, id=str(case.get("case", number))) for number, case in enumerate(found)]


def of_case(name: str, case: dict[str, Any]) -> dict[str, Tensor]:
    prefix = f"{case['case']}."
    return {key[len(prefix) :]: value for key, value in tensors(name).items() if key.startswith(prefix)}


@pytest.mark.parametrize("case", cases("policy_loss"))
@pytest.mark.parametrize("preclip", [1000.0, None], ids=["stable", "vanilla"])
def test_policy_loss(case, preclip):
    given = of_case("policy_loss", case)
    prefix = "" if preclip else "vanilla_"
    mask = given["action_mask"].bool() if case["mask_used"] else None
    log_probs = given["log_probs"].clone().requires_grad_()
    old, advantages = given["old_log_probs"], given["advantages"]
    loss = stable_reinforce_loss(log_probs, old, advantages, mask, epsilon=case["clip_eps"], preclip=preclip)
    loss.backward()
    expected, gradient = given[f"{prefix}loss"].reshape(()).float(), given[f"{prefix}grad"].float()
    real = torch.ones_like(old, dtype=torch.bool) if mask is None else mask
    poisoned = (~(log_probs.isfinite() & old.isfinite()) & ~real).any(1)
    if poisoned.any():  # the published code multiplies padding by 0, and 0 * NaN is NaN; here padding is left out
        assert expected.isnan() and loss.isfinite()
        clean = torch.where(real, log_probs.detach(), 0.0).requires_grad_()
        same = stable_reinforce_loss(
            clean, torch.where(real, old, 0.0), advantages, mask, epsilon=case["clip_eps"], preclip=preclip
        )
        same.backward()
        assert torch.equal(same, loss) and torch.equal(clean.grad, log_probs.grad)
        keep = ~poisoned
        torch.testing.assert_close(log_probs.grad[keep].float(), gradient[keep], rtol=1e-6, atol=1e-7, equal_nan=True)
        return
    rtol, atol = (2e-2, 2e-2) if "bfloat16" in case["dtype"] else (1e-6, 1e-7)  # the tolerances of the file
    torch.testing.assert_close(loss.float(), expected, rtol=rtol, atol=atol, equal_nan=True)
    torch.testing.assert_close(log_probs.grad.float(), gradient, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("case", cases("advantages"))
def test_returns_whitening_and_filter(case):
    given = of_case("advantages", case)
    mask, beta, clip = given["action_mask"].bool(), case["kl_coef"], tuple(case["reward_clip"])
    kl = token_kl(given["log_probs"], given["ref_log_probs"], mask, "k3" if case["k3_used"] else "k1")
    torch.testing.assert_close(kl, given["kl"], rtol=1e-6, atol=1e-6)
    rewards = token_rewards(given["rewards"], kl, mask, beta, clip)
    torch.testing.assert_close(rewards, given["token_rewards"], rtol=1e-6, atol=1e-6, equal_nan=True)
    returns = token_returns(given["rewards"], kl, mask, beta=beta, gamma=case["gamma_used"], clip=clip)
    torch.testing.assert_close(
        returns, torch.where(mask, given["returns"], 0.0), rtol=1e-5, atol=2e-6, equal_nan=True
    )  # float32 sums in another order

    tiny = case["rstd"] > 50  # hardly any variance, which multiplies the rounding of the sums
    tolerance = {"rtol": 0, "atol": 1e-3 if case["kind"] == "equal" or tiny else 2e-4, "equal_nan": True}
    ranks = case.get("ranks", 1)
    for part in range(ranks):
        rows = slice(part * len(returns) // ranks, (part + 1) * len(returns) // ranks)
        others = [slice(p * len(returns) // ranks, (p + 1) * len(returns) // ranks) for p in range(ranks) if p != part]
        exact = given["returns"]  # their returns, so that whitening is tested alone
        plain, found = (
            whiten_and_filter(exact[rows], mask[rows], mode, reduce=adds_up(exact, mask, others))
            for mode in ("none", "published")
        )
        inside = mask[rows]
        torch.testing.assert_close(found.mean, torch.tensor(case["mean"]), rtol=1e-5, atol=1e-6, equal_nan=True)
        torch.testing.assert_close(found.rstd, torch.tensor(case["rstd"]), rtol=1e-3, atol=1e-5, equal_nan=True)
        torch.testing.assert_close(plain.advantages[inside], given["normalized_unfiltered"][rows][inside], **tolerance)
        torch.testing.assert_close(found.advantages, torch.where(inside, given["advantages"][rows], 0.0), **tolerance)
    if ranks == 1:
        whole = whiten_and_filter(given["returns"], mask, "published")
        zeroed = mask & (whole.advantages == 0)
        assert int(zeroed.sum()) == case["tokens_zeroed"]
        assert round(float(whole.filtered) * int(mask.sum())) == case["tokens_zeroed"]


def adds_up(returns: Tensor, mask: Tensor, others: list[slice]):
    """The sum over processes, from the other processes' rows: first their sums and counts, then their squares."""
    total, count = returns[mask].sum(), mask.sum()
    calls = []

    def reduce(tensor: Tensor) -> Tensor:
        calls.append(tensor)
        if len(calls) == 1:
            extra = [torch.stack([returns[o][mask[o]].sum(), mask[o].sum().float()]) for o in others]
        else:
            extra = [((returns[o] - total / count) ** 2)[mask[o]].sum()[None] for o in others]
        return tensor + sum(extra, torch.zeros_like(tensor))

    return reduce


def test_group_baselines():
    groups = [key for key in tensors("advantages") if key.startswith("group.") and key.endswith(".rewards")]
    assert groups
    for key in groups:
        _, estimator, size, _ = key.split(".")
        names = {"reinforce_baseline": "group_mean"}
        found = group_advantages(tensors("advantages")[key], int(size[1:]), names.get(estimator, estimator))
        torch.testing.assert_close(found, tensors("advantages")[key.replace(".rewards", ".shaped")], rtol=0, atol=1e-6)


def needs_algebra(text: str) -> bool:
    """Whether only a symbolic maths library reads the answer as the published code did."""
    return any(sign in text for sign in ("\\sqrt", "\\int", "\\sum", "\\log", "^", "\\times", "\\cdot"))


@pytest.mark.parametrize("case", cases("reward_cases"))
def test_rewards(case):
    text = case["response"]
    replies = iter([*case["judge_replies"], "?", "?", "?"])
    asked = []

    def ask(prompts):
        asked.extend(prompts)
        return [next(replies) for _ in prompts]

    assert format_reward(text) == case["format_reward"]
    assert AskedConsistency(ask)([text]) == [case["consistency_reward"]]
    assert len(asked) == case["judge_calls"]
    assert set(asked) == {case["judge_prompt"]} == {consistency_prompt(text)}
    if not needs_algebra(text):
        result = result_reward(text, case["answers"], "lenient")
        assert result == case["accuracy_reward"]
        total = total_reward(format_reward(text.strip()), result, case["consistency_reward"])
        assert total == pytest.approx(case["total_reward_endpoint"])


@pytest.mark.parametrize("case", cases("prompts"))
@pytest.mark.parametrize("name", ["short", "long"])
def test_prompts(case, name):
    fields = {"question": case["question"], "answer1": case["response_1"], "answer2": case["response_2"]}
    assert fill(TEMPLATES[name], **fields) == case[f"{name}_template"]


@pytest.mark.parametrize("case", cases("answer_parsing"))
def test_published_parsers(case):
    for name in set(case) - {"text"}:
        assert list(PUBLISHED_PARSERS[name](case["text"])) == case[name]


def predictions(bench: str) -> list[dict[str, Any]]:
    lines = (ROOT / facts("metrics")[bench]["predictions"]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


@pytest.mark.parametrize("rule", ["published", "benchmark"])
def test_vl_rewardbench(rule):
    found = published.published_vl_rewardbench(predictions("vl_rewardbench"), rule)
    names = {"published": "release_rule", "benchmark": "benchmark_category_rule"}
    same(found, facts("metrics")["vl_rewardbench"][names[rule]])


def test_mm_rlhf_rewardbench():
    rows = predictions("mm_rlhf_rewardbench")
    found = published.published_mm_rlhf_rewardbench(
        rows, lambda row: mm_rlhf_category(row.get("image") or row.get("video") or "")
    )
    same(found, facts("metrics")["mm_rlhf_rewardbench"]["result"])


def test_multimodal_rewardbench():
    found = published.published_multimodal_rewardbench(predictions("multimodal_rewardbench"))
    lines = {f"acc {name}: {right} / {rows} = {right / rows}" for name, (right, rows) in found.items()}
    assert lines == set(facts("metrics")["multimodal_rewardbench"]["printed"])


def same(found: Any, expected: Any) -> None:
    """Equal dictionaries, numbers up to rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            same(found[key], value)
    else:
        assert math.isclose(found, expected, rel_tol=1e-12)
