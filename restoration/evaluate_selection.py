"""Measure the gate and the selector on traces of `burnish benchmark restorers`, by replaying them.

    burnish benchmark restorers --hr photos --out runs/restorers
    burnish evaluate selector --choices runs/restorers --out runs/selector

Shows the mean rank and the CPU time of what the selector picks, of the best choice in hindsight, and of every restorer
alone, and of the gate how many good pictures it would have restored (false alarms) and how many others it would have
left alone (missed). Nothing is restored: the traces tell what everything gave. Writes means.csv, kinds.csv, gate.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from restoration.benchmark_restorers import NEED, mean_details
from restoration.selection import Selection
from vision.checkpoints import one_at_a_time
from vision.job import Event, Job, Outcome, Show, silent
from vision.report import text_table, write_table
from vision.strategies import Choice, gate_metrics, read_choices
from vision.strategies.need import NONE


@dataclass(frozen=True)
class SelectorEvaluation:
    """What the measurement of a gate and a selector may choose."""

    choices: tuple[Path, ...]
    """Folders that `benchmark restorers` wrote, of pictures that the selector did not learn from."""
    out: Path
    """Folder for the tables."""
    source: str | None = None
    """Folder of the gate and the selector; None takes those that come with the project."""

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("Name at least one folder that benchmark restorers wrote.")


@one_at_a_time
def evaluate(options: SelectorEvaluation, show: Show = silent) -> Outcome:
    """Replay the traces.

    Raises:
        FileNotFoundError: a folder has no trace, or there is no selector.
        ValueError: the traces are not of the same restorers, or the selector knows none of them.
    """
    job = Job(options.out, options, show=show)
    selection = Selection.from_pretrained(options.source)
    choices = [choice for folder in options.choices for choice in read_choices(folder)]
    if len({frozenset(candidate.origin for candidate in choice.candidates) for choice in choices}) != 1:
        raise ValueError("The pictures of these traces were not all restored by the same restorers; measure them anew.")
    rows = summary(choices, picks(selection, choices))
    show(Event("result", text_table(rows, title=f"{len(choices)} pictures", digits=3)))
    write_table(rows, options.out / "means.json", options.out / "means.csv")
    kinds = dict.fromkeys(choice.task.rsplit("/", 1)[-1] for choice in choices)
    parts = {kind: [choice for choice in choices if choice.task.endswith(f"/{kind}")] for kind in kinds}
    table = [{"kind": kind} | by_name(summary(part, picks(selection, part))) for kind, part in parts.items()]
    show(Event("result", text_table(table, title="mean rank by kind", digits=2)))
    write_table(table, options.out / "kinds.json", options.out / "kinds.csv")
    needed = [
        choice for folder in options.choices if (folder / NEED).is_dir() for choice in read_choices(folder / NEED)
    ]
    if needed:
        gate, figures = gate_tables(selection, needed)
        show(Event("result", text_table(gate, title=f"the gate on {len(needed)} pictures", digits=3)))
        show(Event("result", text_table([figures], title="the gate as the published evaluation counts", digits=3)))
        write_table(gate, options.out / "gate.json", options.out / "gate.csv")
    job.made.update({choice.task: {"was_done": False} for choice in choices})
    return job.finish("pictures", source=options.source)


def picks(selection: Selection, choices: Sequence[Choice]) -> list[int]:
    """The place of the candidate that the selector picks, in every choice.

    Raises:
        ValueError: a choice has no candidate that the selector knows.
    """
    found = []
    for choice in choices:
        names = [candidate.origin for candidate in choice.candidates]
        found.append(names.index(selection.pick(choice.facts, names).name))
    return found


def summary(choices: Sequence[Choice], picked: Sequence[int]) -> list[dict[str, Any]]:
    """A row of means for the selector's picks, for the best in hindsight, and for every restorer alone."""
    dearest = max(_by_restorer(choices, lambda choice, place: choice.candidates[place].cost.seconds).values())

    def row(name: str, places: Sequence[int]) -> dict[str, Any]:
        pairs = list(zip(choices, places, strict=True))
        seconds = fmean(choice.candidates[place].cost.seconds for choice, place in pairs)
        ranks = fmean(-float(choice.verdicts[place].score) for choice, place in pairs)
        details = mean_details([choice.verdicts[place] for choice, place in pairs])
        return {"choice": name, "mean_rank": ranks, **details, "cpu_seconds": seconds, "of_dearest": seconds / dearest}

    names = [candidate.origin for candidate in choices[0].candidates]
    alone = {name: [[c.origin for c in choice.candidates].index(name) for choice in choices] for name in sorted(names)}
    hindsight = [choice.chosen for choice in choices]
    return [row("auto", picked), row("hindsight", hindsight), *(row(name, places) for name, places in alone.items())]


def by_name(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean ranks of rows by their names."""
    return {row["choice"]: row["mean_rank"] for row in rows}


def _by_restorer(choices: Sequence[Choice], value: Callable[[Choice, int], float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for choice in choices:
        for place, candidate in enumerate(choice.candidates):
            found.setdefault(candidate.origin, []).append(value(choice, place))
    return {name: fmean(values) for name, values in found.items()}


def gate_tables(selection: Selection, needed: Sequence[Choice]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A row per need, with the share of pictures that the gate treats wrongly, and the figures of `gate_metrics`."""
    answers = [(choice.kept.origin, selection.needs(choice.facts)[0]) for choice in needed]
    rows = []
    for right in dict.fromkeys(right for right, _ in answers):
        mine = [answer for wanted, answer in answers if wanted == right]
        wrong = fmean((answer == NONE) != (right == NONE) for answer in mine)
        named = "false alarms" if right == NONE else "missed"
        rows.append({"need": right, "pictures": len(mine), "wrong": wrong, "called": named})
    proposals = [None if answer == NONE else answer for _, answer in answers]
    accepted = [(right == NONE) == (answer == NONE) for right, answer in answers]
    return rows, asdict(gate_metrics(proposals, accepted))
