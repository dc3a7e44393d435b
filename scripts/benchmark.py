"""Time a system's inner loops.

    burnish benchmark gtr                     (per step of every stage, sparse against dense, memory at 256^3)
    burnish benchmark pasd --compile          (guided steps at the real size, beside a straightforward port)
    burnish benchmark restorers --hr photos --out runs/restorers   (every restorer on every kind of picture, ranked)
    burnish benchmark harm --hr photos --out runs/harm     (what decides about restorations, beside doing nothing)
    burnish benchmark effort --hr photos --out runs/effort        (what restoring only parts keeps, and costs)
    burnish benchmark pie                     (one edit, beside image-to-image of diffusers)
    burnish benchmark r1 --task stress --out runs/stress        (StableReinforce where the plain algorithm fails)
    burnish benchmark r1 --task overhead --out runs/overhead      (beside TRL's GRPO)
    burnish benchmark r1-strategies --strategy spans --out runs/r1-spans      (each strategy beside the run without it)

The first word is the system; the rest are its options. Times are CPU seconds of all threads per step, beside wall-clock
seconds; run on a quiet machine, with OMP_NUM_THREADS=1 for comparable numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("benchmark")
from . import dispatch
from .dispatch import Work

SYSTEMS = {
    "gtr": Work("recon3d.gtr.benchmark", "GTRBenchmark", "every stage of reconstruction"),
    "pasd": Work("restoration.pasd.benchmark", "PASDBenchmark", "denoising steps, tiles, the preset fast"),
    "restorers": Work("restoration.benchmark_restorers", "RestorerBenchmark", "restorers by quality and cost"),
    "harm": Work("restoration.benchmark_harm", "HarmBenchmark", "every way to decide, beside doing nothing"),
    "effort": Work("restoration.benchmark_effort", "EffortBenchmark", "what restoring only parts keeps, and costs"),
    "r1": Work("reward_vlm.r1.benchmark", "R1Benchmark", "stability and cost of StableReinforce"),
    "r1-strategies": Work("reward_vlm.r1.benchmark_strategies", "StrategyBenchmark", "reinforcement with and without"),
    "judge-reward": Work("reward_vlm.benchmark_reward", "RewardBenchmark", "what a judge teaches another model"),
    "pie": Work("vision.edit.benchmark", "PIEBenchmark", "one edit, beside image-to-image"),
}
"""System -> what times it."""
parse, call = dispatch.command("benchmark", "to time", __doc__ or "", SYSTEMS)
"""The system's module and its options, from the command line; and the command."""
