"""A run folder keeps to the options and data that it was begun with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vision.checkpoints import BEGUN, begin_run, forget_after, one_at_a_time, publish, save_state
from vision.files import Exclusive, append, atomic_folder, atomic_path


@dataclass(frozen=True)
class Recipe:
    """A training."""

    folder: Path
    """Of the run."""
    images: Path
    """Data."""
    start: str | None = None
    """Weights."""
    steps: int | tuple[int, int] = 10
    """Updates."""
    learning_rate: float = 1e-3
    """Of the optimiser."""
    workers: int = 0
    """Processes."""


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"a picture")
    return Recipe(tmp_path / "run", tmp_path / "images")


def begin(options: Recipe, *results: Path) -> None:
    begin_run(options.folder, options, data=("images", "start"), results=results)
    (options.folder / "checkpoint").touch()


def test_other_options_are_refused_and_named(recipe):
    begin(recipe)
    begin(recipe)
    with pytest.raises(ValueError, match=r"begun with other options or data: learning_rate \(0\.001, now 1\.0\)"):
        begin(replace(recipe, learning_rate=1.0))
    begin(replace(recipe, workers=4))


def test_other_weights_are_refused(recipe):
    weights = recipe.folder.parent / "weights"
    weights.write_bytes(b"1")
    begin_run(recipe.folder, recipe, files=[weights])
    (recipe.folder / "checkpoint").touch()
    begin_run(recipe.folder, recipe, files=[weights])
    weights.write_bytes(b"2")
    with pytest.raises(ValueError, match=r"begun with other options or data: files \("):
        begin_run(recipe.folder, recipe, files=[weights])


def test_a_folder_with_files_but_no_run_is_refused_and_left_as_it_was(recipe):
    recipe.folder.mkdir()
    (recipe.folder / ".DS_Store").touch()
    begin_run(recipe.folder, recipe)
    (recipe.folder / BEGUN).unlink()
    for name in ("letter.txt", "photo.jpg", "weights", "x"):
        (recipe.folder / name).touch()
    with pytest.raises(ValueError, match=r"is no run: it holds letter\.txt, photo\.jpg, weights and 1 more, but no"):
        begin_run(recipe.folder, recipe)
    assert not (recipe.folder / BEGUN).exists()


def test_an_attempt_that_made_nothing_binds_nobody(recipe):
    begin_run(recipe.folder, recipe)
    begin_run(recipe.folder, replace(recipe, learning_rate=1.0))


@pytest.mark.parametrize("beside", [".DS_Store", "train.log", "nohup.out", "log.txt", "log"])
def test_an_attempt_that_made_nothing_binds_nobody_whatever_else_lies_there(recipe, beside):
    begin_run(recipe.folder, recipe)
    (recipe.folder / beside).write_text("step 1\n")
    begin_run(recipe.folder, replace(recipe, learning_rate=1.0))
    assert json.loads((recipe.folder / BEGUN).read_text())["learning_rate"] == 1.0


@pytest.mark.parametrize("name", ["train.log", "run.2.log", "nohup.out", "run.err", "log.txt", "stdout", ".gitignore"])
def test_a_folder_with_what_a_user_logs_is_a_new_one(recipe, name):
    recipe.folder.mkdir()
    (recipe.folder / name).write_text("what the shell opened\n")
    begin(recipe)
    begin(recipe)
    assert (recipe.folder / name).read_text() == "what the shell opened\n"
    with pytest.raises(ValueError, match="learning_rate"):
        begin(replace(recipe, learning_rate=1.0))


def test_a_file_that_takes_this_process_s_output_is_a_log_whatever_its_name(tmp_path):
    code = (
        "import sys; from pathlib import Path; from vision.checkpoints import is_log\n"
        "print(*(is_log(Path(name)) for name in sys.argv[1:]), file=sys.stdout)"
    )
    (tmp_path / "other.md").touch()
    with open(tmp_path / "notes.md", "w") as out:
        command = [sys.executable, "-c", code, tmp_path / "notes.md", tmp_path / "other.md", tmp_path]
        subprocess.run(command, stdout=out, check=True)
    assert (tmp_path / "notes.md").read_text() == "True False False\n"


@pytest.mark.parametrize("name", ["letter.txt", "train.csv", "log.jsonl", "log.png"])
def test_other_files_are_no_logs(recipe, name):
    recipe.folder.mkdir()
    (recipe.folder / name).touch()
    with pytest.raises(ValueError, match=f"is no run: it holds {name}, but no"):
        begin_run(recipe.folder, recipe)


def test_data_count_by_their_content(recipe, tmp_path):
    begin(recipe)
    moved = tmp_path / "moved"
    recipe.images.rename(moved)
    begin(replace(recipe, images=moved))
    (moved / "a.png").write_bytes(b"b picture")
    with pytest.raises(ValueError, match=r"images \(\"1 file, [0-9a-f]{16}\", now \"1 file, [0-9a-f]{16}\"\)"):
        begin(replace(recipe, images=moved))
    with pytest.raises(ValueError, match=r'start \(null, now "org/name"\)'):
        begin(replace(recipe, start="org/name"))


def test_steps_may_change_until_they_are_done(recipe, tmp_path):
    result = tmp_path / "weights"
    begin(recipe, result)
    begin(replace(recipe, steps=20), result)
    result.mkdir()
    begin(replace(recipe, steps=20), result)
    with pytest.raises(ValueError, match=r"steps \(20, now 2\)"):
        begin(replace(recipe, steps=2), result)


def test_steps_of_finished_stages_stay(recipe, tmp_path):
    stages = [tmp_path / "one", tmp_path / "two"]
    recipe = replace(recipe, steps=(5, 5))
    begin(recipe, *stages)
    stages[0].touch()
    begin(replace(recipe, steps=(5, 9)), *stages)
    with pytest.raises(ValueError, match="steps"):
        begin(replace(recipe, steps=(6, 9)), *stages)
    begin(replace(recipe, steps=(5, 9)), *stages)


def test_the_first_process_alone_writes(recipe, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    begin_run(recipe.folder, recipe)
    assert not (recipe.folder / BEGUN).exists()


def test_log_rows_behind_a_state_are_forgotten(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "x": 1}\n{"step": 3}\n{"st')
    forget_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 2, "x": 1}\n'


@one_at_a_time
def train(recipe: Recipe, *, within: Callable[[], object]) -> None:
    """Does nothing but what is given."""
    within()


def test_two_trainings_in_one_folder_are_told(recipe, monkeypatch):
    def another() -> None:
        with pytest.raises(ValueError, match=r"Another process works on .*run; wait for it, or name another place"):
            train(recipe, within=pytest.fail)
        train(replace(recipe, folder=recipe.folder / "part"), within=lambda: None)
        monkeypatch.setenv("RANK", "1")  # of the same training
        train(recipe, within=lambda: None)
        monkeypatch.delenv("RANK")

    train(recipe, within=another)
    assert not recipe.folder.exists()
    with pytest.raises(ZeroDivisionError):
        train(recipe, within=lambda: 1 / 0)
    train(recipe, within=lambda: None)


WRITES = {
    "state": lambda path: save_state(path, {}, {}),
    "row": lambda path: append(path, "row"),
    "weights": lambda path: publish(path, lambda folder: (folder / "config.json").touch()),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_training_whose_folder_was_taken_away_writes_nothing_into_another(recipe, write):
    def robbed() -> None:
        recipe.folder.rename(recipe.folder.with_name("elsewhere"))
        with pytest.raises(ValueError, match="run was taken away while this worked; start again"):
            write(recipe.folder / "stage" / "file")
        assert not recipe.folder.exists()
        write(recipe.folder.with_name("other") / "file")

    train(recipe, within=robbed)
    train(recipe, within=lambda: write(recipe.folder / "file"))
    assert (recipe.folder / "file").exists()


@pytest.mark.parametrize(("write", "make"), [(atomic_path, Path.touch), (atomic_folder, Path.mkdir)])
def test_what_is_written_while_the_folder_is_taken_away_is_no_part_of_another(recipe, write, make):
    def robbed() -> None:
        taken = pytest.raises(ValueError, match="run was taken away while this worked")
        with taken, write(recipe.folder / "weights") as part:
            recipe.folder.rename(recipe.folder.with_name("elsewhere"))
            part.parent.mkdir(parents=True)  # as libraries do
            make(part)

    train(recipe, within=robbed)
    assert not recipe.folder.exists()


def test_finished_weights_are_whole_or_not_there(tmp_path, monkeypatch):
    weights = tmp_path / "run" / "weights"

    def half(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(weights, half)
    assert list(weights.parent.iterdir()) == []
    (weights.parent / ".weights.part").mkdir()  # what a kill leaves
    monkeypatch.setenv("RANK", "1")
    publish(weights, half)
    monkeypatch.delenv("RANK")
    assert publish(weights, lambda folder: (folder / "model").touch()) == weights
    assert [path.name for path in weights.parent.rglob("*")] == ["weights", "model"]
    publish(weights, half)  # it is there
    with (
        pytest.raises(ValueError, match=r"Cannot write .*weights: Directory not empty\."),
        atomic_folder(weights) as part,
    ):
        (part / "other").touch()
    assert [path.name for path in weights.parent.rglob("*")] == ["weights", "model"]


@dataclass(frozen=True)
class Measurement:
    """What writes tables."""

    out: Path
    """Folder."""


def test_a_measurement_holds_its_folder_too_and_leaves_none_behind_where_it_fails(tmp_path):
    @one_at_a_time
    def measure(options: Measurement, show: object = None) -> object:
        with pytest.raises(ValueError, match="Another process works on"):
            Exclusive(options.out, folder=True)
        return show

    assert measure(Measurement(tmp_path / "tables"), 3) == 3
    assert not (tmp_path / "tables").exists()
