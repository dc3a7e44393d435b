"""The configuration files that ship are read by the libraries' own parsers."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
CONFIGS = PROJECT / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_reads_its_files(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import FullyShardedDataParallelPlugin

    config = load_config_from_file(str(path))
    assert config.num_processes == 8 and config.mixed_precision == "bf16"
    if config.distributed_type == "FSDP":
        names = {field.name for field in dataclasses.fields(FullyShardedDataParallelPlugin)}
        given = {name.removeprefix("fsdp_") for name in config.fsdp_config}
        assert given - {"version", "offload_params"} <= names
    else:
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.name)
def test_trl_reads_its_files(path, tmp_path):
    from trl import DPOConfig, SFTConfig

    from reward_vlm.r1.trainer import StableReinforceConfig

    arguments = json.loads(path.read_text())
    kinds = [StableReinforceConfig] if "vllm" in path.name else [StableReinforceConfig, SFTConfig, DPOConfig]
    for kind in kinds:
        config = kind(output_dir=str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=2, **arguments)
        assert {name: getattr(config, name) for name in arguments} == arguments


def test_files_that_the_code_and_the_pages_name_ship():
    texts = [
        *PROJECT.glob("reward_vlm/**/*.py"),
        *PROJECT.glob("docs/*.md"),
        PROJECT / "README.md",
        CONFIGS / "README.md",
    ]
    named = {name for path in texts for name in re.findall(r"configs/([\w.]+\.(?:yaml|json))", path.read_text())}
    assert named and all((CONFIGS / name).exists() for name in named)
    loose = r"(?:--config_file|--trl) (?!configs/)(?!names)[\w./]+\.(?:yaml|json)"
    assert not [path for path in texts if re.search(loose, path.read_text())]
