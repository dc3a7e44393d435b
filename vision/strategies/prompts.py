"""Search for better prompts by mutation, with more credit for tasks that few prompts solve.

Source: "Prompt Alchemy: Automatic Prompt Refinement for Enhancing Code Generation" (Prochemy, arXiv 2503.11085) and its
published code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vision.refine import Step, refine

Weighting = Literal["inverse_success", "share"]


def prompt_scores(passed: Sequence[Sequence[bool]], weighting: Weighting = "inverse_success") -> list[float]:
    """The score of each prompt.

    Args:
        passed: (prompts, tasks) whether a prompt solves a task.
        weighting: "inverse_success" gives a solved task the weight (passes of all prompts on all tasks) / (passes on
            it); "share" counts the share of solved tasks.
    """
    table = np.asarray(passed, dtype=bool)
    if weighting == "share":
        return table.mean(1).tolist()
    if weighting != "inverse_success":
        raise ValueError(f'weighting must be "inverse_success" or "share", got {weighting!r}.')
    counts = table.sum(0)
    weights = np.divide(counts.sum(), counts, out=np.zeros(len(counts)), where=counts > 0)
    return [float(sum(weights[row].tolist())) for row in table]  # in order, so that equal sums are equal


def best_prompts(scores: Sequence[float]) -> list[int]:
    """Places of all prompts with the highest score."""
    highest = max(scores)
    return [place for place, score in enumerate(scores) if score == highest]


@dataclass(frozen=True)
class Found:
    """What a search knows after a round: the state of the run."""

    prompts: tuple[str, ...]
    """The best so far, all with the same score."""
    passed: tuple[tuple[bool, ...], ...] = ()
    """Which tasks each of them solves."""
    solved: int = 0
    """How many tasks each of the best so far solves at least; the start counts."""
    unchanged: int = 0
    """Rounds in a row in which the best solved no other tasks."""


def search_prompts(
    seeds: Sequence[str],
    mutate: Callable[[str, int], Sequence[str]],
    evaluate: Callable[[str], Sequence[bool]],
    *,
    rounds: int = 10,
    weighting: Weighting = "inverse_success",
    patience: int = 2,
    seed: int = 0,
) -> Found:
    """Better prompts, never worse than the best of the seeds on these tasks.

    A round mutates one of the best prompts and scores the mutants beside the best; those with the highest score that
    solve no fewer tasks are the best of the next round. The search ends when the best solve no other tasks than before
    `patience` times in a row.

    Differences from the published code: weights give a rare success more than it may be worth, so a prompt that solves
    fewer tasks than the best so far does not replace it; weighted scores of different rounds are not compared, since
    they depend on all prompts of a round; a prompt that was seen is not evaluated again.

    Args:
        seeds: prompts to begin with.
        mutate: new prompts from one, in a round.
        evaluate: whether each task is solved with a prompt.
        rounds: at most.
        weighting: see `prompt_scores`.
        patience: see above.
        seed: of the draw of the prompt that is mutated.

    Raises:
        ValueError: there is no prompt to begin with.
    """
    if not seeds:
        raise ValueError("A search needs at least one prompt to begin with.")
    known: dict[str, tuple[bool, ...]] = {}

    def table(prompts: Sequence[str]) -> list[tuple[bool, ...]]:
        for prompt in prompts:
            if prompt not in known:
                known[prompt] = tuple(bool(mark) for mark in evaluate(prompt))
        return [known[prompt] for prompt in prompts]

    def select(pool: Sequence[str], at_least: int) -> tuple[str, ...]:
        good = [prompt for prompt, marks in zip(pool, table(pool), strict=True) if sum(marks) >= at_least]
        return tuple(good[place] for place in best_prompts(prompt_scores(table(good), weighting)))

    def one_round(state: Found, number: int) -> Found:
        parent = state.prompts[np.random.default_rng((seed, number)).integers(len(state.prompts))]
        pool = tuple(dict.fromkeys((*state.prompts, *mutate(parent, number))))
        chosen = select(pool, state.solved)
        solved = min(map(sum, table(chosen)))
        passed = tuple(table(chosen))
        same = set(passed) == set(state.passed)
        return Found(chosen, passed, max(solved, state.solved), state.unchanged + 1 if same else 0)

    def stop(step: Step[Found, Any]) -> bool:
        return step.state.unchanged >= patience

    pool = tuple(dict.fromkeys(seeds))
    most = max(map(sum, table(pool)))
    start = select(pool, most)
    return refine(Found(start, tuple(table(start)), most), one_round, range(rounds), stop=stop).state
