"""The training loop: exact resume, accumulation, averaging, adversarial order, several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.kills import Work, do
from vision.checkpoints import load_state
from vision.training import fit, fit_stage
from vision.training_options import TrainOptions
from vision.training_run import Context, Objective

PROJECT = Path(__file__).resolve().parents[2]


class Samples(Dataset[Tensor]):
    """Sample i depends on i alone."""

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(index))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4))


def noisy_loss(batch: Tensor, context: Context):
    noise = torch.randn(batch.shape, generator=context.generator).to(context.device)
    return F.mse_loss(context.modules["net"](batch + 0.1 * noise), batch), {"update": context.step}


def slow_loss(batch: Tensor, context: Context):
    time.sleep(0.05)
    return noisy_loss(batch, context)


def plain_loss(batch: Tensor, context: Context):
    return F.mse_loss(context.modules["net"](batch), batch), {}


def options(folder: Path, **changes) -> TrainOptions:
    base = TrainOptions(
        folder, steps=12, batch_size=3, learning_rate=1e-2, final_learning_rate=1e-4, warmup=2, save_every=4
    )
    return replace(base, **changes)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def run(folder: Path, loss=noisy_loss, **changes) -> Tensor | None:
    max_seconds = changes.pop("max_seconds", None)
    found = fit([Objective("net", network(), loss)], Samples(), options(folder, **changes), max_seconds=max_seconds)
    return None if found is None else weights(found["net"])


def log_of(folder: Path) -> list[dict[str, float]]:
    """Rows without what a clock says."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]


class Killed(BaseException):
    """What a kill is to the code that it meets."""


def kill_at(number: int) -> Callable[[], None]:
    """The `number`-th writing, renaming, making or removing of a file from now on does not happen, nor does any later
    one; the result ends that."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wa+x")
        if armed and (writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")):
            seen += 1
            if seen >= number:
                raise Killed

    armed = [True]
    sys.addaudithook(hook)
    return armed.clear


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "accumulate": 2, "max_grad_norm": 0.1}, {"workers": 1}])
def test_a_stopped_run_ends_as_a_straight_one(tmp_path, changes):
    straight = run(tmp_path / "straight", **changes)
    results = [run(tmp_path / "stopped", max_seconds=0.0, **changes) for _ in range(12)]
    assert results[:-1] == [None] * 11 and torch.equal(straight, results[-1])
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "straight")


class WrappingAdamW(torch.optim.AdamW):
    """Gives its moments in one more mapping, as bitsandbytes does, and takes them so or plain."""

    def state_dict(self):
        found = super().state_dict()
        state = {}
        for index, entries in found["state"].items():
            moments = {key: value for key, value in entries.items() if key != "step"}
            state[index] = {"step": entries["step"], "__wrapped__": moments}
        return found | {"state": state}

    def load_state_dict(self, found):
        state = {}
        for index, entries in found["state"].items():
            moments = entries.get("__wrapped__", {})
            state[index] = {key: value for key, value in (entries | moments).items() if key != "__wrapped__"}
        super().load_state_dict(found | {"state": state})


def test_the_wrapped_state_of_an_eight_bit_optimizer_is_kept(tmp_path, monkeypatch):
    library = SimpleNamespace(AdamW8bit=WrappingAdamW)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=library))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", library)
    straight = run(tmp_path / "straight", eight_bit=True)
    while (stopped := run(tmp_path / "stopped", eight_bit=True, max_seconds=0.0)) is None:
        pass
    assert torch.equal(stopped, straight)
    assert any("exp_avg" in name for name in load_state(tmp_path / "stopped" / "checkpoint.safetensors")[0])


@pytest.mark.parametrize("log_every", [1, 5])
def test_a_run_that_is_killed_at_any_file_operation_ends_as_a_straight_one(tmp_path, log_every):
    changes = {"log_every": log_every, "save_every": 3, "ema_decay": 0.9}
    straight = run(tmp_path / "straight", **changes)
    for number in range(1, 60):
        end = kill_at(number)
        try:
            result = run(tmp_path / "killed", **changes)
        except Killed:
            result = None
        end()
        if result is not None:
            break
    assert number > 4 and torch.equal(straight, result)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "straight")


def test_dropout_repeats_itself_and_leaves_the_callers_random_numbers(tmp_path):
    def runs(folder: Path, **changes) -> Tensor | None:
        net = nn.Sequential(network(), nn.Dropout(0.5))
        found = fit([Objective("net", net, plain_loss)], Samples(), options(folder, **changes), max_seconds=0.0)
        return None if found is None else weights(found["net"])

    before = torch.get_rng_state()
    one = [runs(tmp_path / "one") for _ in range(12)][-1]
    torch.randn(7)
    net = nn.Sequential(network(), nn.Dropout(0.5))
    two = weights(fit([Objective("net", net, plain_loss)], Samples(), options(tmp_path / "two"))["net"])
    assert torch.equal(one, two) and len(before) == len(torch.get_rng_state())


def test_a_checkpoint_holds_nothing_pickled_and_damage_is_named(tmp_path):
    run(tmp_path, ema_decay=0.9)
    path = tmp_path / "checkpoint.safetensors"
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [path.name, "log.jsonl"]
    tensors, facts = load_state(path)
    assert facts["step"] == 12 and any(":optimizer:" in name for name in tensors)
    content = path.read_bytes()
    for place in (1, 9, 60, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors .*damaged"):
            run(tmp_path, ema_decay=0.9, steps=13)
    path.write_bytes(content[:-5])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors .*damaged"):
        run(tmp_path, ema_decay=0.9, steps=13)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    run(tmp_path)
    wide = Objective("net", nn.Linear(4, 4), plain_loss)
    with pytest.raises(ValueError, match="does not fit the networks of this run"):
        fit([wide], Samples(), options(tmp_path))
    with pytest.raises(ValueError, match="has made 12 updates, more than the 5 steps"):
        run(tmp_path, steps=5)
    (tmp_path / "old" / "checkpoint").mkdir(parents=True)
    with pytest.raises(ValueError, match="checkpoint of an earlier version, which is pickled"):
        run(tmp_path / "old")


def test_a_stage_returns_the_same_straight_or_read_and_names_a_damaged_file(tmp_path):
    def stage() -> nn.Module:
        objective = Objective("net", network(), noisy_loss)
        return fit_stage(tmp_path / "net.safetensors", [objective], Samples(), options(tmp_path / "run"))

    trained, read = stage(), stage()
    assert torch.equal(weights(trained), weights(read))
    assert {p.device.type for net in (trained, read) for p in net.parameters()} == {"cpu"}
    path = tmp_path / "net.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"net\.safetensors is damaged"):
        stage()


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    def explode(batch, context):
        loss, logs = plain_loss(batch, context)
        if context.step == 7:
            context.modules["net"][0].weight.register_hook(lambda gradient: gradient * float("nan"))
        return loss, logs

    with pytest.raises(FloatingPointError, match="not finite at update 8"):
        run(tmp_path, explode)
    assert load_state(tmp_path / "checkpoint.safetensors")[1]["step"] == 4


def test_a_killed_run_ends_as_a_straight_one(tmp_path):
    straight = run(tmp_path / "straight", steps=200)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, __file__, str(tmp_path / "killed"), "200", "slow"], env=environment)
    while not (tmp_path / "killed" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert torch.equal(straight, run(tmp_path / "killed", steps=200))


def test_accumulation_equals_a_large_batch(tmp_path):
    large = run(tmp_path / "large", plain_loss, batch_size=6)
    small = run(tmp_path / "small", plain_loss, batch_size=2, accumulate=3)
    torch.testing.assert_close(small, large, atol=1e-6, rtol=0)


def test_averaged_weights_are_returned_and_logged_numbers_are_finite(tmp_path):
    assert not torch.equal(run(tmp_path / "a", ema_decay=0.9), run(tmp_path / "b"))
    rows = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 12 and rows[-1]["net.loss"] > 0 and rows[-1]["seconds_per_step"] > 0


def test_objectives_share_a_batch_and_train_their_own_parameters_only(tmp_path):
    seen = []

    def generate(batch, context):
        context.shared["fake"] = context.modules["generator"](batch)
        return context.modules["critic"](context.shared["fake"]).mean(), {}

    def criticise(batch, context):
        seen.append(context.shared["fake"].shape)
        return -context.modules["critic"](context.shared["fake"].detach()).mean(), {}

    generator, critic = network(), network()
    before = weights(critic)
    objectives = [Objective("generator", generator, generate), Objective("critic", critic, criticise, start=2)]
    trained = fit(objectives, Samples(), options(tmp_path, steps=2))
    assert seen == [] and torch.equal(weights(trained["critic"]), before)
    fit(objectives, Samples(), options(tmp_path, steps=4))
    assert len(seen) == 2


def test_frozen_parameters_stay(tmp_path):
    net = network()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    trained = fit([Objective("net", net, plain_loss)], Samples(), options(tmp_path))["net"]
    assert torch.equal(trained[0].weight, before)


def test_evaluation_sees_the_averaged_weights(tmp_path):
    seen = []

    def evaluate(modules):
        seen.append(weights(modules["net"]).clone())
        return {"norm": float(seen[-1].norm())}

    objective = Objective("net", network(), plain_loss)
    trained = fit([objective], Samples(), options(tmp_path, ema_decay=0.9, evaluate_every=6), evaluate=evaluate)["net"]
    assert len(seen) == 2 and torch.equal(seen[-1], weights(trained))


def test_a_loss_that_is_not_finite_leaves_the_checkpoint(tmp_path):
    def explode(batch, context):
        loss, logs = plain_loss(batch, context)
        return loss * (float("nan") if context.step == 6 else 1.0), logs

    with pytest.raises(FloatingPointError, match="not finite at update 7"):
        run(tmp_path, explode, log_every=1)
    assert load_state(tmp_path / "checkpoint.safetensors")[1]["step"] == 4


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        TrainOptions(steps=0)
    with pytest.raises(ValueError, match="mixed_precision"):
        TrainOptions(mixed_precision="int8")


def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    def share(_: Path, folder: Path) -> None:
        weights = run(folder, plain_loss, steps=6, save_every=1)
        if os.environ["RANK"] == "0":
            torch.save(weights, folder / "weights.pt")

    assert do(Work(lambda folder: None, share, processes=2), tmp_path, tmp_path / "two").code == 0
    one = run(tmp_path / "one", plain_loss, steps=6, batch_size=6)
    two = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    torch.testing.assert_close(two, one, atol=1e-6, rtol=0)
    assert len(log_of(tmp_path / "two")) == len(log_of(tmp_path / "one"))


if __name__ == "__main__":
    folder, steps, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    result = run(folder, {"plain": plain_loss, "slow": slow_loss}[kind], steps=steps, save_every=1)
    if os.environ.get("RANK", "0") == "0":
        torch.save(result, folder / "weights.pt")


def test_trackers_are_reported_to_by_name(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is in the extra dev")
    run(tmp_path, trackers=("tensorboard",))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("events.out.tfevents.*"))
    assert all(name.encode() in written for name in log_of(tmp_path)[-1].keys() - {"step", "seconds"})


def test_a_tracker_that_is_not_there_is_refused_before_the_work(tmp_path):
    with pytest.raises(
        ValueError, match=r"There is no tracker 'nowhere' here .*; pip install nowhere, or leave it out"
    ):
        run(tmp_path, trackers=("nowhere",))
    assert not (tmp_path / "log.jsonl").exists()
