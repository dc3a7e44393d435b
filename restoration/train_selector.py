"""Learn what a picture needs and which restorer suits it, from traces of `burnish benchmark restorers`; takes seconds.

    burnish benchmark restorers --hr photos --out runs/restorers
    burnish benchmark restorers --hr photos --scale 1 --systems none iter:photo@1 --size 96 --out runs/full
    burnish train selector --choices runs/restorers --full runs/full --folder runs/selector
    burnish restore pictures --system auto --source runs/selector --out restored

The selector that comes with the project was made so from the photographs of `vision.photos.TRAINING_PHOTOS`, halved.
`--lessons first` relabels as SMART does (arXiv 2410.16128): a picture's best attempt becomes the target of the first.
`--lessons regret` lets every attempt teach, weighted by how much better it was than the worst: a linear choice that
maximises this weight loses the fewest ranks, and one that is nearly as good is no mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from restoration.benchmark_restorers import NEED
from restoration.selection import SIZES, Selection, SelectorConfig
from vision.checkpoints import begin_run, one_at_a_time
from vision.strategies import Choice, Lesson, StrategySelector, read_choices, regret_lessons, relabel_first_attempt
from vision.strategies.need import NONE, believe_none

FOLDS = 5
"""Parts of the photographs, each of which is once not learnt from."""
TRUSTS = tuple(number / 100 for number in range(50, 100))
"""Among which the trust in restorers of pictures that keep their size is chosen."""
CAUTIONS = tuple(number / 100 for number in range(100, 0, -1))
"""Among which the caution of enlargements is chosen."""
SAME = 50.0
"""PSNR in decibels above which nothing is lost that anyone sees."""


@dataclass(frozen=True)
class SelectorTraining:
    """What the training of the gate and the selector may choose."""

    folder: Path
    """Folder to write."""
    full: tuple[Path, ...] = ()
    """Folders that `benchmark restorers --scale 1` wrote, of pictures that keep their size; without any, what the start
    does with such pictures is kept."""
    choices: tuple[Path, ...] = ()
    """Folders that `benchmark restorers` wrote; at least one with the folder need, unless there is a start."""
    start: Path | None = None
    """Folder of a selector whose gate is kept, and without choices its choice of enlargements too."""
    lessons: Literal["regret", "first"] = "regret"
    """What an attempt teaches: its weight against the worst, or only the best one."""
    decay: float = 0.3
    """Weight of the squared weights, per lesson, of the selector."""
    gate_decay: float = 0.1
    """The same of the gate."""
    full_decay: float = 1.0
    """The same of the choice for pictures that keep their size."""
    nearest_decay: float = 1.0
    """The same of what warns of enlargements that are further from the truth than plain ones."""
    caution: float | None = None
    """Probability that plain enlargement is nearest to the truth, from which it is taken; None: the largest at which
    pictures of no kind lose in the mean, by choices that did not see the photograph."""
    trust: float | None = None
    """Smallest probability of a restorer for which a picture that keeps its size is not left alone; None: the smallest
    at which pictures of no kind lose in the mean, by choices that did not see the photograph."""
    missed: float = 0.08
    """Largest share of the pictures in need that the gate may leave alone; it is set on chances that gates give which
    did not see the photograph."""

    def __post_init__(self) -> None:
        if not self.full and (self.start is None or not self.choices):
            raise ValueError(
                "Name folders that benchmark restorers --scale 1 wrote, as --full, or --start and --choices."
            )
        if not self.choices and self.start is None:
            raise ValueError("Name folders that benchmark restorers wrote, as --choices, or --start.")
        if min(self.decay, self.gate_decay, self.full_decay, self.nearest_decay) <= 0:
            raise ValueError("decay, gate_decay, full_decay and nearest_decay must be above 0.")
        for name in ("trust", "caution"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}.")
        if not 0 <= self.missed < 1:
            raise ValueError(f"missed must lie in [0, 1), got {self.missed}.")


@one_at_a_time
def train(options: SelectorTraining, *, log: Callable[[str], object] | None = None) -> Path:
    """Fit both and return the folder that was written.

    Raises:
        FileNotFoundError: a folder has no trace.
        ValueError: the folder was begun with other options or data, the folders teach nothing about needs, or nothing
            was measured beside none.
    """
    begin_run(options.folder, options, data=("choices", "full", "start"))
    full = [choice for folder in options.full for choice in read_choices(folder)]
    full_size = fit_nearest(full, options.full_decay) if full else None
    tried = [choice for folder in options.choices for choice in read_choices(folder)]
    if options.start is not None:
        kept = Selection.from_pretrained(options.start).config
        if full_size is not None:
            kept = replace(kept, full_size=full_size)
        if tried:
            kept = replace(kept, selector=fit_selector(tried, options.lessons, options.decay))
        needed = []
    else:
        kept, needed = _with_gate(tried, full_size, options)
    if tried and NONE in kept.selector.strategies:
        caution = harmless_caution(tried, options) if options.caution is None else options.caution
        kept = replace(kept, nearest=fit_nearest(tried, options.nearest_decay), caution=caution)
        if log is not None:
            log(f"Pictures are enlarged plainly where that is nearest to the truth with {caution:.2f} or more.")
    if full or options.trust is not None:
        kept = replace(kept, trust=_trust(full, options, log))
    Selection(kept).save_pretrained(options.folder)
    if log is not None:
        log(
            f"Learnt from {len(tried)} restored and {len(needed)} other pictures; none is believed from "
            f"{kept.doubt:.2f} on."
        )
    return options.folder


def _with_gate(
    tried: Sequence[Choice], full_size: StrategySelector, options: SelectorTraining
) -> tuple[SelectorConfig, list[Choice]]:
    """A gate and a selector that are both learnt, with a trust that nothing reaches, and what the gate learnt from."""
    folders = [folder / NEED for folder in options.choices if (folder / NEED).is_dir()]
    needed = [choice for folder in folders for choice in read_choices(folder)]
    if not needed:
        raise ValueError(f"{options.choices[0]} has no folder {NEED}; let benchmark restorers write one.")
    selector = fit_selector(tried, options.lessons, options.decay)
    gate = StrategySelector.fit(relabel_first_attempt(needed), decay=options.gate_decay)
    sure = unseen_chances(needed, options.gate_decay)
    doubt = believe_none(sure, [choice.kept.origin != NONE for choice in needed], options.missed)
    return SelectorConfig(gate, selector, doubt, full_size, 1.0), needed


def unseen_chances(needed: Sequence[Choice], decay: float) -> list[float]:
    """Probability of none of every picture, from a gate that learnt from four fifths of the others' photographs.

    Args:
        needed: tasks are named PHOTOGRAPH_CUT/NEED.
        decay: as in `SelectorTraining`.
    """
    found = [0.0] * len(needed)
    for seen, unseen in folds(needed):
        gate = StrategySelector.fit(relabel_first_attempt(seen), decay=decay)
        for place in unseen:
            found[place] = gate.chances(needed[place].facts).get(NONE, 0.0)
    return found


def folds(choices: Sequence[Choice]) -> Iterator[tuple[list[Choice], list[int]]]:
    """The choices about four fifths of the photographs, and the places of the others, in turn.

    Args:
        choices: tasks are named PHOTOGRAPH_CUT/KIND.

    Raises:
        ValueError: they are about fewer than two photographs.
    """
    photographs = [choice.task.rsplit("/", 1)[0].rsplit("_", 1)[0] for choice in choices]
    fold = {name: number % FOLDS for number, name in enumerate(sorted(set(photographs)))}
    if len(fold) < 2:
        raise ValueError("What must hold for other photographs is learnt from pictures of at least two.")
    for part in sorted(set(fold.values())):
        unseen = [place for place, name in enumerate(photographs) if fold[name] == part]
        yield [choice for choice, name in zip(choices, photographs, strict=True) if fold[name] != part], unseen


def harmless_trust(choices: Sequence[Choice], decay: float) -> float:
    """The smallest trust of `TRUSTS` at which pictures of no kind lose in the mean of PSNR, 1 where there is none.

    Args:
        choices: of pictures that keep their size, none among their candidates; tasks are named PHOTOGRAPH_CUT/KIND.
        decay: as in `SelectorTraining`.

    Raises:
        ValueError: a picture was not measured as it is, or there are fewer than two photographs.
    """
    tried: list[tuple[str, float, float]] = []  # kind, probability of the best restorer, decibels that it gains
    for seen, unseen in folds(choices):
        selector = fit_nearest(seen, decay)
        for choice in map(choices.__getitem__, unseen):
            if NONE not in (candidate.origin for candidate in choice.candidates):
                raise ValueError(f"{choice.task} was not measured as it is; let benchmark restorers measure none too.")
            pairs = zip(choice.candidates, choice.verdicts, strict=True)
            near = {candidate.origin: float(verdict.detail["psnr_y"]) for candidate, verdict in pairs}
            chances = selector.chances({name: value for name, value in choice.facts.items() if name not in SIZES})
            restorers = [(chance, name) for name, chance in chances.items() if name != NONE]
            sure, best = max(restorers, default=(0.0, NONE))
            tried.append((choice.task.rpartition("/")[2], sure, near[best] - near[NONE]))
    kinds = {kind for kind, _, _ in tried}

    def gained(kind: str, trust: float) -> float:
        return sum(gain for own, sure, gain in tried if own == kind and sure >= trust)

    return next((trust for trust in TRUSTS if all(gained(kind, trust) >= 0 for kind in kinds)), 1.0)


def harmless_caution(choices: Sequence[Choice], options: SelectorTraining) -> float:
    """The largest caution of `CAUTIONS` at which enlargements of no kind lose in the mean of PSNR against plain ones.

    Args:
        choices: of enlargements, none among their candidates; tasks are named PHOTOGRAPH_CUT/KIND.
        options: what is taught, and the decays.

    Raises:
        ValueError: there are fewer than two photographs.
    """
    tried: list[tuple[str, float, float]] = []  # kind, probability that none is nearest, decibels that the pick gains
    for seen, unseen in folds(choices):
        selector = fit_selector(seen, options.lessons, options.decay)
        nearest = fit_nearest(seen, options.nearest_decay)
        for choice in map(choices.__getitem__, unseen):
            facts = {name: value for name, value in choice.facts.items() if name not in SIZES}
            pairs = zip(choice.candidates, choice.verdicts, strict=True)
            near = {candidate.origin: min(float(verdict.detail["psnr_y"]), SAME) for candidate, verdict in pairs}
            gain = near[selector.pick(facts, near)] - near[NONE]
            tried.append((choice.task.rpartition("/")[2], nearest.chances(facts).get(NONE, 0.0), gain))
    kinds = {kind for kind, _, _ in tried}

    def gained(kind: str, caution: float) -> float:
        return sum(gain for own, doubt, gain in tried if own == kind and doubt < caution)

    return next((caution for caution in CAUTIONS if all(gained(kind, caution) >= 0 for kind in kinds)), CAUTIONS[-1])


def _trust(full: Sequence[Choice], options: SelectorTraining, log: Callable[[str], object] | None) -> float:
    trust = harmless_trust(full, options.full_decay) if options.trust is None else options.trust
    if log is not None:
        log(f"Restorers of pictures that keep their size are believed from {trust:.2f} on.")
    return trust


def fit_selector(choices: Sequence[Choice], lessons: Literal["regret", "first"], decay: float) -> StrategySelector:
    """The selector that choices teach; it does not look at `SIZES`."""
    made = relabel_first_attempt(choices) if lessons == "first" else regret_lessons(choices)
    blind = [lesson_without(lesson, SIZES) for lesson in made]
    return StrategySelector.fit(blind, decay=decay)


def fit_nearest(choices: Sequence[Choice], decay: float) -> StrategySelector:
    """The choice among restorers by PSNR alone: every attempt teaches, weighted by the decibels by which it was nearer
    to the truth than the worst. It is what counts for pictures that keep their size: nothing has to be invented."""
    lessons = []
    for choice in choices:
        near = [float(verdict.detail["psnr_y"]) for verdict in choice.verdicts]
        pairs = zip(choice.candidates, near, strict=True)
        found = [Lesson(choice.task, choice.facts, c.origin, min(value - min(near), 10.0)) for c, value in pairs]
        lessons += [lesson_without(lesson, SIZES) for lesson in found if lesson.weight > 0]
    return StrategySelector.fit(lessons, decay=decay)


def lesson_without(lesson: Lesson, names: Sequence[str]) -> Lesson:
    """A lesson that does not tell some numbers."""
    facts = {name: value for name, value in lesson.facts.items() if name not in names}
    return Lesson(lesson.task, facts, lesson.strategy, lesson.weight)
