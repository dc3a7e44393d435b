"""Train a judge: cold start on written judgements, then StableReinforce.

    burnish train r1 --stage sft --rows judgements.jsonl --start Qwen/Qwen2.5-VL-7B-Instruct --folder runs/sft
    burnish train r1 --stage rl --rows hard.jsonl --held-out pairs.jsonl --start runs/sft/weights \\
        --folder runs/rl --rounds 10 --steps 40
    accelerate launch --config_file configs/zero3.yaml scripts/train.py r1 --stage rl ... --trl configs/vllm.json

Rows are preferences or prompts as they are sent, see `reward_vlm.data`. `--trl` names a JSON file with further
arguments of TRL's configuration (vLLM, DeepSpeed, FSDP, checkpointing of activations): larger machines need no other
code.

Reinforcement goes in rounds on the refinement core: a round selects prompts, lets TRL sample, score and update for
`steps` updates, and is judged on held-out pairs; a round that makes the judge worse than the best one by more than
`tolerance` is undone. Round r depends on the state before it and on (seed, r) alone, and the state (weights, moments of
the optimiser) is saved after each, so that a killed run ends with the weights of one that was not. With one round the
optimiser, the schedule and the checkpoints are TRL's own: the form for ZeRO-3, FSDP, vLLM and LoRA, where the state
does not fit one process; there a run goes on from TRL's last checkpoint, whose pending rollout is drawn anew, so the
weights may differ from those of an undisturbed run.

Differences from the published code: the policy sees the pictures; the learning rate and the weight of the divergence
are choices (the published code: 3e-7, 1e-3; the paper: 1e-6, 0).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reward_vlm.data import JudgementRow, Preference, preference, read_rows, told_rows
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.measures import counts, judge_pairs, summary
from reward_vlm.r1.mining import mined
from reward_vlm.r1.options import R1Options, R1Training
from reward_vlm.r1.rounds import Rounds, check_rounds, reinforce
from reward_vlm.r1.rows import judgement_row, row_reader, training_set
from reward_vlm.r1.stages import lora_config, trl_arguments, write_judge
from reward_vlm.training import kept_start, supervise
from vision.checkpoints import Log, begin_run, one_at_a_time


@one_at_a_time
def train(options: R1Training, *, log: Log | None = None) -> Path:
    """Run a stage to its end and return the folder of the weights.

    Raises:
        ValueError: rows cannot be used (they are named by number), the run was begun with other options or data, or it
            cannot go in rounds on such machinery.
    """
    check_rounds(options)
    begin_run(options.folder, options, data=("rows", "held_out", "start", "trl", "guide", "mine"))
    say = log or (lambda line: None)
    start = options.folder / "start"
    judge = R1Judge.from_pretrained(start) if start.exists() else _judge(options)
    config, held_out = judge.config, list[Preference]()
    # Rows come first: an attempt that they end has made nothing, and may be made again with better ones.
    rows = told_rows(options.rows, row_reader(config), say, skip_bad=options.skip_bad, needed="rows to train on")
    if options.held_out is not None:
        held_out = told_rows(options.held_out, preference, say, skip_bad=options.skip_bad)
    start = kept_start(options.folder, judge.save_pretrained)
    del judge
    if options.stage == "sft":
        return cold_start(start, rows, held_out, options, say)
    if (options.folder / "weights").exists():
        return options.folder / "weights"
    guides = _guides(options, rows, row_reader(config), say)
    if options.mine:
        rows = [*rows, *_mined(options, R1Judge.from_pretrained(start), say)]
    return reinforce(Rounds(start, rows, held_out, options, say, guides))


def _guides(options: R1Training, rows: Sequence[JudgementRow], read: Any, say: Log) -> dict[str, str] | None:
    """Replies of an expert by the ids of rows; None without a guide.

    Raises:
        ValueError: the guide has no reply to any of the rows, or one for other accepted answers, or an id stands twice.
    """
    if options.guide is None:
        return None
    found, problems = read_rows(options.guide, read, skip_bad=options.skip_bad)
    for sentence in problems:
        say(f"left out of the guide: {sentence}")
    expert = [row for row in found if row.target is not None]
    for path, some in ((options.guide, expert), (options.rows, rows)):
        of_ids = Counter(row.id for row in some)
        if twice := next((id for id, count in of_ids.items() if id and count > 1), None):
            raise ValueError(f"The id {twice!r} stands twice in {path}, so that a guide may belong to another row.")
    told = {row.id: row for row in expert if row.id}
    for row in rows:
        if row.id in told and told[row.id].answers != row.answers:
            raise ValueError(f"{options.guide} answers {row.id} otherwise than {options.rows}; give it the same order.")
    guides = {row.id: told[row.id].target for row in rows if row.id in told}
    if not guides:
        raise ValueError(f"{options.guide} has no rationale for any id of {options.rows}.")
    say(f"{len(guides)} of {len(rows)} prompts have a guide")
    return guides


def _mined(options: R1Training, judge: R1Judge, say: Log) -> list[JudgementRow]:
    """What the start gets wrong about restorations."""
    asking = R1Options(max_new_tokens=options.max_new_tokens)
    pairs = mined(options.mine, judge, asking, options.seed)
    say(f"{len(pairs)} pairs of windows that the start gets wrong are learnt from too")
    return [judgement_row(pair, judge.config) for pair in pairs]


def _judge(options: R1Training) -> R1Judge:
    """The judge that a run starts from, asked as the options say."""
    judge = R1Judge.from_pretrained(options.start)
    return R1Judge(judge.chat, options.judge or judge.config)


def cold_start(
    start: Path, rows: Sequence[JudgementRow], held_out: Sequence[Preference], options: R1Training, say: Log
) -> Path:
    """Supervised training on written judgements with TRL's SFTTrainer; the loss is on the reply alone."""
    weights = options.folder / "weights"
    if weights.exists():
        return weights
    judge = R1Judge.from_pretrained(start, dtype=getattr(torch, options.dtype))

    def reached(step: int) -> bool:
        """Whether the judge as it is satisfies `until`."""
        found = summary(counts(judge_pairs(judge, held_out)))
        say(f"{step}: right in both orders {found['both_orders']:.3f}, accuracy {found['accuracy']:.3f}")
        return found["both_orders"] >= options.until

    trainer = supervise(
        judge.model,
        training_set(rows, targets=True),
        trl_arguments(options, {}),
        peft=lora_config(options, judge.model.model),
        reached=None if options.until is None else reached,
        say=say,
    )
    return write_judge(trainer, judge, weights)
