"""What the stages of training a judge share: TRL's arguments, and writing the finished judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reward_vlm.language import language_linears
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import CONFIG, R1Training
from reward_vlm.training import common_arguments, finish
from vision.config import read_json, save_config


def trl_arguments(options: R1Training, chosen: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a TRL configuration: what every stage sets, what this one chose, and the user's file on top."""
    common = common_arguments(options.folder, options.seed, options.save_every, options.trackers) | {
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.accumulate,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": {"cosine": "cosine_with_min_lr", "constant": "constant_with_warmup"}[options.schedule],
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1} if options.schedule == "cosine" else {},
        "warmup_steps": options.warmup,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
    }
    if options.optimizer != "adamw":  # TRL's default is the AdamW that suits the machine
        common["optim"] = options.optimizer
    extra = {} if options.trl is None else read_json(options.trl)
    return common | chosen | extra


def lora_config(options: R1Training, model: Any) -> Any:
    """Adapters for all linear modules of the language part; None without adapters."""
    if not options.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=options.lora_rank,
        lora_alpha=2 * options.lora_rank,
        target_modules=language_linears(model),
        task_type="CAUSAL_LM",
    )


def write_judge(trainer: Any, judge: R1Judge, weights: Path) -> Path:
    """Write the trained judge, see `finish`."""
    return finish(trainer, judge.model.processor, weights, lambda part: save_config(judge.config, part / CONFIG))
