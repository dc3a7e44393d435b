"""Whether a result needs refining at all, and how good such a gate is.

Source: "Proactive Agent: Shifting LLM Agents from Reactive Responses to Active Assistance" (arXiv 2410.12361): doing
nothing is an action that can be right, and the figures count missed needs as well as false alarms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vision.strategies.selector import StrategySelector

NONE = "none"
"""The action that leaves a thing as it is."""
_EPSILON = 1e-8


def need(facts: Mapping[str, float], gate: StrategySelector, doubt: float = 0.5) -> str:
    """What a thing needs: "none" when the gate is sure enough that it is good as it is, else the likeliest action.

    Args:
        facts: numbers about it.
        gate: learnt from tasks whose right action is known, "none" among them ("none", "enlarge", "restore").
        doubt: smallest probability of "none" that is believed, in (0, 1]; see `believe_none`.

    Raises:
        ValueError: the gate never learnt when to do nothing.
    """
    if NONE not in gate.strategies:
        raise ValueError(f"The gate knows {', '.join(gate.strategies)} but not {NONE}; it cannot leave a thing alone.")
    chances = gate.chances(facts)
    if chances[NONE] >= doubt:
        return NONE
    return max((name for name in gate.strategies if name != NONE), key=chances.__getitem__, default=NONE)


def believe_none(chances: Sequence[float], needed: Sequence[bool], missed: float = 0.1) -> float:
    """The smallest `doubt` with which `need` misses at most a share of the needs, on things whose need is known.

    Args:
        chances: probability of "none" of each thing.
        needed: whether it needs something.
        missed: largest share of the needy that may be left alone.

    Raises:
        ValueError: nothing is needy, so that nothing can be said.
    """
    needy = sorted((chance for chance, wanted in zip(chances, needed, strict=True) if wanted), reverse=True)
    if not needy:
        raise ValueError("No thing needs anything; a gate is set on needy and good ones.")
    place = int(missed * len(needy))
    if place >= len(needy):
        return min(needy)
    return min(1.0, needy[place] + 1e-6)


@dataclass(frozen=True)
class GateMetrics:
    """How a gate did; shares in [0, 1]. A proposal is positive, an accepted one true."""

    recall: float
    """Accepted proposals among the needs that there were."""
    precision: float
    """Accepted proposals among the proposals."""
    accuracy: float
    """Right decisions among all."""
    false_alarm: float
    """Rejected proposals among the proposals: 1 - precision, not a rate over what needs nothing."""
    f1: float
    """Harmonic mean of precision and recall."""
    accept_rate: float
    """Accepted among the proposals."""


def gate_metrics(predictions: Iterable[Any], accepted: Iterable[bool]) -> GateMetrics:
    """Figures of a gate as the published evaluation has them, with 1e-8 added to every denominator.

    Args:
        predictions: what was proposed for each thing; None: nothing.
        accepted: whether that was right: a proposal wanted, or nothing needed.
    """
    counts = {(proposed, right): 0 for proposed in (True, False) for right in (True, False)}
    for prediction, right in zip(predictions, accepted, strict=True):
        counts[prediction is not None, bool(right)] += 1
    hits, alarms = counts[True, True], counts[True, False]
    rests, misses = counts[False, True], counts[False, False]
    recall = hits / (hits + misses + _EPSILON)
    precision = hits / (hits + alarms + _EPSILON)
    return GateMetrics(
        recall,
        precision,
        (hits + rests) / (hits + alarms + rests + misses + _EPSILON),
        alarms / (hits + alarms + _EPSILON),
        2 * precision * recall / (precision + recall + _EPSILON),
        hits / (hits + alarms + _EPSILON),
    )
