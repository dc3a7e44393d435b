"""The denoiser that reads the conditioning branch (PASD, section 3.2 and figure 3).

It is diffusers' UNet with pixel-aware cross-attention in its up blocks. The ControlNet's residuals are used twice:
added to the skips, as in any ControlNet, and alone, as the context of the pixel attention of the same skip.

Published folders name the stock class in their config; the variant is told from the tensors' names:
`pixel_attentions` means full, `attn2_plus` means light.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel, UNet2DConditionOutput
from torch import Tensor, nn

from restoration.pasd.attention import LightTransformer, as_tokens, pixel_transformer
from restoration.pasd.down_path import down_path
from restoration.pasd.folders import build, fill_from, folder_tensors
from vision.diffusion.attention import use_text_keys
from vision.diffusion.build import initialise

Variant = Literal["full", "light"]
TRAINED = ("pixel_attentions", "norm2_plus", "attn2_plus", "proj_in_plus")
"""Parts of the names of the tensors that PASD adds, and trains, in the denoiser."""


class PixelUpBlock(nn.Module):
    """An up block whose layers also attend to the ControlNet residuals of their skips.

    Args:
        block: diffusers' up block whose parts are taken over.
        contexts: channels of the residuals, in the order of the layers.
        variant: full adds `pixel_attentions`, light extends the text transformers.
        heads: of the pixel attention.
        layers: depths of the pixel attention, in the order of the layers.
        more: further arguments of `pixel_transformer`.
    """

    def __init__(
        self,
        block: nn.Module,
        contexts: Sequence[int],
        variant: Variant,
        heads: int,
        layers: Sequence[int],
        **more: Any,
    ):
        super().__init__()
        self.resnets = block.resnets
        text = getattr(block, "attentions", None)
        if variant == "light":
            text = nn.ModuleList(LightTransformer(part, d) for part, d in zip(text, contexts, strict=True))
        self.attentions = text
        self.pixel_attentions = None
        if variant == "full":
            self.pixel_attentions = nn.ModuleList(
                pixel_transformer(resnet.out_channels, d, heads, depth, **more)
                for resnet, d, depth in zip(block.resnets, contexts, layers, strict=True)
            )
        self.upsamplers = block.upsamplers
        self.variant = variant
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden: Tensor,
        skips: Sequence[Tensor],
        residuals: Sequence[Tensor],
        temb: Tensor,
        text: Tensor,
        upsample_size: Sequence[int] | None = None,
        attention_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """Features of the next level.

        Args:
            hidden: (b, c, h, w).
            skips: of this block, with the residuals added; the last belongs to the first layer.
            residuals: of the ControlNet, beside the skips.
            temb: (b, t) time embedding.
            text: (b, tokens, width).
            upsample_size: sides after upsampling, where they are not twice the sides before.
        """
        masks = {"attention_mask": attention_mask, "cross_attention_kwargs": attention_kwargs, "return_dict": False}
        pairs = zip(reversed(skips), reversed(residuals), strict=True)
        for i, (resnet, (skip, residual)) in enumerate(zip(self.resnets, pairs, strict=True)):
            hidden = torch.cat([hidden, skip], dim=1)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden = self._gradient_checkpointing_func(resnet, hidden, temb)
            else:
                hidden = resnet(hidden, temb)
            if self.variant == "light":
                hidden = self.attentions[i](hidden, text, residual, attention_mask, text_mask, attention_kwargs)
            elif self.attentions is not None:
                hidden = self.attentions[i](hidden, text, encoder_attention_mask=text_mask, **masks)[0]
            if self.pixel_attentions is not None:
                hidden = self.pixel_attentions[i](hidden, as_tokens(residual), **masks)[0]
        for upsampler in self.upsamplers or ():
            hidden = upsampler(hidden, upsample_size)
        return hidden


class PASDUNet(UNet2DConditionModel):
    """diffusers' UNet with pixel-aware cross-attention; it is called like that class and needs a ControlNet.

    Args:
        variant: full (a transformer of its own per layer) or light (one more attention in the text transformers).
        config: what `UNet2DConditionModel` takes.
    """

    def __init__(self, variant: Variant = "full", **config: Any):
        super().__init__(**config)
        if variant not in ("full", "light"):
            raise ValueError(f"variant must be full or light, got {variant!r}.")
        self.variant = variant
        contexts = _skip_channels(self)
        blocks = []
        for i, block in enumerate(self.up_blocks):
            mine = [contexts.pop() for _ in block.resnets]
            if variant == "light" and not hasattr(block, "attentions"):
                blocks.append(block)
            else:
                heads, layers = _heads_and_layers(self, block, i)
                blocks.append(PixelUpBlock(block, mine, variant, heads, layers, **_projection(self)))
        self.up_blocks = nn.ModuleList(blocks)
        use_text_keys(self)

    @classmethod
    def from_config(cls, config: dict[str, Any], variant: Variant = "full", **more: Any) -> PASDUNet:
        """A network on the current device with PyTorch's first weights; unknown entries of the config are left out."""
        known = _stock_entries(dict(config))
        return cls(variant, **(known | more))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, subfolder: str | None = None, dtype: torch.dtype = torch.float32
    ) -> PASDUNet:
        """Load a published or saved folder; the variant is told from its tensors.

        Raises:
            FileNotFoundError: config or weights are missing.
            ValueError: the weights have no pixel attention, or do not fit their config.
        """
        folder = Path(folder) / (subfolder or "")
        tensors = folder_tensors(folder)
        variant = variant_of(tensors)
        if variant is None:
            raise ValueError(
                f"{folder} holds a plain UNet without pixel attention; name the folder of PASD's own UNet, "
                "or start one from it with PASDUNet.from_base."
            )
        return fill_from(build(cls, UNet2DConditionModel, folder, variant), tensors, folder, dtype)

    @classmethod
    def from_base(cls, base: UNet2DConditionModel | str | Path, variant: Variant = "full", seed: int = 0) -> PASDUNet:
        """An untrained PASD UNet on a stock UNet (or its folder): its weights, and new pixel attention."""
        if not isinstance(base, UNet2DConditionModel):
            base = _stock(Path(base))
        with torch.device("meta"):
            unet = cls.from_config(base.config, variant)
        nn.Module.to(unet.to_empty(device=base.device), base.dtype)  # diffusers' own `to` warns
        initialise(unet, torch.Generator().manual_seed(seed))
        unet.take_base(base.state_dict(), "the base UNet")
        return unet.eval()

    def take_base(self, tensors: dict[str, Tensor], source: str, weight: float = 1.0) -> None:
        """Replace (or blend by `weight`) everything but the trained pixel attention by a stock UNet's tensors.

        Raises:
            ValueError: the tensors are not those of a stock UNet of this size.
        """
        own = {name: value for name, value in self.state_dict().items() if not is_trained(name)}
        wrong = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
        extra = [name for name in tensors if name not in own and not is_trained(name)]
        if wrong or extra:
            raise ValueError(
                f"{source} does not fit this UNet (first difference: {(wrong + extra)[0]}); "
                "the base must be of the same family (Stable Diffusion 1.x or SDXL) and size."
            )
        with torch.no_grad():
            for name, value in own.items():
                value.lerp_(tensors[name].to(value), weight)

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Names and parameters that PASD adds and trains."""
        return ((name, parameter) for name, parameter in self.named_parameters() if is_trained(name))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        class_labels: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Predict the noise in `sample`; arguments as in diffusers, where the shapes are documented.

        Args:
            sample: (b, 4, h, w), or fewer pictures than prompts, which then belong to the pictures in turn.
            down_block_additional_residuals: the ControlNet's residuals; unlike in diffusers they are required, because
                the pixel attention reads them.

        Returns:
            (b, 4, h, w), in diffusers' output class or as a tuple.
        """
        residuals = down_block_additional_residuals
        if residuals is None or mid_block_additional_residual is None:
            raise ValueError("PASDUNet reads the ControlNet: pass its down and mid residuals.")
        masks = _bias(attention_mask, sample), _bias(encoder_attention_mask, sample)
        if self.config.center_input_sample:
            sample = 2 * sample - 1
        emb = self.time_embedding(self.get_time_embed(sample, timestep), timestep_cond)
        classes = self.get_class_embed(sample, class_labels)
        if classes is not None:
            emb = torch.cat([emb, classes], dim=-1) if self.config.class_embeddings_concat else emb + classes
        extra = self.get_aug_embed(emb, encoder_hidden_states, added_cond_kwargs)
        emb = emb if extra is None else emb + extra
        emb = emb if self.time_embed_act is None else self.time_embed_act(emb)
        text = self.process_encoder_hidden_states(encoder_hidden_states, added_cond_kwargs)
        told = {
            "encoder_hidden_states": text,
            "attention_mask": masks[0],
            "encoder_attention_mask": masks[1],
            "cross_attention_kwargs": cross_attention_kwargs,
        }

        copies = len(text) // len(sample)
        hidden, skips = down_path(self.down_blocks, self.conv_in(sample), emb, copies, told)
        emb = emb if copies == 1 else torch.cat([emb] * copies)
        if len(residuals) != len(skips):
            raise ValueError(f"The ControlNet gave {len(residuals)} residuals, but this UNet has {len(skips)} skips.")
        skips = [skip + residual for skip, residual in zip(skips, residuals, strict=True)]
        residuals = list(residuals)
        if self.mid_block is not None:
            hidden = self.mid_block(
                hidden, emb, **(told if getattr(self.mid_block, "has_cross_attention", False) else {})
            )
        hidden = hidden + mid_block_additional_residual

        odd = any(side % 2**self.num_upsamplers for side in sample.shape[-2:])
        for block in self.up_blocks:
            count = len(block.resnets)
            mine, context = skips[-count:], residuals[-count:]
            del skips[-count:], residuals[-count:]
            size = tuple(skips[-1].shape[2:]) if odd and skips else None
            if isinstance(block, PixelUpBlock):
                hidden = block(hidden, mine, context, emb, text, size, *masks, cross_attention_kwargs)
            else:
                hidden = block(hidden, tuple(mine), emb, size)

        if self.conv_norm_out:
            hidden = self.conv_act(self.conv_norm_out(hidden))
        hidden = self.conv_out(hidden)
        return UNet2DConditionOutput(sample=hidden) if return_dict else (hidden,)


def variant_of(names: Iterable[str]) -> Variant | None:
    """The variant that tensors of these names belong to; None for a stock UNet."""
    names = list(names)
    if any("pixel_attentions" in name for name in names):
        return "full"
    return "light" if any("attn2_plus" in name for name in names) else None


def is_trained(name: str) -> bool:
    """Whether a tensor of this name belongs to what PASD adds."""
    return any(part in name for part in TRAINED)


def _stock(folder: Path) -> UNet2DConditionModel:
    unet = build(UNet2DConditionModel, UNet2DConditionModel, folder)
    return fill_from(unet, folder_tensors(folder), folder, torch.float32)


def _stock_entries(config: dict[str, Any]) -> dict[str, Any]:
    import inspect

    known = inspect.signature(UNet2DConditionModel.__init__).parameters
    return {key: value for key, value in config.items() if key in known}


def _skip_channels(unet: UNet2DConditionModel) -> list[int]:
    """Channels of the skips, from the first to the last."""
    channels = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        channels += [resnet.out_channels for resnet in block.resnets]
        channels += [part.out_channels for part in block.downsamplers or ()]
    return channels


def _heads_and_layers(unet: UNet2DConditionModel, block: nn.Module, index: int) -> tuple[int, list[int]]:
    """Attention heads and transformer depths of an up block, which may have no text attention of its own."""
    text = getattr(block, "attentions", None)
    if text is not None:
        return text[0].num_attention_heads, [len(part.transformer_blocks) for part in text]
    config = unet.config
    heads = config.num_attention_heads or config.attention_head_dim
    layers = config.reverse_transformer_layers_per_block
    if layers is None:
        layers = config.transformer_layers_per_block
        layers = layers if isinstance(layers, int) else list(reversed(layers))
    heads = heads if isinstance(heads, int) else list(reversed(heads))[index]
    layers = layers if isinstance(layers, int) else layers[index]
    return heads, [layers] * len(block.resnets) if isinstance(layers, int) else list(layers)


def _projection(unet: UNet2DConditionModel) -> dict[str, Any]:
    config = unet.config
    return {
        "groups": config.norm_num_groups,
        "linear": config.use_linear_projection,
        "upcast": config.upcast_attention,
    }


def _bias(mask: Tensor | None, sample: Tensor) -> Tensor | None:
    """A (b, keys) mask of what is kept as the (b, 1, keys) bias that attention adds."""
    return None if mask is None else ((1 - mask.to(sample.dtype)) * -10000.0).unsqueeze(1)
