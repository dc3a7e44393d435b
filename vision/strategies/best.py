"""The best of several results, and learning to make it at once.

Source: "Self-Improvement in Language Models: The Sharpening Mechanism" (arXiv 2412.01951), sections 2 and 3: the
model's own score picks the best of N samples, and supervised training on the picks sharpens the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from vision.refine import Step, refine
from vision.strategies.values import Candidate, Choice, Evaluator, best, score_of

T = TypeVar("T")


def best_of(make: Callable[[int], T], better: Callable[[T, T], bool], seeds: Iterable[int]) -> T:
    """The best of the results that `make` gives for the seeds, by a judge of pairs; each meets the best so far.

    Args:
        make: a result from a seed.
        better: whether its first argument is better than its second.
        seeds: at least one.

    Raises:
        ValueError: there are no seeds.
    """
    schedule = list(seeds)
    if not schedule:
        raise ValueError("The best of no seeds does not exist; give at least one.")

    def accept(step: Step[Any, int]) -> T:
        return step.candidate if better(step.candidate, step.state) else step.state

    return refine(make(schedule[0]), lambda _, seed: make(seed), schedule[1:], accept=accept).state


def best_of_n(make: Callable[[int], Candidate], score: Evaluator, seeds: Iterable[int]) -> Choice:
    """The candidate with the highest score among those of the seeds; of equal ones the first.

    Raises:
        ValueError: there are no seeds.
    """
    candidates = tuple(make(seed) for seed in seeds)
    verdicts = tuple(score(candidate) for candidate in candidates)
    chosen = best(verdicts)
    return Choice(candidates[chosen].task, candidates, verdicts, chosen, f"best of {len(candidates)}")


def found_by(chance: float, n: int) -> float:
    """Probability that n samples hold a result that one sample is with this probability: 1 - (1 - p)^n."""
    return 1 - (1 - chance) ** n


def sharpened(chances: Sequence[float], beta: float) -> list[float]:
    """The distribution that maximises the expected log-probability under `chances` minus beta times the divergence
    from it: chances to the power 1 + 1 / beta, normalised (section 3.2).

    Raises:
        ValueError: beta is not positive, or the chances are not.
    """
    if beta <= 0 or min(chances, default=0.0) < 0 or not sum(chances) > 0:
        raise ValueError("Sharpening needs beta > 0 and chances >= 0 that do not all vanish.")
    largest = max(chances)
    powers = [(chance / largest) ** (1 + 1 / beta) for chance in chances]
    return [power / sum(powers) for power in powers]


def distil(choices: Iterable[Choice], margin: float = 0.0) -> list[Candidate]:
    """What supervised training on the best of N learns from: the kept candidate of every choice that was one.

    Args:
        margin: a choice counts only where the kept candidate scores more than the mean of all by so much; equal
            candidates teach nothing.
    """
    rows = []
    for choice in choices:
        scores = [score_of(verdict) for verdict in choice.verdicts]
        if len(scores) > 1 and scores[choice.chosen] - sum(scores) / len(scores) > margin:
            rows.append(choice.kept)
    return rows
