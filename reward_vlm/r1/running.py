"""What the stages of training share: TRL's arguments, logs, checkpoints, and writing the finished judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward_vlm.r1.judge import CONFIG, R1Judge
from vision.config import read_json, save_config
from vision.files import atomic_path

if TYPE_CHECKING:
    from reward_vlm.r1.train import R1Training

Log = Callable[[str], object]


def last_checkpoint(folder: Path) -> str | None:
    """TRL's newest complete checkpoint in a folder; incomplete ones, which a kill left, are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in found:
        if not (path / "trainer_state.json").exists():  # written last
            shutil.rmtree(path)
    whole = [path for path in found if path.exists()]
    return str(whole[-1]) if whole else None


@torch.no_grad()
def load_checkpoint_weights(model: Any, checkpoint: str | None) -> None:
    """Put the weights of TRL's checkpoint into the model.

    transformers' trainer looks for the names of the modules, but the files hold the published names of the
    architecture: it would go on from the weights of the start, with no more than a warning.
    """
    if checkpoint is None or (Path(checkpoint) / "adapter_config.json").exists():  # adapters have the modules' names
        return
    saved = type(model).from_pretrained(checkpoint, dtype=model.dtype, local_files_only=True)
    model.load_state_dict(saved.state_dict())


def trl_arguments(options: R1Training, chosen: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a TRL configuration: what every stage sets, what this one chose, and the user's file on top."""
    cuda = torch.cuda.is_available()
    common = {
        "output_dir": str(options.folder),
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.accumulate,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": {"cosine": "cosine_with_min_lr", "constant": "constant_with_warmup"}[options.schedule],
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1} if options.schedule == "cosine" else {},
        "warmup_steps": options.warmup,
        "seed": options.seed,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "save_steps": options.save_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "bf16": cuda,
        "gradient_checkpointing": cuda,
        "dataloader_pin_memory": cuda,
    }
    extra = {} if options.trl is None else read_json(options.trl)
    return common | chosen | extra


def lora_config(options: R1Training) -> Any:
    if not options.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=options.lora_rank,
        lora_alpha=2 * options.lora_rank,
        target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        task_type="CAUSAL_LM",
    )


def log_callback(path: Path, offset: int, say: Log) -> Any:
    """A TRL callback that writes what is logged to a JSON-lines file, with the steps counted over all rounds."""
    from transformers import TrainerCallback

    class Logger(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            if not state.is_world_process_zero or "train_runtime" in (logs or {}):
                return
            step = offset + state.global_step
            log_row(path, {"step": step, **(logs or {})})
            if state.global_step % 10 == 0:
                shown = ("loss", "reward", "kl_k1", "entropy", "completions/mean_length")
                said = "  ".join(f"{name} {float(logs[name]):.4g}" for name in shown if name in logs)
                say(f"{step}: {said}")

    return Logger()


def stop_callback(reached: Callable[[int], bool]) -> Any:
    """A TRL callback that asks after every checkpoint whether the training may end."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if reached(state.global_step):
                control.should_training_stop = True

    return Stop()


def quiet(trainer: Any) -> Any:
    """The trainer without the callback that prints every log."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def finish(trainer: Any, judge: R1Judge, weights: Path) -> Path:
    """Write the trained judge; adapters are merged, sharded weights are put together by TRL."""
    part, main = weights.with_name("weights.part"), trainer.accelerator.is_main_process
    model = trainer.accelerator.unwrap_model(trainer.model)
    if main:
        shutil.rmtree(part, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    if hasattr(model, "merge_and_unload"):
        if main:
            model.merge_and_unload().save_pretrained(part)
    else:
        trainer.save_model(str(part))
    if main:
        judge.chat.processor.save_pretrained(part)
        save_config(judge.config, part / CONFIG)
        (part / "training_args.bin").unlink(missing_ok=True)
        part.rename(weights)
    trainer.accelerator.wait_for_everyone()
    return weights


def log_row(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def forget_after(path: Path, step: int) -> None:
    """Drop the log rows of a round that a kill cut short."""
    if path.exists():
        rows = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= step]
        with atomic_path(path) as part:
            part.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
