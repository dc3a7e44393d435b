"""Repair a draft: refine it as a whole, or go on from its first bad step, and keep the best of them all.

Source: "GLoRe: When, Where, and How to Improve LLM Reasoning via Global and Local Refinements" (arXiv 2402.10963),
section 4: an outcome score says when, step scores say where, and the outcome score reranks draft, global and local.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vision.strategies.values import Candidate, Choice, Evaluator, best, score_of

Refiner = Callable[[Candidate], "Candidate | None"]
"""Another candidate out of the draft; None where there is nothing to refine."""


def first_bad(scores: Sequence[float], threshold: float = 0.5) -> int | None:
    """Place of the first step that scores below the threshold; None: every step is good."""
    return next((place for place, score in enumerate(scores) if score < threshold), None)


def from_first_bad(
    steps: Callable[[Candidate], Sequence[float]], go_on: Callable[[Candidate, int], Candidate], threshold: float = 0.5
) -> Refiner:
    """A local refiner: keeps the steps before the first bad one and makes the rest anew.

    Args:
        steps: scores of a candidate's steps.
        go_on: a candidate with the draft's steps before the given place, and new ones from there.
        threshold: see `first_bad`.
    """

    def refine(draft: Candidate) -> Candidate | None:
        place = first_bad(steps(draft), threshold)
        return None if place is None else go_on(draft, place)

    return refine


def refine_and_rerank(
    draft: Candidate, refiners: Sequence[Refiner], score: Evaluator, threshold: float | None = None
) -> Choice:
    """The best of a draft and its refinements; a refinement must be better than the draft, not equal.

    Args:
        refiners: the global and the local way.
        score: of candidates; what decides.
        threshold: a draft that scores at least this is left alone; None: it is always refined.
    """
    candidates, verdicts = [draft], [score(draft)]
    if threshold is None or not score_of(verdicts[0]) >= threshold:
        for refiner in refiners:
            made = refiner(draft)
            if made is not None:
                candidates.append(made)
                verdicts.append(score(made))
    chosen = best(verdicts)
    if chosen:
        gain = score_of(verdicts[chosen]) - score_of(verdicts[0])
        why = f"{candidates[chosen].origin} scores {gain:.4g} more than the draft"
    elif len(candidates) > 1:
        why = f"none of {len(candidates) - 1} refinements scores more than the draft"
    else:
        why = "the draft is good as it is"
    return Choice(draft.task, tuple(candidates), tuple(verdicts), chosen, why)
