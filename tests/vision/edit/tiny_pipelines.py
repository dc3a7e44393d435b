"""Pipelines of diffusers with tiny networks and seeded random weights: the real classes, a few thousand numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

from restoration.pasd.builtin import UNET, XL, byte_tokenizer, tiny_text
from reward_vlm.tiny import tiny_chat_model
from vision.diffusion.build import SCHEDULE, emptied, small_vae

FACTOR = 4
"""Pixels per latent of the small VAEs."""


def _vae(**more: Any) -> Any:
    with torch.device("meta"):
        vae = small_vae((4, 8, 8), 4, sample_size=32, **more)
    return emptied(vae, 2)


def _unet(**more: Any) -> Any:
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**UNET, **more)
    return emptied(unet, 0)


def _drawn(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return make().eval()


def _stable_diffusion(in_channels: int = 4) -> dict[str, Any]:
    text = tiny_text()
    return {
        "vae": _vae(),
        "text_encoder": text.encoders[0],
        "tokenizer": text.tokenizers[0],
        "unet": _unet(in_channels=in_channels),
        "scheduler": diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _sdxl() -> dict[str, Any]:
    text = tiny_text(2)
    return {
        "vae": _vae(),
        "text_encoder": text.encoders[0],
        "text_encoder_2": text.encoders[1],
        "tokenizer": text.tokenizers[0],
        "tokenizer_2": text.tokenizers[1],
        "unet": _drawn(lambda: diffusers.UNet2DConditionModel(**UNET | XL)),
        "scheduler": diffusers.EulerDiscreteScheduler(**SCHEDULE),
    }


def _t5(width: int) -> Any:
    tokenizer = byte_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return tokenizer, _drawn(lambda: T5EncoderModel(config))


def _sd3() -> dict[str, Any]:
    text, (tokenizer, encoder) = tiny_text(2), _t5(32)
    first = _drawn(lambda: CLIPTextModelWithProjection(text.encoders[0].config))
    transformer = {
        "sample_size": 32, "patch_size": 2, "in_channels": 16, "num_layers": 2, "attention_head_dim": 8,
        "num_attention_heads": 2, "joint_attention_dim": 32, "caption_projection_dim": 16,
        "pooled_projection_dim": 32, "out_channels": 16,
    }  # fmt: skip
    return {
        "transformer": _drawn(lambda: diffusers.SD3Transformer2DModel(**transformer)),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": _vae(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        "text_encoder": first,
        "tokenizer": text.tokenizers[0],
        "text_encoder_2": text.encoders[1],
        "tokenizer_2": text.tokenizers[1],
        "text_encoder_3": encoder,
        "tokenizer_3": tokenizer,
    }


def _flux(in_channels: int = 16) -> dict[str, Any]:
    text, (tokenizer, encoder) = tiny_text(), _t5(16)
    transformer = {
        "patch_size": 1, "in_channels": in_channels, "out_channels": 16, "num_layers": 1, "num_single_layers": 1,
        "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16, "pooled_projection_dim": 16,
        "guidance_embeds": True, "axes_dims_rope": (4, 4, 8),
    }  # fmt: skip
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": _vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1),
        "text_encoder": text.encoders[0],
        "tokenizer": text.tokenizers[0],
        "text_encoder_2": encoder,
        "tokenizer_2": tokenizer,
        "transformer": _drawn(lambda: diffusers.FluxTransformer2DModel(**transformer)),
    }


def _qwen() -> dict[str, Any]:
    chat = tiny_chat_model()
    vae = {
        "base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 2, 2, 2], "num_res_blocks": 1,
        "temperal_downsample": [False, False, True, True], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
    }  # fmt: skip
    transformer = {
        "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 64, "axes_dims_rope": (4, 4, 8),
    }  # fmt: skip
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": _drawn(lambda: diffusers.AutoencoderKLQwenImage(**vae)),
        "text_encoder": chat.model,
        "tokenizer": chat.processor.tokenizer,
        "transformer": _drawn(lambda: diffusers.QwenImageTransformer2DModel(**transformer)),
    }


def _qwen_edit() -> dict[str, Any]:
    return _qwen() | {"processor": tiny_chat_model().processor}


EDITORS: dict[str, Callable[[], dict[str, Any]]] = {
    "StableDiffusionImg2ImgPipeline": _stable_diffusion,
    "StableDiffusionInpaintPipeline": lambda: _stable_diffusion(9),
    "StableDiffusionInstructPix2PixPipeline": lambda: _stable_diffusion(8),
    "StableDiffusionXLImg2ImgPipeline": _sdxl,
    "StableDiffusionXLInpaintPipeline": _sdxl,
    "StableDiffusion3Img2ImgPipeline": _sd3,
    "StableDiffusion3InpaintPipeline": _sd3,
    "FluxImg2ImgPipeline": _flux,
    "FluxInpaintPipeline": _flux,
    "FluxFillPipeline": lambda: _flux(16 + 16 + 4 * FACTOR**2),
    "FluxKontextPipeline": _flux,
    "FluxKontextInpaintPipeline": _flux,
    "QwenImageImg2ImgPipeline": _qwen,
    "QwenImageInpaintPipeline": _qwen,
    "QwenImageEditPipeline": _qwen_edit,
    "QwenImageEditInpaintPipeline": _qwen_edit,
    "QwenImageEditPlusPipeline": _qwen_edit,
}
"""The parts of every editor, by the name of its class."""
TEXT_TO_IMAGE: dict[str, Callable[[], dict[str, Any]]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _sdxl,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "QwenImagePipeline": _qwen,
}
"""The parts of pipelines that take no picture, whose siblings do."""


def see_little(monkeypatch: Any) -> None:
    """Qwen-Image-Edit sees every picture at a megapixel; here at 64 x 64 pixels, of which tests take less time."""
    changes = {
        "QwenImageEditPipeline": {"calculate_dimensions": lambda known: lambda area, ratio: known(64 * 64, ratio)},
        "QwenImageEditPlusPipeline": {
            name: lambda known: 64 * 64 for name in ("VAE_IMAGE_SIZE", "CONDITION_IMAGE_SIZE")
        },
    }
    changes["QwenImageEditInpaintPipeline"] = changes["QwenImageEditPipeline"]
    for pipeline, values in changes.items():
        if (cls := getattr(diffusers, pipeline, None)) is not None:
            module = sys.modules[cls.__module__]
            for name, change in values.items():
                monkeypatch.setattr(module, name, change(getattr(module, name)))


def tiny_pipeline(name: str) -> Any | None:
    """The pipeline of a class; None where the installed diffusers does not have it."""
    cls = getattr(diffusers, name, None)
    if cls is None:
        return None
    pipeline = cls(**(EDITORS | TEXT_TO_IMAGE)[name]())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
