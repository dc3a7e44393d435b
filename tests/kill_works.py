"""What `tests.kills` kills: every job and training of the project, on tiny networks and a few inputs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from recon3d.gtr import evaluate as gtr
from recon3d.gtr.evaluate import GTREvaluation
from recon3d.gtr.evaluate import evaluate as evaluate_gtr
from recon3d.gtr.options import GTROptions
from recon3d.job import ReconstructOptions, reconstruct
from recon3d.looks import gallery_cameras
from restoration.evaluate import evaluate as evaluate_restoration
from restoration.evaluate_selection import SelectorEvaluation
from restoration.evaluate_selection import evaluate as evaluate_selector
from restoration.iter.evaluate import ITEREvaluation
from restoration.iter.options import ITEROptions
from restoration.job import RestoreOptions, restore
from restoration.pasd import PASDOptions
from restoration.pasd.evaluate import PASDEvaluation
from restoration.pasd.search_prompts import WordSearch
from restoration.pasd.search_prompts import prompts as search_words
from restoration.restorer import find_system
from reward_vlm import R1Judge
from reward_vlm.r1.evaluate import R1Evaluation
from reward_vlm.r1.evaluate import evaluate as evaluate_r1
from reward_vlm.r1.job import JudgeOptions, judge_rows
from reward_vlm.r1.options import R1Options
from reward_vlm.r1.pictures import PictureJudge
from reward_vlm.scl.evaluate import SCLEvaluation
from reward_vlm.scl.evaluate import evaluate as evaluate_scl
from reward_vlm.scl.job import AnswerOptions, answer_rows
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.search_prompts import ReviewSearch
from reward_vlm.scl.search_prompts import prompts as search_reviews
from tests import kill_inputs as inputs_of
from tests import kill_trainings
from tests.kills import Work
from vision.edit import PIEOptions
from vision.edit.evaluate import PIEEvaluation
from vision.edit.evaluate import evaluate as evaluate_pie
from vision.edit.job import EditOptions, edit
from vision.edit.search_prompts import ConditionSearch
from vision.edit.search_prompts import prompts as search_conditions


def restoring(system: str = "iter", **changes: object):
    """Restore a folder."""
    options, source = {
        "iter": (ITEROptions(threshold=1.1, steps=3), "builtin:tiny-mini"),
        "pasd": (PASDOptions(steps=2, scale=2.0), "builtin:tiny"),
        "auto": (find_system("auto").asked(), None),
    }[system]

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


def measuring_pasd(inputs: Path, out: Path) -> object:
    """Measure another restorer, in pictures too."""
    small = {"crop": 24, "source": "builtin:tiny", "peers": (), "base": False, "steps": 1, "device": "cpu"}
    return evaluate_restoration(PASDEvaluation(out=out, hr=inputs, scale=2, pictures=True, **small))


def measuring_selector(inputs: Path, out: Path) -> object:
    """Measure what picks restorers."""
    return evaluate_selector(SelectorEvaluation((inputs / "restorers",), out))


def measuring_pie(inputs: Path, out: Path) -> object:
    """Measure an editor."""
    options = PIEOptions(frames=2, steps=2, beta_2=(0.1, 0.2))
    return evaluate_pie(PIEEvaluation(out, inputs, slices=1, seeds=2, baselines=False, device="cpu", options=options))


def measuring_gtr(inputs: Path, out: Path) -> object:
    """Measure a reconstructor, by a coarse yardstick."""
    gtr.Setting = partial(gtr.Setting, seen_from=24, samples=300)
    gtr.gallery_cameras = lambda size: gallery_cameras(24)
    return evaluate_gtr(GTREvaluation(out, inputs, options=QUICK, views=6, device="cpu"))


def measuring_r1(inputs: Path, out: Path) -> object:
    """Measure a judge."""
    options = R1Options(max_new_tokens=3, batch_size=1)
    return evaluate_r1(R1Evaluation(out, rows=inputs / "held.jsonl", source="builtin:tiny", options=options))


def measuring_scl(inputs: Path, out: Path) -> object:
    """Measure a corrector."""
    options = SCLOptions(("look again",), max_new_tokens=3, batch_size=1)
    return evaluate_scl(SCLEvaluation(out, rows=inputs / "rows.jsonl", sources=("a=builtin:tiny",), options=options))


SHORT = {"search_rounds": 1, "mutations": 1}


def searching_reviews(inputs: Path, out: Path) -> object:
    """Search for a request to review."""
    options = SCLOptions(max_new_tokens=3, batch_size=4)
    return search_reviews(
        ReviewSearch(out, rows=inputs / "rows.jsonl", source="builtin:tiny", options=options, **SHORT)
    )


def searching_words(inputs: Path, out: Path) -> object:
    """Search for words that are added to prompts."""
    small = {"source": "builtin:tiny", "size": 64, "steps": 1, "device": "cpu"}
    return search_words(WordSearch(out, hr=inputs, **(SHORT | small)))


def searching_conditions(inputs: Path, out: Path) -> object:
    """Search for a prompt that shows a condition."""
    options = PIEOptions(frames=1, steps=2)
    places = {"inputs": inputs / "pictures", "masks": inputs / "masks", "source": "builtin:tiny"}
    return search_conditions(
        ConditionSearch(out, prompts=("a picture,ill",), device="cpu", options=options, **(SHORT | places))
    )


MEASURED = ("cpu_per_mp", "peak_mb", "means.png")
"""What depends on time and memory in tables of restorers."""
ASKED = ("judge",)
"""What a judge was worth is told of the process that asked it."""
WORKS: dict[str, Work] = {
    "restore iter": Work(inputs_of.pictures, restoring()),
    "restore iter by two": Work(inputs_of.pictures, restoring(), processes=2),
    "restore best of two": Work(inputs_of.pictures, restoring(best_of=2), clocked=ASKED),
    "restore with previews": Work(inputs_of.pictures, restoring(previews=True, compare=True)),
    "restore auto": Work(inputs_of.pictures, restoring("auto")),
    "restore pasd": Work(inputs_of.pictures, restoring("pasd")),
    "restore pasd by two": Work(inputs_of.pictures, restoring("pasd"), processes=2),
    "edit": Work(inputs_of.pictures, editing),
    "reconstruct": Work(inputs_of.views, rebuilding),
    "judge": Work(inputs_of.judgements, judging, clocked=ASKED),
    "answer": Work(inputs_of.questions, answering),
    "evaluate iter": Work(inputs_of.large_pictures, measuring_iter, clocked=MEASURED),
    "evaluate pasd": Work(inputs_of.large_pictures, measuring_pasd, clocked=MEASURED),
    "evaluate selector": Work(inputs_of.choices, measuring_selector),
    "evaluate pie": Work(inputs_of.brains, measuring_pie),
    "evaluate gtr": Work(inputs_of.meshes, measuring_gtr),
    "evaluate r1": Work(inputs_of.judgements, measuring_r1),
    "evaluate scl": Work(inputs_of.questions, measuring_scl),
    "prompts scl": Work(inputs_of.questions, searching_reviews),
    "prompts pasd": Work(inputs_of.large_pictures, searching_words),
    "prompts pie": Work(inputs_of.masked_pictures, searching_conditions),
    **kill_trainings.works(),
}
"""By name."""
