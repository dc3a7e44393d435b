"""Personalised stylization: another base model, or a LoRA, under the trained pixel attention and ControlNet.

A base is a Stable Diffusion folder, a UNet's folder, or a single safetensors file as people share them. It replaces or
blends the base weights alone; what PASD trained stays as it is (the published code loses it for folders). LoRA files
are merged into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from restoration.pasd.folders import folder_tensors
from vision.diffusion.backbone import TextEncoders, load_text, load_vae
from vision.weights import first_names, read_tensors

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
PAIRS = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
)
"""Endings of the first and second factor, as tools write them."""


def apply_style(restorer: Any, source: str | Path, *, weight: float = 1.0) -> None:
    """Change the base of a `PASDRestorer` in place.

    Args:
        source: folder or safetensors file of a base of the same family, or a LoRA file.
        weight: share of the new base's denoiser, the rest is the old one's; or factor of the LoRA.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it is of another family, or neither a base nor a LoRA.
    """
    path = Path(source)
    if path.is_dir():
        _from_folder(restorer, path, _share(weight))
        return
    if path.suffix != ".safetensors":
        if not path.exists():
            raise FileNotFoundError(f"There is no folder or file {path}.")
        raise ValueError(f"{path} must be a folder or a .safetensors file; pickled checkpoints may run code.")
    tensors = read_tensors(path)
    if tensors and all("lora" in name or name.endswith(".alpha") for name in tensors):
        merge_lora({"unet": restorer.unet, "te": restorer.text.encoders}, tensors, weight)
        return
    if any(name.startswith(UNET_PREFIX) for name in tensors):
        _from_single_file(restorer, tensors, path, _share(weight))
    else:
        raise ValueError(f"{path} is neither a LoRA nor a whole Stable Diffusion checkpoint.")


def merge_lora(
    networks: Mapping[str, nn.Module | tuple[nn.Module, ...]],
    tensors: Mapping[str, Tensor],
    scale: float = 1.0,
    *,
    use_alpha: bool = True,
) -> list[str]:
    """Add LoRA products to the weights: W + scale (alpha / rank) up down (Hu et al. 2021, section 4.1).

    Args:
        networks: unet, and te: the text encoder or encoders.
        tensors: of a file in kohya's, diffusers' or peft's naming.
        scale: factor of all products.
        use_alpha: as trained; the published code leaves alpha out, which makes most LoRAs stronger.

    Returns:
        Names of the weights that changed, without their network.

    Raises:
        ValueError: a layer of the file is not in these networks, or of another size.
    """
    places = _places(networks)
    found: dict[str, tuple[str, str]] = {}
    for name in tensors:
        for down, up in PAIRS:
            if name.endswith(down):
                found[name[: -len(down)]] = name, name[: -len(down)] + up
    changes = {}
    for layer, (down, up) in found.items():
        place = places.get(_flat(layer))
        if place is None:
            raise ValueError(f"The LoRA changes {layer}, which this model does not have; is it of another family?")
        if up not in tensors:
            raise ValueError(f"The LoRA's {layer} lacks its second factor {up}.")
        name, module = place
        product, rank = _product(tensors[down], tensors[up]), tensors[down].shape[0]
        alpha = tensors.get(f"{layer}.alpha")
        factor = scale * (float(alpha) / rank if use_alpha and alpha is not None else 1.0)
        if product.numel() != module.weight.numel():
            raise ValueError(f"The LoRA's {layer} has the size of another model: {tuple(product.shape)}.")
        changes[name] = module, factor * product.view(module.weight.shape)
    rest = [
        name for name in tensors if not any(name in pair for pair in found.values()) and not name.endswith(".alpha")
    ]
    if rest or not changes:
        raise ValueError(f"This is no LoRA of linear layers and convolutions: {first_names(rest) or 'it is empty'}.")
    with torch.no_grad():
        for module, change in changes.values():
            module.weight.add_(change.to(module.weight))
    return list(changes)


def _share(weight: float) -> float:
    if not 0 <= weight <= 1:
        raise ValueError(f"The share of another base must lie in [0, 1], got {weight}.")
    return weight


def _from_folder(restorer: Any, folder: Path, weight: float) -> None:
    whole = (folder / "unet").is_dir()
    restorer.unet.take_base(folder_tensors(folder / "unet" if whole else folder), str(folder), weight)
    if whole and (folder / "vae").is_dir():
        restorer.vae = load_vae(folder, dtype=restorer.dtype).to(restorer.device)
    if whole and (folder / "text_encoder").is_dir():
        text = load_text(folder, dtype=restorer.dtype)
        encoders = tuple(encoder.to(restorer.device) for encoder in text.encoders)
        restorer.text = TextEncoders(text.tokenizers, encoders)


def _from_single_file(restorer: Any, tensors: dict[str, Tensor], path: Path, weight: float) -> None:
    """Names of the original latent-diffusion code; diffusers knows how to translate them."""
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    restorer.unet.take_base(convert_ldm_unet_checkpoint(dict(tensors), restorer.unet.config), str(path), weight)
    if any(name.startswith(VAE_PREFIX) for name in tensors):
        _replace(restorer.vae, convert_ldm_vae_checkpoint(dict(tensors), restorer.vae.config), f"The VAE in {path}")
    text = convert_ldm_clip_checkpoint(dict(tensors))
    if text:
        _replace(restorer.text.encoders[0], text, f"The text encoder in {path}")


def _replace(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    own = module.state_dict()
    tensors = {_known(name, own): value for name, value in tensors.items() if not name.endswith("position_ids")}
    wrong = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    if wrong:
        raise ValueError(f"{what} is of another family: it differs in {first_names(wrong)}.")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def _known(name: str, own: Mapping[str, Any]) -> str:
    """Versions of transformers differ in whether CLIP's names begin with `text_model.`."""
    return name if name in own else name.removeprefix("text_model.")


def _places(networks: Mapping[str, nn.Module | tuple[nn.Module, ...]]) -> dict[str, tuple[str, nn.Module]]:
    """Layers by the names that LoRA files give them, without dots and underscores."""
    places: dict[str, tuple[str, nn.Module]] = {}

    def put(prefixes: tuple[str, ...], module: nn.Module) -> None:
        for name, layer in module.named_modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                for prefix in prefixes:
                    for part in (name, f"text_model.{name}") if "te" in prefix else (name,):
                        places[_flat(f"{prefix}.{part}")] = f"{name}.weight", layer

    put(("lora_unet", "unet"), networks["unet"])
    encoders = networks.get("te", ())
    for i, encoder in enumerate(encoders if isinstance(encoders, tuple) else (encoders,)):
        prefixes = ("lora_te", "lora_te1", "text_encoder") if i == 0 else ("lora_te2", "text_encoder_2")
        put(prefixes, encoder)
    return places


def _flat(name: str) -> str:
    return name.replace(".", "").replace("_", "")


def _product(down: Tensor, up: Tensor) -> Tensor:
    """(out, in * kernel) of the two factors, which may be linear layers or convolutions."""
    down, up = down.float(), up.float()
    if math.prod(up.shape[2:]) != 1:
        raise ValueError(f"The second factor of a LoRA must be a 1 x 1 convolution, got {tuple(up.shape)}.")
    return up.flatten(1) @ down.flatten(1)
