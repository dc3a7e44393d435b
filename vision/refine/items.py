"""Batch items of nested states: select, merge, copy; and one random generator per item.

A state is a tree of tensors (batch in dimension 0), dataclasses, dicts, lists and tuples, and `PerItem` lists that
hold one Python object per item. What belongs to an item lives in the state; what is shared lives in the move's
closure. Strings, numbers and None are leaves that every item shares: they are taken from the newer tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Tree = TypeVar("Tree")


class PerItem(list[T]):
    """One Python object per batch item."""


def item_generators(seed: int, batch: int) -> PerItem[torch.Generator]:
    """CPU generators of a batch: item i is seeded `seed + i`, so its draws do not depend on its batch.

    With one item this is `torch.Generator().manual_seed(seed)`; diffusers' `randn_tensor` accepts the list as it is.
    """
    return PerItem(torch.Generator().manual_seed(seed + i) for i in range(batch))


def clone_items(tree: Tree) -> Tree:
    """A true copy: tensors are detached and cloned, generators copied with their place in the sequence."""
    return _map(_clone, tree)


def take_items(tree: Tree, indices: Tensor) -> Tree:
    """The items at `indices` (n,) int64."""
    positions = indices.tolist()

    def take(leaf: Any) -> Any:
        if isinstance(leaf, PerItem):
            return PerItem(leaf[i] for i in positions)
        return leaf[indices.to(leaf.device)] if isinstance(leaf, Tensor) else leaf

    return _map(take, tree)


def put_items(tree: Tree, indices: Tensor, part: Tree) -> Tree:
    """A copy of `tree` whose items at `indices` (n,) int64 are those of `part`."""
    positions = indices.tolist()

    def put(old: Any, new: Any) -> Any:
        if isinstance(old, PerItem):
            merged = PerItem(old)
            for position, item in zip(positions, new, strict=True):
                merged[position] = item
            return merged
        return old.index_copy(0, indices.to(old.device), new) if isinstance(old, Tensor) else new

    return _map(put, tree, part)


def where_items(mask: Tensor, new: Tree, old: Tree) -> Tree:
    """Items of `new` where the (batch,) bool mask is true, of `old` elsewhere; tensors without a device sync."""

    def where(fresh: Any, stale: Any) -> Any:
        if isinstance(fresh, PerItem):
            return PerItem(a if use else b for use, a, b in zip(mask.tolist(), fresh, stale, strict=True))
        if isinstance(fresh, Tensor):
            if fresh is stale:
                return fresh
            shape = (-1, *[1] * (_batched(fresh).dim() - 1))
            return torch.where(mask.to(fresh.device).view(shape), fresh, stale)
        return fresh

    return _map(where, new, old)


def _batched(leaf: Tensor) -> Tensor:
    if leaf.dim() == 0:
        raise ValueError(
            "A tensor without dimensions is in the state; give it the batch in dimension 0 or keep it outside."
        )
    return leaf


def _clone(leaf: Any) -> Any:
    if isinstance(leaf, PerItem):
        return PerItem(clone_items(item) for item in leaf)
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    if isinstance(leaf, torch.Generator):
        copy = torch.Generator(leaf.device)
        copy.set_state(leaf.get_state())
        return copy
    return leaf


def _map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply to the leaves (tensors, `PerItem` lists, everything that is no container) of trees of the same shape."""
    if isinstance(tree, (Tensor, PerItem)):
        return function(tree, *others)
    if is_dataclass(tree) and not isinstance(tree, type):
        values = {
            field.name: _map(function, getattr(tree, field.name), *[getattr(other, field.name) for other in others])
            for field in fields(tree)
        }
        return type(tree)(**values)
    if isinstance(tree, dict):
        return {key: _map(function, value, *[other[key] for other in others]) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        mapped = _map_sequence(function, tree, others)
        return type(tree)(*mapped) if hasattr(tree, "_fields") else type(tree)(mapped)
    return function(tree, *others)


def _map_sequence(function: Callable[..., Any], tree: Sequence[Any], others: Sequence[Sequence[Any]]) -> list[Any]:
    lengths = {len(tree), *map(len, others)}
    if len(lengths) > 1:
        raise ValueError(
            f"States to be merged hold sequences of different lengths {sorted(lengths)}; use PerItem for them."
        )
    return [_map(function, *parts) for parts in zip(tree, *others, strict=True)]
