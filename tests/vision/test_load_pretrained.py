"""Every network that a folder holds is loaded strictly, whatever library it belongs to, and refused in one sentence."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from restoration import OneStepRestorer, PASDRestorer
from tests.fuzz import peak, start_of_peak
from vision.diffusion.backbone import load_backbone, load_text, token_ids
from vision.edit import PIEEditor
from vision.weights import save_tokenizer

PARTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "controlnet": "diffusion_pytorch_model",
}
PIPELINES = {"pie": PIEEditor, "pasd": PASDRestorer, "one step": OneStepRestorer}
CASES = [(system, part) for system in PIPELINES for part in PARTS if system == "pasd" or part != "controlnet"]


@pytest.fixture(scope="module", params=PIPELINES)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "weights"
    pipeline = PIPELINES[request.param]
    pipeline.from_pretrained("builtin:tiny").save_pretrained(folder)
    return pipeline, folder


@pytest.fixture
def copied(saved, tmp_path):
    pipeline, folder = saved
    shutil.copytree(folder, tmp_path / "copy")
    return pipeline, tmp_path / "copy"


def parts(folder: Path) -> list[Path]:
    return [folder / part / f"{stem}.safetensors" for part, stem in PARTS.items() if (folder / part).is_dir()]


def test_a_missing_tensor_is_named(copied):
    pipeline, folder = copied
    for path in parts(folder):
        tensors = load_file(path)
        name = sorted(name for name, value in tensors.items() if value.ndim > 1)[0]
        save_file({key: value for key, value in tensors.items() if key != name}, path, {"format": "pt"})
        with pytest.raises(ValueError, match=name.split(".", 1)[1]):
            pipeline.from_pretrained(folder)
        save_file(tensors, path, {"format": "pt"})
    pipeline.from_pretrained(folder)


def test_a_config_of_a_larger_network_is_refused_before_that_is_made(copied):
    pipeline, folder = copied
    sizes = {"unet": "block_out_channels", "vae": "block_out_channels", "text_encoder": "intermediate_size"}
    for part, name in sizes.items():
        path = folder / part / "config.json"
        content, config = path.read_text(), json.loads(path.read_text())
        config[name] = [4096] * len(config[name]) if isinstance(config[name], list) else 1 << 20
        path.write_text(json.dumps(config))
        start = start_of_peak()
        with pytest.raises(ValueError, match=r"describes a network of|does not fit its config"):
            pipeline.from_pretrained(folder)
        assert peak() - start < 500 << 20
        path.write_text(content)


@pytest.mark.parametrize("damage", ["unexpected", "misshapen", "infinite", "cut off", "pickled"])
def test_weights_that_do_not_fit_are_refused(copied, damage):
    pipeline, folder = copied
    for path in parts(folder):
        tensors, content = load_file(path), path.read_bytes()
        name = sorted(name for name, value in tensors.items() if value.ndim > 1)[0]
        if damage == "pickled":
            path.unlink()
            torch.save(tensors, path.with_suffix(".bin"))
        elif damage == "cut off":
            path.write_bytes(content[:-7])
        else:
            changed = {
                "unexpected": {"another.weight": torch.zeros(2)},
                "misshapen": {name: torch.zeros(3, 3, 3)},
                "infinite": {name: torch.full_like(tensors[name], float("inf"))},
            }
            save_file(tensors | changed[damage], path, {"format": "pt"})
        with pytest.raises(ValueError, match=str(path.parent)) as refused:
            pipeline.from_pretrained(folder)
        assert "\n" not in str(refused.value)
        path.write_bytes(content)


def test_folders_that_hold_half_precision_alone_load(copied):
    pipeline, folder = copied
    wanted = pipeline.from_pretrained(folder).unet.state_dict()
    for path in parts(folder):
        path.rename(path.with_suffix(".fp16.safetensors"))
    found = pipeline.from_pretrained(folder).unet.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_two_loads_are_equal_and_the_text_encoder_speaks_its_tokenizer(saved):
    _, folder = saved
    one, two = load_backbone(folder), load_backbone(folder)
    prompts = ["a picture", ""]
    assert torch.equal(one.text(prompts).embeds, two.text(prompts).embeds)
    assert all(torch.equal(a, b) for a, b in zip(one.vae.parameters(), two.vae.parameters(), strict=True))


def test_position_ids_of_older_files_are_no_fault(copied):
    _, folder = copied
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    prefix = "text_model." if any(name.startswith("text_model.") for name in tensors) else ""
    limit = load_text(folder).tokenizers[0].model_max_length
    save_file(tensors | {f"{prefix}embeddings.position_ids": torch.arange(limit)[None]}, path, {"format": "pt"})
    load_text(folder)


HOSTILE = {
    "text_encoder/config.json": [{"hidden_size": "wide"}, {"num_attention_heads": 0}, {"architectures": 3}],
    "vae/config.json": [{"block_out_channels": 7}, {"down_block_types": ["Nothing"]}, {"layers_per_block": None}],
    "unet/config.json": [{"block_out_channels": "x"}, {"layers_per_block": {}}, {"norm_num_groups": 0}],
    "scheduler/scheduler_config.json": [{"_class_name": 3}, {"beta_schedule": "none"}, {"num_train_timesteps": "x"}],
    "tokenizer/tokenizer.json": [{"model": {"type": "Nothing"}}, {"version": 3}, {"added_tokens": [{"id": -1}]}],
    "tokenizer/tokenizer_config.json": [{"tokenizer_class": 3}, {"model_max_length": 10**400}],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nonsense_in_a_folder_is_refused_in_one_sentence(copied, name):
    pipeline, folder = copied
    path, content = folder / name, (folder / name).read_text()
    for change in HOSTILE[name]:
        path.write_text(json.dumps(json.loads(content) | change))
        with pytest.raises((ValueError, FileNotFoundError)) as refused:
            pipeline.from_pretrained(folder)
        assert len(str(refused.value).splitlines()) == 1
    for damaged in ("[]", "{", "", "\0" * 9, '{"a":' * 3000):
        path.write_text(damaged)
        with pytest.raises((ValueError, FileNotFoundError)) as refused:
            pipeline.from_pretrained(folder)
        assert len(str(refused.value).splitlines()) == 1


def test_code_in_a_folder_is_refused_without_a_question(copied, monkeypatch):
    _, folder = copied
    path, witness = folder / "tokenizer" / "tokenizer_config.json", folder / "ran"
    (folder / "tokenizer" / "evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    auto_map = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    path.write_text(json.dumps(json.loads(path.read_text()) | auto_map))
    monkeypatch.setattr("builtins.input", lambda *question: pytest.fail("asked whether to run code"))
    with pytest.raises(ValueError, match="does not load"):
        load_text(folder)
    assert not witness.exists()


def test_loading_and_saving_are_silent(saved, tmp_path, capfd, caplog):
    pipeline, folder = saved
    with caplog.at_level(logging.WARNING):
        pipeline.from_pretrained(folder).save_pretrained(tmp_path)
    captured = capfd.readouterr()
    assert captured.out + captured.err == "" and not caplog.records


def test_a_tokenizer_is_saved_as_it_was_before_it_was_used(tmp_path):
    tokenizer = PIEEditor.from_pretrained("builtin:tiny").text.tokenizers[0]
    save_tokenizer(tokenizer, tmp_path / "before")
    token_ids(tokenizer, ["a picture"])
    tokenizer(["a picture of something"], truncation=True, max_length=2)
    save_tokenizer(tokenizer, tmp_path / "after")
    for path in (tmp_path / "before").iterdir():
        assert path.read_bytes() == (tmp_path / "after" / path.name).read_bytes()


def test_a_tokenizer_without_a_length_in_numbers_is_a_sentence(tmp_path):
    PIEEditor.from_pretrained("builtin:tiny").save_pretrained(tmp_path)
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "<unknown>"}))
    with pytest.raises(ValueError, match=r"model_max_length of the tokenizer in .* must be a number, got '<unknown>'"):
        load_text(tmp_path)
