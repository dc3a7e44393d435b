"""Training of the small judge of rendered scenes that ships with the project, from nothing, on a CPU in minutes.

    burnish train r1 --recipe mini --seed 2 --folder runs/r1-mini

A tiny vision-language model with random weights learns to write judgements (cold start), then StableReinforce teaches
it to choose rightly. Data are rendered scenes (`reward_vlm.scenes`); `reward_vlm.r1.recipe_restoration` is the same
recipe for a judge of restorations. Both stages go on from their checkpoints when the same command is given again; the
result is `<folder>/rl/weights`, which `R1Judge.from_pretrained` loads. Times and measured results stand in the model
card.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reward_vlm.data import Preference, preference, preference_json, read_rows, write_rows
from reward_vlm.r1.curves import plot_run, read_log
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.measures import counts, judge_pairs, summary
from reward_vlm.r1.options import R1Config, R1Training, StableReinforce
from reward_vlm.r1.train import train as train_stage
from reward_vlm.scenes import QUESTION, scene_corpus, scene_pairs
from reward_vlm.tiny import TinySize, tiny_chat_model
from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.files import atomic_path


@dataclass(frozen=True)
class MiniR1Training:
    """The recipe of the small judge of scenes."""

    folder: Path = Path("runs/r1-mini")
    """Data, the two stages and the report go here."""
    stage: Literal["sft", "rl", "all"] = "all"
    """Stop after the cold start, or go on."""
    sft_steps: int = 325
    """Updates of the cold start at most, 32 judgements each."""
    sft_until: float = 1.0
    """The cold start ends when this share of the held-out pairs is right in both orders (looked at every `sft_every`
    updates); 1: it uses all updates, unless every pair is right earlier."""
    sft_every: int = 10
    """Updates of the cold start between checkpoints."""
    sft_rate: float = 2e-3
    """Peak learning rate of the cold start."""
    sft_schedule: Literal["cosine", "constant"] = "constant"
    """Of the cold start."""
    rounds: int = 2
    """Rounds of reinforcement."""
    steps: int = 16
    """Updates per round."""
    judgements: int = 32
    """Judgements per update of reinforcement, a multiple of 32."""
    rate: float = 2e-4
    """Peak learning rate of reinforcement."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of reinforcement."""
    objective: StableReinforce = field(default_factory=lambda: StableReinforce(beta=0.02))
    """Of reinforcement."""
    select: Literal["all", "hard"] = "all"
    """Prompts of a round: any, or those that the judge is least sure of."""
    tolerance: float = 0.05
    """A round that lowers the held-out accuracy by more than this is undone."""
    rows: tuple[int, int, int] = (4000, 3000, 100)
    """Pairs for the cold start, for reinforcement, and held out to judge the rounds."""
    tests: int = 200
    """Pairs of the final report; no stage sees them."""
    size: TinySize = field(default_factory=TinySize)
    """Sizes of the network."""
    seed: int = 0
    """Of the first weights, the order of the rows and the judgements; the data are the same for all seeds."""

    def __post_init__(self) -> None:
        for name in ("sft_steps", "sft_every", "rounds", "steps", "tests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if min(self.rows) < 1:
            raise ValueError(f"rows must name three numbers of at least 1, got {' '.join(map(str, self.rows))}.")
        if self.judgements < 32 or self.judgements % 32:
            raise ValueError(f"judgements must be a multiple of 32, got {self.judgements}.")

    def corpus(self) -> Iterable[str]:
        """Sentences of the task, for the tokenizer."""
        return scene_corpus()

    def config(self) -> R1Config:
        """How the weights are asked, and what they are taught."""
        return R1Config("plain", True, 48, None, question=QUESTION, answers="texts")

    def pairs(self, name: str, count: int) -> list[Preference]:
        """The pairs of a stage: one of `SEEDS`."""
        return scene_pairs(SEEDS[name], count)


SEEDS = {"sft": 1, "rl": 7, "held_out": 98, "test": 99}
"""Seeds of the data."""


@one_at_a_time
def train(options: MiniR1Training, *, log: Log | None = None) -> Path:
    """Run what is not finished and return the folder of the weights."""
    begin_run(options.folder, options, free=("stage",))  # stopping after the cold start and going on later is one run
    say = log or (lambda line: None)
    data, empty = options.folder / "data", options.folder / "empty"
    write_data(options, data)
    if not empty.exists():
        chat = tiny_chat_model(options.corpus(), options.size, options.seed)
        publish(empty, R1Judge(chat, options.config()).save_pretrained)
    common = {"batch_size": 32, "seed": options.seed}
    weights = train_stage(
        R1Training(
            rows=data / "sft.jsonl", folder=options.folder / "sft", start=str(empty), steps=options.sft_steps,
            accumulate=1, learning_rate=options.sft_rate, schedule=options.sft_schedule, warmup=30 / options.sft_steps,
            held_out=data / "held_out.jsonl", until=options.sft_until, save_every=options.sft_every, **common,
        ),
        log=say,
    )  # fmt: skip
    if options.stage != "sft":
        weights = train_stage(
            R1Training(
                stage="rl", rows=data / "rl.jsonl", held_out=data / "held_out.jsonl", folder=options.folder / "rl",
                start=str(weights), rounds=options.rounds, steps=options.steps,
                accumulate=options.judgements // 32,
                learning_rate=options.rate, schedule=options.schedule, objective=options.objective,
                warmup=0.1, select=options.select, tolerance=options.tolerance, **common,
            ),
            log=say,
        )  # fmt: skip
    report(options, say)
    return weights


def write_data(options: MiniR1Training, folder: Path) -> None:
    """The rows of every stage as files."""
    for name, count in zip(SEEDS, (*options.rows, options.tests), strict=True):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            pairs = options.pairs(name, count)
            write_rows(path, [preference_json(pair, folder) for pair in pairs])


def report(options: MiniR1Training, say: Log) -> None:
    """Judge the test pairs with the weights of each stage; write `report.json` and `curves.png`."""
    pairs, _ = read_rows(options.folder / "data" / "test.jsonl", preference)
    found = {}
    for stage in ("sft", "rl"):
        weights = options.folder / stage / "weights"
        if weights.exists():
            found[stage] = summary(counts(judge_pairs(R1Judge.from_pretrained(weights), pairs)))
            shown = ("accuracy", "both_orders", "says_1", "format")
            say(f"{stage}: " + "  ".join(f"{name} {found[stage][name]:.3f}" for name in shown))
    log = options.folder / "rl" / "log.jsonl"
    if log.exists():
        plot_run({"": read_log(log)}, options.folder / "curves.png", f"seed {options.seed}")
    with atomic_path(options.folder / "report.json") as part:
        part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
