"""Small configurations of PASD with seeded random weights, for tests."""

from __future__ import annotations

from typing import Any

import torch

from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.unet import PASDUNet
from vision.diffusion.backbone import TextEncoders
from vision.diffusion.build import SCHEDULE, byte_tokenizer, emptied, initialise, small_vae, text_encoder

UNET = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "sample_size": 8,
}
XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 40,
    "cross_attention_dim": 32,
    "use_linear_projection": True,
}
NAMES = ("tiny", "tiny-light", "tiny-sdxl")


def build(name: str) -> dict[str, Any]:
    """The components of `builtin:name`."""
    import diffusers

    if name not in NAMES:
        raise ValueError(f"There is no builtin:{name} for PASD; there are {', '.join(NAMES)}.")
    with torch.device("meta"):
        unet = PASDUNet("light" if name == "tiny-light" else "full", **(UNET | (XL if name == "tiny-sdxl" else {})))
        vae = small_vae((4, 8, 8, 8), 4, sample_size=64)
    unet = emptied(unet, 0)
    control = PASDControlNet.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4, 8))
    initialise(control, torch.Generator().manual_seed(1))  # a branch that does something
    kind = "EulerDiscreteScheduler" if name == "tiny-sdxl" else "UniPCMultistepScheduler"
    return {
        "unet": unet,
        "controlnet": control,
        "vae": emptied(vae, 2),
        "text": tiny_text(2 if name == "tiny-sdxl" else 1),
        "scheduler": getattr(diffusers, kind)(**SCHEDULE),
    }


def tiny_text(count: int = 1) -> TextEncoders:
    """Text encoders of two layers that read bytes; a second one projects, as SDXL's does."""
    tokenizer = byte_tokenizer()
    built = [text_encoder(tokenizer, width=16, seed=3 + i, projects=i > 0).encoders[0] for i in range(count)]
    return TextEncoders((tokenizer,) * count, tuple(built))
