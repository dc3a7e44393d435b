"""Small configurations of PASD with seeded random weights, for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.unet import PASDUNet
from vision.diffusion.backbone import TextEncoders
from vision.diffusion.build import SCHEDULE, emptied, initialise

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
    unet = emptied(unet, 0)
    control = PASDControlNet.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4, 8))
    initialise(control, torch.Generator().manual_seed(1))  # a branch that does something
    kind = "EulerDiscreteScheduler" if name == "tiny-sdxl" else "UniPCMultistepScheduler"
    return {
        "unet": unet,
        "controlnet": control,
        "vae": tiny_vae(),
        "text": tiny_text(2 if name == "tiny-sdxl" else 1),
        "scheduler": getattr(diffusers, kind)(**SCHEDULE),
    }


def tiny_vae() -> nn.Module:
    """A VAE of factor eight and a few thousand parameters."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(4, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=64,
        )
    return emptied(vae, 2)


def byte_tokenizer(limit: int = 256) -> Any:
    """A CLIP-like tokenizer that knows single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    start, end = "<|startoftext|>", "<|endoftext|>"
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), start, end]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [(word, words.index(word)) for word in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=end, unk_token=end, model_max_length=limit
    )


def tiny_text(count: int = 1, width: int = 16) -> TextEncoders:
    """Text encoders of one layer that read bytes."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizers = tuple(byte_tokenizer() for _ in range(count))
    encoders = []
    for i, tokenizer in enumerate(tokenizers):
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        encoder = (CLIPTextModelWithProjection if i else CLIPTextModel)(config)
        initialise(encoder, torch.Generator().manual_seed(3 + i))
        encoders.append(encoder.eval())
    return TextEncoders(tokenizers, tuple(encoders))
