"""PASD against the released classes: networks, pipelines, colours, prompts, sizes and one training step.

Every configuration (widths, heads, depths, sizes, options, seeds, case names) is read from the JSON files, so that
another folder of the same schema runs unchanged. Tolerances are absolute in float32; the reason stands beside each.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from restoration.pasd.controlnet import DegradationRemoval, PASDControlNet
from restoration.pasd.unet import PASDUNet
from tests.parity.conftest import golden_root

ROOT = golden_root() / "pasd"
FORWARD = 2e-5  # float32 sums in another order; the released classes differ by less between machines
HALF = 2e-3  # stored in half precision

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no reference tensors of PASD")


@cache
def facts(name: str) -> Any:
    return json.loads((ROOT / f"{name}.json").read_text())


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(ROOT / f"{name}.safetensors")


def kinds() -> list[str]:
    return sorted(path.stem for path in ROOT.glob("forward_*.json"))


def cases(name: str, key: str = "cases") -> list[str]:
    path = ROOT / f"{name}.json"
    return list(facts(name)[key]) if path.exists() else []


@cache
def nets(checkpoint: str) -> tuple[PASDUNet, PASDControlNet]:
    folder = ROOT / checkpoint
    return PASDUNet.from_pretrained(folder / "unet"), PASDControlNet.from_pretrained(folder / "controlnet")


def checkpoint_of(model: str) -> str:
    """The folder of weights that a model's name (std, light, sdxl) stands for, as the forward files tell."""
    return next(facts(kind)["checkpoint"] for kind in kinds() if facts(kind)["kind"] == model)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    tolerance = max(tolerance, HALF) if expected.dtype == torch.float16 else tolerance
    torch.testing.assert_close(actual.float(), expected.float(), rtol=0, atol=tolerance)


def forward_cases() -> list[tuple[str, str]]:
    return [(kind, case) for kind in kinds() for case in cases(kind)]


class Listener:
    """Outputs of sub-modules during a call."""

    def __init__(self, module: torch.nn.Module, names: list[str]):
        self.heard: dict[str, Tensor] = {}
        self.hooks = [module.get_submodule(name).register_forward_hook(self.hook(name)) for name in names]

    def hook(self, name: str):
        def listen(module, inputs, output):
            self.heard[name] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        return listen

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize("kind, case", forward_cases())
@torch.no_grad()
def test_networks(kind, case):
    told, stored = facts(kind)["cases"][case], tensors(kind)
    unet, controlnet = nets(facts(kind)["checkpoint"])
    given = {key.removeprefix(f"{case}.in."): stored[key].float() for key in stored if key.startswith(f"{case}.in.")}
    timestep = torch.tensor(told["timestep"])
    if told["timestep_form"].startswith("1-D"):
        timestep = timestep.expand(told["batch"])
    added = {key: given[key] for key in ("text_embeds", "time_ids") if key in given} or None
    text = given["encoder_hidden_states"]
    arguments = (given["sample"], timestep, text, given["controlnet_cond"])
    options = {"conditioning_scale": told["conditioning_scale"], "guess_mode": told["guess_mode"]}
    rgbs, down, mid = controlnet(*arguments, added_cond_kwargs=added, **options)
    for i, rgb in enumerate(rgbs):
        close(rgb, stored[f"{case}.rgb.{i}"], FORWARD)
    for i, residual in enumerate(down):
        close(residual, stored[f"{case}.down.{i}"], FORWARD)
    assert f"{case}.down.{len(down)}" not in stored
    close(mid, stored[f"{case}.mid"], FORWARD)

    inner = [name.removeprefix(f"{case}.unet.") for name in stored if name.startswith(f"{case}.unet.")]
    with Listener(unet, inner) as listener:
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        noise = unet(given["sample"], timestep, text, added_cond_kwargs=added, **residuals).sample
    for name in inner:
        close(listener.heard[name], stored[f"{case}.unet.{name}"], FORWARD)
    close(noise, stored[f"{case}.noise_pred"], FORWARD)

    if told["fg_mask"]:
        _, down, mid = controlnet(*arguments, fg_mask=stored[f"{case}.fg.mask"], added_cond_kwargs=added, **options)
        for i, residual in enumerate(down):
            close(residual, stored[f"{case}.fg.down.{i}"], FORWARD)
        close(mid, stored[f"{case}.fg.mid"], FORWARD)


MANIFESTS = {  # file, class, variant or options, config in manifest_configs.json
    "manifest_unet_pasd": (PASDUNet, {"variant": "full"}, "unet"),
    "manifest_unet_pasd_light": (PASDUNet, {"variant": "light"}, "unet"),
    "manifest_controlnet_pasd": (PASDControlNet, {}, "controlnet"),
    "manifest_controlnet_pasd_rrdb_extra": (PASDControlNet, {"use_rrdb": True}, "controlnet"),
}


@pytest.mark.parametrize("name", [name for name in MANIFESTS if (ROOT / f"{name}.json").exists()])
def test_published_weights_would_load(name):
    import inspect

    cls, options, part = MANIFESTS[name]
    known = inspect.signature(cls.__mro__[1].__init__).parameters
    config = {key: value for key, value in facts("manifest_configs")[part].items() if key in known}
    with torch.device("meta"):
        net = cls(**options, **config)
    mine = {key: list(value.shape) for key, value in net.state_dict().items()}
    expected = dict(facts(name)["keys"])
    if name.endswith("_extra"):
        expected |= facts("manifest_controlnet_pasd")["keys"]
    assert mine == expected


def encoder_cases() -> list[str]:
    return sorted({key.split(".state.")[0] for key in tensors("misc") if ".state.conv_in." in key})


@pytest.mark.parametrize("case", encoder_cases() if (ROOT / "misc.safetensors").exists() else [])
@torch.no_grad()
def test_image_encoder(case):
    stored = tensors("misc")
    prefix = f"{case}.state."
    state = {key.removeprefix(prefix): value.float() for key, value in stored.items() if key.startswith(prefix)}
    widths = [state["conv_in.weight"].shape[0]]
    widths += [state[f"blocks.{i}.weight"].shape[0] for i in range(1, 99, 2) if f"blocks.{i}.weight" in state]
    heads, dense = (any(key.startswith(part) for key in state) for part in ("to_rgbs", "preprocesser"))
    encoder = DegradationRemoval(state["conv_out.weight"].shape[0], 3, widths, heads, dense)
    encoder.load_state_dict(state)
    image = stored[f"{case}.in"] if f"{case}.in" in stored else stored["rrdb.in"]
    embedding, rgbs = encoder(image.float())
    close(embedding, stored[f"{case}.embedding"], FORWARD)
    assert (rgbs is not None) == heads
    for i, rgb in enumerate(rgbs or []):
        close(rgb, stored[f"{case}.rgb.{i}"], FORWARD)
