"""What `tests.kills` kills: every job and training of the project, on tiny networks and a few inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from recon3d.cameras import gtr_rig
from recon3d.gtr.evaluate import GTREvaluation
from recon3d.gtr.evaluate import evaluate as evaluate_gtr
from recon3d.gtr.options import GTROptions
from recon3d.gtr.train import GTRTraining
from recon3d.gtr.train import train as train_gtr
from recon3d.job import ReconstructOptions, reconstruct
from recon3d.render import render
from recon3d.vase import vase
from recon3d.view_files import save_views
from restoration.evaluate import evaluate as evaluate_restoration
from restoration.iter.evaluate import ITEREvaluation
from restoration.iter.options import BUILTIN, ITEROptions
from restoration.iter.train import ITERTraining
from restoration.iter.train import train as train_iter
from restoration.job import RestoreOptions, restore
from restoration.pasd import PASDOptions, PASDRestorer
from restoration.pasd.train import PASDTraining
from restoration.pasd.train import train as train_pasd
from restoration.pasd.unet import is_trained
from reward_vlm import R1Judge, SCLCorrector
from reward_vlm.data import preference_json, question_json, write_rows
from reward_vlm.r1.evaluate import R1Evaluation
from reward_vlm.r1.evaluate import evaluate as evaluate_r1
from reward_vlm.r1.job import JudgeOptions, judge_rows
from reward_vlm.r1.options import R1Config, R1Options, R1Training, StableReinforce
from reward_vlm.r1.pictures import PictureJudge
from reward_vlm.r1.train import train as train_r1
from reward_vlm.scenes import scene_pairs
from reward_vlm.scl.construct import PairConstruction
from reward_vlm.scl.construct import train as construct_pairs
from reward_vlm.scl.evaluate import SCLEvaluation
from reward_vlm.scl.evaluate import evaluate as evaluate_scl
from reward_vlm.scl.job import AnswerOptions, answer_rows
from reward_vlm.scl.options import DPO, LoRA, SCLConfig, SCLOptions, SCLTraining
from reward_vlm.scl.pairs import Pair, pair_json
from reward_vlm.scl.prompts import ask
from reward_vlm.scl.scene_questions import scene_item, scene_questions, scene_reply
from reward_vlm.scl.train import train as train_scl
from reward_vlm.tiny import tiny_chat_model
from tests.kills import Work
from vision.edit import PIEEditor, PIEOptions
from vision.edit.job import EditOptions, edit
from vision.edit.train import PIETraining
from vision.edit.train import train as train_pie
from vision.edit.train_confidence import ConfidenceTraining
from vision.edit.train_confidence import train as train_confidence

# ---- inputs


def pictures(folder: Path, count: int = 3, side: int = 20) -> None:
    """Smooth colour pictures 0.png, 1.png, ..."""
    for number in range(count):
        small = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        size = (side + 4, side)
        PIL.Image.fromarray(small).resize(size, PIL.Image.Resampling.BICUBIC).save(folder / f"{number}.png")


def large_pictures(folder: Path) -> None:
    """As `pictures`, for trainings."""
    pictures(folder, 3, 80)


def views(folder: Path) -> None:
    """Six views of a vase."""
    save_views(render(vase(24, 24, 32), gtr_rig(32)), folder / "views")


def judgements(folder: Path) -> None:
    """Four questions about scenes with two answers each, and a judge's weights."""
    write_rows(folder / "rows.jsonl", [preference_json(pair, folder) for pair in scene_pairs(1, 12)])
    write_rows(folder / "held.jsonl", [preference_json(pair, folder) for pair in scene_pairs(98, 2)])
    names = sorted(path.name for path in (folder / "images").iterdir())[:4]
    write_rows(
        folder / "asked.jsonl",
        [{"question": "which ?", "answers": ["a", "b"], "image": f"images/{name}", "id": name} for name in names],
    )
    R1Judge(tiny_chat_model(), R1Config("plain", True, 6, None)).save_pretrained(folder / "start")


def questions(folder: Path) -> None:
    """Questions about scenes, pairs of replies to them, and a corrector's weights."""
    write_rows(folder / "rows.jsonl", [question_json(asked, folder) for asked in scene_questions(3, 4)])
    found = []
    for index in range(6):
        asked, scene = scene_item(1, index)
        wrong = "B" if asked.answer == "A" else "A"
        chosen, rejected = (scene_reply(asked, scene, letter) for letter in (asked.answer, wrong))
        found.append(Pair(asked.id, asked.source, ask(asked, "plain"), chosen, rejected, 2, asked.images))
    write_rows(folder / "pairs.jsonl", [pair_json(pair, folder) for pair in found])
    SCLCorrector(tiny_chat_model(), SCLConfig("plain", max_new_tokens=7)).save_pretrained(folder / "start")


def diffusion_base(folder: Path) -> None:
    """A tiny Stable Diffusion and pictures to train PASD on."""
    from diffusers import UNet2DConditionModel

    tiny = PASDRestorer.from_pretrained("builtin:tiny")
    tiny.save_pretrained(folder / "base")
    stock = UNet2DConditionModel(**{key: value for key, value in tiny.unet.config.items() if key[0] != "_"})
    stock.load_state_dict({name: value for name, value in tiny.unet.state_dict().items() if not is_trained(name)})
    stock.save_pretrained(folder / "base" / "unet")
    (folder / "images").mkdir()
    large_pictures(folder / "images")


def editor(folder: Path) -> None:
    """A tiny editor and pictures of its domain."""
    PIEEditor.from_pretrained("builtin:tiny").save_pretrained(folder / "base")
    (folder / "data").mkdir()
    pictures(folder / "data", 3, 40)


def two_kinds(folder: Path) -> None:
    """Bright and dark pictures."""
    for name, level in (("positive", 200), ("negative", 60)):
        (folder / name).mkdir()
        for number in range(5):
            noise = np.random.default_rng(number).integers(0, 30, (32, 32, 3), dtype=np.uint8)
            PIL.Image.fromarray(noise + np.uint8(level)).save(folder / name / f"{number}.png")


# ---- works


def restoring(system: str = "iter", **changes: object):
    """Restore a folder."""
    options = {"iter": ITEROptions(threshold=1.1, steps=3), "pasd": PASDOptions(steps=2, scale=2.0)}[system]
    source = {"iter": "builtin:tiny-mini", "pasd": "builtin:tiny"}[system]

    def run(inputs: Path, out: Path) -> object:
        chosen = RestoreOptions((inputs,), out, options, source=source, device="cpu", **({"system": system} | changes))
        return restore(chosen, load_judge=tiny_judge)

    return run


def tiny_judge(source: str | None, device: torch.device) -> PictureJudge:
    """The smallest judge of restorations."""
    return PictureJudge(R1Judge.from_pretrained("builtin:tiny", device=device), windows=1)


def editing(inputs: Path, out: Path) -> object:
    """Edit a folder."""
    options = PIEOptions(frames=3, steps=4)
    return edit(EditOptions((inputs,), out, ellipse=(0.5, 0.5, 0.3, 0.3), options=options, source="builtin:tiny"))


QUICK = GTROptions(
    volume_steps=40, geometry_steps=6, texture_steps=7, view_size=32, grid_size=16, rays=120, texture="vertex"
)


def rebuilding(inputs: Path, out: Path) -> object:
    """Rebuild an object."""
    return reconstruct(ReconstructOptions(out, views=inputs / "views", options=QUICK, film="none", device="cpu"))


def judging(inputs: Path, out: Path) -> object:
    """Judge rows."""
    options = R1Options(max_new_tokens=3, batch_size=1, temperature=1.0)
    return judge_rows(
        JudgeOptions(rows=inputs / "asked.jsonl", out=out / "judged.jsonl", source="builtin:tiny", options=options)
    )


def answering(inputs: Path, out: Path) -> object:
    """Answer rows."""
    options = SCLOptions(("look again",), max_new_tokens=3, batch_size=1)
    return answer_rows(
        AnswerOptions(rows=inputs / "rows.jsonl", out=out / "answers.jsonl", source="builtin:tiny", options=options)
    )


def measuring_iter(inputs: Path, out: Path) -> object:
    """Measure a restorer."""
    return evaluate_restoration(
        ITEREvaluation(out=out, hr=inputs, crop=32, source="builtin:tiny-mini", peers=(), fidelity=(1.0,), device="cpu")
    )


def measuring_gtr(_: Path, out: Path) -> object:
    """Measure a reconstructor."""
    return evaluate_gtr(GTREvaluation(out, options=QUICK, device="cpu"))


def measuring_r1(inputs: Path, out: Path) -> object:
    """Measure a judge."""
    options = R1Options(max_new_tokens=3, batch_size=1)
    return evaluate_r1(R1Evaluation(out, rows=inputs / "held.jsonl", source="builtin:tiny", options=options))


def measuring_scl(inputs: Path, out: Path) -> object:
    """Measure a corrector."""
    options = SCLOptions(("look again",), max_new_tokens=3, batch_size=1)
    return evaluate_scl(SCLEvaluation(out, rows=inputs / "rows.jsonl", sources=("a=builtin:tiny",), options=options))


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


TRAININGS: dict[str, tuple[Callable[[Path], object], Callable[[Path, Path], Recipe]]] = {
    "iter": (large_pictures, iter_vqgan),
    "pasd": (diffusion_base, pasd),
    "pie": (editor, pie),
    "confidence": (two_kinds, confidence),
    "gtr": (lambda folder: None, gtr),
    "r1 sft": (judgements, r1("sft")),
    "r1 rl": (judgements, r1("rl", steps=2)),
    "r1 rounds": (judgements, r1("rl", steps=2, rounds=2, tolerance=1.0)),
    "scl": (questions, scl),
}
"""What each needs, and its recipe; by name."""


def training(recipe: Callable[[Path, Path], Recipe]) -> Callable[[Path, Path], object]:
    """Train to the end."""

    def run(inputs: Path, out: Path) -> object:
        train, options = recipe(inputs, out)
        return train(options)

    return run


def making_pairs(inputs: Path, out: Path) -> object:
    """Pairs out of answers."""
    asking = SCLOptions(("look again",), max_new_tokens=3, batch_size=1, temperature=1.0)
    return construct_pairs(
        PairConstruction(inputs / "rows.jsonl", folder=out, start=str(inputs / "start"), asking=asking)
    )


WORKS: dict[str, Work] = {
    "restore iter": Work(pictures, restoring()),
    "restore iter by two": Work(pictures, restoring(), processes=2),
    "restore best of two": Work(pictures, restoring(best_of=2)),
    "restore with previews": Work(pictures, restoring(previews=True, compare=True)),
    "restore pasd": Work(pictures, restoring("pasd")),
    "restore pasd by two": Work(pictures, restoring("pasd"), processes=2),
    "edit": Work(pictures, editing),
    "reconstruct": Work(views, rebuilding),
    "judge": Work(judgements, judging),
    "answer": Work(questions, answering),
    "evaluate iter": Work(large_pictures, measuring_iter),
    "evaluate gtr": Work(lambda folder: None, measuring_gtr),
    "evaluate r1": Work(judgements, measuring_r1),
    "evaluate scl": Work(questions, measuring_scl),
    "make pairs": Work(questions, making_pairs),
    **{f"train {name}": Work(inputs, training(recipe)) for name, (inputs, recipe) in TRAININGS.items()},
}
"""By name."""
