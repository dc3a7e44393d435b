"""The trainer: what it relies on in TRL, what it computes, and that two processes equal one."""

from __future__ import annotations

import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reward_vlm.r1.options import R1Config
from reward_vlm.r1.rewards import JudgementReward
from reward_vlm.r1.rows import judgement_row, training_set
from reward_vlm.rl.objective import stable_reinforce_loss
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import tiny_chat_model
from reward_vlm.vlm import ChatModel

BATCH_KEYS = {
    "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "num_items_in_batch",
    "old_per_token_logps", "ref_per_token_logps", "pixel_values", "image_grid_thw", "mm_token_type_ids", "num_images",
}  # fmt: skip
ON_CPU = {
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [], "dataloader_pin_memory": False,
    "save_strategy": "no", "disable_tqdm": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    tiny_chat_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trainer(start, tmp_path_factory):
    from reward_vlm.r1.trainer import StableReinforceConfig, StableReinforceTrainer

    chat = ChatModel.from_pretrained(start)
    rows = [judgement_row(pair, R1Config("plain", True, 8, None)) for pair in scene_pairs(7, 8)]
    arguments = StableReinforceConfig(
        output_dir=str(tmp_path_factory.mktemp("out")), per_device_train_batch_size=4, max_completion_length=8,
        max_steps=2, beta=0.1, logging_steps=1, learning_rate=1e-3, warmup_steps=0, **ON_CPU,
    )  # fmt: skip
    return StableReinforceTrainer(
        model=chat.model, processing_class=chat.processor, reward_funcs=[JudgementReward()], args=arguments,
        train_dataset=training_set(rows, targets=False),
    )  # fmt: skip


def test_trl_still_has_the_methods_that_are_overridden():
    from trl import GRPOTrainer

    expected = {
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
        "_generate_and_score_completions": ["self", "inputs"],
        "_compute_loss": ["self", "model", "inputs"],
        "_generate": ["self", "prompts"],
        "_generate_single_turn": [
            "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images",
        ],
    }  # fmt: skip
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == parameters
    score = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    assert list(score)[:7] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    ]  # fmt: skip
    assert {"pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids"} <= set(score)


def test_one_rollout_its_loss_and_a_training_that_sees_the_picture(trainer):
    inputs = [trainer.train_dataset[i] for i in range(8)]
    trainer.model.train()
    batch = trainer._generate_and_score_completions(inputs)
    assert batch.keys() >= BATCH_KEYS  # what the overrides read
    mask = batch["completion_mask"].bool()
    assert batch["advantages"].shape == mask.shape and (batch["advantages"][~mask] == 0).all()
    logged = trainer._metrics["train"]
    assert {"rewards/format", "rewards/result", "rewards/consistency", "whitening/mean", "filtered", "kl_k1"} <= set(
        logged
    )
    assert logged["kl_k1"][-1] == pytest.approx(0, abs=1e-6)  # the policy still is the reference

    noise = torch.randn(batch["advantages"].shape, generator=torch.Generator().manual_seed(0))
    batch["advantages"] = torch.where(mask, noise, 0.0)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    same = stable_reinforce_loss(batch["old_per_token_logps"], batch["old_per_token_logps"], batch["advantages"], mask)
    torch.testing.assert_close(loss.detach(), same, rtol=1e-4, atol=1e-6)
    assert trainer.model.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0
    changed = trainer._compute_loss(trainer.model, {**batch, "pixel_values": batch["pixel_values"].flip(0)})
    assert not torch.isclose(changed, loss)
    trainer.model.zero_grad()
    logged.clear()


def test_training_runs_with_one_sample_per_prompt_and_a_stale_second_update(trainer):
    before = [value.detach().clone() for value in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    rows = [row for row in trainer.state.log_history if "policy_loss" in row]
    assert len(rows) == 2 and all(math.isfinite(row["policy_loss"]) for row in rows)
    assert rows[0]["ratio_max"] == pytest.approx(1.0, abs=1e-3) and "reward" in rows[0] and "reward" not in rows[1]


def test_defaults_are_the_papers_and_what_the_loss_ignores_is_refused(tmp_path):
    from reward_vlm.r1.trainer import StableReinforceConfig

    config = StableReinforceConfig(output_dir=str(tmp_path), per_device_train_batch_size=2, **ON_CPU)
    assert (config.num_generations, config.loss_type, config.preclip, config.advantage_filter) == (
        1,
        "grpo",
        1000,
        "sigma",
    )
    assert config.steps_per_generation == 2 * config.gradient_accumulation_steps and config.beta == 1e-3
    for name, value in {"loss_type": "dapo", "delta": 2.0, "entropy_coef": 0.1, "top_entropy_quantile": 0.5}.items():
        with pytest.raises(ValueError, match=f"does not use {name}"):
            StableReinforceConfig(output_dir=str(tmp_path), **{name: value}, **ON_CPU)


@pytest.mark.slow
def test_two_processes_whiten_and_learn_as_one(start, tmp_path):
    script = str(Path(__file__).with_name("scripted_run.py"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    for command, name, batch in (([sys.executable], "one", "8"), (launch, "two", "4")):
        out = str(tmp_path / f"{name}.json")
        subprocess.run([*command, script, str(start), out, batch], check=True, env=environment)
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2) and len(one["history"]) == len(two["history"]) >= 2
    for first, second in zip(one["history"], two["history"], strict=True):
        assert first == pytest.approx(second, abs=1e-5)
    # Adam divides by the size of the gradient, which multiplies the rounding of small ones
    assert one["weights"] == pytest.approx(two["weights"], rel=1e-4)
