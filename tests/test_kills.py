"""The cheap part of `tests.kills`: one job and one training, at every kind of fault; and what the harness sees."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from restoration.job import RestoreOptions, restore
from restoration.plain import PlainOptions
from tests.kill_contents import contents, differences, halves
from tests.kills import Trials, Work, at_change
from vision.checkpoints import begin_run, one_at_a_time, publish
from vision.files import atomic_path
from vision.training import fit
from vision.training_options import TrainOptions
from vision.training_run import Objective
from vision.weights import save_weights


def pictures(folder: Path) -> None:
    """Three small pictures."""
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")


def restoring(inputs: Path, out: Path) -> object:
    """A job with several files for each of its inputs."""
    options = RestoreOptions((inputs,), out, PlainOptions(scale=2.0), system="bicubic", device="cpu", compare=True)
    return restore(options)


class Numbers(Dataset[torch.Tensor]):
    """Sample i depends on i alone."""

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(index))


@one_at_a_time
def train(options: TrainOptions) -> Path:
    """A recipe of five updates."""
    begin_run(options.folder, options)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        net = nn.Linear(4, 4)

    def loss(batch: torch.Tensor, context: object) -> tuple[torch.Tensor, dict[str, float]]:
        return context.modules["net"](batch).square().mean(), {}

    trained = fit([Objective("net", net, loss)], Numbers(), options)
    return publish(options.folder / "weights", lambda folder: save_weights(trained["net"], folder))


def training(inputs: Path, out: Path) -> object:
    """A training that reads its input once."""
    (inputs / "0.png").read_bytes()
    return train(TrainOptions(out, steps=5, batch_size=2, save_every=2, log_every=1))


WORKS = {"restore": Work(pictures, restoring), "train": Work(pictures, training)}


@pytest.fixture(scope="module", params=WORKS)
def trials(request, tmp_path_factory) -> Trials:
    folder = tmp_path_factory.mktemp("kills")
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)  # somebody else, who may not write, must find the way
    return Trials(request.param, WORKS[request.param], folder)


def check(trials: Trials, fault: Callable[[], object]) -> None:
    trials.problems.clear()
    fault()
    assert trials.problems == []


def test_killed_anywhere_it_ends_as_undisturbed(trials):
    for number in (1, 1, 2, 3):
        check(trials, lambda number=number: trials.killed(number))
    assert trials.kills >= 4


def test_stopped_by_a_signal_it_says_so_and_goes_on(trials):
    check(trials, trials.stopped)


def test_a_signal_at_any_change_leaves_no_temporary_files(tmp_path):
    def writing(inputs: Path, out: Path) -> None:
        with atomic_path(out / "a.json") as part:
            part.write_text("[1]")
        publish(out / "b", lambda folder: (folder / "c.json").write_text("[2]"))

    trials = Trials("writing", Work(pictures, writing), tmp_path)
    for place in range(1, trials.end.changes + 1):
        stop = at_change(place, lambda: os.kill(os.getpid(), signal.SIGTERM))
        trials.disturbed(f"SIGTERM at change {place}", lambda folder, out, stop=stop: stop, (143,))
    assert trials.problems == [] and trials.faults > 5


def test_on_a_full_disk_it_says_so_and_goes_on(trials):
    check(trials, trials.full)


def test_robbed_of_its_folders_it_says_so_and_goes_on(trials):
    check(trials, trials.robbed)


def test_two_in_one_folder_lose_nothing(trials):
    check(trials, trials.doubled)


def test_what_is_lost_left_over_changed_or_half_written_is_seen(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1, "seconds": 2.0}')
    (tmp_path / "b.txt").write_text("b")
    before = contents(tmp_path)
    (tmp_path / "a.json").write_text('{"seconds": 3.0, "x": 1}')
    assert differences(contents(tmp_path), before) == [] and halves(tmp_path) == []
    (tmp_path / "a.json").write_text('{"x": 2')
    assert halves(tmp_path) == ["a.json"]
    (tmp_path / "a.json").write_text('{"x": 2}')
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert differences(contents(tmp_path), before) == ["lost b.txt", "left over c.txt", "changed a.json"]


def test_a_work_that_loses_something_is_found_out(tmp_path):
    def careless(inputs: Path, out: Path) -> None:
        if not out.exists():  # it takes a folder for the results
            out.mkdir(parents=True)
            for number in range(3):
                (out / f"{number}.json").write_text("[1]")

    trials = Trials("careless", Work(pictures, careless), tmp_path)
    with trials.folder() as (folder, out):
        from tests.kills import do

        assert do(trials.work, folder, out, at_change(4)).killed
        assert "lost" in trials.finishes("kill", folder, out)
    trials.disturbed("ignored", lambda folder, out: at_change(2, lambda: os.kill(os.getpid(), signal.SIGTERM)), (0,))
    assert "exit code 143" in trials.problems[1]
