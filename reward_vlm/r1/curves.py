"""Curves of a reinforcement run from its log: rewards, accuracy, position bias, entropy, divergence, length, filter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vision.report import plot_panels

PANELS = {
    "mean reward of the judgements": ("rewards/format", "rewards/result", "rewards/consistency"),
    "held-out accuracy": ("held_out/accuracy", "held_out/both_orders"),
    "share of answers 1, held out": ("held_out/says_1",),
    "entropy per token": ("entropy",),
    "divergence from the start, per token": ("kl_k1",),
    "tokens per judgement": ("completions/mean_length",),
    "share of filtered tokens": ("filtered",),
    "largest ratio of probabilities": ("ratio_max",),
}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a `log.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plot_run(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, title: str = "") -> None:
    """Write the panels of one or more runs (name -> log rows)."""

    def curve(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
        points = [(row["step"], row[name]) for row in rows if name in row]
        return [x for x, _ in points], [y for _, y in points]

    panels = {
        panel: {
            f"{run} {name.split('/')[-1]}".strip(): curve(rows, name) for run, rows in runs.items() for name in names
        }
        for panel, names in PANELS.items()
    }
    plot_panels(path, panels, title=title, xlabel="update")
