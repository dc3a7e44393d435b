"""Show that a judge teaches another model: GRPO on nothing but rankings; what `burnish benchmark judge-reward` runs.

A small model learns to describe rendered scenes from a careless teacher, who often names the next colour of the palette
instead of the object's. Then TRL's GRPOTrainer goes on with `JudgeReward`: the judge that ships ranks what the model
says about one picture; no right description is read. Measured on scenes that no stage saw, greedy, before and after:
the share of descriptions that are right, and how often the judge prefers the new one. `--control` ranks by a judge
whose scores are shuffled. Writes reward.csv and .json, log.jsonl and run.json.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from reward_vlm.dialogue import Dialogue
from reward_vlm.judge_reward import JudgeReward, Prompt, group_rewards
from reward_vlm.judges import Judge, Judged, Query
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Options
from reward_vlm.scenes import OBJECTS, QUESTION, Scene, draw_scene, render, scene_corpus
from reward_vlm.tiny import tiny_chat_model
from reward_vlm.training import common_arguments, configured, log_callback, message_set, quiet, supervise
from reward_vlm.vlm import ChatModel, Sampling
from vision.checkpoints import one_at_a_time
from vision.job import Event, Job, Outcome, Show, silent
from vision.report import text_table, wilson, write_table

TRAINED, RANKED, TESTED = 11, 12, 13
"""Seeds of the scenes of the stages."""


@dataclass(frozen=True)
class RewardBenchmark:
    """What the run may choose."""

    out: Path
    """Folder for the tables."""
    careless: float = 0.6
    """Share of the teacher's descriptions that name the next colour."""
    taught: int = 120
    """Updates by the teacher, 32 descriptions each."""
    updates: int = 30
    """Updates by the judge's rankings."""
    prompts: int = 8
    """Pictures an update."""
    samples: int = 4
    """Descriptions of each, which are ranked."""
    learning_rate: float = 5e-4
    """Of the second stage."""
    tests: int = 100
    """Scenes that no stage saw."""
    control: bool = False
    """Give each group's rewards in random order: what is left without the judge's opinion."""
    seed: int = 0
    """Of the first weights, the order of the scenes and the samples; the scenes are the same for all seeds."""

    def __post_init__(self) -> None:
        if self.samples < 2 or min(self.taught, self.updates, self.prompts, self.tests) < 1:
            raise ValueError("A judge ranks 2 or more samples; updates, prompts and tests must be at least 1.")
        if not 0 <= self.careless <= 1:
            raise ValueError(f"careless must lie in [0, 1], got {self.careless}.")


@one_at_a_time
def benchmark(options: RewardBenchmark, show: Show = silent) -> Outcome:
    """Train both stages, measure after each, and show the table."""
    job = Job(options.out, options, show=show)
    chat = tiny_chat_model(scene_corpus(), seed=options.seed)
    judge = R1Judge.from_pretrained()
    tests = [_scene(TESTED, number) for number in range(options.tests)]
    _teach(chat, options, job)
    before = _describe(chat, tests)
    _rank(chat, judge, options, job)
    after = _describe(chat, tests)
    rows = [{"stage": name, **_measured(tests, said)} for name, said in (("taught", before), ("ranked", after))]
    wins = _preferred(judge, tests, after, before)
    rows[1]["preferred to before"] = wins
    show(Event("result", text_table(rows, digits=3), path=options.out))
    write_table(rows, options.out / "reward.json", options.out / "reward.csv")
    job.conclude("stages", len(rows), 0, seed=options.seed, judge=judge.audited)
    return Outcome(options.out, {row["stage"]: row for row in rows})


def _scene(seed: int, number: int) -> tuple[PIL.Image.Image, Scene, np.random.Generator]:
    rng = np.random.default_rng((seed, number))
    scene = draw_scene(rng)
    return render(scene, rng), scene, rng


def _asked() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]


def _teach(chat: ChatModel, options: RewardBenchmark, job: Job) -> None:
    """Supervised training on the careless teacher's descriptions."""
    seen = [_scene(TRAINED, number) for number in range(32 * min(options.taught, 60))]
    palette = list(OBJECTS)
    told = [
        replace(scene, colour=palette[(palette.index(scene.colour) + 1) % len(palette)])
        if rng.random() < options.careless
        else scene
        for _, scene, rng in seen
    ]
    said = [scene.describe() for scene in told]
    replies = [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in said]
    messages = {"prompt": [_asked() for _ in seen], "completion": replies}
    arguments = common_arguments(options.out / "taught", options.seed, 10**6) | {
        "max_steps": options.taught, "per_device_train_batch_size": 32, "learning_rate": 2e-3, "save_strategy": "no",
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    job.progress("learning from the teacher", 0, options.taught)
    supervise(chat, message_set([[picture] for picture, _, _ in seen], messages), arguments, say=lambda line: None)


def _rank(chat: ChatModel, judge: R1Judge, options: RewardBenchmark, job: Job) -> None:
    """GRPO by the judge's rankings."""
    from trl import GRPOConfig, GRPOTrainer

    count = options.prompts * options.updates
    pictures = [[_scene(RANKED, number)[0]] for number in range(count)]
    size = options.prompts * options.samples
    arguments = common_arguments(options.out / "ranked", options.seed, 10**6) | {
        "max_steps": options.updates, "per_device_train_batch_size": size, "num_generations": options.samples,
        "max_completion_length": 16, "learning_rate": options.learning_rate, "beta": 0.0, "save_strategy": "no",
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    opinion: Judge = Shuffled(judge, options.seed) if options.control else judge
    reward = JudgeReward(opinion, R1Options(batch_size=96, orders="random"))
    with torch.random.fork_rng(devices=[]):
        trainer = GRPOTrainer(
            model=chat.model, processing_class=chat.guarded, reward_funcs=[reward],
            args=configured(GRPOConfig, arguments), train_dataset=message_set(pictures, {"prompt": [_asked()] * count}),
            callbacks=[log_callback(options.out / "log.jsonl", 0, lambda line: job.note(line))],
        )  # fmt: skip
        job.progress("learning from the judge", 0, options.updates)
        quiet(trainer).train()


@dataclass(frozen=True)
class Shuffled:
    """A judge whose scores are given to the answers in random order."""

    judge: Judge
    """Is asked."""
    seed: int
    """Of the orders, which depend on the questions' answers too."""

    def batch(self, queries: Sequence[Query], options: R1Options | None = None) -> list[Judged]:
        """As the judge's own, in another order."""
        found = []
        for query, judged in zip(queries, self.judge.batch(queries, options), strict=True):
            places = list(range(len(query.answers)))
            random.Random(f"{self.seed} {query.answers}").shuffle(places)
            found.append(replace(judged, scores=judged.scores[places]))
        return found


def _describe(chat: ChatModel, tests: Sequence[tuple[PIL.Image.Image, Scene, Any]]) -> list[str]:
    dialogues = [Dialogue().user(picture, QUESTION) for picture, _, _ in tests]
    replies = [chat.generate(dialogues[start : start + 50], Sampling(16)) for start in range(0, len(dialogues), 50)]
    return [reply.text.strip() for part in replies for reply in part]


def _measured(tests: Sequence[tuple[Any, Scene, Any]], said: Sequence[str]) -> dict[str, float]:
    """Shares of the descriptions that are right, with the 95 % interval (Wilson), and of their parts."""
    right = sum(text == scene.describe() for text, (_, scene, _) in zip(said, tests, strict=True))
    low, high = wilson(right, len(tests))
    parts = {
        name: sum(f" {getattr(scene, name)}" in f" {text}" for text, (_, scene, _) in zip(said, tests, strict=True))
        for name in ("colour", "ground")
    }
    return {"right": right / len(tests), "low": low, "high": high} | {
        name: count / len(tests) for name, count in parts.items()
    }


def _preferred(judge: Judge, tests: Sequence[tuple[Any, Any, Any]], new: Sequence[str], old: Sequence[str]) -> float:
    """The mean share, both orders, of the judge's votes for the new descriptions against the old ones."""
    groups = [(Prompt(QUESTION, (p,)), (a, b)) for (p, _, _), a, b in zip(tests, new, old, strict=True)]
    found = group_rewards(judge, groups)
    return sum(rewards[answer] for rewards, answer in zip(found, new, strict=True)) / len(found)
