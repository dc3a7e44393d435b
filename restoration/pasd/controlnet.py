"""The conditioning branch: a ControlNet whose image encoder learns to remove degradations (PASD, section 3.1).

The encoder predicts the clean picture at 1/2, 1/4 and 1/8 of its size through three auxiliary heads, which only the
training loss reads. Its image is RGB in [0, 1], eight pixels per latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding, ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from restoration.pasd.down_path import down_path
from restoration.pasd.folders import build, fill_from, folder_tensors
from restoration.rrdb import RRDB
from vision.diffusion.attention import use_text_keys
from vision.diffusion.build import initialise


class ControlOutput(NamedTuple):
    """What the conditioning branch gives back; unpacks as (rgbs, down, mid), and has the names of diffusers' output."""

    rgbs: list[Tensor] | None
    """(b, 3, H / 2, W / 2), (b, 3, H / 4, W / 4), (b, 3, H / 8, W / 8) in [-1, 1]; None without heads, or when the
    embedding was given."""
    down: list[Tensor]
    """One per skip of the UNet, scaled."""
    mid: Tensor

    @property
    def down_block_res_samples(self) -> list[Tensor]:
        """diffusers' name of `down`."""
        return self.down

    @property
    def mid_block_res_sample(self) -> Tensor:
        """diffusers' name of `mid`."""
        return self.mid


class DegradationRemoval(ControlNetConditioningEmbedding):
    """Image -> features of the ControlNet's first layer, with predictions of the clean image on the way.

    Args:
        conditioning_embedding_channels: of the ControlNet's first layer.
        conditioning_channels: of the image.
        block_out_channels: from the full size to 1/8.
        return_rgbs: with the auxiliary heads.
        use_rrdb: with two residual dense blocks at full size.
    """

    def __init__(
        self,
        conditioning_embedding_channels: int,
        conditioning_channels: int = 3,
        block_out_channels: Sequence[int] = (16, 32, 96, 256),
        return_rgbs: bool = True,
        use_rrdb: bool = False,
    ):
        super().__init__(conditioning_embedding_channels, conditioning_channels, tuple(block_out_channels))
        width = block_out_channels[0]
        self.preprocesser = None  # the published tensors spell it so
        if use_rrdb:
            self.preprocesser = nn.Sequential(*(RRDB(width, width) for _ in range(2)))
        self.to_rgbs = None
        if return_rgbs:
            self.to_rgbs = nn.ModuleList(nn.Conv2d(channels, 3, 3, padding=1) for channels in block_out_channels[1:])

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor] | None]:
        """(b, 3, 8h, 8w) in [0, 1] -> embedding (b, c, h, w), and the heads' pictures if there are heads."""
        x = F.silu(self.conv_in(image))
        if self.preprocesser is not None:
            x = self.preprocesser(x)
        rgbs = []
        for i, block in enumerate(self.blocks):
            x = F.silu(block(x))
            if self.to_rgbs is not None and i % 2 == 1:
                rgbs.append(self.to_rgbs[i // 2](x))
        return self.conv_out(x), rgbs if self.to_rgbs is not None else None


class PASDControlNet(ControlNetModel):
    """diffusers' ControlNet with degradation removal; it returns (rgbs, down residuals, mid residual).

    Args:
        return_rgbs: with auxiliary heads.
        use_rrdb: with residual dense blocks in the image encoder.
        config: what `ControlNetModel` takes.
    """

    get_time_embed = UNet2DConditionModel.get_time_embed
    get_class_embed = UNet2DConditionModel.get_class_embed
    get_aug_embed = UNet2DConditionModel.get_aug_embed
    process_encoder_hidden_states = UNet2DConditionModel.process_encoder_hidden_states

    def __init__(self, return_rgbs: bool = True, use_rrdb: bool = False, **config: Any):
        super().__init__(**config)
        self.register_to_config(return_rgbs=return_rgbs, use_rrdb=use_rrdb)
        self.controlnet_cond_embedding = DegradationRemoval(
            self.config.block_out_channels[0],
            self.config.conditioning_channels,
            self.config.conditioning_embedding_out_channels,
            return_rgbs,
            use_rrdb,
        )
        for parameter in self.controlnet_cond_embedding.conv_out.parameters():
            nn.init.zeros_(parameter)
        use_text_keys(self)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, subfolder: str | None = None, dtype: torch.dtype = torch.float32
    ) -> PASDControlNet:
        """Load a published or saved folder; heads and dense blocks are told from its tensors.

        Raises:
            FileNotFoundError: config or weights are missing.
            ValueError: the weights do not fit their config.
        """
        folder = Path(folder) / (subfolder or "")
        tensors = folder_tensors(folder)
        encoder = "controlnet_cond_embedding."
        heads = any(name.startswith(f"{encoder}to_rgbs.") for name in tensors)
        dense = any(name.startswith(f"{encoder}preprocesser.") for name in tensors)
        return fill_from(build(cls, ControlNetModel, folder, heads, dense), tensors, folder, dtype)

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        *,
        return_rgbs: bool = True,
        use_rrdb: bool = False,
        seed: int = 0,
        **config: Any,
    ) -> PASDControlNet:
        """An untrained branch for a UNet: the weights of its first half, zero convolutions, a new image encoder.

        Args:
            config: entries that differ from the UNet's or are the ControlNet's own, such as
                `conditioning_embedding_out_channels`.
        """
        import inspect

        known = inspect.signature(ControlNetModel.__init__).parameters
        entries = {key: value for key, value in dict(unet.config).items() if key in known} | config
        with torch.device("meta"):
            net = cls(return_rgbs, use_rrdb, **entries)
        nn.Module.to(net.to_empty(device=unet.device), unet.dtype)  # diffusers' own `to` warns
        generator = torch.Generator().manual_seed(seed)
        initialise(net, generator)
        net.load_state_dict(
            {name: value for name, value in unet.state_dict().items() if name in net.state_dict()}, strict=False
        )
        for part in (net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            for parameter in part.parameters():
                nn.init.zeros_(parameter)
        return net.eval()

    def embed(self, image: Tensor) -> tuple[Tensor, list[Tensor] | None]:
        """What the image encoder makes of (b, 3, 8h, 8w) RGB in [0, 1]: (b, c, h, w), and the heads' pictures.

        It depends on nothing else, so it is computed once per image; `forward` takes it as `cond_embedding`.
        """
        if self.config.controlnet_conditioning_channel_order == "bgr":
            image = image.flip(1)
        return self.controlnet_cond_embedding(image)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor | None = None,
        fg_mask: Tensor | None = None,
        conditioning_scale: float = 1.0,
        class_labels: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        attention_mask: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guess_mode: bool = False,
        return_dict: bool = True,
        cond_embedding: Tensor | None = None,
    ) -> ControlOutput | tuple[list[Tensor] | None, list[Tensor], Tensor]:
        """Residuals for the UNet.

        Args:
            sample: (b, 4, h, w) noisy latents; fewer pictures than prompts belong to them in turn.
            timestep: one for all or (b,).
            encoder_hidden_states: (b, tokens, width) text.
            controlnet_cond: (b, 3, 8h, 8w) degraded picture, RGB in [0, 1].
            fg_mask: (b or 1, 1, any, any); 1.5 where it is not zero and 0.6 elsewhere replace the conditioning scale.
            conditioning_scale: factor of all residuals.
            guess_mode: the first residuals count a tenth, growing to one in the middle.
            return_dict: False gives a plain tuple.
            cond_embedding: result of `embed`, instead of `controlnet_cond`.
        """
        rgbs = None
        if cond_embedding is None:
            if controlnet_cond is None:
                raise ValueError("The ControlNet needs controlnet_cond or cond_embedding.")
            cond_embedding, rgbs = self.embed(controlnet_cond)
        mask = None if attention_mask is None else ((1 - attention_mask.to(sample.dtype)) * -10000.0).unsqueeze(1)
        emb = self.time_embedding(self.get_time_embed(sample, timestep), timestep_cond)
        classes = self.get_class_embed(sample, class_labels)
        emb = emb if classes is None else emb + classes
        extra = self.get_aug_embed(emb, encoder_hidden_states, added_cond_kwargs)
        emb = emb if extra is None else emb + extra
        text = self.process_encoder_hidden_states(encoder_hidden_states, added_cond_kwargs)
        told = {
            "encoder_hidden_states": text,
            "attention_mask": mask,
            "encoder_attention_mask": None,
            "cross_attention_kwargs": cross_attention_kwargs,
        }

        hidden = self.conv_in(sample)
        hidden = hidden + cond_embedding
        copies = len(text) // len(sample)
        hidden, features = down_path(self.down_blocks, hidden, emb, copies, told)
        emb = emb if copies == 1 else torch.cat([emb] * copies)
        if self.mid_block is not None:
            hidden = self.mid_block(
                hidden, emb, **(told if getattr(self.mid_block, "has_cross_attention", False) else {})
            )
        down = [layer(feature) for layer, feature in zip(self.controlnet_down_blocks, features, strict=True)]
        down.append(self.controlnet_mid_block(hidden))

        if fg_mask is not None:
            down = [residual * _emphasis(fg_mask, residual) for residual in down]
        elif guess_mode:
            scales = torch.logspace(-1, 0, len(down), device=sample.device).to(sample.dtype) * conditioning_scale
            down = [residual * scale for residual, scale in zip(down, scales, strict=True)]
        elif conditioning_scale != 1:
            down = [residual * conditioning_scale for residual in down]
        if self.config.global_pool_conditions:
            down = [residual.mean(dim=(2, 3), keepdim=True) for residual in down]
        output = ControlOutput(rgbs, down[:-1], down[-1])
        return output if return_dict else tuple(output)


def _emphasis(mask: Tensor, residual: Tensor) -> Tensor:
    small = F.interpolate(mask.float(), residual.shape[-2:], mode="nearest")
    return torch.where(small != 0, 1.5, 0.6).to(residual)
