"""Evaluators of candidates by name: `niqe`, `brisque`, `consistency`, `pyiqa:NAME`, and kinds that bring a model.

An evaluator is a function from a candidate to a verdict, higher is better. Those that look through a model
(`judge:SOURCE`, `classifier:LABEL`) or at given pictures (`views`) are made by functions that the caller passes, so
that nothing here imports one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from vision.consistency import consistency as measured
from vision.images import to_tensor
from vision.niqe import niqe
from vision.refine import Verdict
from vision.strategies.values import Candidate, Evaluator

InputOf = Callable[[str], Any]
"""The picture that a task started from, by the task's name."""
Make = Callable[[str], Evaluator]
"""An evaluator of a kind, from what stands after the colon."""


def evaluator(name: str, input_of: InputOf | None = None, more: Mapping[str, Make] | None = None) -> Evaluator:
    """The evaluator of a name.

    Args:
        name: a kind, or KIND:ARGUMENT.
        input_of: needed by `consistency`.
        more: further kinds, such as `judge`, by the word before the colon.

    Raises:
        ValueError: the kind is unknown, or lacks its argument or the inputs.
    """
    kind, _, argument = name.partition(":")
    makers = {**_MAKERS, **(more or {})}
    if kind == "consistency":
        if input_of is None:
            raise ValueError("The evaluator consistency compares with the input, and there is none; choose another.")
        return lambda candidate: consistency(candidate, to_tensor(input_of(candidate.task)))
    if kind not in makers:
        known = ", ".join(sorted({*makers, "consistency"}))
        raise ValueError(f"There is no evaluator {name!r}; known kinds are {known}.")
    return makers[kind](argument)


def consistency(candidate: Candidate, image: Tensor) -> Verdict:
    """How well the input (1, 3, h, w) follows from a result, see `vision.consistency`; the detail has the blur.

    Raises:
        ValueError: the result is smaller than the input.
    """
    try:
        score, blur = measured(to_tensor(candidate.value).to(image), image)
    except ValueError as error:
        raise ValueError(f"{candidate.task}: {error}") from None
    return Verdict(score, {"blur": blur})


def matches_views(render: Callable[[Any], Tensor], views: Tensor) -> Evaluator:
    """How well an object's pictures match the given ones: PSNR in dB of all pixels together.

    Args:
        render: pictures (views, channels, height, width) of a candidate's value.
        views: the given ones, in [0, 1].
    """

    def evaluate(candidate: Candidate) -> Verdict:
        error = (render(candidate.value) - views).square().mean()
        return Verdict(-10 * math.log10(max(float(error), 1e-10)))

    return evaluate


def against_input(preference: Callable[[Any, Any], float], input_of: InputOf) -> Evaluator:
    """A judge of pairs as an evaluator: the share of its votes for a candidate against the task's input.

    Args:
        preference: share of the votes for its first argument, in [0, 1].
        input_of: what a candidate is compared with, in the candidate's size.
    """
    return lambda candidate: Verdict(preference(candidate.value, input_of(candidate.task)))


def classified(probability: Callable[[Any], float]) -> Evaluator:
    """A classifier as an evaluator: the probability, in [0, 1], of the label that is wanted."""
    return lambda candidate: Verdict(probability(candidate.value))


def _niqe(argument: str) -> Evaluator:
    return _no_argument("niqe", argument, lambda candidate: Verdict(-float(niqe(to_tensor(candidate.value)))))


def _brisque(argument: str) -> Evaluator:
    from vision.metrics import brisque

    return _no_argument("brisque", argument, lambda candidate: Verdict(-float(brisque(to_tensor(candidate.value)))))


def _pyiqa(argument: str) -> Evaluator:
    """A metric without reference of the package pyiqa, whose licence forbids commercial use: it must be installed by
    the user."""
    try:
        import pyiqa
    except ImportError:
        raise ValueError(
            "The evaluators pyiqa:NAME need the package pyiqa; its licence forbids commercial use, "
            "so it never comes with this project."
        ) from None
    if argument not in pyiqa.list_models(metric_mode="NR"):
        raise ValueError(f"pyiqa has no metric {argument!r} that does without a reference.")
    metric = pyiqa.create_metric(argument, device="cpu")
    sign = -1.0 if metric.lower_better else 1.0
    return lambda candidate: Verdict(sign * float(metric(to_tensor(candidate.value))))


def _no_argument(name: str, argument: str, made: Evaluator) -> Evaluator:
    if argument:
        raise ValueError(f"The evaluator {name} takes nothing after a colon, got {argument!r}.")
    return made


_MAKERS: dict[str, Make] = {"niqe": _niqe, "brisque": _brisque, "pyiqa": _pyiqa}
