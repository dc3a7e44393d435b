"""Time a system's inner loops.

    python scripts/benchmark.py gtr                       (per step of every stage, sparse against dense, memory at
    256^3)
    python scripts/benchmark.py pasd --compile            (guided steps at the real size, beside a straightforward port)

The first word is the system; the rest are its options (`--help` after it lists them). Times are CPU seconds of all
threads per step, beside wall-clock seconds; run on a quiet machine, with OMP_NUM_THREADS=1 for comparable numbers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from vision.config import cli, fail

SYSTEMS = {"gtr": ("benchmark_gtr", "GTRBenchmark"), "pasd": ("benchmark_pasd", "PASDBenchmark")}
"""System -> module with a `main` function, and its options."""


def parse(arguments: Sequence[str]) -> tuple[Any, Any]:
    """The system's module and its options, from the command line."""
    system = arguments[0] if arguments else "nothing"
    if system not in SYSTEMS:
        fail(f"The first word must be the system to time ({', '.join(SYSTEMS)}), got {system}.")
    module_name, options_name = SYSTEMS[system]
    module = importlib.import_module(f"scripts.{module_name}")
    return module, cli(getattr(module, options_name), prog=f"benchmark.py {system}", args=arguments[1:])


if __name__ == "__main__":
    chosen, options = parse(sys.argv[1:])
    try:
        chosen.main(options)
    except (ValueError, OSError) as error:
        fail(str(error))
