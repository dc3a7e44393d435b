"""The second device: every pipeline and training of the six systems, away from the CPU, on machines without a GPU.

It replaces torch's kernels for CUDA, so its checks run in a process of their own (`tests/second_device`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.second_device.second_device import missing

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def passes(*targets: str | Path, devices: int = 1) -> None:
    """Run tests on the second device; they have no GPU to themselves, whatever the machine has."""
    paths = os.pathsep.join((str(HERE.parent), str(HERE / "second_device")))
    environment = os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "SECOND_DEVICES": str(devices)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "second_device",
        "-p",
        "no:cacheprovider",
        *map(str, targets),
    ]
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


def test_the_device_refuses_what_cuda_refuses():
    passes(HERE / "second_device" / "check_rules.py")


def test_every_pipeline_in_every_precision():
    passes(HERE / "second_device" / "check_pipelines.py")


@pytest.mark.slow
def test_every_training_in_every_precision():
    passes(HERE / "second_device" / "check_trainings.py", "-m", "slow or not slow")


@pytest.mark.slow
def test_a_process_that_sees_two_devices_trains_on_one():
    passes(HERE / "second_device" / "check_trainings.py", "-k", "scl-float32", devices=2)


@pytest.mark.slow
def test_every_recipe_in_every_precision():
    passes(HERE / "second_device" / "check_recipes.py")


@pytest.mark.slow
def test_the_suite_passes_where_there_is_a_gpu():
    """`make test` on such a machine: `auto` is the GPU there, and trainings take it."""
    passes(HERE, f"--deselect={HERE / 'test_devices.py'}")
