"""Time a system's inner loops.

    python scripts/benchmark.py gtr                       (per step of every stage, sparse against dense, memory at
    256^3)
    python scripts/benchmark.py pasd --compile            (guided steps at the real size, beside a straightforward port)
    python scripts/benchmark.py r1 --task stress          (StableReinforce where the plain algorithm fails; --task
    overhead: beside TRL's GRPO)

The first word is the system; the rest are its options (`--help` after it lists them). Times are CPU seconds of all
threads per step, beside wall-clock seconds; run on a quiet machine, with OMP_NUM_THREADS=1 for comparable numbers.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts import dispatch

SYSTEMS = {
    "gtr": ("scripts.benchmark_gtr", "GTRBenchmark"),
    "pasd": ("scripts.benchmark_pasd", "PASDBenchmark"),
    "r1": ("scripts.benchmark_r1", "R1Benchmark"),
    "pie": ("scripts.benchmark_pie", "PIEBenchmark"),
}
"""System -> module with a `main` function, and its options."""

parse: partial[tuple[Any, Any]] = partial(dispatch.parse, "benchmark.py", "to time", SYSTEMS)

if __name__ == "__main__":
    dispatch.run(*parse(sys.argv[1:]))
