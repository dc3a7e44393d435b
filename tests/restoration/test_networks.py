"""Networks that spandrel reads, as restorers. Small networks with random weights of several architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
import torch
from safetensors.torch import save_file

from restoration.esrgan import load_peer
from restoration.networks import NetworkOptions, NetworkRestorer
from scripts.restore import main, parse

spandrel = pytest.importorskip("spandrel", reason="the extra networks is not installed")
from spandrel.architectures.Compact import Compact  # noqa: E402
from spandrel.architectures.ESRGAN import ESRGAN  # noqa: E402
from spandrel.architectures.SAFMN import SAFMN  # noqa: E402
from spandrel.architectures.SPAN import SPAN  # noqa: E402

SMALL = {
    "ESRGAN": lambda: ESRGAN(num_filters=8, num_blocks=1, scale=4),
    "Compact": lambda: Compact(num_feat=8, num_conv=2, upscale=2),
    "SPAN": lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2),
    "grey": lambda: Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2, upscale=2),
    "SAFMN": lambda: SAFMN(dim=8, n_blocks=1, upscaling_factor=2),
}
FIELD = 24
"""Pixels of context that are more than these networks look at."""


def written(name: str, folder: Path, suffix: str = ".safetensors") -> Path:
    torch.manual_seed(0)
    tensors = {key: value.clone() for key, value in SMALL[name]().state_dict().items()}
    path = folder / f"{name}{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save({"params_ema": tensors}, path)
    return path


@pytest.mark.parametrize("name", ["ESRGAN", "Compact", "grey"])
def test_tiles_change_nothing_that_the_network_cannot_see(name, tmp_path):
    restorer = NetworkRestorer.from_pretrained(written(name, tmp_path))
    image = torch.rand(1, 3, 75, 90, generator=torch.Generator().manual_seed(1))
    whole, seen = restorer(image, NetworkOptions(tile=0)), []
    options = NetworkOptions(tile=64, tile_overlap=FIELD)
    cut = torch.cat(list(restorer.bands(image, options, progress=seen.append)), dim=2)
    scale = restorer.facts().scale
    assert whole.shape[-2:] == (75 * scale, 90 * scale) == restorer.output_size(75, 90)
    inner = (..., slice(0, 60 * scale), slice(0, 75 * scale))  # at the padded edges spandrel and we mirror differently
    torch.testing.assert_close(cut[inner], whole[inner], atol=2e-5, rtol=0)
    assert seen == sorted(seen) and seen[-1] == 1 and len(seen) > 3
    assert restorer.facts().tiling and not restorer.facts(NetworkOptions(tile=0)).tiling


@pytest.mark.parametrize("name", SMALL)
def test_every_size_and_scale_is_reached(name, tmp_path):
    restorer = NetworkRestorer.from_pretrained(written(name, tmp_path))
    for height, width in ((1, 1), (17, 5), (33, 40)):
        for scale in (None, 1.5):
            options = NetworkOptions(scale=scale)
            result = restorer(torch.rand(1, 3, height, width), options)
            assert tuple(result.shape[-2:]) == restorer.output_size(height, width, options)
            assert result.dtype == torch.float32 and 0 <= float(result.min()) <= float(result.max()) <= 1


def test_real_esrgan_equals_our_own_port(tmp_path):
    port = load_peer("x4plus")
    save_file(port.state_dict(), tmp_path / "x4plus.safetensors")
    image = torch.rand(1, 3, 13, 17, generator=torch.Generator().manual_seed(2))
    restorer = NetworkRestorer.from_pretrained(tmp_path / "x4plus.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(restorer(image), port(image).clamp(0, 1), atol=1e-6, rtol=0)


def test_the_command_keeps_transparency_profile_and_what_is_done(tmp_path):
    rng = np.random.default_rng(0)
    picture = PIL.Image.fromarray(rng.integers(0, 256, (20, 24, 4), dtype=np.uint8))
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "a.png", icc_profile=profile)
    network = written("Compact", tmp_path, ".pth")
    words = [str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--system", f"network:{network}", "--tile", "16"]
    assert main(parse([*words, "--tile-overlap", "4", "--device", "cpu"])) == 0
    result = tmp_path / "out" / "a.png"
    with PIL.Image.open(result) as made:
        assert made.size == (48, 40) and made.mode == "RGBA" and made.info["icc_profile"] == profile
    before = result.stat().st_mtime_ns
    assert main(parse([*words, "--tile-overlap", "4", "--device", "cpu"])) == 0
    assert result.stat().st_mtime_ns == before
    torch.manual_seed(1)
    torch.save(Compact(num_feat=8, num_conv=2, upscale=2).state_dict(), network)
    assert main(parse([*words, "--tile-overlap", "4", "--device", "cpu"])) == 0  # other weights: made anew
    assert result.stat().st_mtime_ns != before


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_files_that_hold_no_such_network_are_one_sentence(tmp_path):
    torch.save({"w": Harmful(tmp_path / "trace")}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="holds objects other than tensors, which could run code"):
        NetworkRestorer.from_pretrained(tmp_path / "code.pth")
    assert not (tmp_path / "trace").exists()
    save_file({"w": torch.zeros(3)}, tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("other.safetensors", "list.pth"):
        with pytest.raises(ValueError, match=rf"{name} holds no network that spandrel"):
            NetworkRestorer.from_pretrained(tmp_path / name)
    tensors = {key: value.clone() for key, value in SMALL["ESRGAN"]().state_dict().items()}
    first = next(iter(tensors))
    save_file({**tensors, first: torch.full_like(tensors[first], torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match="holds NaN or infinite weights"):
        NetworkRestorer.from_pretrained(tmp_path / "nan.safetensors")
