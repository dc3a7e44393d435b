"""Small latent diffusion models from nothing: seeded weights, tokenizers and text encoders of few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vision.diffusion.backbone import TextEncoders

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
"""Stable Diffusion's noise schedule."""


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of `module` as PyTorch does by default (uniform, by fan-in), from a generator.

    Normalisations become identities. Works on modules that were made on the meta device and emptied, wherever they are:
    numbers are drawn where the generator lives.
    """
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            bound = weight[0].numel() ** -0.5
            for value in (weight, part.bias):
                if value is not None:
                    value.data.copy_(drawn(value, generator).uniform_(-bound, bound, generator=generator))
        elif isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            weight.data.fill_(1.0)
            part.bias.data.zero_()
        elif isinstance(part, nn.Embedding):
            weight.data.copy_(drawn(weight, generator).normal_(generator=generator))


def drawn(value: Tensor, generator: torch.Generator) -> Tensor:
    """Room of the shape and type of `value` where the generator draws; the same numbers on every device."""
    return torch.empty(value.shape, dtype=value.dtype, device=generator.device)


def emptied(module: nn.Module, seed: int) -> nn.Module:
    """A module from the meta device with seeded weights on the CPU, in evaluation mode."""
    module.to_empty(device="cpu")
    initialise(module, torch.Generator().manual_seed(seed))
    return module.eval()


def small_vae(channels: Sequence[int], groups: int, **more: Any) -> nn.Module:
    """An AutoencoderKL with one layer per block, `channels` from the pixels inwards; make it on the meta device."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=tuple(channels), layers_per_block=1, norm_num_groups=groups,
        down_block_types=("DownEncoderBlock2D",) * len(channels), up_block_types=("UpDecoderBlock2D",) * len(channels),
        **more,
    )  # fmt: skip


def small_unet(channels: Sequence[int], attends: Sequence[bool], groups: int, **more: Any) -> nn.Module:
    """A UNet2DConditionModel with one layer per block; make it on the meta device.

    Args:
        channels: from the latents inwards.
        attends: which of these blocks see the prompt.
        more: further arguments, such as cross_attention_dim.
    """
    from diffusers import UNet2DConditionModel

    kinds = ["CrossAttn" * attend for attend in attends]
    return UNet2DConditionModel(
        block_out_channels=tuple(channels), layers_per_block=1, norm_num_groups=groups,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)), **more,
    )  # fmt: skip


def word_tokenizer(words: Iterable[str], limit: int = 16) -> Any:
    """A tokenizer that knows whole words, in any case; every other word becomes `<unknown>`.

    Args:
        words: its vocabulary; punctuation marks count as words.
        limit: longest prompt in tokens, the two at its ends included.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    ends, unknown = ("<start>", "<end>"), "<unknown>"
    vocabulary = [*ends, unknown, *dict.fromkeys(word.lower() for word in words)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _with_ends(tokenizer, ends, unknown, limit)


def byte_tokenizer(limit: int = 256) -> Any:
    """A CLIP-like tokenizer that knows single bytes; prompts have at most `limit` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    ends = ("<|startoftext|>", "<|endoftext|>")
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *ends]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_ends(tokenizer, ends, ends[1], limit)


def _with_ends(tokenizer: Any, ends: tuple[str, str], unknown: str, limit: int) -> Any:
    """As transformers takes it, with a token before and after every prompt."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    start, end = ends
    special = [(word, tokenizer.token_to_id(word)) for word in ends]
    tokenizer.post_processor = TemplateProcessing(single=f"{start} $A {end}", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=end, unk_token=unknown,
        model_max_length=limit,
    )  # fmt: skip


def text_encoder(
    tokenizer: Any, *, width: int = 64, layers: int = 2, heads: int = 2, seed: int = 0, projects: bool = False
) -> TextEncoders:
    """A tokenizer with a CLIP text encoder of seeded weights; one that `projects` also gives pooled embeddings."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)
    initialise(encoder, torch.Generator().manual_seed(seed))
    return TextEncoders((tokenizer,), (encoder.eval(),))
