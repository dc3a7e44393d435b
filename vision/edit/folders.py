"""Stable Diffusion folders for the editor: a whole pipeline in diffusers' layout, and beside it what PIE adds.

unet/ vae/ text_encoder/ tokenizer/ scheduler/ model_index.json     readable by diffusers
pie/config.json                                                     what the weights were tuned for; may be missing
classifier/config.json model.safetensors                            may be missing
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from vision import hub, weights
from vision.config import load_config, save_config
from vision.diffusion.attention import use_text_keys
from vision.diffusion.backbone import TextEncoders, load_backbone, save_backbone
from vision.diffusion.build import SCHEDULE, emptied, initialise, small_unet, small_vae, text_encoder, word_tokenizer
from vision.edit.confidence import ClassifierConfig, Confidence, SmallClassifier
from vision.edit.options import PIEConfig

DEFAULT = Path(__file__).resolve().parents[1] / "pretrained" / "pie-brain-mini"
COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "pie", "classifier")


def load(
    source: str | Path | None, *, unet: str | Path | None, revision: str | None, dtype: torch.dtype
) -> dict[str, Any]:
    """The arguments of `PIEEditor`; see its `from_pretrained`."""
    found = hub.find(source, default=DEFAULT, revision=revision, components=COMPONENTS)
    if found.kind == "builtin":
        return builtin(found.name)
    folder = found.path
    if not folder.is_dir():
        raise ValueError(f"{folder} is a single file; name a whole Stable Diffusion folder in diffusers' layout.")
    own = folder / "unet" if unet is None else hub.find(unet, default=None).path
    if unet is not None and (own / "unet").is_dir():
        own = own / "unet"
    if not own.is_dir():
        raise FileNotFoundError(f"There is no UNet in {own}; a Stable Diffusion folder has a sub-folder unet.")
    backbone = load_backbone(folder, dtype=dtype)
    network = load_unet(own, dtype)
    if network.config.addition_embed_type is not None:
        raise ValueError(f"{own} is the UNet of another family (SDXL); PIE needs Stable Diffusion 1.x or 2.x.")
    width = backbone.text.encoders[0].config.hidden_size
    if network.config.cross_attention_dim != width or network.config.in_channels != backbone.vae.config.latent_channels:
        raise ValueError(
            f"The UNet in {own} reads texts of width {network.config.cross_attention_dim} and "
            f"{network.config.in_channels} latent channels, but {folder} gives {width} and "
            f"{backbone.vae.config.latent_channels}; take all parts from one family."
        )
    config, classifier = folder / "pie" / "config.json", folder / "classifier"
    return {
        "unet": network,
        "vae": backbone.vae,
        "text": backbone.text,
        "scheduler": backbone.scheduler,
        "config": load_config(PIEConfig, config) if config.exists() else PIEConfig(),
        "classifier": Confidence.from_pretrained(classifier) if classifier.is_dir() else None,
    }


def load_unet(folder: Path, dtype: torch.dtype) -> nn.Module:
    """diffusers' UNet from its folder; every tensor must match.

    Raises:
        ValueError: it does not load, or tensors are missing or unexpected (the first five are named).
    """
    from diffusers import UNet2DConditionModel

    network = weights.load_pretrained(UNet2DConditionModel, folder, dtype=dtype)
    use_text_keys(network)
    return network


def save(
    folder: Path,
    *,
    unet: nn.Module,
    vae: nn.Module,
    text: TextEncoders,
    scheduler: Any,
    config: PIEConfig,
    classifier: Confidence | None,
    dtype: torch.dtype | None,
) -> None:
    """Write what `load` reads; see `PIEEditor.save_pretrained`."""
    save_backbone(folder, "StableDiffusionPipeline", {"unet": unet, "vae": vae}, text, scheduler, dtype)
    save_config(config, folder / "pie" / "config.json")
    if classifier is not None:
        classifier.save_pretrained(folder / "classifier", dtype)


def builtin(name: str) -> dict[str, Any]:
    """The components of `builtin:tiny`: seeded random weights, for tests."""
    from diffusers import DDIMScheduler

    if name != "tiny":
        raise ValueError(f"There is no builtin:{name} for PIE; there is builtin:tiny.")
    with torch.device("meta"):
        unet = small_unet((8, 16), (False, True), 4, cross_attention_dim=16, attention_head_dim=2, sample_size=8)
        vae = small_vae((4, 8, 8), 4, sample_size=32)
    classifier = SmallClassifier((4, 4, 4, 4))
    initialise(classifier, torch.Generator().manual_seed(3))
    tokenizer = word_tokenizer("a picture , healthy ill".split(), limit=8)
    unet = emptied(unet, 0)
    use_text_keys(unet)
    return {
        "unet": unet,
        "vae": emptied(vae, 1),
        "text": text_encoder(tokenizer, width=16, seed=2),
        "scheduler": DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False),
        "config": PIEConfig(
            resolution=32, prompt="a picture,ill", source_prompt="a picture,healthy", frames=3, steps=8
        ),
        "classifier": Confidence(classifier.eval().requires_grad_(False), ClassifierConfig("small", 32, (4, 4, 4, 4))),
    }


def refuse_unknown_words(tokenizer: Any, text: str) -> None:
    """Raise a ValueError when a tokenizer of whole words does not know one of the text's.

    Tokenizers that spell out unknown words (CLIP's) never have one.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        return
    if unknown in tokenizer(text).input_ids:
        known = sorted(word for word in tokenizer.get_vocab() if word[0].isalnum())
        raise ValueError(
            f"The prompt {text!r} has words that mean nothing to these weights; they know: {' '.join(known)}"
        )
