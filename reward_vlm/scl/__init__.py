"""SCL: a model answers, reviews its answer, and learns from its own successes and failures of correction."""

from reward_vlm.scl.corrector import Answer, SCLCorrector, Talk
from reward_vlm.scl.options import SCLConfig, SCLOptions
from reward_vlm.scl.pairs import (
    Counts,
    Pair,
    Record,
    answer_all,
    build_pairs,
    classify,
    count,
    record_of,
    refuse_overlap,
    to_pair,
)

__all__ = [
    "Answer",
    "Counts",
    "Pair",
    "Record",
    "SCLConfig",
    "SCLCorrector",
    "SCLOptions",
    "Talk",
    "answer_all",
    "build_pairs",
    "classify",
    "count",
    "record_of",
    "refuse_overlap",
    "to_pair",
]
