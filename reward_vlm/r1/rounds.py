"""Reinforcement in rounds on the refinement core: rollout, score, select, update, accept or roll back."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_vlm.data import JudgementRow, Preference
from reward_vlm.endpoint import Endpoint
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.measures import counts, judge_pairs, random_orders, summary
from reward_vlm.r1.options import R1Options, R1Training
from reward_vlm.r1.rewards import JudgementReward, endpoint_judge, result_reward, rule_consistency
from reward_vlm.r1.rows import training_set
from reward_vlm.r1.stages import lora_config, trl_arguments, write_judge
from reward_vlm.rl.curriculum import AdaptiveCurriculum
from reward_vlm.rl.reference import ReferenceReset
from reward_vlm.training import (
    configured,
    go_on,
    last_checkpoint,
    load_checkpoint_weights,
    log_callback,
    log_row,
    quiet,
)
from reward_vlm.vlm import Sampling
from vision.checkpoints import Log, forget_after, keep_rows, publish
from vision.config import read_json
from vision.files import atomic_path
from vision.job import choose_device
from vision.refine import Step, Verdict, checkpoints, load_checkpoint, refine, roll_back_if_worse
from vision.refine.items import clone_items, item_generators

PATIENCE = 2
"""Rounds in a row that do not raise the held-out accuracy before the reference is taken anew."""


@dataclass
class Policy:
    """Weights and optimiser moments of a policy, on the CPU: the state of the rounds."""

    weights: dict[str, Tensor]
    """By parameter."""
    moments: dict[str, Tensor]
    """Of AdamW, and its step numbers, by parameter; plain gradient descent has none."""
    accuracies: tuple[float, ...] = ()
    """Held-out accuracy of every round so far."""


def reinforce(rounds: Rounds) -> Path:
    """StableReinforce in rounds, see the module's docstring; returns the folder of the weights."""
    options, say, weights = rounds.options, rounds.say, rounds.options.folder / "weights"
    several, memory = options.rounds > 1, options.folder / "rounds"
    resume = load_checkpoint(memory, types=(Policy,)) if several else None
    rounds.checkpoint = None if several else last_checkpoint(options.folder)
    rounds.check_arguments()
    if rounds.is_main and several:
        forget_after(options.folder / "log.jsonl", (resume.index + 1) * options.steps if resume else -1)
    elif rounds.is_main:  # the end is judged again
        keep_rows(options.folder / "log.jsonl", lambda row: "held_out/accuracy" not in row or row["step"] == 0)
    run = refine(
        resume.state if resume else rounds.policy() if several else Policy({}, {}),
        rounds.propose,
        range(1, options.rounds + 1),
        evaluate=rounds.evaluate,
        accept=_accept(options.tolerance) if several else None,
        keep_best=clone_items if several else None,
        resume=resume,
        observers=[checkpoints(memory)] if several and rounds.is_main else [],
        result="best" if several else "last",
        evaluate_start=rounds.checkpoint is None,
    )
    if several:
        rounds.load(run.state)
        say(f"the best round reached a held-out accuracy of {run.score:.3f}")
        rounds.chat.model.config = rounds.config
        return publish(weights, rounds.judge.save_pretrained)
    return write_judge(rounds.trainer, rounds.judge, weights)


class Rounds:
    """One judge, and what the rounds do to it."""

    def __init__(
        self,
        start: Path,
        rows: Sequence[JudgementRow],
        held_out: Sequence[Preference],
        options: R1Training,
        say: Log,
        guides: Mapping[str, str] | None = None,
    ):
        """`guides` are replies of an expert by the rows' ids."""
        self.start, self.rows, self.held_out, self.options, self.say = start, list(rows), held_out, options, say
        self.guides, self.reference = guides, start
        self.judge = R1Judge.from_pretrained(start, dtype=getattr(torch, options.dtype))
        if torch.cuda.is_available() and not shared_out():
            self.judge.to(choose_device("auto"))
        self.chat = self.judge.model
        self.config = copy.deepcopy(self.chat.model.config)  # TRL's trainers change it
        self.trainer: Any = None
        self.checkpoint: str | None = None
        self.optimizer = self._optimizer() if options.rounds > 1 else None
        if not rows or not held_out:
            raise ValueError("Reinforcement needs rows and held-out pairs, got an empty file.")

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return int(os.environ.get("RANK", "0")) == 0

    def policy(self) -> Policy:
        """Copies of the weights and moments as they are."""
        weights = {name: _copy(value) for name, value in self._trained()}
        moments = {}
        for name, value in self._trained():
            for key, moment in (self.optimizer.state.get(value, {}) if self.optimizer else {}).items():
                moments[f"{name}.{key}"] = _copy(moment).reshape(moment.shape or (1,))
        return Policy(weights, moments)

    @torch.no_grad()
    def load(self, policy: Policy) -> None:
        """Put weights and moments back."""
        for name, value in self._trained():
            value.copy_(policy.weights[name])
            if self.optimizer is not None:
                own = {key: policy.moments.get(f"{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
                found = {key: moment.clone() for key, moment in own.items() if moment is not None}
                if found:
                    found["step"] = found["step"].reshape(())
                    found |= {key: found[key].to(value) for key in ("exp_avg", "exp_avg_sq")}
                    self.optimizer.state[value] = found
                else:
                    self.optimizer.state.pop(value, None)

    def propose(self, policy: Policy, number: int) -> Policy:
        """Round `number`: select prompts, sample, score, update."""
        if self.options.rounds > 1:
            self.load(policy)
        if self.options.reset == "on-stall":
            self._begin_anew(policy.accuracies, number)
        load_checkpoint_weights(self.chat.model, self.checkpoint)
        with torch.random.fork_rng(devices=[]):
            self.trainer = self._trainer(number)
            go_on(self.trainer, self.checkpoint)
        return self.policy() if self.options.rounds > 1 else policy

    def evaluate(self, policy: Policy, number: int | None) -> Verdict:
        """Held-out accuracy in random order; the log gets the whole summary. None: of the start."""
        number = number or 0
        if self.options.rounds > 1:
            self.load(policy)
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        count = len(self.held_out)
        share = range(rank, count, world)
        # where weights are shared out, processes must generate equally often: the last ones judge a pair for company
        places = [place % count for place in range(rank, -(-count // world) * world, world)]
        asked = R1Options(batch_size=64, max_new_tokens=self.options.max_new_tokens)
        orders = random_orders(count, asked.seed)[places]  # those of one process
        outcomes = judge_pairs(self.judge, [self.held_out[place] for place in places], asked, flips=orders)
        sums = counts(outcomes[: len(share)])
        if world > 1:
            sums = self._added(sums)
        row = summary(sums)
        if self.is_main:
            log_row(
                self.options.folder / "log.jsonl",
                {"step": number * self.options.steps, **{f"held_out/{name}": value for name, value in row.items()}},
            )
        self.say(
            f"round {number}/{self.options.rounds}: accuracy {row['accuracy']:.3f}, right in both orders "
            f"{row['both_orders']:.3f}, says 1 {row['says_1']:.2f}, format {row['format']:.2f}"
        )
        return Verdict(row["accuracy"], row)

    def select(self, number: int, needed: int) -> list[JudgementRow]:
        """The prompts of a round, drawn from (seed, round)."""
        if self.options.curriculum == "adaptive":
            return self._next_batch(number, needed)
        rows = self._drawn(number, needed)
        if self.options.select == "all":
            return rows[:needed]
        rows = rows[: 2 * needed]
        solved = [rate == 1 for rate in self._solve_rates(rows, number)]
        hard = [row for row, known in zip(rows, solved, strict=True) if not known]
        easy = [row for row, known in zip(rows, solved, strict=True) if known]
        return (hard + easy)[:needed]

    def _drawn(self, number: int, needed: int) -> list[JudgementRow]:
        """All rows in an order that is drawn from (seed, number), repeated until there are enough."""
        order = np.random.default_rng((self.options.seed, number)).permutation(len(self.rows))
        while len(order) < needed:
            order = np.concatenate([order, order])
        return [self.rows[i] for i in order]

    def _next_batch(self, number: int, needed: int) -> list[JudgementRow]:
        """The prompts of a round in a curriculum, the easiest for the policy as it is first."""
        pool = self._drawn(0, 0)[: needed * self.options.rounds]
        if len(pool) < self.options.rounds:
            raise ValueError(f"A curriculum needs a row for every round, got {len(pool)} for {self.options.rounds}.")
        path = self.options.folder / "curriculum.json"
        if not path.exists():
            with atomic_path(path) as part:
                part.write_text(json.dumps({"solve_rates": self._solve_rates(pool, 0)}), encoding="utf-8")
        rates, answers = tuple(read_json(path)["solve_rates"]), tuple(row.answers for row in pool)
        curriculum = AdaptiveCurriculum(rates, self.options.rounds, answers)
        places, shift = curriculum.batch(
            number - 1, lambda places: self._solve_rates([pool[place] for place in places], number)
        )
        if shift is not None:
            self.say(f"round {number}: the order of its prompts has moved by {shift:.2f} since the start")
        wanted = np.linspace(0, len(places), needed, endpoint=False).astype(int)  # some twice where there are too few
        return [pool[places[i]] for i in wanted]

    def _begin_anew(self, accuracies: Sequence[float], number: int) -> None:
        """Take the reference of a round: the start, or the policy after the last stall; there the optimiser forgets."""
        stalls = ReferenceReset(PATIENCE).places(accuracies)
        if not stalls:
            return
        after = stalls[-1] + 1
        self.reference = self.options.folder / f"reference-{after}"
        if after != number - 1:
            return
        self.say(f"round {number}: the reference is the policy as it is, since accuracy stalled")
        self.optimizer.state.clear()
        if self.is_main:
            shutil.rmtree(self.reference, ignore_errors=True)
        publish(self.reference, self.judge.save_pretrained)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()

    def _solve_rates(self, rows: Sequence[JudgementRow], number: int, chunk: int = 64) -> list[float]:
        """Share of two samples of the current judge that get each prompt right."""
        limit = self.options.max_new_tokens or self.judge.config.max_new_tokens
        rates = []
        for first in range(0, len(rows), chunk):
            part = [row for row in rows[first : first + chunk] for _ in range(2)]
            seed = (self.options.seed * 1009 + number) * 2_000_003 + 2 * first
            dialogues = [row.dialogue() for row in part]
            replies = self.chat.generate(dialogues, Sampling(limit, 1.0), generators=item_generators(seed, len(part)))
            right = [bool(result_reward(said.text, row.answers)) for said, row in zip(replies, part, strict=True)]
            rates += [(a + b) / 2 for a, b in zip(right[::2], right[1::2], strict=True)]
        return rates

    def check_arguments(self) -> None:
        """Refuse further arguments (`--trl`) that cannot be before anything is judged."""
        from reward_vlm.r1.trainer import StableReinforceConfig

        configured(StableReinforceConfig, self.arguments(1))

    def arguments(self, number: int) -> dict[str, Any]:
        """Of TRL's configuration for a round."""
        options, aim = self.options, self.options.objective
        return trl_arguments(options, {
            "num_generations": aim.samples,
            "advantage_estimator": aim.estimator,
            "advantage_filter": aim.filter,
            "filter_width": aim.filter_width,
            "preclip": aim.preclip,
            "beta": aim.beta,
            "epsilon": aim.epsilon,
            "skip_equal": aim.skip_equal,
            "spans": list(options.spans or ()),
            "oversample": options.oversample or 1,
            "progress": options.progress or 0.0,
            "shuffle_dataset": options.curriculum is None,
            "temperature": aim.temperature,
            "steps_per_generation": aim.rollout_updates * options.accumulate,
            "max_completion_length": options.max_new_tokens or self.judge.config.max_new_tokens,
            "save_strategy": "no" if options.rounds > 1 else "steps",
            "seed": options.seed * 1009 + number,
        })  # fmt: skip

    def _trainer(self, number: int) -> Any:
        from reward_vlm.r1.trainer import StableReinforceConfig, StableReinforceTrainer

        options, aim = self.options, self.options.objective
        world = int(os.environ.get("WORLD_SIZE", "1"))
        prompts = options.batch_size * options.accumulate * world * options.steps // aim.samples
        self.chat.model.config._name_or_path = str(self.reference)  # TRL loads the reference from there
        trainer = StableReinforceTrainer(
            model=self.chat.model,
            processing_class=self.chat.guarded,
            reward_funcs=[self._reward()],
            args=configured(StableReinforceConfig, self.arguments(number)),
            train_dataset=training_set(self.select(number, prompts), targets=False, guides=self.guides),
            optimizers=(self.optimizer, self._schedule(number) if self.optimizer else None),
            peft_config=lora_config(options, self.chat.model),
            callbacks=[log_callback(options.folder / "log.jsonl", (number - 1) * options.steps, self.say)],
        )
        return quiet(trainer)

    def _reward(self) -> JudgementReward:
        if self.options.consistency == "rule":
            return JudgementReward(rule_consistency)
        return JudgementReward(endpoint_judge(Endpoint(self.options.consistency), self.say))

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = [value for _, value in self._trained()]
        if self.options.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self.options.learning_rate)
        return torch.optim.AdamW(parameters, lr=self.options.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)

    def _schedule(self, number: int) -> torch.optim.lr_scheduler.LRScheduler:
        """The rate over all rounds, from where this one begins."""
        options = self.options
        total, warmup = options.rounds * options.steps, options.warmup * options.steps

        def share(step: int) -> float:
            at = (number - 1) * options.steps + step
            if at < warmup:
                return (at + 1) / (warmup + 1)
            return 1.0 if options.schedule == "constant" else 0.55 + 0.45 * math.cos(math.pi * at / total)

        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] = options.learning_rate
        return torch.optim.lr_scheduler.LambdaLR(self.optimizer, share)

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, value) for name, value in self.chat.model.named_parameters() if value.requires_grad]

    def _added(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over processes."""
        import torch.distributed as dist

        if not dist.is_initialized():  # round 0 comes before the trainer that would do it
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, sums)
        return {name: sum(part.get(name, 0.0) for part in gathered) for name in gathered[0]}


def _accept(tolerance: float) -> Callable[[Step], Policy]:
    """Roll back what is worse, and take down how every round did."""
    choose = roll_back_if_worse(tolerance)
    return lambda step: replace(choose(step), accuracies=(*step.state.accuracies, float(step.score)))


def check_rounds(options: R1Training) -> None:
    """
    Raises:
        ValueError: several rounds are asked for where weights are shared out, or where vLLM samples.
    """
    if options.rounds == 1:
        return
    leave = "leave --rounds out, and with it --curriculum and --reset."
    if shared_out():
        raise ValueError(f"Rounds hold all weights in one process, but DeepSpeed and FSDP share them out; {leave}")
    if options.trl is not None and read_json(options.trl).get("use_vllm"):
        raise ValueError(f"Every round makes a trainer, but vLLM's engine can be made once; {leave}")


def shared_out() -> bool:
    """Whether DeepSpeed or FSDP will decide where weights lie."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "false") == "true" for name in ("DEEPSPEED", "FSDP"))


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)
