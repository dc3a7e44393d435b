"""The systems have one form: the same verbs with the same arguments."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from recon3d import GTROptions, GTRReconstructor, gtr_rig, render, vase
from restoration import ITEROptions, ITERRestorer, OneStepRestorer, PASDOptions, PASDRestorer
from reward_vlm import R1Judge, R1Options, SCLCorrector, SCLOptions
from reward_vlm.options import TRLTraining
from scripts import benchmark, train
from vision.edit import DiffusersEditor, DiffusersOptions, PIEEditor, PIEOptions
from vision.files import Exclusive
from vision.training_options import TrainOptions

PROJECT = Path(__file__).resolve().parents[1]

SUBJECTS = {
    ITERRestorer: ["image"],
    PASDRestorer: ["image"],
    OneStepRestorer: ["image"],
    PIEEditor: ["image", "prompt", "mask"],
    DiffusersEditor: ["image", "prompt", "mask"],
    GTRReconstructor: ["views"],
    R1Judge: ["image", "question", "answers"],
    SCLCorrector: ["image", "question", "choices"],
}
"""What a job of each system is about."""
FURTHER = {GTRReconstructor: ["mesh"]}
"""What it may be about besides, by name only."""
systems = pytest.mark.parametrize("system", SUBJECTS, ids=lambda system: system.__name__)


def split(system, verb):
    """Positional and keyword-only parameters of a verb, without self."""
    parameters = list(inspect.signature(getattr(system, verb)).parameters.values())
    if not inspect.ismethod(getattr(system, verb)):
        parameters = parameters[1:]
    named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD], named, parameters


@systems
@pytest.mark.parametrize(("verb", "further"), [("__call__", ["observers"]), ("steps", ["observers", "resume"])])
def test_a_job_is_its_subject_then_options_then_who_looks_on(system, verb, further):
    positional, named, _ = split(system, verb)
    assert [p.name for p in positional] == [*SUBJECTS[system], "options"]
    assert positional[-1].default is None
    assert [p.name for p in named] == FURTHER.get(system, []) + further
    assert {p.name: p.default for p in named if p.name in further} == dict(zip(further, ((), None), strict=False))


@systems
def test_loading_saving_publishing_and_moving_have_one_form(system):
    positional, named, _ = split(system, "from_pretrained")
    assert [(p.name, p.default) for p in positional] == [("source", None)]
    common = {"revision": None, "device": "cpu", "dtype": torch.float32}
    assert common.items() <= {p.name: p.default for p in named}.items()
    for verb, wanted in (
        ("save_pretrained", [("folder", inspect.Parameter.empty), ("dtype", None)]),
        ("push_to_hub", [("name", inspect.Parameter.empty), ("folder", inspect.Parameter.empty)]),
        ("to", [("device", None), ("dtype", None)]),
    ):
        assert [(p.name, p.default) for p in split(system, verb)[0]] == wanted, verb
    assert inspect.signature(system.push_to_hub) == inspect.signature(ITERRestorer.push_to_hub)


@systems
def test_every_argument_has_a_name_and_results_have_types(system):
    for verb, function in inspect.getmembers(system, callable):
        if verb.startswith("_") and verb != "__call__":
            continue
        if not inspect.isroutine(function) or function.__module__.split(".")[0] not in ("vision", *_PACKAGES):
            continue
        signature = inspect.signature(function)
        kinds = {p.kind for p in signature.parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, verb
        if verb in ("__call__", "steps", "decode", "start", "simulate", "reconstruct", "restore", "batch"):
            assert signature.return_annotation not in ("Any", inspect.Parameter.empty), verb


_PACKAGES = ("restoration", "recon3d", "reward_vlm")


@pytest.mark.parametrize("system", [ITERRestorer, PASDRestorer, OneStepRestorer])
def test_restorers_show_a_state_as_the_options_say(system):
    positional, named, _ = split(system, "decode")
    assert [(p.name, p.default) for p in positional] == [
        ("state", inspect.Parameter.empty),
        ("options", None),
    ] and not named


def image(height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def views():
    return render(vase(24, 24, 32), gtr_rig(32))


GTR = GTROptions(
    volume_steps=20,
    geometry_steps=2,
    texture_steps=2,
    view_size=32,
    grid_size=24,
    rays=256,
    max_faces=300,
    texture="vertex",
)
JOBS = {
    ITERRestorer: lambda: ((image(),), ITEROptions(threshold=1.1, steps=3)),
    PASDRestorer: lambda: ((image(),), PASDOptions(steps=3, scale=1, process_size=32)),
    PIEEditor: lambda: ((image(32, 32), None, None), PIEOptions(frames=2, steps=4)),
    DiffusersEditor: lambda: ((image(32, 32), "a picture,ill", None), DiffusersOptions(frames=2, steps=4)),
    R1Judge: lambda: ((image(56, 56), "q", ["a", "b", "c"]), R1Options(tournament="knockout", max_new_tokens=4)),
    SCLCorrector: lambda: ((image(56, 56), "q", ["a", "b"]), SCLOptions((0, 1), max_new_tokens=4)),
}


@pytest.mark.parametrize("system", JOBS, ids=lambda system: system.__name__)
def test_observers_see_every_step_and_a_run_goes_on_after_any(system):
    subject, options = JOBS[system]()
    pipeline, seen = system.from_pretrained("builtin:tiny"), []
    assert pipeline.device == torch.device("cpu") and pipeline.to(dtype=torch.float32) is pipeline
    steps = list(pipeline.steps(*subject, options, observers=[seen.append]))
    assert len(steps) > 1 and [step.index for step in seen] == list(range(len(steps)))
    pipeline(*subject, options, observers=[seen.append])
    assert len(seen) == 2 * len(steps)
    for place, step in enumerate(steps):
        rest = list(pipeline.steps(*subject, options, resume=step))
        assert [later.index for later in rest] == list(range(place + 1, len(steps)))
        assert not rest or leaves(rest[-1].state) == leaves(steps[-1].state)


def test_observers_see_every_step_of_a_reconstruction_and_it_goes_on(tmp_path: Path):
    pipeline, seen = GTRReconstructor.from_pretrained(), []
    straight = list(pipeline.steps(views(), GTR, observers=[seen.append]))
    assert [step.at for step in seen] == [step.at for step in straight]
    assert pipeline(views(), GTR, observers=[seen.append]).faces.numel() and len(seen) == 2 * len(straight)
    for step in pipeline.steps(views(), GTR, resume=tmp_path):
        if (step.at.stage, step.at.number) == ("geometry", 0):
            break
    rest = list(pipeline.steps(views(), GTR, resume=tmp_path))
    assert len(rest) < len(straight) and rest[-1].at == straight[-1].at
    assert leaves(rest[-1].state.weights()) == leaves(straight[-1].state.weights())


def leaves(tree) -> list:
    """Everything in a state, in a form that can be compared."""
    if isinstance(tree, torch.Tensor):
        return [tree.tolist()]
    if isinstance(tree, torch.Generator):
        return [tree.get_state().tolist()]
    if hasattr(tree, "__dataclass_fields__"):
        return [leaf for name in tree.__dataclass_fields__ for leaf in leaves(getattr(tree, name))]
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in leaves(part)]
    return [repr(tree)]


FOLDERS = ("restoration/iter", "restoration/pasd", "vision/edit", "recon3d/gtr", "reward_vlm/r1", "reward_vlm/scl")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_system_has_the_same_files(folder):
    names = {path.name for path in (PROJECT / folder).glob("*.py")}
    assert {"options.py", "train.py", "evaluate.py"} <= names
    assert ("recipe_mini.py" in names) == (folder != "recon3d/gtr"), "GTR needs no weights"


RECIPES = [work for recipes in train.RECIPES.values() for work in recipes.values()]


@pytest.mark.parametrize("work", RECIPES, ids=lambda work: work.options)
def test_every_training_has_one_form(work):
    module = importlib.import_module(work.module)
    signature = inspect.signature(module.train)
    assert list(signature.parameters)[:2] == ["options", "log"] and set(signature.parameters) <= {
        "options",
        "log",
        "max_seconds",
    }
    assert signature.parameters["options"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(p.kind is p.KEYWORD_ONLY and p.default is None for p in list(signature.parameters.values())[1:])
    assert signature.return_annotation in ("Path", "Path | None")


@pytest.mark.parametrize(
    "work", [work for work in RECIPES if work.options != "JudgementWriting"], ids=lambda w: w.options
)
def test_no_training_begins_in_a_folder_that_another_holds(work, tmp_path):
    module = importlib.import_module(work.module)
    options = object.__new__(getattr(module, work.options))  # nothing but the folder is looked at before
    object.__setattr__(options, "folder", tmp_path / "run")
    own = Exclusive(tmp_path / "run", folder=True)
    with pytest.raises(ValueError, match=r"Another process works on .*run; wait for it"):
        module.train(options)
    own.release()


BENCHMARKS = list(benchmark.SYSTEMS.values())


@pytest.mark.parametrize("work", BENCHMARKS, ids=lambda work: work.options)
def test_no_benchmark_writes_into_a_folder_that_another_holds(work, tmp_path):
    module = importlib.import_module(work.module)
    options = object.__new__(getattr(module, work.options))  # nothing but the folder is looked at before
    object.__setattr__(options, "out", tmp_path / "run")
    own = Exclusive(tmp_path / "run", folder=True)
    with pytest.raises(ValueError, match=r"Another process works on .*run; wait for it"):
        module.benchmark(options)
    own.release()


@pytest.mark.parametrize(
    "system", [name for name in train.RECIPES if name not in ("selector", "judge")]
)  # which fit numbers, in a minute
def test_published_trainings_share_their_options(system):
    work = next(iter(train.RECIPES[system].values()))
    options = getattr(importlib.import_module(work.module), work.options)
    assert issubclass(options, (TrainOptions, TRLTraining))
    assert {"folder", "seed", "save_every"} <= {field.name for field in fields(options)}
