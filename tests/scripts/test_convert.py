from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from restoration.iter import ITERRestorer
from restoration.iter.convert import infer_config, published_shapes, tensors_of
from scripts.convert import ITERFiles, main, parse

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def restorer() -> ITERRestorer:
    return ITERRestorer.from_pretrained("builtin:tiny")


@pytest.fixture(scope="module")
def published(restorer) -> dict[str, torch.Tensor]:
    """The tiny network as the authors would save it: with buffers and the decoder twice."""
    own = restorer.model.state_dict()
    state = {}
    for name, shape in published_shapes(restorer.model).items():
        source = name.replace("vqgan.generator.", "vqgan.decoder.")
        state[name] = own.get(source, torch.zeros(shape))
    return state


def write(path: Path, state: dict, key: str = "params", prefix: str = "") -> Path:
    torch.save({key: {prefix + name: value for name, value in state.items()}}, path)
    return path


def assert_same(restorer: ITERRestorer, folder: Path) -> None:
    loaded = ITERRestorer.from_pretrained(folder)
    assert loaded.config.published == restorer.config.published
    state = loaded.model.state_dict()
    for name, value in restorer.model.state_dict().items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("prefix", ("", "module."))
@pytest.mark.parametrize("key", ("params", "params_ema"))
def test_one_file_with_everything(restorer, published, tmp_path, key, prefix):
    path = write(tmp_path / "iter.pth", published, key, prefix)
    assert_same(restorer, main(ITERFiles(path, tmp_path / "out")))


def test_vqgan_in_its_own_file(restorer, published, tmp_path):
    rest = {name: value for name, value in published.items() if not name.startswith("vqgan.")}
    codes = {name.removeprefix("vqgan."): value for name, value in published.items() if name.startswith("vqgan.")}
    path, vqgan = write(tmp_path / "iter.pth", rest), write(tmp_path / "vqgan.pth", codes, "params_ema")
    assert_same(restorer, main(ITERFiles(path, tmp_path / "out", vqgan)))
    with pytest.raises(ValueError, match="holds no VQGAN; name the authors' VQGAN file"):
        main(ITERFiles(path, tmp_path / "none"))
    with pytest.raises(ValueError, match="holds a VQGAN alone; name it with --vqgan"):
        main(ITERFiles(vqgan, tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_named_vqgan_file_replaces_the_one_inside(restorer, published, tmp_path):
    codes = {name.removeprefix("vqgan."): value + 1 for name, value in published.items() if name.startswith("vqgan.")}
    files = ITERFiles(write(tmp_path / "iter.pth", published), tmp_path / "out", write(tmp_path / "v.pth", codes))
    loaded = ITERRestorer.from_pretrained(main(files)).model.state_dict()
    name = "vqgan.quantize.embedding.weight"
    assert torch.equal(loaded[name], restorer.model.state_dict()[name] + 1)


def test_stripped_files_have_the_same_sizes(restorer, published):
    assert infer_config(published) == restorer.config.published
    decoder_twice = tensors_of({"params": published})
    assert not any("generator" in name for name in decoder_twice)


@pytest.mark.parametrize(
    "damage, sentence",
    (
        (lambda s: s.pop("lq_encoder.model.0.bias"), "lacks lq_encoder.model.0.bias"),
        (lambda s: s.update({"extra.weight": torch.ones(1)}), "has the unexpected extra.weight"),
        (lambda s: s.update({"lq_encoder.model.0.bias": torch.ones(3)}), "has the misshapen lq_encoder.model.0.bias"),
        (lambda s: s["lq_encoder.model.0.bias"].fill_(float("nan")), "NaN or infinite weights, first in lq_encoder"),
        (lambda s: s["vqgan.decoder.blocks.0.bias"].add_(1), "two copies of vqgan.decoder.blocks.0.bias in it differ"),
        (lambda s: s.pop("token_refine_net.token_crit_net.code_emb.weight"), "lacks the tensor token_refine_net"),
        (lambda s: s.update({"vqgan.quantize.embedding.weight": torch.ones(3)}), "not those of an ITER network"),
        (lambda s: s.update({"note": "hello"}), "holds 'note', which is not a tensor"),
    ),
)
def test_wrong_files_say_what_is_wrong(published, tmp_path, damage, sentence):
    state = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in published.items()}
    damage(state)
    with pytest.raises(ValueError, match=sentence):
        main(ITERFiles(write(tmp_path / "iter.pth", state), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_code_is_refused_and_not_run(tmp_path):
    torch.save({"params": {"x": Evil(tmp_path / "ran")}}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for name in ("evil.pth", "evil.pkl"):
        with pytest.raises(ValueError, match="refused: it holds objects other than tensors"):
            main(ITERFiles(tmp_path / name, tmp_path / "out"))
    assert not (tmp_path / "ran").exists()


def test_no_checkpoint_at_all(tmp_path):
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("hello world " * 20)
    with pytest.raises(ValueError, match="is an empty file"):
        main(ITERFiles(tmp_path / "empty.pth", tmp_path / "out"))
    with pytest.raises(ValueError, match="begins neither as a pickle nor as a zip file"):
        main(ITERFiles(tmp_path / "text.pth", tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="There is no file"):
        main(ITERFiles(tmp_path / "nix.pth", tmp_path / "out"))
    with pytest.raises(ValueError, match="holds no dict of tensors"):
        torch.save([1, 2], tmp_path / "list.pth")
        main(ITERFiles(tmp_path / "list.pth", tmp_path / "out"))


def test_command_line(tmp_path, capsys):
    options = parse(["iter", "--checkpoint", "a.pth", "--out", "b"])
    assert options == ITERFiles(Path("a.pth"), Path("b"))
    for arguments in ([], ["nix"], ["iter", "--checkpoint"]):
        with pytest.raises(SystemExit) as stop:
            parse(arguments)
        assert stop.value.code == 2
    run = [
        sys.executable,
        PROJECT / "scripts" / "convert.py",
        "iter",
        "--checkpoint",
        "no.pth",
        "--out",
        tmp_path / "o",
    ]
    done = subprocess.run(
        run, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT)}
    )
    assert done.returncode == 2 and done.stderr.strip() == "There is no file no.pth."
