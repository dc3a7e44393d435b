"""HeadJudge: a model with a scalar head on its last token, the reward of an answer; the usual form of reward models.

An answer that is a text is the model's own turn after the question; one that is a picture stands beside the question.
The chance that one answer beats another is the logistic function of the difference of their rewards (Bradley-Terry).

Heads are read from `value_head.safetensors` beside the weights, as TRL and LLaMA-Factory write it (`v_head.summary`;
Skywork-VL-Reward), a weight (1, width) and a bias (1,), or a bare `score.weight`. Source: the card of
Skywork-VL-Reward-7B (arXiv 2505.07263): last hidden state of the last token of the whole dialogue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reward_vlm.dialogue import Dialogue, Part
from reward_vlm.judges import Judged, Query, rated
from reward_vlm.r1.options import R1Options
from reward_vlm.vlm import ChatModel
from vision import hub
from vision.files import atomic_path

HEAD = "value_head.safetensors"
"""File of the head, beside the weights of the model."""


@dataclass(frozen=True)
class HeadJudge:
    """A vision-language model with a scalar head."""

    chat: ChatModel
    """The model."""
    weight: Tensor
    """(width,) float32 of the head."""
    bias: float = 0.0
    """Of the head; it changes no comparison."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> HeadJudge:
        """Load model and head.

        Args:
            source: folder, or name on the model hub.
            revision: of a hub source.

        Raises:
            FileNotFoundError: the source looks like a path and does not exist.
            ValueError: there is no head, or it does not fit the model.
        """
        found = hub.find(source, default=None, revision=revision)
        if found.path is None or not (found.path / HEAD).exists():
            raise ValueError(f"{source} has no {HEAD}, the head of a reward model.")
        weight, bias = read_head(found.path / HEAD)
        chat = ChatModel.from_pretrained(found.path, device=device, dtype=dtype)
        width = chat.model.config.get_text_config().hidden_size
        if weight.shape != (width,):
            raise ValueError(
                f"The head in {found.path / HEAD} reads {weight.numel()} numbers, the model gives {width}."
            )
        return cls(chat, weight.to(device), bias)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and head as `from_pretrained` reads them."""
        self.chat.save_pretrained(folder)
        tensors = {"v_head.summary.weight": self.weight[None].cpu(), "v_head.summary.bias": torch.tensor([self.bias])}
        with atomic_path(Path(folder) / HEAD) as part:
            save_file(tensors, part)

    def batch(self, queries: Sequence[Query], options: R1Options | None = None) -> list[Judged]:
        """Rewards of all answers (`ratings`), and the chances that they beat the others. Orders mean nothing here.

        Raises:
            ValueError: votes, temperatures or a knockout are asked for.
        """
        options = options or R1Options()
        if options.votes > 1 or options.temperature or options.tournament == "knockout":
            raise ValueError("A scalar head gives one number per answer; leave out votes, temperature and tournament.")
        shown = [self.ask(query, answer) for query in queries for answer in query.answers]
        rewards: list[float] = []
        for start in range(0, len(shown), options.batch_size):
            rewards += self.rewards(shown[start : start + options.batch_size]).tolist()
        numbers = iter(rewards)
        return [rated([next(numbers) for _ in query.answers], logistic) for query in queries]

    def ask(self, query: Query, answer: Part) -> Dialogue:
        """The dialogue whose end is rewarded."""
        if isinstance(answer, str):
            return Dialogue().user(*query.media, query.question).assistant(answer)
        return Dialogue().user(*query.media, answer, query.question)

    @torch.no_grad()
    def rewards(self, dialogues: Sequence[Dialogue]) -> Tensor:
        """(batch,) float32 rewards of whole dialogues."""
        opened = [dialogue.turns[-1].role == "user" for dialogue in dialogues]
        found = torch.empty(len(dialogues))
        for kind in set(opened):
            places = [place for place, each in enumerate(opened) if each is kind]
            inputs = self.chat.encode([dialogues[place] for place in places], opened=kind)
            hidden = self.chat.model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[-1][:, -1]
            found[places] = (hidden.float() @ self.weight.to(hidden.device) + self.bias).cpu()
        return found


def logistic(one: float, other: float) -> float:
    """The chance that an answer of the first reward is better than one of the second."""
    return 0.5 + 0.5 * math.tanh((one - other) / 2)


def read_head(path: Path) -> tuple[Tensor, float]:
    """Weight (width,) float32 and bias of a scalar head.

    Raises:
        ValueError: the file cannot be read, or holds anything but one row of weights and at most a bias.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}).") from error
    weights = [tensor for name, tensor in tensors.items() if name.endswith("weight")]
    biases = [tensor for name, tensor in tensors.items() if name.endswith("bias")]
    fits = len(weights) == 1 and len(biases) <= 1 and len(tensors) == len(weights) + len(biases)
    if not fits or weights[0].ndim != 2 or weights[0].shape[0] != 1 or any(bias.numel() != 1 for bias in biases):
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{path} must hold one weight (1, width) and at most a bias (1,), got {shapes}.")
    return weights[0][0].float(), float(biases[0]) if biases else 0.0
