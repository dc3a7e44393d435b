"""A chat model: any vision-language model that transformers knows, behind two functions, `generate` and `log_probs`.

Dialogues go in as batches. Every item draws from its own CPU generator, so that a reply depends on its dialogue and
seed, not on the batch (up to the rounding of padded sums).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_vlm.dialogue import Dialogue
from reward_vlm.guard import guard
from vision import hub, libraries, weights

Generators = Sequence[torch.Generator]
"""CPU generators, one per dialogue."""


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn."""

    max_new_tokens: int = 1024
    """Longest reply in tokens."""
    temperature: float = 0.0
    """0 takes the most probable token; 1 samples from the model as it is."""
    top_p: float = 1.0
    """Sample among the most probable tokens that together have this probability."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}.")


@dataclass(frozen=True)
class Reply:
    """What the model said."""

    text: str
    """Without special tokens."""
    log_prob: float
    """Sum of its tokens' log-probabilities at temperature 1, the end of the turn included."""
    tokens: int
    """Number of tokens, the end of the turn included."""
    finished: bool
    """False when the reply was cut off at max_new_tokens."""

    @property
    def confidence(self) -> float:
        """The geometric mean of its tokens' probabilities at temperature 1."""
        return math.exp(self.log_prob / max(self.tokens, 1))


class ChatModel:
    """A transformers image-text-to-text model with its processor."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        max_pixels: int | None = None,
    ) -> ChatModel:
        """Load a model and its processor.

        Args:
            source: folder, or name on the model hub.
            revision: of a hub source.
            max_pixels: limit to which the processor shrinks pictures, where it knows one.

        Raises:
            FileNotFoundError: the source looks like a path and does not exist.
            ValueError: the source is not understood, or its weights do not fit.
        """
        found = hub.find(source, default=None, revision=revision)
        if found.path is None:
            raise ValueError(f"A chat model is opened from a folder or the model hub, got {source}.")
        limits = {} if max_pixels is None else {"max_pixels": max_pixels}
        return cls(*load_model(found.path, dtype, limits)).to(device)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write model and processor as `from_pretrained` (and transformers' own classes) read them."""
        own = self.model.dtype
        if dtype is not None:
            self.model.to(dtype)
        with libraries.silent():
            self.model.save_pretrained(folder)
        self.model.to(own)
        weights.save_tokenizer(self.processor, folder)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> ChatModel:
        """Move the model; returns this object."""
        self.model.to(device=device or self.device, dtype=dtype or self.model.dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @torch.no_grad()
    def generate(
        self, dialogues: Sequence[Dialogue], sampling: Sampling | None = None, *, generators: Generators | None = None
    ) -> list[Reply]:
        """One reply to each dialogue.

        Args:
            dialogues: each ends with a turn of the user.
            sampling: how replies are drawn; None takes the most probable tokens.
            generators: one CPU generator per dialogue, see `vision.refine.items.item_generators`; needed when the
                temperature is above 0.

        Raises:
            ValueError: generators are missing or their number is wrong.
        """
        sampling = sampling or Sampling()
        if not dialogues:
            return []
        if sampling.temperature > 0 and (generators is None or len(generators) != len(dialogues)):
            raise ValueError(
                f"Sampling at temperature {sampling.temperature} needs one generator per dialogue ({len(dialogues)}), "
                f"got {0 if generators is None else len(generators)}."
            )
        if parts := _mixed(dialogues):
            replies: dict[int, Reply] = {}
            for part in parts:
                own = None if generators is None else [generators[i] for i in part]
                found = self.generate([dialogues[i] for i in part], sampling, generators=own)
                replies.update(zip(part, found, strict=True))
            return [replies[i] for i in range(len(dialogues))]
        from transformers import LogitsProcessorList

        inputs = self.encode(dialogues)
        draw = _Draw(sampling, generators, self._end_tokens(), len(dialogues))
        was_training = self.model.training
        self.model.eval()
        tokens = self.model.generate(
            **inputs,
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            logits_processor=LogitsProcessorList([draw]),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.model.train(was_training)
        texts = self.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [
            Reply(text, float(draw.log_probs[i]), int(draw.counts[i]), bool(draw.ended[i]))
            for i, text in enumerate(texts)
        ]

    def log_probs(self, dialogues: Sequence[Dialogue], replies: Sequence[str]) -> list[Tensor]:
        """Log-probabilities (tokens,) float32 of every token of each reply, the end of the turn included.

        Gradients flow unless the caller forbids them.
        """
        if len(dialogues) != len(replies):
            raise ValueError(f"Each dialogue needs one reply, got {len(dialogues)} and {len(replies)}.")
        if parts := _mixed(dialogues):
            found = [self.log_probs([dialogues[i] for i in part], [replies[i] for i in part]) for part in parts]
            places = [i for part in parts for i in part]
            return [row for _, row in sorted(zip(places, [row for rows in found for row in rows], strict=True))]
        inputs = self.encode(dialogues)
        end = self.tokenizer.eos_token_id
        tails = [[*self.guarded.tokens(text), end] for text in replies]
        longest = max(map(len, tails))
        tail = torch.tensor([ids + [self.tokenizer.pad_token_id] * (longest - len(ids)) for ids in tails])
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in tails])
        width = inputs["input_ids"].shape
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.shape == width:  # ids, attention mask, token types
                extra = {"input_ids": tail, "attention_mask": mask}.get(name, torch.zeros_like(tail))
                inputs[name] = torch.cat([value, extra.to(value)], 1)
        if "cross_attention_mask" in inputs:  # (batch, tokens, pictures, tiles): a reply sees what the last token sees
            seen = inputs["cross_attention_mask"]
            inputs["cross_attention_mask"] = torch.cat([seen, seen[:, -1:].expand(-1, longest, -1, -1)], 1)
        logits = self.model(**inputs).logits[:, -longest - 1 : -1].float()
        chosen = F.log_softmax(logits, -1).gather(-1, tail.to(logits.device)[..., None])[..., 0]
        return [row[: len(ids)] for row, ids in zip(chosen, tails, strict=True)]

    def encode(self, dialogues: Sequence[Dialogue], *, opened: bool = True) -> dict[str, Tensor]:
        """Inputs of the model, (batch, tokens) padded on the left.

        What a text says is never read as a special token.

        Args:
            opened: end with the opening of the model's own turn.

        Raises:
            ValueError: the processor refuses a dialogue or its pictures, or it is longer than the model's positions.
        """
        media: dict[str, Any] = {}
        if any(dialogue.images for dialogue in dialogues):
            media["images"] = [list(dialogue.images) for dialogue in dialogues]
        if any(dialogue.videos for dialogue in dialogues):
            media["videos"] = [list(video.frames) for dialogue in dialogues for video in dialogue.videos]
            media["do_sample_frames"] = False
        with libraries.library_errors("The processor of these weights does not take the dialogue"):
            texts = [
                self.guarded.apply_chat_template(dialogue.messages(), tokenize=False, add_generation_prompt=opened)
                for dialogue in dialogues
            ]
            inputs = self.guarded(text=texts, padding=True, padding_side="left", return_tensors="pt", **media)
        refuse_longer(int(inputs["attention_mask"].sum(1).max()), self.model, "A dialogue")
        return {name: _placed(value, self.model) for name, value in inputs.items()}

    @cached_property
    def guarded(self) -> Any:
        """The processor, which reads texts as texts; trainings take it as well."""
        return guard(self.processor)

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return getattr(self.processor, "tokenizer", self.processor)

    def _end_tokens(self) -> Tensor:
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        return torch.tensor(ends if isinstance(ends, list) else [ends])


class _Draw:
    """A logits processor that draws the next token of every item itself and leaves greedy search no other choice.

    Adding Gumbel noise and taking the largest is sampling; each item's noise comes from its own generator.
    """

    def __init__(
        self, sampling: Sampling, generators: Sequence[torch.Generator] | None, ends: Tensor, batch: int
    ) -> None:
        self.sampling, self.generators, self.ends = sampling, generators, ends
        self.log_probs, self.counts = torch.zeros(batch), torch.zeros(batch, dtype=torch.long)
        self.ended = torch.zeros(batch, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_probs = F.log_softmax(scores.float(), -1)
        chosen = self._choose(log_probs)
        gained = log_probs.gather(1, chosen[:, None])[:, 0].cpu()
        self.log_probs += torch.where(self.ended, 0.0, gained)
        self.counts += ~self.ended
        self.ended |= torch.isin(chosen.cpu(), self.ends)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _choose(self, log_probs: Tensor) -> Tensor:
        if self.sampling.temperature == 0:
            return log_probs.argmax(1)
        logits = log_probs / self.sampling.temperature
        if self.sampling.top_p < 1:
            ordered, places = logits.softmax(1).sort(1, descending=True)
            beyond = ordered.cumsum(1) - ordered >= self.sampling.top_p
            logits = logits.masked_fill(torch.zeros_like(beyond).scatter_(1, places, beyond), -torch.inf)
        noise = torch.zeros(logits.shape)
        for row, generator, ended in zip(noise, self.generators or (), self.ended.tolist(), strict=True):
            if not ended:
                row.exponential_(generator=generator).log_().neg_()
        return (logits + noise.to(logits.device)).argmax(1)


def load_model(folder: Path, dtype: torch.dtype, limits: dict[str, int] | None = None) -> tuple[Any, Any]:
    """Model and processor of a folder that transformers wrote; strict, from safetensors alone, without foreign code.

    Raises:
        ValueError: the folder is incomplete, or tensors are missing, unexpected or misshapen (the first is named).
    """
    from transformers import AutoModelForImageTextToText

    processor = load_processor(folder, limits)
    return weights.load_pretrained(AutoModelForImageTextToText, folder, dtype=dtype), processor


def load_processor(folder: Path, limits: dict[str, int] | None = None) -> Any:
    """The processor of a folder that transformers wrote.

    Args:
        limits: max_pixels, where pictures are to be shrunk.

    Raises:
        ValueError: the folder is incomplete, names a class that transformers does not know, or has no chat template.
    """
    from transformers import AutoProcessor

    try:
        processor = weights.load_tokenizer(AutoProcessor, folder, **(limits or {}))
    except ValueError as error:
        if "Qwen2_5_VLImageProcessor" not in str(error) and not _names(folder, "Qwen2_5_VLImageProcessor"):
            raise
        raise ValueError(
            f"{folder} names the image processor Qwen2_5_VLImageProcessor, which transformers no longer has; write "
            "Qwen2VLImageProcessor for it in preprocessor_config.json."
        ) from error
    tokenizer = getattr(processor, "tokenizer", processor)
    processor.chat_template = processor.chat_template or tokenizer.chat_template
    if processor.chat_template is None:
        raise ValueError(
            f"{folder} has no chat template (chat_template.jinja): it holds no model for dialogues; take the "
            "instruction-tuned weights of its family."
        )
    return processor


def _names(folder: Path, word: str) -> bool:
    """Whether a configuration of a processor names a class."""
    files = (folder / name for name in ("preprocessor_config.json", "processor_config.json"))
    return any(path.is_file() and word in path.read_text("utf-8", "replace") for path in files)


def refuse_longer(tokens: int, model: Any, what: str) -> None:
    """
    Args:
        what: has so many tokens, as the subject of the sentence.

    Raises:
        ValueError: they are more than the positions that the model knows.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise ValueError(
            f"{what} has {tokens} tokens, but the model has {limit} positions; leave it out, shrink its pictures "
            "(max_pixels), or take a model that reads more."
        )


def _mixed(dialogues: Sequence[Dialogue]) -> list[list[int]]:
    """Where some dialogues have pictures or films and others none: the places of either kind. Not every processor takes
    both at once."""
    with_media = [bool(dialogue.images or dialogue.videos) for dialogue in dialogues]
    if len(set(with_media)) < 2:
        return []
    return [[i for i, has in enumerate(with_media) if has is kind] for kind in (True, False)]


def _placed(value: Any, model: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
