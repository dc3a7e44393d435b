"""The published checkpoint, and its way into our folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recon3d.gtr.network import Generator, GeneratorConfig
from recon3d.gtr.options import GTRConfig, new_field
from recon3d.gtr.reconstructor import GTRReconstructor

HEADS = {"head_channels": 64}
"""Channels of an attention head; the weights do not tell it."""


def convert(checkpoint: Any) -> GTRReconstructor:
    """A reconstructor with the weights of the published file (`ckpt.pth`: pipeline -> field, generator).

    Sizes are read off the tensors. State of the gradient scaler is left out.

    Raises:
        ValueError: a part is missing, or tensors do not fit together.
    """
    pipeline = checkpoint.get("pipeline") if isinstance(checkpoint, Mapping) else None
    if not isinstance(pipeline, Mapping) or not {"field", "generator"} <= set(pipeline):
        raise ValueError("It has no entry 'pipeline' with 'field' and 'generator', as the GTR checkpoint has.")
    field, generator = (
        {name: value for name, value in pipeline[part].items() if isinstance(value, Tensor)}
        for part in ("field", "generator")
    )
    try:
        config = read_config(field, generator)
    except KeyError as error:
        raise ValueError(f"It lacks the tensor {error.args[0]!r}.") from error
    with torch.device("meta"):
        network, decoder = Generator(config.generator), new_field(config)
    for module, weights, name in ((network, generator, "generator"), (decoder, field, "field")):
        try:
            module.load_state_dict({k: v.float() for k, v in weights.items()}, strict=True, assign=True)
        except RuntimeError as error:
            raise ValueError(f"Its {name} does not fit: {' '.join(str(error).split())[:300]}.") from error
    return GTRReconstructor(config, decoder, network.eval())


def read_config(field: Mapping[str, Tensor], generator: Mapping[str, Tensor]) -> GTRConfig:
    """Sizes of both networks from the shapes of their tensors."""
    planes, patches = generator["planes"], generator["conv_proj.weight"]
    width, features = field["decoder.field.mlp_sigma.layers.0.weight"].shape
    channels = features // 3
    inner = generator["attn_layers.0.self_attn.to_q.weight"].shape[0]
    head = min(HEADS["head_channels"], inner)
    factor = round((generator["out.proj.weight"].shape[0] / channels) ** 0.5)
    made = GeneratorConfig(
        in_channels=patches.shape[1],
        plane_resolution=(planes.shape[-2], planes.shape[-1]),
        out_channels=channels,
        patch_size=patches.shape[-1],
        model_channels=planes.shape[2],
        num_layers=_count(generator, "attn_layers.{}.norm1.weight"),
        num_heads=inner // head,
        num_head_channels=head,
        upsample_factor=factor,
        gated="attn_layers.0.ff.net.0.proj.weight" in generator,
        norm_image_tokens="norm1.weight" in generator,
    )
    return GTRConfig(
        plane_channels=channels,
        plane_size=planes.shape[-1] * factor,
        width=width,
        sigma_layers=_count(field, "decoder.field.mlp_sigma.layers.{}.weight"),
        color_layers=_count(field, "decoder.field.mlp_color.layers.{}.weight"),
        generator=made,
    )


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    number = 0
    while pattern.format(number) in weights:
        number += 1
    return number
