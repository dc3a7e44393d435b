"""Turn the published files of one-step restorers into folders: their LoRAs are merged into the base's weights.

    osediff.pkl    LoRAs of the UNet and of the VAE's encoder, and a tuned first convolution; timestep 999
    pisa_sr.pkl    two LoRAs of the UNet, for pixels and for meaning, both at full strength; timestep 1

Both were tuned on stable-diffusion-2-1-base and are dicts that torch pickled, with peft's names of tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from restoration.one_step.options import OneStepConfig
from restoration.one_step.restorer import OneStepRestorer
from restoration.pasd.style import merge_lora
from vision.diffusion.backbone import load_backbone
from vision.weights import first_names, load_pretrained

ALPHA = 8.0
"""peft's `lora_alpha` where nobody names one, as both codes do: products count alpha / rank."""
FACTORS = ("lora_A", "lora_B")


def convert(checkpoint: Any, base: Path) -> OneStepRestorer:
    """A restorer out of a published file.

    Args:
        checkpoint: what the file holds.
        base: the Stable Diffusion folder that it was tuned on.

    Raises:
        FileNotFoundError: the base, or a part of it, is missing.
        ValueError: the file is another one, incomplete, or does not fit the base.
    """
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("state_dict_unet"), Mapping):
        raise ValueError("It has no state_dict_unet; the authors' osediff.pkl and pisa_sr.pkl do.")
    if "lora_rank_unet_pix" in checkpoint:
        config, parts = OneStepConfig(level=1, says="change"), ("unet",)
    elif isinstance(checkpoint.get("state_dict_vae"), Mapping):
        config, parts = OneStepConfig(), ("unet", "vae")
    else:
        raise ValueError("It has neither state_dict_vae, as osediff.pkl, nor lora_rank_unet_pix, as pisa_sr.pkl.")
    backbone = load_backbone(base)
    networks = {"unet": load_pretrained(UNet2DConditionModel, base / "unet"), "vae": backbone.vae}
    for part in parts:
        lists = [value for name, value in checkpoint.items() if name.startswith(f"{part}_lora_")]
        _merge(networks[part], checkpoint[f"state_dict_{part}"], [layer for layers in lists for layer in layers])
    return OneStepRestorer(networks["unet"], backbone.vae, backbone.text, backbone.scheduler, config)


def _merge(network: nn.Module, tensors: Mapping[str, Tensor], listed: Iterable[str]) -> None:
    """Put the tensors of one network into it: its adapters, one after the other, and whole weights.

    Raises:
        ValueError: a layer is missing in the file or in the network, or is of another size.
    """
    adapters: dict[str, dict[str, Tensor]] = {}
    found, own = set(), dict(network.named_parameters())
    for name, value in tensors.items():
        layer, factor, adapter = _parsed(name)
        if factor:
            adapters.setdefault(adapter, {})[f"unet.{layer}.{factor}.weight"] = value
            adapters[adapter][f"unet.{layer}.alpha"] = torch.tensor(ALPHA)
            found.add(layer)
        elif layer not in own or own[layer].shape != value.shape:
            raise ValueError(f"The file's {name} does not fit the base; is that stable-diffusion-2-1-base?")
        else:
            with torch.no_grad():
                own[layer].copy_(value)
    missing = sorted(set(listed) - found)
    if missing:
        raise ValueError(f"The file lists layers whose LoRA it lacks: {first_names(missing)}.")
    for tensors_of in adapters.values():
        merge_lora({"unet": network}, tensors_of)


def _parsed(name: str) -> tuple[str, str, str]:
    """Layer, factor and adapter of a LoRA's tensor in peft's naming; of another the weight's own name alone."""
    for factor in FACTORS:
        layer, inside, rest = name.partition(f".{factor}.")
        if inside and rest.endswith(".weight"):
            return layer, factor, rest.removesuffix(".weight")
    return name.replace(".base_layer.", "."), "", ""
