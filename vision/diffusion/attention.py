"""Attention whose keys and values of the prompt are computed once per image instead of in every step."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, (b, heads, tokens, width per head) each."""

    key: Tensor
    value: Tensor


TextKeys = dict[str, KeyValue]
"""Keys and values by the name of their attention layer."""


class TextAttention(AttnProcessor2_0):
    """diffusers' attention; with `text_keys` in the `cross_attention_kwargs` it does not project the prompt again.

    Args:
        name: of the attention layer.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        text_keys: TextKeys | None = None,
    ) -> Tensor:
        """(b, n, c) -> (b, n, c)."""
        known = None if text_keys is None else text_keys.get(self.name)
        if known is None or attention_mask is not None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query = attn.to_q(hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, known.key, known.value)
        mixed = attn.to_out[0](mixed.transpose(1, 2).flatten(2).to(query.dtype))
        return attn.to_out[1](mixed) / attn.rescale_output_factor


def use_text_keys(module: nn.Module) -> None:
    """Let every attention layer of a diffusers model accept precomputed keys; results stay the same."""
    module.set_attn_processor({name: TextAttention(_layer(name)) for name in module.attn_processors})


@torch.no_grad()
def text_keys(module: nn.Module, text: Tensor, skip: str = "pixel_attentions") -> dict[str, Any] | None:
    """The `cross_attention_kwargs` that spare `module` the projections of `text` (b, tokens, width).

    Args:
        skip: layers with this in their name attend to something else than the prompt.

    Returns:
        None when the model's attention layers were replaced (by adapters, for instance).
    """
    processors = module.attn_processors
    if not all(isinstance(processor, TextAttention) for processor in processors.values()):
        return None
    found = {}
    for name in processors:
        layer = _layer(name)
        if layer.endswith("attn2") and skip not in layer:
            attn = module.get_submodule(layer)
            key, value = (part(text).unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in (attn.to_k, attn.to_v))
            found[layer] = KeyValue(key, value)
    return {"text_keys": found}


def repeat_keys(kwargs: dict[str, Any] | None, halves: int, times: int) -> dict[str, Any] | None:
    """The same for `times` tiles: each of the `halves` of the batch (negative, positive prompts) is repeated."""
    if kwargs is None or times == 1:
        return kwargs

    def repeat(tensor: Tensor) -> Tensor:
        return repeat_halves(tensor, halves, times)

    return {"text_keys": {name: KeyValue(*map(repeat, pair)) for name, pair in kwargs["text_keys"].items()}}


def repeat_halves(tensor: Tensor, halves: int, times: int) -> Tensor:
    """(halves * b, ...) -> (halves * times * b, ...): every half repeated as a whole."""
    if times == 1:
        return tensor
    parts = tensor.unflatten(0, (halves, -1))
    return torch.cat([parts] * times, dim=1).flatten(0, 1)


def _layer(processor: str) -> str:
    return processor.removesuffix(".processor")
