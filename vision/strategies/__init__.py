"""What to refine, when, where, how much, and whether it helped: pure functions on the refinement core.

Models and pictures come in as callables; no file here imports a model. Every strategy leaves a trace of its choices
(`vision.strategies.trace`), from which trainers learn and runs replay.
"""

from vision.strategies.evaluators import evaluator
from vision.strategies.need import gate_metrics, need
from vision.strategies.selector import Lesson, StrategySelector, regret_lessons, relabel_first_attempt
from vision.strategies.trace import read_choices, replay, write_choices
from vision.strategies.values import Candidate, Choice, Cost, CostMeter, Evaluator

__all__ = [
    "Candidate",
    "Choice",
    "Cost",
    "CostMeter",
    "Evaluator",
    "Lesson",
    "StrategySelector",
    "evaluator",
    "gate_metrics",
    "need",
    "read_choices",
    "regret_lessons",
    "relabel_first_attempt",
    "replay",
    "write_choices",
]
