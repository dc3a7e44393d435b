"""Search for a prompt that solves more tasks: what `burnish prompts` does for every system.

Every other task is searched on, the rest tell whether the choice holds. Mutations are made by code: a prompt is a list
of phrases, of which one is dropped, replaced or moved, or another is added. Source of the search: Prochemy (arXiv
2503.11085), see `vision.strategies.prompts`; there a language model writes the mutations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from vision.files import atomic_path
from vision.job import Event, Job, Outcome
from vision.report import text_table, write_table
from vision.strategies.prompts import search_prompts

OPTIONS = "options.txt"
"""The file that other commands take as @FILE: one word a line."""


@dataclass(frozen=True)
class PromptSearch:
    """What every search for a prompt may choose."""

    out: Path
    """Folder for the results."""
    prompts: tuple[str, ...] = ()
    """Prompts to begin with; none: those that the weights were tuned for."""
    phrases: tuple[str, ...] = ()
    """What mutations may add; none: the phrases of the prompts to begin with, and those of the system."""
    mutations: int = 4
    """New prompts of a round."""
    search_rounds: int = 4
    """At most; a search that finds nothing better twice in a row ends."""
    search_seed: int = 0
    """Of the mutations."""

    def __post_init__(self) -> None:
        if min(self.mutations, self.search_rounds) < 1:
            raise ValueError(
                f"mutations and search_rounds must be at least 1, got {self.mutations}, {self.search_rounds}."
            )


def search(
    job: Job,
    options: PromptSearch,
    prompts: Sequence[str],
    phrases: Sequence[str],
    tasks: int,
    solves: Callable[[str, Sequence[int]], Sequence[bool]],
    *,
    option: str,
    separator: str | None = ", ",
) -> Outcome:
    """Search, and write prompts.json and .csv (a row per prompt to begin with, and the one that was found), and
    options.txt.

    Args:
        job: whose folder gets the files.
        options: how to search.
        prompts: to begin with, where the options name none.
        phrases: that mutations may add, where the options name none.
        tasks: how many there are.
        solves: which of the numbered tasks are solved with a prompt.
        option: of other commands, that takes the prompt: "--prompt".
        separator: of the phrases of a prompt; None: they are sentences, which keep their marks.

    Raises:
        ValueError: there are fewer than 2 tasks, or no prompt.
    """
    if tasks < 2:
        raise ValueError(f"A prompt is searched on half of 2 or more tasks, got {tasks}.")
    seeds = options.prompts or tuple(prompts)
    known = tuple(dict.fromkeys(phrase for prompt in seeds for phrase in _split(prompt, separator)))
    pool = options.phrases or tuple(dict.fromkeys((*known, *phrases)))
    searched, held = range(0, tasks, 2), range(1, tasks, 2)
    tried: dict[str, Sequence[bool]] = {}

    def evaluate(prompt: str) -> Sequence[bool]:
        tried[prompt] = solves(prompt, searched)
        most = max(len(tried), len(seeds) + options.search_rounds * options.mutations)
        job.progress("trying prompts", len(tried), most)
        return tried[prompt]

    def mutate(prompt: str, number: int) -> list[str]:
        rng = np.random.default_rng((options.search_seed, number))
        return [mutated(prompt, pool, separator, rng) for _ in range(options.mutations)]

    found = search_prompts(seeds, mutate, evaluate, rounds=options.search_rounds, seed=options.search_seed)
    best = found.prompts[0]
    rows = []
    for prompt in dict.fromkeys((*seeds, best)):
        shares = {"searched": fmean(map(bool, tried[prompt])), "held_out": fmean(map(bool, solves(prompt, held)))}
        rows.append({"prompt": prompt, "found": prompt == best, **shares})
        job.made[f"prompt {len(rows)}"] = {"was_done": False}
    write_table(rows, options.out / "prompts.json", options.out / "prompts.csv")
    job.show(Event("result", text_table(rows, digits=3), path=options.out))
    if all(best != seed for seed in seeds) and rows[-1]["held_out"] < max(row["held_out"] for row in rows[:-1]):
        job.note(
            "On the tasks that were not searched on a prompt of the start solves more; the found one may not hold."
        )
    with atomic_path(options.out / OPTIONS) as part:
        part.write_text(f"{option}\n{best}\n", encoding="utf-8")
    job.note(f"{option} {best!r} lies in {options.out / OPTIONS}; give other commands @{options.out / OPTIONS}.")
    return job.finish("prompts", seed=options.search_seed)


def _split(prompt: str, separator: str | None) -> list[str]:
    """The phrases of a prompt, or its sentences."""
    parts = re.split(r"(?<=[.?!])\s+", prompt) if separator is None else prompt.split(separator)
    return [part for part in parts if part]


def mutated(prompt: str, pool: Sequence[str], separator: str | None, rng: np.random.Generator) -> str:
    """A prompt with one phrase added, dropped, replaced or moved; never an empty one."""
    phrases = _split(prompt, separator)
    others = [phrase for phrase in pool if phrase not in phrases]
    ways = ["move"] * (len(phrases) > 1) + ["drop"] * (len(phrases) > 1) + ["add", "replace"] * bool(others)
    if not ways:
        return prompt
    way = ways[rng.integers(len(ways))]
    place = int(rng.integers(len(phrases))) if phrases else 0
    if way in ("drop", "move", "replace") and phrases:
        taken = phrases.pop(place)
        if way == "move":
            phrases.insert(int(rng.integers(len(phrases) + 1)), taken)
    if way in ("add", "replace"):
        phrases.insert(place, others[rng.integers(len(others))])
    return (" " if separator is None else separator).join(phrases)
