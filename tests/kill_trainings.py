"""Trainings that `tests.kills` kills, and that run on a second device: every recipe of the project, tiny and short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from recon3d.gtr.train import GTRTraining
from recon3d.gtr.train import train as train_gtr
from restoration.iter.mini import MiniConfig
from restoration.iter.options import BUILTIN
from restoration.iter.recipe_mini import MiniTraining, TuneTraining
from restoration.iter.recipe_mini import train as train_iter_mini
from restoration.iter.recipe_sharpen import SharpenTraining
from restoration.iter.recipe_sharpen import train as sharpen_iter
from restoration.iter.train import ITERTraining
from restoration.iter.train import train as train_iter
from restoration.pasd.recipe_mini import MiniPASDTraining
from restoration.pasd.recipe_mini import train as train_pasd_mini
from restoration.pasd.train import PASDTraining
from restoration.pasd.train import train as train_pasd
from restoration.train_duel import DuelTraining
from restoration.train_duel import train as train_duel
from restoration.train_judge import JudgeTraining
from restoration.train_judge import train as train_judge
from restoration.train_selector import SelectorTraining
from restoration.train_selector import train as train_selector
from reward_vlm.endpoint import Endpoint
from reward_vlm.r1.judgements import JudgementWriting
from reward_vlm.r1.judgements import train as write_judgements
from reward_vlm.r1.options import R1Config, R1Training, StableReinforce
from reward_vlm.r1.recipe_mini import MiniR1Training
from reward_vlm.r1.recipe_mini import train as train_r1_mini
from reward_vlm.r1.recipe_restoration import PictureJudgeTraining
from reward_vlm.r1.train import train as train_r1
from reward_vlm.scl.construct import PairConstruction
from reward_vlm.scl.construct import train as construct_pairs
from reward_vlm.scl.evolve import SelfTraining
from reward_vlm.scl.evolve import train as train_scl_self
from reward_vlm.scl.options import DPO, LoRA, SCLOptions, SCLTraining, Updates
from reward_vlm.scl.recipe_mini import ColdStart, MiniSCLTraining
from reward_vlm.scl.recipe_mini import train as train_scl_mini
from reward_vlm.scl.rounds import SCLRounds
from reward_vlm.scl.rounds import train as train_scl_rounds
from reward_vlm.scl.splice import SpliceTraining
from reward_vlm.scl.splice import train as train_scl_splice
from reward_vlm.scl.train import train as train_scl
from reward_vlm.scl.verified import VerifiedTraining
from reward_vlm.scl.verified import train as train_scl_verified
from reward_vlm.tiny import SMALLEST
from reward_vlm.vlm import ChatModel
from tests import kill_inputs as inputs_of
from tests.kills import Work
from vision.edit.recipe_mini import BrainTraining
from vision.edit.recipe_mini import train as train_brain
from vision.edit.train import PIETraining
from vision.edit.train import train as train_pie
from vision.edit.train_confidence import ConfidenceTraining
from vision.edit.train_confidence import train as train_confidence

STEPS = {"steps": 4, "save_every": 2, "batch_size": 2}


Recipe = tuple[Callable[..., object], Any]
"""A training and its options."""


def iter_vqgan(inputs: Path, out: Path) -> Recipe:
    """The first stage of the published ITER."""
    small = {"network": BUILTIN["tiny"].published, "crop": 64, "accumulate": 1, "perceptual": 0.0}
    options = {"stage": "vqgan", "images": inputs, "folder": out, "discriminator_channels": 8}
    return train_iter, ITERTraining(**(STEPS | small | options))


def pasd(inputs: Path, out: Path) -> Recipe:
    """PASD on its base."""
    small = {"crop": 64, "accumulate": 1, "degradation": "bicubic", "learning_rate": 1e-3}
    options = {"base": inputs / "base", "images": inputs / "images", "folder": out}
    return train_pasd, PASDTraining(**(STEPS | small | options))


def pie(inputs: Path, out: Path) -> Recipe:
    """An editor of a domain."""
    small = {"accumulate": 1, "warmup": 0, "resolution": 32, "mixed_precision": "no", "workers": 0}
    options = {"base": inputs / "base", "data": inputs / "data", "kind": "folder", "folder": out}
    return train_pie, PIETraining(prompt="a picture,ill", **(STEPS | small | options))


def confidence(inputs: Path, out: Path) -> Recipe:
    """A classifier of two kinds."""
    options = {"positive": inputs / "positive", "negative": inputs / "negative", "folder": out}
    return train_confidence, ConfidenceTraining(
        architecture="small", size=32, steps=4, batch_size=2, epochs=2, **options
    )


def gtr(_: Path, out: Path) -> Recipe:
    """The generator of GTR."""
    small = {"preset": "tiny", "given_views": 2, "compared_views": 1, "rays": 64, "samples": 8, "lpips": 0.0}
    return train_gtr, GTRTraining(**(STEPS | {"batch_size": 1, "folder": out} | small))


def r1(stage: str, **changes: object) -> Callable[[Path, Path], Recipe]:
    """A judge by examples, or by reinforcement."""

    def recipe(inputs: Path, out: Path) -> Recipe:
        options = {"rows": inputs / "rows.jsonl", "start": str(inputs / "start"), "folder": out, "stage": stage}
        small = {"steps": 3, "save_every": 1, "batch_size": 2, "accumulate": 1, "learning_rate": 1e-3, "warmup": 0.0}
        if stage == "rl":
            aim = StableReinforce(beta=0.1, skip_equal=False)  # a random judge earns nothing
            options |= {"held_out": inputs / "held.jsonl", "objective": aim}
        return train_r1, R1Training(**({"schedule": "constant"} | small | options | changes))

    return recipe


def scl(inputs: Path, out: Path) -> Recipe:
    """A corrector on pairs."""
    recipe = DPO(epochs=1, batch_size=2, accumulate=1, learning_rate=1e-3, lora=LoRA(rank=0))
    return train_scl, SCLTraining(
        pairs=inputs / "pairs.jsonl", folder=out, start=str(inputs / "start"), dpo=recipe, save_every=1
    )


MINI = MiniConfig(
    channels=8, base_blocks=2, decoder_blocks=1, num_codes=8, code_dim=4, token_channels=8, encoder_blocks=1,
    refiner_blocks=1, critic_blocks=1, step_channels=4, activity_channels=4,
)  # fmt: skip
FOUR = {"steps": (2, 2, 2, 2), "batch_sizes": (2, 2, 2, 2), "workers": 0}


def iter_mini(variant: Any, **changes: object) -> Callable[[Path, Path], Recipe]:
    """The small ITER on photographs of one's own; without the teacher, whose network is large."""

    def recipe(inputs: Path, out: Path) -> Recipe:
        small = {"crop": 32, "teacher": "none", "lessons": 1, "lesson_size": 48, "rates": (1e-3,) * 4, "network": MINI}
        options = {"photos": inputs / "photos", "folder": out, "variant": variant}
        return train_iter_mini, MiniTraining(**(FOUR | small | options | changes))

    return recipe


def iter_tune(inputs: Path, out: Path) -> Recipe:
    """The small ITER tuned on photographs of one's own."""
    small = {"crop": 32, "teacher": "none", "lessons": 1, "lesson_size": 48, "network": BUILTIN["tiny-mini"].mini}
    options = {"photos": inputs / "photos", "folder": out, "start": str(inputs / "start")}
    return train_iter_mini, TuneTraining(**(FOUR | small | options))


def iter_sharpen(inputs: Path, out: Path) -> Recipe:
    """The small ITER taught by the best of its samples."""
    return sharpen_iter, SharpenTraining((inputs / "tries",), out, steps=4, batch_size=2, crop=16)


def pasd_mini(inputs: Path, out: Path) -> Recipe:
    """The small PASD and its base."""
    small = {"crop": 48, "vae_channels": (8, 8, 8), "channels": (8, 8, 16), "encoder_channels": (4, 4, 8)}
    options = {"photos": inputs / "photos", "folder": out, "perceptual": 0.0}
    return train_pasd_mini, MiniPASDTraining(**(FOUR | small | options))


def brain_mini(inputs: Path, out: Path) -> Recipe:
    """The small editor of brains."""
    small = {"steps": (2, 2, 2), "batch_sizes": (2, 2, 2), "images": 6, "vae_channels": (8, 8, 8), "channels": (8, 16)}
    return train_brain, BrainTraining(volumes=inputs, folder=out, **small)


def r1_mini(inputs: Path, out: Path, kind: type[MiniR1Training] = MiniR1Training, **changes: object) -> Recipe:
    """A small judge from nothing: a cold start, and a round of reinforcement."""
    small = {"sft_steps": 2, "sft_every": 1, "rounds": 1, "steps": 2, "rows": (64, 32, 2), "tests": 2}
    return train_r1_mini, kind(**({"folder": out, "size": SMALLEST} | small | changes))


def r1_pictures(inputs: Path, out: Path) -> Recipe:
    """A small judge of restorations."""
    size = replace(SMALLEST, image_start="spectra")
    return r1_mini(inputs, out, PictureJudgeTraining, photos=inputs, size=size)


def judgement_writing(inputs: Path, out: Path) -> Recipe:
    """Judgements that a server writes."""
    endpoint = Endpoint(inputs_of.server(), model="writer")
    options = {"endpoint": endpoint, "judge": R1Config("plain"), "chunk": 2, "tries": 2}
    return write_judgements, JudgementWriting(inputs / "rows.jsonl", out / "judged.jsonl", **options)


QUICK = DPO(epochs=1, batch_size=4, accumulate=1, learning_rate=1e-3, warmup=0.0, lora=LoRA(rank=0))
UPDATES = Updates(epochs=1, batch_size=4, accumulate=1, learning_rate=1e-3, warmup=0.0, lora=LoRA(rank=0))
ASKING = SCLOptions(("look again",), max_new_tokens=3, temperature=1.0, batch_size=4)


def scl_rounds(inputs: Path, out: Path) -> Recipe:
    """Two rounds of self-correction learning."""
    options = {"folder": out, "start": str(inputs / "start"), "asking": ASKING, "dpo": QUICK, "save_every": 1}
    return train_scl_rounds, SCLRounds(inputs / "rows.jsonl", inputs / "held.jsonl", 2, tolerance=1.0, **options)


def scl_mini(inputs: Path, out: Path) -> Recipe:
    """A small corrector from nothing: a cold start, a round, and its control."""
    cold = ColdStart(answers=2, until=0.0, look=1, reviews=1, batch_size=4)
    small = {"questions": 8, "validation": 2, "tests": 2, "size": SMALLEST}
    return train_scl_mini, MiniSCLTraining(
        folder=out, cold=cold, asking=replace(ASKING, reviews=(0,)), dpo=QUICK, **small
    )


def scl_splice(inputs: Path, out: Path) -> Recipe:
    """A corrector that learns to turn back."""
    asking = replace(ASKING, reviews=(0,))
    options = {"folder": out, "start": str(inputs / "start"), "asking": asking, "updates": UPDATES, "save_every": 1}
    return train_scl_splice, SpliceTraining(
        inputs / "rows.jsonl", inputs / "held.jsonl", revisions=(), tolerance=1.0, **options
    )


def scl_verified(inputs: Path, out: Path) -> Recipe:
    """A corrector that learns its own corrections."""
    asking = replace(ASKING, reviews=(0,))
    options = {"folder": out, "start": str(inputs / "start"), "asking": asking, "updates": UPDATES, "save_every": 1}
    return train_scl_verified, VerifiedTraining(inputs / "rows.jsonl", inputs / "held.jsonl", tolerance=1.0, **options)


def scl_self(inputs: Path, out: Path) -> Recipe:
    """A corrector that learns what it agrees with itself about."""
    asking = replace(ASKING, reviews=(0,), temperature=0.0)
    options = {"folder": out, "start": str(inputs / "start"), "asking": asking, "updates": UPDATES, "save_every": 1}
    return train_scl_self, SelfTraining(unlabelled=inputs / "rows.jsonl", orders=2, agree=0.5, **options)


def guessing(run: Callable[[Path, Path], object]) -> Callable[[Path, Path], object]:
    """Replies become letters that depend on the weights: a random model rarely says one."""

    def guessed(inputs: Path, out: Path) -> object:
        plain = ChatModel.generate

        def generate(self: ChatModel, dialogues: Any, sampling: Any = None, *, generators: Any = None) -> Any:
            said = plain(self, dialogues, sampling, generators=generators)
            return [replace(reply, text=f"## {'ABCD'[len(reply.text) % 3]} ##") for reply in said]

        ChatModel.generate = generate
        return run(inputs, out)

    return guessed


JUDGING = {"spoiled": 12, "steps": 10, "width": 8}


def selector(inputs: Path, out: Path) -> Recipe:
    """What decides which restorer a picture gets."""
    traces = inputs / "restorers"
    return train_selector, SelectorTraining(out, (traces / "full",), (traces,))


def judge(inputs: Path, out: Path) -> Recipe:
    """The judge of restorations."""
    return train_judge, JudgeTraining((inputs / "known",), inputs / "photos", out, **JUDGING)


def judge_duel(inputs: Path, out: Path) -> Recipe:
    """The judge of restorations, in a duel."""
    return train_duel, DuelTraining((inputs / "known",), inputs / "photos", out, rounds=1, bouts=8, **JUDGING)


def pairs(inputs: Path, out: Path) -> Recipe:
    """Pairs out of answers."""
    asking = replace(ASKING, batch_size=1)
    return construct_pairs, PairConstruction(
        inputs / "rows.jsonl", folder=out, start=str(inputs / "start"), asking=asking
    )


MORE: dict[str, tuple[Callable[[Path], object], Callable[[Path, Path], Recipe]]] = {
    "iter mini clean": (inputs_of.small_weights, iter_mini("clean")),
    "iter mini photo": (inputs_of.small_weights, iter_mini("photo")),
    "iter tune": (inputs_of.small_weights, iter_tune),
    "iter sharpen": (inputs_of.samples, iter_sharpen),
    "pasd mini": (inputs_of.small_weights, pasd_mini),
    "pie mini": (inputs_of.brains, brain_mini),
    "r1 mini": (inputs_of.nothing, r1_mini),
    "r1 pictures": (inputs_of.named_photos, r1_pictures),
    "judgements": (inputs_of.served, judgement_writing),
    "selector": (inputs_of.choices, selector),
    "judge": (inputs_of.known_restorations, judge),
    "judge duel": (inputs_of.known_restorations, judge_duel),
    "pairs": (inputs_of.questions, pairs),
    "scl rounds": (inputs_of.questions, scl_rounds),
    "scl splice": (inputs_of.questions, scl_splice),
    "scl verified": (inputs_of.questions, scl_verified),
    "scl self": (inputs_of.questions, scl_self),
    "scl mini": (inputs_of.nothing, scl_mini),
}
"""Further recipes, as in `TRAININGS`."""
GUESSING = ("scl rounds", "scl splice", "scl verified", "scl self", "scl mini")
"""Those whose model must say letters."""
TOGETHER = ("iter", "pasd", "r1 sft", "scl")
"""Those that are also killed while two processes share them."""


TRAININGS: dict[str, tuple[Callable[[Path], object], Callable[[Path, Path], Recipe]]] = {
    "iter": (inputs_of.large_pictures, iter_vqgan),
    "pasd": (inputs_of.diffusion_base, pasd),
    "pie": (inputs_of.editor, pie),
    "confidence": (inputs_of.two_kinds, confidence),
    "gtr": (inputs_of.nothing, gtr),
    "r1 sft": (inputs_of.judgements, r1("sft")),
    "r1 rl": (inputs_of.judgements, r1("rl", steps=2)),
    "r1 rounds": (inputs_of.judgements, r1("rl", steps=2, rounds=2, tolerance=1.0)),
    "scl": (inputs_of.questions, scl),
}
"""What each needs, and its recipe; by name."""


def training(recipe: Callable[[Path, Path], Recipe]) -> Callable[[Path, Path], object]:
    """Train to the end."""

    def run(inputs: Path, out: Path) -> object:
        train, options = recipe(inputs, out)
        return train(options)

    return run


def works() -> dict[str, Work]:
    """All trainings as works, by name."""
    found: dict[str, Work] = {}
    for name, (inputs, recipe) in (TRAININGS | MORE).items():
        run = guessing(training(recipe)) if name in GUESSING else training(recipe)
        found[f"train {name}"] = Work(inputs, run)
        if name in TOGETHER:
            found[f"train {name} by two"] = Work(inputs, run, processes=2)
    return found
