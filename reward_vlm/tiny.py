"""A small vision-language model of the Qwen2.5-VL architecture with its own tokenizer and processor.

Everything is made here: the tokenizer is trained on a corpus, the weights are random until a recipe trains them. Small
enough to learn on a CPU in minutes, and an instance of the very classes that large checkpoints use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from reward_vlm.spectrum import start_with_spectra
from reward_vlm.vlm import ChatModel

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Single tokens that survive decoding without special tokens."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TinySize:
    """Sizes of the model."""

    hidden: int = 96
    """Width of the text model and of the image encoder; a multiple of 8 heads x 2."""
    layers: int = 3
    """Layers of the text model."""
    image_layers: int = 2
    """Layers of the image encoder."""
    image_pixels: int = 56
    """Pixels per side to which square pictures are scaled (the area, for others); a multiple of 28. Each 28 x 28
    pixels become one token."""
    image_hidden: int | None = None
    """Width of the image encoder, a multiple of 16; None: `hidden`."""
    image_start: Literal["random", "spectra"] = "random"
    """First weights of the image encoder: random, or such that it sees fine structure (`reward_vlm.spectrum`)."""

    def __post_init__(self) -> None:
        if self.hidden < 64 or self.hidden % 32:
            raise ValueError(f"hidden must be a multiple of 32 and at least 64, got {self.hidden}.")
        if self.image_hidden is not None and (self.image_hidden < 32 or self.image_hidden % 16):
            raise ValueError(f"image_hidden must be a multiple of 16 and at least 32, got {self.image_hidden}.")
        if self.image_pixels < 28 or self.image_pixels % 28:
            raise ValueError(f"image_pixels must be a multiple of 28, got {self.image_pixels}.")
        if min(self.layers, self.image_layers) < 1:
            raise ValueError(f"layers and image_layers must be at least 1, got {self.layers}, {self.image_layers}.")


SMALLEST = TinySize(hidden=64, layers=2, image_layers=1)
"""What tests build."""


def tiny_chat_model(corpus: Iterable[str] | None = None, size: TinySize = SMALLEST, seed: int = 0) -> ChatModel:
    """A model with random weights.

    Args:
        corpus: texts whose words become tokens; None: those of the rendered scenes. Other texts fall apart into bytes.
        size: sizes of the model.
        seed: of the weights.
    """
    if corpus is None:
        from reward_vlm.scenes import scene_corpus

        corpus = scene_corpus()
    tokenizer = build_tokenizer(corpus)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = build_model(tokenizer, size)
    return ChatModel(model.eval(), build_processor(tokenizer, size))


def builtin_chat(name: str) -> ChatModel:
    """The model behind the source `builtin:NAME`.

    Raises:
        ValueError: there is none of that name.
    """
    if name != "tiny":
        raise ValueError(f"There is no builtin:{name}; there is tiny.")
    return tiny_chat_model()


def build_tokenizer(corpus: Iterable[str], vocabulary: int = 600) -> Any:
    """A byte-level BPE tokenizer trained on `corpus`; answer and think tags are single, ordinary tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([*corpus, *("system", "user", "assistant")], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        additional_special_tokens=["<|im_start|>", *SPECIAL[3:]],
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def build_processor(tokenizer: Any, size: TinySize) -> Any:
    """The processor of Qwen2.5-VL with this tokenizer and fixed picture size."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    pixels = size.image_pixels**2
    limits = {"shortest_edge": pixels, "longest_edge": pixels}
    shape = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "size": limits}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shape),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shape),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: Any, size: TinySize) -> Any:
    """Qwen2_5_VLForConditionalGeneration with weights from the current random state.

    Their standard deviation is 1 / sqrt(width). The library's 0.02 suits widths of thousands: at 96, a small judge
    needs 150 to 300 updates more before it can copy words out of its prompt, and with some seeds it never does.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    heads, image_hidden = 4, size.image_hidden or size.hidden
    half = size.hidden // heads // 2
    sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]  # time, height, width
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": size.hidden,
            "intermediate_size": 3 * size.hidden,
            "num_hidden_layers": size.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
            "tie_word_embeddings": True,
            "initializer_range": size.hidden**-0.5,
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
        vision_config={
            "depth": size.image_layers,
            "hidden_size": image_hidden,
            "intermediate_size": 2 * image_hidden,
            "num_heads": heads,
            "out_hidden_size": size.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [size.image_layers - 1],
            "in_channels": 3,
            "initializer_range": image_hidden**-0.5,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    if size.image_start == "spectra":
        start_with_spectra(model.model.visual)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = end, pad
    return model
