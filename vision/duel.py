"""A duel between one who plants faults and one who finds them.

Source: "SPC: Evolving Self-Play Critic via Adversarial Games for LLM Reasoning" (arXiv 2504.19162), section 3: a fault
counts only when it really makes things worse; who wins earns 1, who loses -1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vision.strategies.values import Candidate


@dataclass(frozen=True)
class Bout:
    """One fault, and whether it was found."""

    task: str
    """What it was planted in."""
    planted: Candidate
    """The faulty thing."""
    says: Any
    """What the critic said of it."""
    found: bool
    """Whether that was right."""
    round: int
    """In which round."""

    @property
    def rewards(self) -> tuple[float, float]:
        """Of the sneaky side and of the critic."""
        return payoff(self.found)


@dataclass(frozen=True)
class Duel:
    """All bouts, and how many faults were none."""

    bouts: tuple[Bout, ...]
    """Those whose fault was a real one, in order."""
    invalid: int
    """Planted things that were no worse; they are dropped and reward nobody."""

    def found(self, round: int) -> float:
        """Share of the faults of a round that the critic found.

        Raises:
            ValueError: no fault of that round was valid.
        """
        marks = [bout.found for bout in self.bouts if bout.round == round]
        if not marks:
            raise ValueError(f"Round {round} has no valid fault.")
        return sum(marks) / len(marks)


def payoff(found: bool) -> tuple[float, float]:
    """Rewards of the sneaky side and of the critic: (-1, 1) when the fault was found, else (1, -1)."""
    return (-1.0, 1.0) if found else (1.0, -1.0)


def duel(
    tasks: Sequence[str],
    sneaky: Callable[[str, int], Candidate],
    critic: Callable[[Candidate], Any],
    valid: Callable[[str, Candidate], bool],
    right: Callable[[Candidate, Any], bool],
    rounds: int = 1,
    learn: Callable[[Sequence[Bout]], None] | None = None,
) -> Duel:
    """Play rounds over tasks.

    Args:
        sneaky: plants a fault in a task, in a round; its candidate's value tells kind, strength and place.
        critic: what is wrong with a candidate.
        valid: whether the planted thing is really worse, by the truth.
        right: whether what the critic said names the fault.
        rounds: both sides may learn between them.
        learn: called with the bouts of each round; trains the sides that `sneaky` and `critic` ask.

    Raises:
        ValueError: there is no round.
    """
    if rounds < 1:
        raise ValueError(f"A duel has at least 1 round, got {rounds}.")
    bouts: list[Bout] = []
    invalid = 0
    for number in range(rounds):
        fresh = []
        for task in tasks:
            planted = sneaky(task, number)
            if not valid(task, planted):
                invalid += 1
                continue
            says = critic(planted)
            fresh.append(Bout(task, planted, says, right(planted, says), number))
        bouts += fresh
        if learn is not None:
            learn(fresh)
    return Duel(tuple(bouts), invalid)
