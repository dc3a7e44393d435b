"""Propose and verify in turns until a verification says yes, or until one more candidate is worth too little.

Source: "Boosting LLM Reasoning via Spontaneous Self-Correction" (SPOC, arXiv 2506.06923), section 3: solution and
verification alternate in one run, which ends with the first verification that says correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Any

from vision.refine import Step, Verdict, refine
from vision.strategies.values import Candidate, Choice, best, score_of

History = tuple[tuple[Candidate, Verdict], ...]
"""What was proposed and what the verifications said, in order."""
Enough = Callable[[Sequence[Verdict]], "int | None"]
"""Place of the candidate to end with, or None: go on."""


def says_yes(threshold: float = 0.5) -> Enough:
    """End with a candidate as soon as its verification scores above the threshold."""

    def enough(verdicts: Sequence[Verdict]) -> int | None:
        return len(verdicts) - 1 if score_of(verdicts[-1]) > threshold else None

    return enough


def gains_little(least: float, at_least: int = 2) -> Enough:
    """End with the best candidate as soon as one more is expected to score less than `least` above it.

    Args:
        least: in units of the score, above 0.
        at_least: candidates that are looked at in any case, 2 or more.
    """
    if at_least < 2:
        raise ValueError(f"A candidate is compared with others; at_least must be 2 or more, got {at_least}.")
    if not least > 0:
        raise ValueError(f"least must be above 0, got {least}.")

    def enough(verdicts: Sequence[Verdict]) -> int | None:
        if len(verdicts) < at_least or expected_gain([score_of(verdict) for verdict in verdicts]) >= least:
            return None
        return best(verdicts)

    return enough


def expected_gain(scores: Sequence[float]) -> float:
    """By how much one more candidate is expected to beat the best of two or more: the next score is a draw from the
    normal distribution that the scores so far speak for, and one that is no better adds nothing."""
    spread = stdev(scores) * math.sqrt(1 + 1 / len(scores))
    if spread == 0:
        return 0.0
    ahead, normal = (max(scores) - fmean(scores)) / spread, NormalDist()
    return spread * (normal.pdf(ahead) - ahead * normal.cdf(-ahead))


def verified(turns: int, ended: bool) -> str:
    """The reason of a run that ends when a verification says yes."""
    return f"{'verified after' if ended else 'not verified in'} {turns} turn{'s' if turns > 1 else ''}"


def interleave(
    propose: Callable[[History, int], Candidate],
    verify: Callable[[Candidate], Verdict],
    max_turns: int,
    *,
    enough: Enough | None = None,
    otherwise: Callable[[Sequence[Verdict]], int] = lambda verdicts: len(verdicts) - 1,
    why: Callable[[int, bool], str] = verified,
) -> Choice:
    """Turns of a proposer and a verifier.

    Args:
        propose: a candidate, from all that was said before and the number of the turn.
        verify: its verification.
        max_turns: at most so many candidates.
        enough: when to end; None: with the first verification that scores above 0.5.
        otherwise: what is kept when the turns run out: the last, as in the paper, or `values.best`.
        why: the reason for people, from the number of turns and whether `enough` ended them.

    Raises:
        ValueError: there is no turn.
    """
    if max_turns < 1:
        raise ValueError(f"There must be at least 1 turn, got {max_turns}.")
    satisfied = enough or says_yes()

    def turn(history: History, number: int) -> History:
        made = propose(history, number)
        return (*history, (made, verify(made)))

    def stop(step: Step[History, Any]) -> bool:
        return satisfied([verdict for _, verdict in step.state]) is not None

    history: History = refine((), turn, range(max_turns), stop=stop).state
    candidates, verdicts = zip(*history, strict=True)
    place = satisfied(verdicts)
    chosen = otherwise(verdicts) if place is None else place
    return Choice(candidates[0].task, candidates, verdicts, chosen, why(len(history), place is not None))
