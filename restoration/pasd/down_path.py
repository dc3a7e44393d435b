"""The down path of UNet and ControlNet, which guidance walks for two prompts and the same latents.

Everything before the first attention to the prompt (the first residual block and self-attention, at full size) is the
same for both halves and computed once.

Shapes: b pictures, k copies of them that differ in their prompts (negative ones first), c channels, h and w sides,
n = h * w.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from restoration.pasd.attention import as_tokens


def down_path(
    blocks: Iterable[nn.Module], hidden: Tensor, emb: Tensor, copies: int, told: dict[str, Any]
) -> tuple[Tensor, list[Tensor]]:
    """What goes into the middle (k * b, c, h, w), and all features on the way there, the first included.

    Args:
        blocks: diffusers' down blocks.
        hidden: (b, c, h, w).
        emb: (b, t) time embedding.
        copies: k.
        told: prompts (k * b, tokens, width) and masks, by the names of the blocks' arguments.
    """
    features, masked = [_copied(hidden, copies)], told["attention_mask"] is not None
    masked = masked or told["encoder_attention_mask"] is not None
    for number, block in enumerate(blocks):
        reads_text = getattr(block, "has_cross_attention", False)
        if number == 0 and copies > 1 and reads_text and not masked:
            hidden, outputs = _first_block(block, hidden, emb, copies, told)
        else:
            hidden = hidden if number else features[0]
            hidden, outputs = block(hidden, _copied(emb, copies), **(told if reads_text else {}))
        features.extend(outputs)
    return hidden, features


def _first_block(
    block: nn.Module, hidden: Tensor, emb: Tensor, copies: int, told: dict[str, Any]
) -> tuple[Tensor, list[Tensor]]:
    """diffusers' `CrossAttnDownBlock2D` without masks."""
    hidden = _first_text(block.attentions[0], block.resnets[0](hidden, emb), copies, told)
    emb, outputs = _copied(emb, copies), [hidden]
    for resnet, attention in zip(block.resnets[1:], block.attentions[1:], strict=True):
        hidden = attention(resnet(hidden, emb), return_dict=False, **told)[0]
        outputs.append(hidden)
    for downsampler in block.downsamplers or ():
        hidden = downsampler(hidden)
        outputs.append(hidden)
    return hidden, outputs


def _first_text(transformer: Transformer2DModel, features: Tensor, copies: int, told: dict[str, Any]) -> Tensor:
    """(b, c, h, w) -> (k * b, c, h, w): diffusers' transformer without masks."""
    text, kwargs = told["encoder_hidden_states"], told["cross_attention_kwargs"]
    linear = transformer.use_linear_projection
    x = transformer.norm(features)
    tokens = transformer.proj_in(as_tokens(x)) if linear else as_tokens(transformer.proj_in(x))
    first, *others = transformer.transformer_blocks
    tokens = _copied(tokens + first.attn1(first.norm1(tokens)), copies)
    tokens = tokens + first.attn2(first.norm2(tokens), text, **(kwargs or {}))
    tokens = tokens + first.ff(first.norm3(tokens))
    for block in others:
        tokens = block(tokens, encoder_hidden_states=text, cross_attention_kwargs=kwargs)
    if linear:
        tokens = transformer.proj_out(tokens)
    out = tokens.transpose(1, 2).unflatten(2, features.shape[-2:]).contiguous()
    return _copied(features, copies) + (out if linear else transformer.proj_out(out))


def _copied(x: Tensor, copies: int) -> Tensor:
    return x if copies == 1 else torch.cat([x] * copies)
