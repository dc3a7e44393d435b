"""What schedulers and predictors remember between steps, taken out of the objects and into the state of a run."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from vision.refine import PerItem

Kept = dict[str, Any]
"""What is remembered of one item: a tree of tensors, numbers and lists, under names."""


class Remembering(Protocol):
    """Something that remembers between the steps of a run; the run keeps its memory in the state."""

    def recall(self, items: Tensor, memory: PerItem[Kept]) -> None:
        """Be as after the step in which `memory` was given, for these items (b,) int64 of the run alone."""
        ...

    def memory(self) -> PerItem[Kept]:
        """What the next step needs to know, item by item."""
        ...


def split_items(tree: Kept, batch: int) -> PerItem[Kept]:
    """One tree per item. Tensors (n * batch, ...) with two dimensions or more are divided, all else is shared."""

    def part(leaf: Any, item: int) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() < 2:
            return leaf
        return leaf.unflatten(0, (-1, batch))[:, item]

    return PerItem(tree_map(lambda leaf, i=item: part(leaf, i), tree) for item in range(batch))


def join_items(memory: PerItem[Kept]) -> Kept:
    """The inverse of `split_items`; its tensors are copies."""

    def joined(first: Any, *others: Any) -> Any:
        if not isinstance(first, Tensor) or first.dim() < 2:
            return first
        return torch.stack([first, *others], dim=1).flatten(0, 1)

    return tree_map(joined, *memory)


class SolverMemory:
    """A diffusers scheduler without memory of its own: what its steps write is put in before and taken out after.

    That is every attribute which is not as it was before the first step: predictions of earlier steps, counters.

    Args:
        scheduler: with its timesteps set, before its first step.
    """

    def __init__(self, scheduler: Any):
        self.scheduler, self.batch = scheduler, 0
        self.fresh = {name: _copied(value) for name, value in vars(scheduler).items()}

    def recall(self, items: Tensor, memory: PerItem[Kept]) -> None:
        """See `Remembering`; items (n,) int64."""
        self.batch = len(items)
        self._forget()
        vars(self.scheduler).update(join_items(memory))

    def memory(self) -> PerItem[Kept]:
        """See `Remembering`; the scheduler is then as it was before its first step."""
        changed = {
            name: value
            for name, value in vars(self.scheduler).items()
            if name not in self.fresh or not _same(value, self.fresh[name])
        }
        self._forget()
        return split_items(changed, self.batch)

    def _forget(self) -> None:
        attributes = vars(self.scheduler)
        attributes.clear()
        attributes.update({name: _copied(value) for name, value in self.fresh.items()})


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _same(value: Any, before: Any) -> bool:
    """Whether it is the very value, or a list of the very same."""
    if isinstance(value, list) and isinstance(before, list):
        return len(value) == len(before) and all(map(_same, value, before))
    return value is before
