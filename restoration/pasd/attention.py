"""Pixel-aware cross-attention (PACA): the denoiser's features attend to the ControlNet's features (PASD, section 3.2).

Two forms. In the full form every layer of every up block gets a transformer of its own, whose cross-attention reads the
ControlNet residual of that layer's skip. In the light form the text transformers get one more cross-attention, between
text and feed-forward. Attention is global: every pixel of the features sees every pixel of the residual.

Shapes: b batch, c channels, h and w latent sides at this level, n = h * w, d channels of the residual.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn


def pixel_transformer(
    channels: int, context_channels: int, heads: int, layers: int, *, groups: int, linear: bool, upcast: bool = False
) -> Transformer2DModel:
    """The transformer of the full form for features of `channels` and a residual of `context_channels`."""
    return Transformer2DModel(
        heads, channels // heads, in_channels=channels, num_layers=layers, cross_attention_dim=context_channels,
        norm_num_groups=groups, use_linear_projection=linear, upcast_attention=upcast,
    )  # fmt: skip


def as_tokens(features: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, n, c), row by row."""
    return features.flatten(2).transpose(1, 2)


class LightBlock(nn.Module):
    """A text transformer block with cross-attention to the pixel context between text and feed-forward.

    Args:
        block: the stock block whose parts are taken over; new are `norm2_plus` and `attn2_plus`.
        context_channels: channels of the residual.
    """

    def __init__(self, block: BasicTransformerBlock, context_channels: int):
        super().__init__()
        width = block.attn1.query_dim
        self.norm1, self.attn1 = block.norm1, block.attn1
        self.norm2, self.attn2 = block.norm2, block.attn2
        self.norm2_plus = nn.LayerNorm(width)
        self.attn2_plus = Attention(
            query_dim=width,
            cross_attention_dim=context_channels,
            heads=block.attn1.heads,
            dim_head=block.attn1.inner_dim // block.attn1.heads,
            upcast_attention=block.attn1.upcast_attention,
        )
        self.norm3, self.ff = block.norm3, block.ff
        self.only_cross_attention = block.only_cross_attention

    def forward(
        self,
        tokens: Tensor,
        text: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """(b, n, c) -> (b, n, c), for text (b, tokens, width) and pixel context (b, n, d)."""
        more = attention_kwargs or {}
        first = text if self.only_cross_attention else None
        tokens = tokens + self.attn1(self.norm1(tokens), first, attention_mask, **more)
        tokens = tokens + self.attn2(self.norm2(tokens), text, text_mask, **more)
        tokens = tokens + self.attn2_plus(self.norm2_plus(tokens), context, **more)
        return tokens + self.ff(self.norm3(tokens))


class LightTransformer(nn.Module):
    """A text transformer whose blocks also read the ControlNet residual of the layer's skip.

    Args:
        transformer: the stock transformer whose parts are taken over; new are `proj_in_plus` and parts of the blocks.
        context_channels: channels of the residual.
    """

    def __init__(self, transformer: Transformer2DModel, context_channels: int):
        super().__init__()
        self.linear = transformer.use_linear_projection
        self.norm, self.proj_in, self.proj_out = transformer.norm, transformer.proj_in, transformer.proj_out
        self.proj_in_plus = (
            nn.Linear(context_channels, context_channels)
            if self.linear
            else nn.Conv2d(context_channels, context_channels, 1)
        )
        self.transformer_blocks = nn.ModuleList(
            LightBlock(block, context_channels) for block in transformer.transformer_blocks
        )
        self.gradient_checkpointing = False

    def forward(
        self,
        features: Tensor,
        text: Tensor,
        residual: Tensor,
        attention_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w), for text (b, tokens, width) and residual (b, d, h, w)."""
        if self.linear:
            tokens = self.proj_in(as_tokens(self.norm(features)))
            context = self.proj_in_plus(as_tokens(residual))
        else:
            tokens = as_tokens(self.proj_in(self.norm(features)))
            context = as_tokens(self.proj_in_plus(residual))
        for block in self.transformer_blocks:
            arguments = tokens, text, context, attention_mask, text_mask, attention_kwargs
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, *arguments)
            else:
                tokens = block(*arguments)
        if self.linear:
            tokens = self.proj_out(tokens)
        out = tokens.transpose(1, 2).unflatten(2, features.shape[-2:])
        return features + (out if self.linear else self.proj_out(out.contiguous()))
