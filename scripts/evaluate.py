"""Measure a system.

    python scripts/evaluate.py iter --hr photos --degradation bicubic --variant clean --out runs/clean
    python scripts/evaluate.py iter --hr photos --degradation blind --out runs/blind --pictures
    python scripts/evaluate.py iter --pairs LQ HR --out runs/pairs
    python scripts/evaluate.py pasd --hr photos --degradation blind --out runs/pasd
    python scripts/evaluate.py gtr --meshes MESHES --out runs/meshes
    python scripts/evaluate.py r1 --benchmark vl_rewardbench --rows data.jsonl --source org/name --out runs/vl
    python scripts/evaluate.py r1-restorations --hr photos --out runs/judged
    python scripts/evaluate.py scl --rows questions.jsonl --sources base=org/name learnt=runs/scl/weights --out runs/scl

The first word is the system; the rest are its options (`--help` after it lists them). Each system's module says what it
measures and writes.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts import dispatch

SYSTEMS = {
    "iter": ("scripts.evaluate_restoration", "ITEREvaluation"),
    "pasd": ("scripts.evaluate_restoration", "PASDEvaluation"),
    "gtr": ("scripts.evaluate_gtr", "GTREvaluation"),
    "pie": ("scripts.evaluate_pie", "PIEEvaluation"),
    "r1": ("scripts.evaluate_r1", "R1Evaluation"),
    "r1-restorations": ("scripts.evaluate_pictures", "PictureEvaluation"),
    "scl": ("scripts.evaluate_scl", "SCLEvaluation"),
}
"""System -> module with a `main` function, and its options."""

parse: partial[tuple[Any, Any]] = partial(dispatch.parse, "evaluate.py", "to measure", SYSTEMS)

if __name__ == "__main__":
    dispatch.run(*parse(sys.argv[1:]))
