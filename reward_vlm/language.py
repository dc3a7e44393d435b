"""The language part of a vision-language model, found by the model's own structure, whatever its modules are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv_proj", "in_proj_qkv", "in_proj_qkvz", "query_key_value", "wqkv")
"""Linear modules that make queries, keys and values, by their last names."""


def language_parameters(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of the decoder and of the words' embeddings, adapters included.

    Raises:
        ValueError: the model does not tell which part is its decoder.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    parts = [_decoder(base), base.get_input_embeddings(), base.get_output_embeddings()]
    own = {id(value) for part in parts if part is not None for value in part.parameters()}
    return ((name, value) for name, value in model.named_parameters() if id(value) in own)


def language_linears(model: Any, *names: str) -> list[str]:
    """Full names of the decoder's linear modules; only those with one of the last `names`, where there are any.

    Raises:
        ValueError: the model does not tell which part is its decoder, or it has no such modules.
    """
    inside = {id(module) for module in _decoder(model).modules()}
    linears = [
        name
        for name, module in model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear) and not name.endswith((".gate", ".router"))
    ]
    found = [name for name in linears if not names or name.rsplit(".", 1)[-1] in names]
    if not found:
        there = sorted({name.rsplit(".", 1)[-1] for name in linears})
        raise ValueError(
            f"The language part of {type(model).__name__} has no modules {', '.join(names)}; its linear modules are "
            f"called {', '.join(there) or 'nothing'}: name those that shall get adapters (lora.modules)."
        )
    return found


def _decoder(model: Any) -> nn.Module:
    decoder = model.get_decoder()
    if decoder is None or decoder is model or decoder is model.base_model:
        raise ValueError(f"{type(model).__name__} does not tell which part of it reads and writes text.")
    return decoder
