"""A chat model on vLLM, for large judges; needs the package vllm and its GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reward_vlm.dialogue import Dialogue, Turn, Video
from reward_vlm.guard import guard
from reward_vlm.vlm import Generators, Reply, Sampling, load_processor


class VLLMChat:
    """`ChatModel.generate` on vLLM. Items draw from vLLM's own seeded samplers, one seed per item.

    The engine gets tokens, in which no text stands for a special one; films are shown as their frames.
    """

    def __init__(self, engine: Any, processor: Any):
        self.engine, self.processor = engine, guard(processor)

    @classmethod
    def from_folder(cls, folder: Path, dtype: torch.dtype, max_pixels: int | None = None) -> VLLMChat:
        """Start an engine on the weights of a folder.

        Raises:
            ValueError: vllm is not installed, or the folder has no processor for dialogues.
        """
        try:
            from vllm import LLM
        except ImportError:
            raise ValueError("The engine vllm needs the package vllm (pip install vllm) and a GPU.") from None
        limits = {} if max_pixels is None else {"max_pixels": max_pixels}
        processor = load_processor(folder, limits)
        kind = str(dtype).removeprefix("torch.")
        return cls(LLM(model=str(folder), dtype=kind, mm_processor_kwargs=limits or None), processor)

    def generate(
        self, dialogues: Sequence[Dialogue], sampling: Sampling | None = None, *, generators: Generators | None = None
    ) -> list[Reply]:
        """One reply per dialogue; the arguments are those of `ChatModel.generate`."""
        from vllm import SamplingParams

        sampling = sampling or Sampling()
        parameters = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=None if generators is None else generators[i].initial_seed(),
                logprobs=0,
            )
            for i in range(len(dialogues))
        ]
        outputs = self.engine.generate([self._prompt(each) for each in dialogues], parameters, use_tqdm=False)
        first = [output.outputs[0] for output in outputs]
        return [
            Reply(said.text, float(said.cumulative_logprob or 0.0), len(said.token_ids), said.finish_reason == "stop")
            for said in first
        ]

    def _prompt(self, dialogue: Dialogue) -> dict[str, Any]:
        """A prompt as vLLM takes it: one token for each picture, for which it makes room itself."""
        shown = Dialogue(
            tuple(
                Turn(turn.role, tuple(each for part in turn.parts for each in _frames(part))) for turn in dialogue.turns
            )
        )
        prompt: dict[str, Any] = {"prompt_token_ids": self.processor.prompt(shown.messages())}
        return prompt | ({"multi_modal_data": {"image": list(shown.images)}} if shown.images else {})


def _frames(part: Any) -> tuple[Any, ...]:
    return part.frames if isinstance(part, Video) else (part,)
