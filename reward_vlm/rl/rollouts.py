"""More rollouts than are kept, help where every try fails, and rewards by span: additions to TRL's GRPOTrainer.

What is drawn is chosen before log-probabilities are computed, so that what is left out costs its drawing alone. Works
with every way that TRL draws (transformers, vLLM) and with several processes.

Difference from the papers: help is an expert's reply that the policy ends (EGSR prompts it to reformulate the reply,
which small models cannot follow). A part of the reply is no help: what the policy makes of the rest can end on the
right answer by chance, and its own faults are praised then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from trl import GRPOTrainer

from reward_vlm.rl.curriculum import guided
from reward_vlm.rl.selectors import downsample


class Judged(Protocol):
    """What a rollout earned; as `reward_vlm.r1.rewards.Parts`."""

    @property
    def format(self) -> float: ...
    @property
    def result(self) -> float: ...
    @property
    def consistency(self) -> float: ...


Judge = Callable[[Sequence[Any], Sequence[Sequence[str]]], "list[Any]"]
"""`Judged` of each completion, from the completions and the accepted answers."""


class SelectedRollouts(GRPOTrainer):
    """GRPOTrainer that chooses among what it draws.

    `args.oversample` times as many rollouts are drawn as are kept; rows with a text in the column `guide` get help.
    """

    judge: Judge
    """Set after construction."""
    _rows: Sequence[dict[str, Any]] = ()
    _beginnings: list[list[int]] | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = inputs
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        if not self.model.training:
            return super()._generate(prompts)
        drawn = self._oversampled(prompts) if self.args.oversample > 1 else super()._generate(prompts)
        return self._helped(prompts, drawn) if "guide" in self._rows[0] else drawn

    def _oversampled(self, prompts: list[Any]) -> tuple[Any, ...]:
        """The best formed of the right rollouts, and some of the wrong ones, of every prompt."""
        size, factor = self._group(prompts), self.args.oversample
        repeated = [i for first in range(0, len(prompts), size) for i in [*range(first, first + size)] * factor]
        self.num_generations *= factor
        try:
            drawn = super()._generate([prompts[i] for i in repeated])
        finally:
            self.num_generations //= factor
        parts = self.judge(drawn[3], [self._rows[i]["answer"] for i in repeated])
        kept = []
        for first in range(0, len(repeated), size * factor):
            group = parts[first : first + size * factor]
            penalties = [1 - part.format + (part.consistency < 0) for part in group]
            kept += [first + place for place in downsample([part.result for part in group], penalties, size)]
        self._metrics["train"]["oversampled/result"].append(sum(part.result for part in parts) / len(parts))
        return _taken(drawn, kept)

    def _helped(self, prompts: list[Any], drawn: tuple[Any, ...]) -> tuple[Any, ...]:
        """Rollouts in which groups that all fail got one that was begun by an expert."""
        size = self._group(prompts)
        answers = [row["answer"] for row in self._rows]
        earned = [part.result for part in self.judge(drawn[3], answers)]
        firsts = range(0, len(prompts), size)
        failed = [i for i in firsts if not any(earned[i : i + size]) and self._rows[i]["guide"][0]]
        count = torch.tensor([len(failed)], device=self.accelerator.device)
        most = int(self.accelerator.gather(count).max())
        self._metrics["train"]["guided"].append(float(count) / max(len(firsts), 1))
        if most == 0:
            return drawn
        asked = (failed + [0] * most)[:most]  # all processes draw equally often, or they would wait for each other
        ended = self._ended([prompts[i] for i in asked], [self._rows[i]["guide"][0] for i in asked])
        parts = self.judge(ended[3], [answers[i] for i in asked])
        self.judge(drawn[3], answers)  # known again, for the rewards

        def teacher(group: int) -> list[tuple[int, float]]:
            if group * size not in failed:
                return []
            row = failed.index(group * size)
            return [(row, parts[row].result)]

        rows, _, helped = guided(earned, list(range(len(prompts))), teacher, size)
        for place in helped:
            for column, values in zip(drawn, ended, strict=True):
                if isinstance(column, list) and isinstance(values, list) and len(values) == most:
                    column[place] = values[rows[place]]
        return drawn

    def _ended(self, prompts: list[Any], guides: Sequence[str]) -> tuple[Any, ...]:
        """The guides as the policy ends them; TRL's columns."""
        samples, self.num_generations = self.num_generations, 1
        self._beginnings = [self._tokenizer(guide, add_special_tokens=False)["input_ids"] for guide in guides]
        try:
            return super()._generate(prompts)
        finally:
            self.num_generations, self._beginnings = samples, None

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: dict[str, Any], *rest: Any, **named: Any
    ) -> Any:
        begun = self._beginnings
        if begun is None:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *rest, **named)
        longer = [[*ids, *start] for ids, start in zip(prompt_ids, begun, strict=True)]
        fields = {
            name: [[*row, *[0] * len(start)] for row, start in zip(value, begun, strict=True)]
            if isinstance(value, list) and value and isinstance(value[0], list)
            else value
            for name, value in multimodal_fields.items()
        }  # per-token fields: the beginning is text
        said, log_probs = super()._generate_single_turn(longer, images, fields, *rest, **named)
        if log_probs is not None:  # the beginning was not drawn
            log_probs = [[None] * len(start) + list(row) for start, row in zip(begun, log_probs, strict=True)]
        return [[*start, *row] for start, row in zip(begun, said, strict=True)], log_probs

    def _group(self, prompts: list[Any]) -> int:
        """Rollouts per prompt; the local ones must be whole groups."""
        if len(prompts) % self.num_generations:
            raise ValueError(
                f"A process draws {len(prompts)} rollouts at once, which are no whole groups of "
                f"{self.num_generations}; make batch_size times rollout_updates a multiple of samples."
            )
        return self.num_generations


def _taken(drawn: tuple[Any, ...], places: Sequence[int]) -> tuple[Any, ...]:
    """TRL's columns of rollouts (lists, dictionaries of lists, None) at some places."""

    def take(column: Any) -> Any:
        if isinstance(column, dict):
            return {name: take(value) for name, value in column.items()}
        return [column[place] for place in places] if isinstance(column, list) and column else column

    return tuple(take(column) for column in drawn)
