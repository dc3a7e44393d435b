"""Self-correction learning from nothing, on a CPU in minutes: the small model that ships, and what the method does.

    burnish train scl --recipe mini --seeds 0 1 2 --folder runs/scl-mini

A tiny vision-language model with random weights learns from a careless teacher to answer multiple-choice questions
about rendered scenes, and to review its answers (cold start). The teacher takes green for red and purple for black more
often than not, and slips now and then; so there is something left to learn, and its reviews correct some answers and
spoil others. Both lessons have a fixed number of updates, one rule for all seeds. Then come rounds of self-correction
learning, and a control of the same length with chosen and rejected replies exchanged. Cold start, construction,
validation and test ask different questions.

Every part goes on from its checkpoints when the same command is given again. Of every seed, `seed-N/report.json` holds
what the test questions say, and `seed-N/learnt/weights` is what `SCLCorrector.from_pretrained` loads; `curves.png`
shows all seeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reward_vlm.data import Question, question_json, write_rows
from reward_vlm.scenes import Scene
from reward_vlm.scl import rounds
from reward_vlm.scl import train as training
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.evaluate import measure, summary
from reward_vlm.scl.options import CONFIG, DPO, LoRA, SCLConfig, SCLOptions, SCLTraining
from reward_vlm.scl.prompts import REVIEWS, ask, review
from reward_vlm.scl.scene_questions import (
    TEST_SEED,
    kind_of,
    letter_of,
    other_letter,
    question_corpus,
    scene_item,
    scene_questions,
    scene_reply,
)
from reward_vlm.tiny import TinySize, tiny_chat_model
from reward_vlm.training import common_arguments, finish, message_set, supervise
from reward_vlm.vlm import ChatModel
from vision.checkpoints import Log, begin_run, one_at_a_time
from vision.config import save_config
from vision.files import atomic_path
from vision.report import plot_panels

SEEDS = {"answers": 1, "reviews": 2, "construction": 7, "validation": 98, "test": TEST_SEED}
"""Seeds of the questions."""
CONFUSED = {"green": "red", "purple": "black"}
"""What the teacher takes for something else."""
STYLE = SCLConfig("plain", reviews=(0,), max_new_tokens=32)


@dataclass(frozen=True)
class ColdStart:
    """Supervised learning of the format, of seeing, and of reviewing."""

    answers: int = 150
    """Updates at most that teach answers."""
    until: float = 1.0
    """They end earlier when this share of the validation questions is answered rightly (looked at every `look`
    updates)."""
    look: int = 50
    """Updates between looks, and between checkpoints."""
    reviews: int = 40
    """Updates that teach reviews; half of their replies are still first answers."""
    batch_size: int = 32
    """Replies per update; each is seen once."""
    learning_rate: float = 1e-3
    """Constant after the first 30 updates."""
    confusion: float = 0.6
    """Share of the green things that the teacher calls red, and of the purple ones that it calls black."""
    slips: float = 0.15
    """Share of its replies in which it takes any other option."""


@dataclass(frozen=True)
class MiniSCLTraining:
    """The recipe of the small model."""

    folder: Path = Path("runs/scl-mini")
    """Everything goes here."""
    seeds: tuple[int, ...] = (0,)
    """Whole runs; a seed decides about first weights, order and samples, the questions are the same for all."""
    cold: ColdStart = field(default_factory=ColdStart)
    """The start."""
    questions: int = 1500
    """Questions of a round."""
    rounds: int = 1
    """Rounds of self-correction learning."""
    asking: SCLOptions = field(
        default_factory=lambda: SCLOptions(reviews=(0,), temperature=1.0, batch_size=64),
    )
    """How pairs are made."""
    dpo: DPO = field(
        default_factory=lambda: DPO(
            batch_size=32, accumulate=1, learning_rate=1e-4, max_grad_norm=1.0, lora=LoRA(rank=0), parts="all"
        )
    )
    """The reference's losses; all weights are trained."""
    control: bool = True
    """Also train on the first round's pairs with chosen and rejected exchanged."""
    validation: int = 200
    """Questions that end the cold start and judge the rounds."""
    tests: int = 500
    """Questions of the report; nothing else sees them."""
    size: TinySize = field(default_factory=TinySize)
    """Sizes of the network."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds must name at least one run.")


@one_at_a_time
def train(options: MiniSCLTraining, *, log: Log | None = None) -> Path:
    """Run what is not finished and return the folder of the first seed's weights."""
    begin_run(options.folder, options, free=("seeds",))  # every seed is a run of its own
    say = log or (lambda line: None)
    data = options.folder / "data"
    for name, count in (("construction", options.questions * options.rounds), ("validation", options.validation)):
        if not (data / f"{name}.jsonl").exists():
            write_rows(
                data / f"{name}.jsonl", [question_json(row, data) for row in scene_questions(SEEDS[name], count)]
            )
    reports = {seed: run(options, seed, lambda line, seed=seed: say(f"seed {seed}: {line}")) for seed in options.seeds}
    plot_reports(reports, options.folder / "curves.png")
    return options.folder / f"seed-{options.seeds[0]}" / "learnt" / "weights"


def run(options: MiniSCLTraining, seed: int, say: Log) -> dict[str, Any]:
    """One seed, from nothing to its report."""
    folder = options.folder / f"seed-{seed}"
    start = cold_start(options, seed, folder / "cold", say)
    data = options.folder / "data"
    learnt = rounds.train(
        rounds.SCLRounds(
            data / "construction.jsonl", data / "validation.jsonl", options.rounds, options.questions,
            folder=folder / "learnt", start=str(start), asking=options.asking, dpo=options.dpo, seed=seed,
        ),
        log=say,
    )  # fmt: skip
    numbers = range(1, options.rounds + 1)
    trained = {f"round {number}": learnt.parent / f"round-{number}" / "training" / "weights" for number in numbers}
    measured = {"start": start, **{name: path for name, path in trained.items() if path.exists()}}
    if options.control:
        pairs = learnt.parent / "round-1" / "pairs" / "pairs.jsonl"
        swapped = replace(options.dpo, swap=True)
        measured["control"] = training.train(
            SCLTraining(pairs, swapped, folder=folder / "control", start=str(start), seed=seed + 1), log=say
        )
    return report(options, measured, folder, say)


def cold_start(options: MiniSCLTraining, seed: int, folder: Path, say: Log) -> Path:
    """Answers until the rule says that it is enough, then reviews; returns the folder of the weights."""
    cold, answers = options.cold, folder / "answers" / "weights"
    if not answers.exists():
        chat = tiny_chat_model(corpus(), options.size, seed)
        questions = scene_questions(SEEDS["validation"], options.validation)

        def reached(step: int) -> bool:
            asking = SCLOptions(reviews=(), batch_size=100)
            found = summary(measure(SCLCorrector(chat, STYLE), questions, asking))
            say(f"{step}: {found['first']:.3f} of the validation questions right")
            return found["first"] >= cold.until

        teach(chat, cold, "answers", seed, answers.parent, say, reached)
    if not (folder / "weights").exists():
        teach(ChatModel.from_pretrained(answers), cold, "reviews", seed, folder, say)
    return folder / "weights"


def teach(
    chat: ChatModel,
    cold: ColdStart,
    lesson: Literal["answers", "reviews"],
    seed: int,
    folder: Path,
    say: Log,
    reached: Callable[[int], bool] | None = None,
) -> None:
    """One part of the cold start: `folder` gets checkpoints, a log and the weights."""
    steps = getattr(cold, lesson)
    arguments = common_arguments(folder, seed, cold.look) | {
        "max_steps": steps,
        "per_device_train_batch_size": cold.batch_size,
        "learning_rate": cold.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 30 / steps if steps > 30 else 0,
        "adam_beta2": 0.95,
    }
    rows = cold_rows(cold, lesson, seed)
    trainer = supervise(chat, rows, arguments, reached=reached, say=say)
    finish(trainer, chat.processor, folder / "weights", lambda part: save_config(STYLE, part / CONFIG))


def cold_rows(cold: ColdStart, lesson: Literal["answers", "reviews"], seed: int) -> Any:
    """The teacher's replies to questions, and for reviews also dialogues in which a reply is reviewed: the teacher
    looks at the picture again, whatever was said first."""
    rng = np.random.default_rng((seed, SEEDS[lesson]))
    images, prompts, completions = [], [], []
    for index in range(getattr(cold, lesson) * cold.batch_size):
        question, scene = scene_item(SEEDS[lesson], index)
        block = [{"type": "image"}, {"type": "text", "text": ask(question, STYLE.style)}]
        turns: list[dict[str, Any]] = [{"role": "user", "content": block}]
        if lesson == "reviews" and index % 2:
            request = review(int(rng.integers(len(REVIEWS))), question, STYLE.style)
            first = scene_reply(question, scene, teacher(cold, question, scene, rng))
            turns += [{"role": "assistant", "content": first}, {"role": "user", "content": request}]
        last = scene_reply(question, scene, teacher(cold, question, scene, rng))
        images.append(question.images)
        prompts.append(turns)
        completions.append([{"role": "assistant", "content": last}])
    return message_set(images, {"prompt": prompts, "completion": completions})


def teacher(cold: ColdStart, question: Question, scene: Scene, rng: np.random.Generator) -> str:
    """The letter that the careless teacher chooses."""
    value = getattr(scene, kind_of(question))
    if value in CONFUSED and rng.random() < cold.confusion:
        value = CONFUSED[value]
    letter = letter_of(question, value)
    return other_letter(question, letter, rng) if rng.random() < cold.slips else letter


def corpus() -> Iterator[str]:
    """Every word that the model reads or writes."""
    question = Question("", "", (), None)
    yield from question_corpus()
    yield from (review(number, question, STYLE.style) for number in range(len(REVIEWS)))
    yield from (f"A. {letter}. {letter}" for letter in "ABCD")


def report(options: MiniSCLTraining, weights: Mapping[str, Path], folder: Path, say: Log) -> dict[str, Any]:
    """Ask the test questions with every set of weights, taking the most probable replies."""
    path = folder / "report.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    questions, found = scene_questions(SEEDS["test"], options.tests), {}
    for name, source in weights.items():
        corrector = SCLCorrector.from_pretrained(source)
        records = measure(corrector, questions, replace(options.asking, temperature=0.0))
        found[name] = summary(records) | {
            kind: summary([row for row in records if row.source == kind])["first"]
            for kind in sorted({row.source for row in records})
        }
        shown = ("first", "refined", "wrong_to_right", "right_to_wrong")
        say(f"{name}: " + "  ".join(f"{key} {found[name][key]:.3f}" for key in shown))
    with atomic_path(path) as part:
        part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def plot_reports(reports: Mapping[int, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """One panel per number and one line per seed over the rounds; the control stands at -1."""
    titles = {"first": "first answers right", "refined": "refined answers right", "net_gain": "net gain of the review"}
    panels: dict[str, dict[str, Any]] = {title: {} for title in titles.values()}
    for seed, report in reports.items():
        names = sorted(report, key=lambda name: name != "control")  # in order, the control first
        places = range(-("control" in report), len(names) - ("control" in report))
        for key, title in titles.items():
            panels[title][f"seed {seed}"] = (places, [report[name][key] for name in names])
    plot_panels(path, panels, columns=3, xlabel="rounds (-1: trained on exchanged pairs)")
