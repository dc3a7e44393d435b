"""Tiny random instances of the vision-language classes of transformers, with processors and templates as published."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from reward_vlm.scenes import scene_corpus
from reward_vlm.vlm import ChatModel

TEXT = {
    "vocab_size": 700, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 14,
    "image_size": 28,
}  # fmt: skip
TURNS = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ 'END' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tokenizer(*special: str, adds_bos: bool, **roles: str) -> Any:
    """A byte-level tokenizer with <s>, </s>, <pad> and more tokens; it writes <s> itself or leaves it out.

    Args:
        roles: attribute -> token, such as image_token; kept when it is saved.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(scene_corpus(), trainer)
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    found = hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens=roles,
    )
    found.add_tokens([AddedToken(name, special=False, normalized=False) for name in special])
    return found


def _built(model: Any, processor: Any) -> ChatModel:
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 2
    return ChatModel(model.eval(), processor)


def llava() -> ChatModel:
    """LLaVA-1.5: the tokenizer writes the beginning token, the picture's token is none of its special ones."""
    words = tokenizer("<image>", adds_bos=True)
    image = words.convert_tokens_to_ids("<image>")
    config = hf.LlavaConfig(
        text_config={"model_type": "llama", **TEXT}, vision_config={"model_type": "clip_vision_model", **VISION},
        image_token_index=image, image_token_id=image,
    )  # fmt: skip
    processor = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TURNS.replace("IMAGE", "<image>\\n").replace("END", "</s>"),
    )  # fmt: skip
    return _built(hf.LlavaForConditionalGeneration(config), processor)


def gemma3() -> ChatModel:
    """Gemma 3: template and tokenizer both write the beginning token."""
    words = tokenizer(
        adds_bos=True, boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )
    config = hf.Gemma3Config(
        text_config={**TEXT, "sliding_window": 64}, vision_config={"model_type": "siglip_vision_model", **VISION},
        mm_tokens_per_image=4, image_token_index=words.image_token_id, image_token_id=words.image_token_id,
        boi_token_index=words.boi_token_id, eoi_token_index=words.eoi_token_id,
    )  # fmt: skip
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size={"height": 28, "width": 28}), tokenizer=words, image_seq_length=4,
        chat_template="{{ bos_token }}" + TURNS.replace("IMAGE", "<start_of_image>").replace("END", "</s>"),
    )  # fmt: skip
    return _built(hf.Gemma3ForConditionalGeneration(config), processor)


def idefics3() -> ChatModel:
    """Idefics 3 (and SmolVLM): its language model is called `text_model`."""
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", adds_bos=True)
    config = hf.Idefics3Config(
        text_config={"model_type": "llama", **TEXT}, vision_config={**VISION, "patch_size": 7}, scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"), pad_token_id=2,
    )  # fmt: skip
    processor = hf.Idefics3Processor(
        image_processor=hf.Idefics3ImageProcessor(
            size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False
        ),
        tokenizer=words, image_seq_len=4,
        chat_template=TURNS.replace("IMAGE", "<image>").replace("END", "<end_of_utterance>"),
    )  # fmt: skip
    return _built(hf.Idefics3ForConditionalGeneration(config), processor)


def mllama() -> ChatModel:
    """Mllama (Llama 3.2 Vision): pictures enter through cross-attention."""
    words = tokenizer("<|image|>", "<|eot_id|>", "<|python_tag|>", adds_bos=True)
    image = words.convert_tokens_to_ids("<|image|>")
    text = {name: value for name, value in TEXT.items() if name != "head_dim"}
    config = hf.MllamaConfig(
        text_config={**text, "num_hidden_layers": 3, "cross_attention_layers": [1], "vocab_size": image},
        vision_config={
            "hidden_size": 32, "attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_global_layers": 1, "patch_size": 14, "image_size": 28, "max_num_tiles": 2,
            "intermediate_layers_indices": [0], "vision_output_dim": 64, "supported_aspect_ratios": [[1, 1], [1, 2]],
        },
        image_token_index=image, image_token_id=image,
    )  # fmt: skip
    processor = hf.MllamaProcessor(
        image_processor=hf.MllamaImageProcessor(size={"height": 28, "width": 28}, max_image_tiles=2), tokenizer=words,
        chat_template="{{ bos_token }}" + TURNS.replace("IMAGE", "<|image|>").replace("END", "<|eot_id|>"),
    )  # fmt: skip
    return _built(hf.MllamaForConditionalGeneration(config), processor)


FAMILIES = {"llava": llava, "gemma3": gemma3, "idefics3": idefics3, "mllama": mllama}


def build(family: str) -> ChatModel:
    """A family's tiny instance, the same at every call."""
    if family == "qwen2.5-vl":
        from reward_vlm.tiny import tiny_chat_model

        return tiny_chat_model()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return FAMILIES[family]()
