"""The second device refuses what CUDA refuses, and computes what the CPU computes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

HERE, THERE = torch.randn(4, 4), torch.randn(4, 4, device="cuda")
INDEX = torch.zeros(2, dtype=torch.int64)

MIXED = {
    "sum": lambda: THERE + HERE,
    "joined": lambda: torch.cat([THERE, HERE]),
    "product": lambda: HERE @ THERE,
    "written": lambda: HERE.add_(THERE),
    "convolution": lambda: F.conv2d(THERE[None, None], HERE[None, None]),
    "embedding": lambda: F.embedding(INDEX, THERE),
    "norm": lambda: F.layer_norm(THERE, (4,), HERE[0]),
    "chosen rows": lambda: THERE.index_select(0, INDEX),
    "gathered": lambda: THERE.gather(0, INDEX[None]),
    "scattered": lambda: THERE.scatter(0, INDEX[None], HERE),
    "index from the device": lambda: HERE[INDEX.cuda()],
    "mask from the device": lambda: HERE[THERE > 0],
    "number in a product": lambda: torch.addmm(torch.tensor(1.0), THERE, THERE),
    "sampled grid": lambda: F.grid_sample(THERE[None, None], torch.zeros(1, 2, 2, 2)),
    "search": lambda: torch.searchsorted(THERE[0], HERE[0]),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_refused(name):
    with pytest.raises(RuntimeError, match="on the same device"):
        MIXED[name]()


def test_generators_draw_on_their_own_device():
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
        torch.randn(3, device="cuda", generator=torch.Generator())
    with pytest.raises(RuntimeError):
        torch.randn(3, generator=torch.Generator("cuda"))
    generator = torch.Generator("cuda").manual_seed(3)
    first, second = (torch.randn(3, device="cuda", generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.randn(3, device="cuda", generator=generator.manual_seed(3)))
    torch.manual_seed(5)
    drawn = torch.rand(3, device="cuda")
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3, device="cuda"))


def test_numpy_needs_the_host():
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        THERE.numpy()


def test_what_cuda_takes_from_the_host_is_taken():
    assert (THERE + torch.tensor(1.0)).is_cuda and torch.where(THERE > 0, THERE, torch.tensor(0.0)).is_cuda
    assert THERE[INDEX].is_cuda and torch.equal(THERE[INDEX].cpu(), THERE.cpu()[INDEX])
    target = torch.zeros(4, device="cuda")
    target[INDEX] = torch.tensor(2.0)
    target[1:3] = HERE[0, :2]
    assert torch.equal(target.cpu(), torch.cat([torch.tensor([2.0]), HERE[0, :2], torch.zeros(1)]))


def test_copies_and_files_keep_device_and_content():
    file = io.BytesIO()
    torch.save(THERE, file)
    file.seek(0)
    for found in (copy.deepcopy(THERE), torch.load(file), THERE.cpu().cuda(), THERE.clone()):
        assert found.is_cuda and torch.equal(found, THERE) and found.data_ptr() != THERE.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_training_step_is_that_of_the_cpu(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(32, 4), nn.Softmax(-1)
    )
    image, found = torch.rand(2, 3, 4, 4), []
    for device in ("cpu", "cuda"):
        twin = copy.deepcopy(net).to(device)
        optimizer, scaler = torch.optim.SGD(twin.parameters(), 0.1), torch.amp.GradScaler(device, 8.0)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = twin(image.to(device)).square().sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert all(value.device.type == device for value in twin.state_dict().values())
        found.append([value.detach().cpu() for value in twin.parameters()])
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


def test_attention_and_wide_softmax_have_gradients():
    query = torch.randn(1, 2, 5, 4, dtype=torch.float16, device="cuda", requires_grad=True)
    mask = torch.ones(5, 5, dtype=torch.bool, device="cuda").tril()
    masked = F.scaled_dot_product_attention(query, query, query, mask)
    torch.testing.assert_close(masked, F.scaled_dot_product_attention(query, query, query, is_causal=True))
    (masked.sum() + query.softmax(-1, dtype=torch.float32)[..., 0].sum()).backward()
    assert query.grad.is_cuda and query.grad.dtype == torch.float16
