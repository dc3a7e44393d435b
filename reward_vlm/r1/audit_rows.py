"""Audit a judge: what `burnish judge --audit` runs. The probes and what they mean are those of `reward_vlm.audit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reward_vlm.audit import Figures, figures, other_questions, probe
from reward_vlm.data import preference
from reward_vlm.forms import preference_form
from reward_vlm.job import RowJob, read_asked
from reward_vlm.judges import Judge
from reward_vlm.r1.job import JudgeOptions, QueryRow, load_judge, query_row
from reward_vlm.scenes import scene_pairs
from vision.config import to_dict
from vision.files import atomic_path, digest
from vision.job import Event, Outcome, Show, silent
from vision.report import text_table

SEED, PAIRS = 97, 40
"""Of the rendered scenes that are taken without rows, and how many."""
CALLS = 10
"""Judgements of a pair, at most."""
SHOWN = ("readable", "accuracy", "agrees", "says_first", "black_accuracy", "black_same", "question_same", "twice_first",
         "longer", "longer_better", "padded")  # fmt: skip


@dataclass(frozen=True)
class AuditRow:
    """A pair of answers."""

    row: QueryRow
    """The question, with two answers."""
    better: int | None
    """Index of the better answer, where it is known."""


def audit_rows(options: JudgeOptions, show: Show = silent) -> Outcome:
    """Probe the pairs that were not probed yet, and show what they come to.

    Writes a record per pair (NAME.jsonl), the figures (NAME.json) and NAME.run.json. Figures that are called audit.json
    and lie beside the weights are repeated in the run.json of every job that asks this judge.

    Raises:
        ValueError: the weights, the rows or the output file are unusable.
    """
    assert options.out is not None
    rows, problems = _rows(options)
    of = None if options.rows is None else digest(options.rows)
    job = RowJob(options.out, options, {**to_dict(options), "rows": of}, show)
    job.leave_out(problems)
    others = other_questions([row.row.question for row in rows])
    judge: Judge | None = load_judge(options) if job.waiting(len(rows)) else None

    def probed(part: Sequence[int]) -> list[dict[str, Any]]:
        assert judge is not None
        chosen = replace(options.options, seed=options.options.seed + part[0] * CALLS * options.options.votes)
        queries = [rows[number].row.query() for number in part]
        found = probe(judge, queries, [others[number] for number in part], chosen)
        return [
            {"id": rows[n].row.id, "better": rows[n].better, **record} for n, record in zip(part, found, strict=True)
        ]

    names = [f"{options.rows or 'scene'} pair {number + 1}" for number in range(len(rows))]
    records = job.grow("probing", names, max(options.options.batch_size // CALLS, 1), probed)
    told = figures(records)
    with atomic_path(options.out.with_suffix(".json")) as part:
        part.write_text(json.dumps(asdict(told), indent=2) + "\n", encoding="utf-8")
    show(Event("result", sentences(told)))
    return job.finish("pairs", source=options.source, seed=options.options.seed, audit=asdict(told))


def sentences(told: Figures) -> str:
    """Figures for people: a table, what speaks against the judge, and the verdict."""
    known = {name: value for name in SHOWN if (value := getattr(told, name)) is not None}
    table = text_table([{"figure": name, "share": value} for name, value in known.items()], digits=3)
    verdict = f"Nothing in {told.pairs} pairs speaks against asking this judge."
    if not told.worth_asking:
        verdict = "This judge should not decide anything of this kind."
    return "\n".join([table, *told.against, *told.notes, verdict])


def _rows(options: JudgeOptions) -> tuple[list[AuditRow], list[str]]:
    if options.rows is None:
        pairs = scene_pairs(SEED, PAIRS)
        return [AuditRow(QueryRow(p.id, p.question, p.answers, p.images), p.better - 1) for p in pairs], []
    return read_asked(options, audit_row)


def audit_row(data: Mapping[str, Any], folder: Path) -> AuditRow:
    """A question with two answers, as `burnish judge` takes it or, with the better answer known, as preferences."""
    if "better" in preference_form(data):
        pair = preference(data, folder)
        return AuditRow(QueryRow(pair.id, pair.question, pair.answers, pair.images, pair.video), pair.better - 1)
    row = query_row(data, folder)
    if len(row.answers) != 2:
        raise ValueError(f"an audit takes two answers a question, got {len(row.answers)}.")
    return AuditRow(row, None)
