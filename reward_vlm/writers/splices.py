"""Join an attempt that went wrong with one that went well, so that a model learns to turn back.

Source: "Agent-R: Training Language Model Agents to Reflect via Iterative Self-Training" (arXiv 2501.11425), section
3.2, and its published code. The bad path is kept up to the first action that the actor itself calls bad; a thought of
turning back and the good path from where the two differ follow, and these alone are learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

Mark = Literal["good", "uncertain", "bad"]
REVISIONS = (
    "That step leads away from the goal. I go back and choose another.",
    "My last step was a mistake; I try a different one.",
    "This does not bring me closer. I undo it and think again.",
    "I see now that this was wrong. A better step is needed here.",
    "Something is off with what I just did, so I change course.",
    "I should not go on like this. Back to where it was still right.",
)
"""Thoughts of turning back."""
GO_ON = "ok."
"""What the environment says to such a thought."""


@dataclass(frozen=True)
class Attempt:
    """A node of a tree of attempts; the root is the task."""

    action: str
    """What was done; the root's is the task itself."""
    observation: str = ""
    """What the environment said to it."""
    value: float = 0.0
    """Sum of the final scores of the runs through this node."""
    visits: int = 1
    """How many runs these were."""
    children: tuple[Attempt, ...] = ()
    """What was done next, in different runs."""
    ended: bool = True
    """Whether the run came to its end here, if nothing was done next."""


Path = tuple[Attempt, ...]
"""From the root to a leaf."""


@dataclass(frozen=True)
class Message:
    """A turn of a spliced run."""

    role: Literal["user", "assistant"]
    """Who speaks."""
    text: str
    """What is said."""
    trained: bool
    """Whether it is learnt; the words of the user never are."""


def leaves(root: Attempt) -> Iterator[Path]:
    """The paths of a tree that came to their end, in order."""
    if not root.children and root.ended:
        yield (root,)
    for child in root.children:
        for path in leaves(child):
            yield (root, *path)


def worth_splicing(root: Attempt, alpha: float, beta: float) -> list[tuple[Path, Path]]:
    """Pairs (good, bad) of paths: the good leaf's mean value is above the bad one's by more than `beta`, and its summed
    value above `alpha` (summed, as in the published code)."""
    paths = list(leaves(root))
    return [
        (good, bad)
        for good, bad in permutations(paths, 2)
        if _mean(good) - _mean(bad) > beta and good[-1].value > alpha
    ]


def until_bad(path: Path, judge: Callable[[Path], Mark]) -> Path:
    """The path up to and including the first action that the judge calls bad; the whole of it when none is.

    Args:
        judge: what it says of the last action of a beginning of the path.
    """
    for end in range(2, len(path) + 1):
        if judge(path[:end]) == "bad":
            return path[:end]
    return path


def splice(bad: Path, good: Path, judge: Callable[[Path], Mark], revision: str = REVISIONS[0]) -> list[Message]:
    """The spliced run: the bad path until it is seen to be bad, a thought of turning back, the good path from where it
    differs.

    Args:
        bad: from the same root as `good`.
        judge: see `until_bad`.
        revision: the thought; draw one of `REVISIONS`.

    Raises:
        ValueError: the paths have different roots, or nothing of the good path is left.
    """
    if bad[0].action != good[0].action:
        raise ValueError("A splice joins two attempts at one task; these have different roots.")
    kept = until_bad(bad, judge)
    pairs = zip(kept, good, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a.action != b.action), min(len(kept), len(good)))
    if shared == len(good):
        raise ValueError("The good attempt lies on the bad one; there is nothing to turn back to.")
    thought = [Message("assistant", revision, True), Message("user", GO_ON, False)]
    return [Message("user", good[0].action, False), *_turns(kept[1:], False), *thought, *_turns(good[shared:], True)]


def whole(path: Path) -> list[Message]:
    """A good attempt as it is, all of its actions learnt."""
    return [Message("user", path[0].action, False), *_turns(path[1:], True)]


def _turns(nodes: Sequence[Attempt], trained: bool) -> Iterator[Message]:
    for node in nodes:
        yield Message("assistant", node.action, trained)
        yield Message("user", node.observation, False)


def _mean(path: Path) -> float:
    return path[-1].value / path[-1].visits if path[-1].visits else 0.0
