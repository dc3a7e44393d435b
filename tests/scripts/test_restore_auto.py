"""burnish restore --system auto, --only-if-needed, --dry-run: a gate and a selector that a test teaches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from restoration.benchmark_restorers import REGISTRY, scored
from restoration.evaluate_selection import SelectorEvaluation, evaluate
from restoration.features import features
from restoration.restorer import find_system
from restoration.selection import SIZES, Selection
from restoration.train_selector import SelectorTraining, train
from scripts.restore import main, parse
from vision.images import to_tensor
from vision.refine import Verdict
from vision.strategies import Candidate, Choice, Cost, read_choices, write_choices

KINDS = {"good": 200, "small": 40, "noisy": 200}
NEEDS = {"good": "none", "small": "enlarge", "noisy": "restore"}


def picture(kind: str, seed: int) -> torch.Tensor:
    """(1, 3, h, w) of 8 bit: large and clean, small and clean, or large and noisy; odd seeds are grey."""
    generator = torch.Generator().manual_seed(seed)
    side = KINDS[kind] + seed % 7
    image = torch.zeros(1, 3, side, side + 10)
    for rough in (3, 9, 27):
        layer = torch.randn(1, 3, rough, rough, generator=generator) / rough**0.5
        image += torch.nn.functional.interpolate(layer, image.shape[-2:], mode="bicubic")
    image = 0.5 + 0.1 * image
    if seed % 2:
        image = image.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    if kind == "noisy":
        image = image + 0.08 * torch.randn(1, 1, *image.shape[-2:], generator=generator)
    return (image.clamp(0, 1) * 255).round() / 255


def traces(folder: Path) -> Path:
    """As `benchmark restorers` writes them: bicubic is best for grey pictures, ITER's clean weights for the others."""
    for number in range(8):
        for kind, need in NEEDS.items():
            facts = features(picture(kind, number))
            actions = tuple(Candidate(f"{number}_0/{kind}", None, name) for name in ("none", "enlarge", "restore"))
            verdicts = tuple(Verdict(float(action.origin == need)) for action in actions)
            place = [action.origin for action in actions].index(need)
            write_choices(folder / "need", [Choice(f"{number}_0/{kind}", actions, verdicts, place, "", facts)])
            grey = number % 2
            made = [{"psnr_y": 30.0, "tex": 0.2}, {"psnr_y": 20.0 if grey else 40.0, "tex": 0.3 if grey else 0.1}]
            names = (("bicubic", 0.01), ("iter:clean@1", 0.1))
            tried = tuple(Candidate(f"{number}/{kind}", None, name, Cost(seconds)) for name, seconds in names)
            choice = Choice(f"{number}/{kind}", tried, scored(made), 1 - grey, "", facts)
            write_choices(folder, [choice])
            near = [{"psnr_y": 20.0 + 10 * (kind != "noisy"), "tex": 0.0}, {"psnr_y": 25.0, "tex": 0.0}]
            tried = tuple(Candidate(f"{number}/{kind}", None, name) for name in ("none", "iter:clean@1"))
            write_choices(folder / "full", [Choice(f"{number}/{kind}", tried, scored(near), 0, "", facts)])
    return folder


@pytest.fixture(scope="module")
def selector(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    options = SelectorTraining(
        folder / "selector",
        (traces(folder / "restorers") / "full",),
        (folder / "restorers",),
        decay=0.1,
        gate_decay=0.1,
        full_decay=0.1,
        trust=0.6,
    )
    assert train(options) == folder / "selector"
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for kind in KINDS:
        for seed in (20, 21):
            array = (picture(kind, seed)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            PIL.Image.fromarray(array).save(tmp_path / "in" / f"{kind}_{seed}.png")
    return tmp_path / "in"


def run(pictures: Path, out: Path, *words: str) -> tuple[int, list[str]]:
    """The exit code, and the notes."""
    events = []
    code = main(parse([str(pictures), "--out", str(out), "--device", "cpu", *words]), events.append)
    return code, [event.text for event in events if event.kind == "note"]


def test_every_picture_gets_what_it_needs(pictures, tmp_path, selector):
    out, words = tmp_path / "out", ("--system", "auto", "--source", str(selector / "selector"))
    code, notes = run(pictures, out, *words)
    assert code == 0 and len(notes) == 6
    images = json.loads((out / "run.json").read_text())["images"]
    for path in sorted(pictures.iterdir()):
        kind, seed = path.stem.split("_")
        facts = images[path.name]
        (note,) = (note for note in notes if note.startswith(str(path)))
        assert facts["need"] == NEEDS[kind] and facts["why"] in note
        if kind == "good":
            assert facts["system"] == "none" and (out / path.name).read_bytes() == path.read_bytes()
            continue
        assert (
            facts["system"] == ("bicubic" if (kind, seed) == ("small", "21") else "iter:clean@1")
            and facts["system"] in note
        )
        with PIL.Image.open(path) as small, PIL.Image.open(out / path.name) as made:
            assert made.width == small.width * (4 if kind == "small" else 1)
        scale = "4" if kind == "small" else "1"
        assert run(path, tmp_path / "alone", "--system", facts["system"], "--scale", scale)[0] == 0
        assert (tmp_path / "alone" / path.name).read_bytes() == (out / path.name).read_bytes()
    choices = {choice.task: choice for choice in read_choices(out)}
    assert choices.keys() == images.keys()
    assert all(choice.kept.origin == images[task]["system"] for task, choice in choices.items())
    assert all(choice.kept.value == out / task for task, choice in choices.items())
    assert run(pictures, out, *words) == (0, []) and len(read_choices(out)) == 6  # all was done before


@pytest.mark.parametrize("scale", [1.5, 3.0])
def test_a_scale_is_always_reached(pictures, tmp_path, selector, scale):
    words = ("--system", "auto", "--source", str(selector / "selector"), "--scale", str(scale))
    assert run(pictures, tmp_path / "out", *words)[0] == 0
    for path in pictures.iterdir():
        with PIL.Image.open(path) as small, PIL.Image.open(tmp_path / "out" / path.name) as made:
            assert made.size == (round(small.width * scale), round(small.height * scale))


def test_good_pictures_are_left_alone_by_any_system_when_only_the_need_counts(
    pictures, tmp_path, selector, monkeypatch
):
    monkeypatch.setattr("restoration.selection.EMBEDDED", selector / "selector")
    assert run(pictures, tmp_path / "out", "--system", "bicubic", "--only-if-needed")[0] == 0
    assert run(pictures, tmp_path / "larger", "--system", "bicubic", "--only-if-needed", "--scale", "2")[0] == 0
    for path in pictures.iterdir():
        made, larger = (PIL.Image.open(tmp_path / name / path.name) for name in ("out", "larger"))
        small = PIL.Image.open(path)
        assert larger.size == (2 * small.width, 2 * small.height)
        if path.stem.startswith("good"):
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
        else:
            assert made.size == (4 * small.width, 4 * small.height)


def test_a_dry_run_tells_and_writes_nothing(pictures, tmp_path, selector):
    words = ("--system", "auto", "--source", str(selector / "selector"), "--dry-run")
    (pictures / "bad.png").write_bytes(b"no picture")
    code, notes = run(pictures, tmp_path / "out", *words)
    assert code == 2 and not (tmp_path / "out").exists()
    assert sum("none, since it is good as it is" in note for note in notes) == 2
    assert sum("restore with" in note for note in notes) == sum("enlarge with" in note for note in notes) == 2


def test_degraded_pictures_that_no_restorer_surely_betters_are_left_alone(pictures, tmp_path, selector):
    kept = Selection.from_pretrained(selector / "selector").config
    Selection(replace(kept, trust=1.0)).save_pretrained(tmp_path / "careful")
    assert run(pictures, tmp_path / "out", "--system", "auto", "--source", str(tmp_path / "careful"))[0] == 0
    images = json.loads((tmp_path / "out" / "run.json").read_text())["images"]
    for name in ("noisy_20.png", "noisy_21.png"):
        assert (images[name]["need"], images[name]["system"]) == ("none", "none") and "degraded" in images[name]["why"]
        assert (tmp_path / "out" / name).read_bytes() == (pictures / name).read_bytes()
    assert images["small_20.png"]["need"] == "enlarge"


def test_what_keeps_its_size_is_learnt_anew_beside_what_is_kept(tmp_path, selector):
    start, full = selector / "selector", selector / "restorers" / "full"
    train(SelectorTraining(tmp_path / "out", (full,), start=start, full_decay=0.1, trust=0.9))
    old, new = (Selection.from_pretrained(folder).config for folder in (start, tmp_path / "out"))
    assert replace(new, trust=old.trust) == old and new.trust == 0.9
    given = {"choices": (selector / "restorers",), "start": start, "full_decay": 0.1, "trust": 0.9, "decay": 0.7}
    train(SelectorTraining(tmp_path / "more", (full,), **given))
    more = Selection.from_pretrained(tmp_path / "more").config
    assert replace(more, selector=old.selector) == new and more.selector != old.selector
    assert more.selector.strategies == old.selector.strategies
    given = {"choices": (selector / "restorers",), "start": start, "decay": 0.7}
    train(SelectorTraining(tmp_path / "enlarged", **given))
    enlarged = Selection.from_pretrained(tmp_path / "enlarged").config
    assert enlarged.selector == more.selector and (enlarged.full_size, enlarged.trust) == (old.full_size, old.trust)
    with pytest.raises(ValueError, match="as --full, or --start and --choices"):
        SelectorTraining(tmp_path / "none", start=start)
    with pytest.raises(ValueError, match="as --choices, or --start"):
        SelectorTraining(tmp_path / "out", (full,))


def test_traces_are_replayed_without_restoring(tmp_path, selector):
    options = SelectorEvaluation((selector / "restorers",), tmp_path / "out", str(selector / "selector"))
    assert evaluate(options).code == 0
    rows = {row["choice"]: row for row in json.loads((tmp_path / "out" / "means.json").read_text())}
    assert rows["auto"]["mean_rank"] == rows["hindsight"]["mean_rank"] == 1.0
    assert rows["bicubic"]["mean_rank"] == rows["iter:clean@1"]["mean_rank"] == 1.5
    gate = {row["need"]: row for row in json.loads((tmp_path / "out" / "gate.json").read_text())}
    assert all(row["wrong"] == 0 and row["pictures"] == 8 for row in gate.values()) and len(gate) == 3


def test_what_cannot_be_learnt_is_one_sentence(tmp_path, selector):
    with pytest.raises(ValueError, match="Name folders that benchmark restorers"):
        SelectorTraining(tmp_path)
    with pytest.raises(FileNotFoundError, match="no trace of choices"):
        train(SelectorTraining(tmp_path / "out", (tmp_path,), (tmp_path,)))
    (tmp_path / "choices.jsonl").write_bytes((selector / "restorers" / "choices.jsonl").read_bytes())
    with pytest.raises(ValueError, match="has no folder need; let benchmark restorers write one"):
        train(SelectorTraining(tmp_path / "out", (tmp_path,), (tmp_path,)))
    with pytest.raises(FileNotFoundError, match="There is no folder or file"):
        Selection.from_pretrained(tmp_path / "nothing")


def test_the_selector_that_comes_with_the_project_knows_its_restorers_and_numbers():
    selection = Selection.from_pretrained()
    known = features(to_tensor(np.zeros((9, 9, 3), np.uint8))).keys()
    assert set(selection.config.gate.features) == known
    assert set(selection.config.selector.features) == known - set(SIZES)
    assert set(selection.config.selector.strategies) <= set(REGISTRY)
    assert all(find_system(name).make() for name in selection.config.selector.strategies)
    assert all(path.exists() for path in selection.weights())
