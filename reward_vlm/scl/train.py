"""Train a model on its own corrections: DPO on preference pairs, with TRL's DPOTrainer as it is.

    burnish train scl --pairs pairs.jsonl --start org/name --folder runs/scl
    burnish train scl --pairs pairs.jsonl --start org/name --folder runs/full --dpo.lora.rank 0
    accelerate launch --config_file configs/zero3.yaml scripts/train.py scl ... --trl configs/one_gpu.json

The defaults are the reference's command line and what its framework (ms-swift 2) adds to it: 0.9 DPO + 0.1 supervised
loss on the chosen answer (token mean), beta 0.1, LoRA of rank 8 on the queries, keys and values of the language part.
`--trl` names a JSON file with further arguments of TRL's DPOConfig.

Sequences are never cut: cutting keeps the image tokens and may leave no token of the answers, and then nothing is
learnt in silence. Their lengths are reported first. What would train nothing, or what should not be trained, ends the
run with a sentence: answers without tokens, a gradient of zero in the first update, trained parameters outside the
language part.

A killed run goes on from its last checkpoint and ends with the weights of one that was not killed: bit for bit on a
CPU, on a GPU as far as its kernels repeat themselves.

Differences from the reference: no pair is deleted for its length, and none is held out (the reference holds out 1 %).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from reward_vlm.data import told_rows
from reward_vlm.language import ATTENTION, language_linears, language_parameters
from reward_vlm.options import TRLTraining
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.options import CONFIG, LoRA, SCLTraining, Updates
from reward_vlm.scl.pairs import Pair, pair_row
from reward_vlm.training import (
    common_arguments,
    configured,
    finish,
    go_on,
    kept_start,
    last_checkpoint,
    load_checkpoint_weights,
    log_callback,
    message_set,
    quiet,
)
from reward_vlm.vlm import ChatModel, refuse_longer
from vision.checkpoints import Log, begin_run, one_at_a_time
from vision.config import read_json, save_config


@one_at_a_time
def train(options: SCLTraining, *, log: Log | None = None) -> Path:
    """Train to the end and return the folder of the weights.

    Raises:
        ValueError: pairs cannot be used (they are named by number), nothing would be learnt from them, or the run was
            begun with other options or data.
    """
    begin_run(options.folder, options, data=("pairs", "start", "trl"))
    say, weights = log or (lambda line: None), options.folder / "weights"
    if weights.exists():
        return weights
    needed = "pairs: no answer changed between right and wrong"
    pairs = told_rows(options.pairs, pair_row, say, skip_bad=options.skip_bad, needed=needed)
    from trl import DPOConfig

    configured(DPOConfig, arguments(options))  # refuses them early
    start = kept_corrector(options.start, options.folder, options.dtype)
    corrector = SCLCorrector.from_pretrained(start, dtype=getattr(torch, options.dtype))
    checkpoint = last_checkpoint(options.folder)
    load_checkpoint_weights(corrector.model.model, checkpoint)
    with torch.random.fork_rng(devices=[]):
        trainer = make_trainer(corrector.model, start, pairs, options, say)
        if checkpoint is None and trainer.is_world_process_zero():
            say(length_report(trainer, pairs))
        go_on(trainer, checkpoint)
    return finish(
        trainer, corrector.model.processor, weights, lambda part: save_config(corrector.config, part / CONFIG)
    )


def arguments(options: SCLTraining) -> dict[str, Any]:
    """Arguments of TRL's DPOConfig; the user's file comes last."""
    dpo = options.dpo
    losses = {"beta": dpo.beta, "loss_type": list(dpo.loss_type), "loss_weights": list(dpo.loss_weights)}
    losses["disable_dropout"] = False  # that of the adapters counts; vision-language models have none of their own
    return update_arguments(options, dpo, losses)


def update_arguments(options: TRLTraining, updates: Updates, more: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Arguments of a TRL configuration for some updates; the user's file comes last."""
    chosen = {
        "num_train_epochs": updates.epochs,
        "per_device_train_batch_size": updates.batch_size,
        "gradient_accumulation_steps": updates.accumulate,
        "learning_rate": updates.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": updates.warmup,
        "weight_decay": updates.weight_decay,
        "max_grad_norm": updates.max_grad_norm,
        "max_length": None,
        "save_strategy": "steps",
    }
    extra = {} if options.trl is None else read_json(options.trl)
    common = common_arguments(options.folder, options.seed, options.save_every, options.trackers)
    return common | chosen | dict(more) | extra


def make_trainer(chat: ChatModel, start: Path, pairs: Sequence[Pair], options: SCLTraining, say: Log) -> Any:
    """TRL's trainer with the guards; the reference policy is the model without adapters, or the weights of `start`.

    Raises:
        ValueError: parameters would be trained that must not be, or none at all.
    """
    from trl import DPOConfig, DPOTrainer

    config = configured(DPOConfig, arguments(options))
    peft, reference = adapters(options.dpo.lora, chat.model), None
    if peft is None:
        freeze(chat.model, options.dpo.parts)
        reference = ChatModel.from_pretrained(start, dtype=chat.model.dtype).model
    trainer = DPOTrainer(
        model=chat.model,
        ref_model=reference,
        args=config,
        train_dataset=pair_set(pairs, swap=options.dpo.swap),
        processing_class=chat.guarded,
        peft_config=peft,
        callbacks=[first_gradient(), log_callback(options.folder / "log.jsonl", 0, say)],
    )
    check_trained(trainer.model, options.dpo.parts)
    trainer.data_collator = WithAnswers(trainer.data_collator)
    return quiet(trainer)


def pair_set(pairs: Sequence[Pair], *, swap: bool = False) -> Any:
    """A `datasets.Dataset` with the columns images, prompt, chosen and rejected; `swap` exchanges the last two."""
    better, worse = ("rejected", "chosen") if swap else ("chosen", "rejected")
    return message_set(
        [row.images for row in pairs],
        {
            "prompt": [[{"role": "user", "content": _prompt(row)}] for row in pairs],
            better: [[{"role": "assistant", "content": row.chosen}] for row in pairs],
            worse: [[{"role": "assistant", "content": row.rejected}] for row in pairs],
        },
    )


@dataclass(frozen=True)
class WithAnswers:
    """A data collator that refuses batches in which an answer has no token left."""

    collate: Callable[[list[Mapping[str, Any]]], dict[str, Any]]
    """Makes the batches."""

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch.

        Raises:
            ValueError: an answer has no tokens.
        """
        batch = self.collate(rows)
        empty = (batch["completion_mask"].sum(1) == 0).nonzero()[:, 0].tolist()
        if empty:
            kind = "chosen" if empty[0] < len(rows) else "rejected"
            asked = rows[empty[0] % len(rows)]["prompt"][-1]["content"]
            shown = "".join(block.get("text") or "" for block in asked)[:60] if isinstance(asked, list) else asked[:60]
            raise ValueError(
                f"The {kind} answer to {shown!r} has no tokens to learn from; a max_length cuts them all off. "
                "Leave max_length out (sequences are not cut then), or raise it above the prompt with its images."
            )
        return batch


def first_gradient() -> Any:
    """A TRL callback that ends a run whose first update has no gradient, or none that is a number."""
    from transformers import TrainerCallback

    class FirstGradient(TrainerCallback):
        seen = False

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            if self.seen or "grad_norm" not in (logs or {}):
                return
            self.seen, norm = True, float(logs["grad_norm"])
            if norm == 0:
                raise ValueError(
                    "The gradient of the first update is zero, so nothing would be learnt: look for chosen answers "
                    "equal to the rejected ones, answers that max_length cuts off, and a loss weight of 0."
                )
            if not math.isfinite(norm):
                raise ValueError(
                    f"The gradient of the first update is {norm}; lower the learning rate, or train in float32."
                )

    return FirstGradient()


def freeze(model: Any, parts: str) -> None:
    """Leave only the parameters of `parts` ("language" or "all") to be trained."""
    language = {name for name, _ in language_parameters(model)}
    for name, value in model.named_parameters():
        value.requires_grad_(parts == "all" or name in language)


def check_trained(model: Any, parts: str) -> None:
    """
    Raises:
        ValueError: no parameter would be trained, or some outside the language part although `parts` is "language".
    """
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    if not names:
        raise ValueError("No parameter would be trained; lora.modules must match modules of the language part.")
    language = {name for name, _ in language_parameters(model)}
    outside = [name for name in names if name not in language]
    if parts == "language" and outside:
        raise ValueError(
            f"{len(outside)} of {len(names)} trained tensors lie outside the language part (first: {outside[0]}); "
            "name the language part in lora.modules, or allow it with parts=all."
        )


def length_report(trainer: Any, pairs: Sequence[Pair], sample: int = 256) -> str:
    """A sentence about lengths in tokens, of at most `sample` pairs spread evenly.

    Raises:
        ValueError: a sequence is longer than the model's positions.
    """
    places = range(0, len(pairs), math.ceil(len(pairs) / sample))
    whole, answers = [], []
    for place in places:
        batch = trainer.data_collator([trainer.train_dataset[place]])
        whole.append(int(batch["attention_mask"].sum(1).max()))
        answers += batch["completion_mask"].sum(1).tolist()
    longest = max(whole)
    name = pairs[places[whole.index(longest)]].id
    refuse_longer(longest, trainer.model, f"Pair {name}")
    return (
        f"{len(pairs)} pairs; of {len(places)}: prompt and answer at most {longest} tokens (pair {name}), "
        f"{sum(whole) / len(whole):.0f} on average; answers {min(answers):.0f} to {max(answers):.0f} tokens"
    )


def kept_corrector(source: str | None, folder: Path, dtype: str) -> Path:
    """The weights of `source` as `dtype`, see `reward_vlm.training.kept_start`."""
    return kept_start(
        folder, lambda part: SCLCorrector.from_pretrained(source, dtype=getattr(torch, dtype)).save_pretrained(part)
    )


def adapters(lora: LoRA, model: Any) -> Any:
    """The adapters as peft takes them; None without any."""
    if not lora.rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.modules or language_linears(model, *ATTENTION),
        bias="none",
        task_type="CAUSAL_LM",
    )


def _prompt(row: Pair) -> list[dict[str, str]]:
    return [*({"type": "image"} for _ in row.images), {"type": "text", "text": row.prompt}]
