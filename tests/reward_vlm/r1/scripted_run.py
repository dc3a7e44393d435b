"""Two updates of StableReinforce with completions that depend on the prompt alone; run by `test_trainer.py`.

python scripted_run.py START OUT.json BATCH           or under torchrun with two processes
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from reward_vlm.data import Preference
from reward_vlm.r1.options import R1Config
from reward_vlm.r1.rewards import JudgementReward
from reward_vlm.r1.rows import judgement_row, training_set
from reward_vlm.r1.trainer import StableReinforceConfig, StableReinforceTrainer
from reward_vlm.scenes import scene_pairs
from reward_vlm.vlm import ChatModel


class Scripted(StableReinforceTrainer):
    """Says things that a checksum of the prompt chooses: right, wrong, inconsistent or unreadable."""

    def _generate_single_turn(self, prompt_ids, *rest, **named):
        said = []
        for ids in prompt_ids:
            kind = zlib.crc32(str(list(ids)).encode())
            digit, told = 1 + kind % 2, 1 + (kind // 2) % 2
            text = f"<think>response {told} is better .</think><answer>{digit}</answer>"
            tokens = self._tokenizer(text if kind % 5 else "red", add_special_tokens=False)["input_ids"]
            said.append([*tokens, self._tokenizer.eos_token_id])
        return said, None


def main(start: str, out: str, batch: int) -> None:
    torch.set_num_threads(1)
    chat = ChatModel.from_pretrained(start)
    pairs: list[Preference] = scene_pairs(7, 16)
    rows = [judgement_row(pair, R1Config("plain", True, 24, None)) for pair in pairs]
    arguments = StableReinforceConfig(
        output_dir=f"{out}.trl", per_device_train_batch_size=batch, gradient_accumulation_steps=1,
        steps_per_generation=1, max_steps=2,
        learning_rate=1e-3, warmup_steps=0, lr_scheduler_type="constant", lr_scheduler_kwargs={}, beta=0.1,
        max_completion_length=24, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, dataloader_pin_memory=False, disable_tqdm=True, shuffle_dataset=False,
    )  # fmt: skip
    trainer = Scripted(
        model=chat.model, processing_class=chat.processor, reward_funcs=[JudgementReward()], args=arguments,
        train_dataset=training_set(rows, targets=False),
    )  # fmt: skip
    trainer.train()
    if trainer.accelerator.is_main_process:
        names = ("loss", "policy_loss", "reward", "whitening/mean", "whitening/rstd", "filtered", "kl_k1", "entropy")
        history = [{name: row[name] for name in names if name in row} for row in trainer.state.log_history]
        weights = {name: float(value.detach().double().square().sum()) for name, value in chat.model.named_parameters()}
        facts = {"processes": trainer.accelerator.num_processes, "weights": weights}
        Path(out).write_text(json.dumps({**facts, "history": [row for row in history if row]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
