"""Sources are found by their grammar; weights load strictly or not at all."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vision.hub import Source, find, push_to_hub, read_index, write_index
from vision.weights import ALIGNMENT, WithoutNumbers, align, load_weights, save_weights


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


class Harmful:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def folder(tmp_path) -> Path:
    save_weights(network(), tmp_path / "weights")
    return tmp_path / "weights"


def test_grammar_of_sources(folder, tmp_path):
    assert find("builtin:tiny", default=None) == Source("builtin", "tiny", None)
    assert find(folder, default=None) == Source("folder", "weights", folder)
    assert find(f"folder:{folder}", default=None).path == folder
    assert find(str(folder / "model.safetensors"), default=None).path == folder / "model.safetensors"
    assert find(None, default=folder) == Source("folder", "weights", folder)


@pytest.mark.parametrize("text", ["./none", "~/none", "/none", "none/", "none.safetensors", "folder:a/b", "a/b.pth"])
def test_paths_that_do_not_exist_are_no_hub_names(text):
    with pytest.raises(FileNotFoundError, match="There is no folder or file"):
        find(text, default=None)


def test_other_sources_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"neither builtin:NAME, an existing folder .* nor org/name"):
        find("just-a-name", default=None)
    with pytest.raises(ValueError, match="names nothing after 'builtin'"):
        find("builtin:", default=None)
    with pytest.raises(FileNotFoundError, match="embedded default weights are missing"):
        find(None, default=tmp_path / "none")
    with pytest.raises(ValueError, match=r"A revision \('v1'\) belongs to sources on the model hub"):
        find(folder, default=None, revision="v1")
    with pytest.raises(ValueError, match="names revision 'v1', but revision='v2' was given"):
        find("org/name@v1", default=None, revision="v2")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"neither a folder nor a .safetensors file"):
        find(tmp_path / "notes.txt", default=None)


def test_an_unreachable_hub_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="Cannot fetch 'org/name@main' from the model hub"):
        find("org/name@main", default=None)


def test_saved_and_loaded_weights_are_equal(folder):
    torch.manual_seed(1)
    first, second = network(), network()
    save_weights(first, folder)
    load_weights(second, folder)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def test_half_precision_files_take_the_type_of_the_module(folder):
    net = network()
    save_weights(net, folder, dtype=torch.float16)
    assert load_file(folder / "model.safetensors")["0.weight"].dtype == torch.float16
    assert load_file(folder / "model.safetensors")["1.num_batches_tracked"].dtype == torch.int64
    load_weights(net, folder)
    assert net[0].weight.dtype == torch.float32
    load_weights(net, folder, dtype=torch.bfloat16)
    assert net[0].weight.dtype == torch.bfloat16


def test_networks_on_the_meta_device_get_real_weights(folder):
    with torch.device("meta"):
        net = network()
    load_weights(net, folder)
    assert not any(value.is_meta for value in net.state_dict().values())


def test_tensors_that_do_not_fit_are_named(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["extra.weight"] = torch.zeros(1)
    tensors["0.bias"] = torch.zeros(9)
    del tensors["1.weight"]
    save_file(tensors, folder / "model.safetensors")
    net = network()
    before = net[0].weight.clone()
    sentence = r"lacks 1.weight, and it has the unexpected extra.weight, .* 0.bias \(9,\) instead of \(4,\)"
    with pytest.raises(ValueError, match=sentence):
        load_weights(net, folder)
    assert torch.equal(net[0].weight, before)


def test_only_the_first_five_names_are_listed(folder):
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 0.weight, 0.bias, 1.weight, 1.bias, 1.running_mean and 2 more"):
        load_weights(network(), folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_refused(folder, value):
    tensors = load_file(folder / "model.safetensors")
    tensors["0.weight"][0, 0, 0, 0] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds NaN or infinite weights in 0.weight"):
        load_weights(network(), folder)


def test_pickled_checkpoints_are_refused_without_running_their_code(tmp_path):
    trace = tmp_path / "trace"
    for name in ("model.pth", "model.ckpt", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(Harmful(trace)))
        with pytest.raises(ValueError, match=r"pickled checkpoint.*scripts/convert.py"):
            find(tmp_path / name, default=None)
    with pytest.raises(ValueError, match=r"holds only the pickled checkpoint model.ckpt.*scripts/convert.py"):
        load_weights(network(), tmp_path)
    for content in (pickle.dumps(Harmful(trace)), b"", b"text", b"\xff" * 64):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"not a readable safetensors file.*scripts/convert.py"):
            load_weights(network(), tmp_path)
    with zipfile.ZipFile(tmp_path / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Harmful(trace)))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_weights(network(), tmp_path)
    assert not trace.exists()


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no model.safetensors in"):
        load_weights(network(), tmp_path)


def test_index_names_classes_of_known_packages_only(tmp_path):
    components = {"unet": ("restoration.pasd.unet", "PASDUNet"), "vae": ("diffusers", "AutoencoderKL")}
    write_index(tmp_path, "PASDRestorer", components)
    assert read_index(tmp_path, "PASDRestorer") == components
    with pytest.raises(ValueError, match="was saved from PASDRestorer, but ITERRestorer was asked for"):
        read_index(tmp_path, "ITERRestorer")
    for module, cls in (("os", "system"), ("diffusers", "a.b"), ("vision2", "X"), ("", "X")):
        with pytest.raises(ValueError, match="only classes of this project, diffusers and transformers"):
            write_index(tmp_path, "X", {"unet": (module, cls)})
        content = {"_class_name": "X", "unet": [module, cls]}
        (tmp_path / "model_index.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="only classes of this project, diffusers and transformers"):
            read_index(tmp_path, "X")
    (tmp_path / "model_index.json").write_text('{"_class_name": "X", "unet": "os"}')
    with pytest.raises(ValueError, match=r"'unet' must be \[module, class\], got 'os'"):
        read_index(tmp_path, "X")


def test_a_refused_connection_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"Cannot upload .* as 'org/name'"):
        push_to_hub(tmp_path, "org/name")


def test_only_folders_are_uploaded(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        push_to_hub(tmp_path / "none", "org/name")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"Cannot upload .* as 'org/name'"):
        push_to_hub(tmp_path, "org/name")


def test_loaded_tensors_lie_where_new_ones_would():
    net = nn.Linear(8, 8)
    room = torch.zeros(net.weight.numel() + 1)
    room[1:] = net.weight.detach().flatten()
    before = net.weight
    net.weight.data = room[1:].view(8, 8)
    assert net.weight.data_ptr() % ALIGNMENT and torch.zeros(3).data_ptr() % ALIGNMENT == 0
    align(net)
    assert net.weight is before and net.weight.data_ptr() % ALIGNMENT == 0
    assert torch.equal(net.weight.flatten(), room[1:]) and net.weight.requires_grad


def test_building_without_numbers_leaves_random_generators_alone_and_loads_as_ever(tmp_path):
    code = "import sys\nfrom restoration.iter import ITERRestorer\nITERRestorer.from_pretrained()\n"
    code += "print(sorted(name for name in sys.modules if name in ('torch._dynamo', 'sympy')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stderr
    state = torch.get_rng_state()
    with WithoutNumbers():
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.LayerNorm(8))
        scale = torch.nn.Parameter(torch.randn(3, 2) * 0.3)
    assert torch.equal(torch.get_rng_state(), state) and scale.shape == (3, 2)
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.LayerNorm(8))
    save_weights(other, tmp_path)
    load_weights(network, tmp_path)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())
