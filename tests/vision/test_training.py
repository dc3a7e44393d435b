"""The training loop: exact resume, accumulation, averaging, adversarial order, several processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from vision.training import Context, Objective, TrainOptions, finished, fit

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
    noise = torch.randn(batch.shape, generator=context.generator)
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


def run(folder: Path, loss=noisy_loss, **changes) -> Tensor:
    max_seconds = changes.pop("max_seconds", None)
    objective = Objective("net", network(), loss)
    return weights(fit([objective], Samples(), options(folder, **changes), max_seconds=max_seconds)["net"])


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "accumulate": 2, "max_grad_norm": 0.1}, {"workers": 1}])
def test_a_stopped_run_ends_as_a_straight_one(tmp_path, changes):
    straight = run(tmp_path / "straight", **changes)
    for _ in range(12):
        result = run(tmp_path / "stopped", max_seconds=0.0, **changes)
    assert finished(tmp_path / "stopped", 12) and torch.equal(straight, result)


def test_a_killed_run_ends_as_a_straight_one(tmp_path):
    straight = run(tmp_path / "straight", steps=200)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, __file__, str(tmp_path / "killed"), "200", "slow"], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "checkpoint").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not finished(tmp_path / "killed", 200)
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
    assert (tmp_path / "checkpoint").exists()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        TrainOptions(steps=0)
    with pytest.raises(ValueError, match="mixed_precision"):
        TrainOptions(mixed_precision="int8")


def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, __file__, str(tmp_path / "two"), "6", "plain"]
    ranks = [
        subprocess.Popen(command, env={**environment, "RANK": str(r), "LOCAL_RANK": str(r), "CCL_WORKER_COUNT": "1"})
        for r in range(2)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    one = run(tmp_path / "one", plain_loss, steps=6, batch_size=6)
    two = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    torch.testing.assert_close(two, one, atol=1e-6, rtol=0)


if __name__ == "__main__":
    folder, steps, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    result = run(folder, {"plain": plain_loss, "slow": slow_loss}[kind], steps=steps, save_every=1)
    if os.environ.get("RANK", "0") == "0":
        torch.save(result, folder / "weights.pt")
