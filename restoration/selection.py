"""What a picture needs, and which restorer gets it: behind `restore --only-if-needed` and `--system auto`.

A gate says none, enlarge or restore; a selector names the restorer. Both are linear choices on the numbers of
`restoration.features`, which `burnish train selector` learns from what every restorer made of pictures of known truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from restoration.features import features
from restoration.restorer import PRETRAINED, find_system
from vision import hub
from vision.config import added, load_config, save_config
from vision.strategies import StrategySelector, need
from vision.strategies.need import NONE

EMBEDDED = PRETRAINED / "selector"
"""Folder of the gate and the selector that come with the project."""
SIZES = ("log_pixels", "log_short_side")
"""Numbers that the gate looks at and the selector does not: restorers see the same windows of every picture."""
LARGER = 4.0
"""Output pixels per input pixel and side of a picture that is found to be small, when no scale is asked for."""

PLAINLY = "plain resizing"
"""What the restorer none does at a scale, for people."""


@dataclass(frozen=True)
class SelectorConfig:
    """A gate and a selector."""

    gate: StrategySelector
    """Chooses among none, enlarge and restore."""
    selector: StrategySelector
    """Chooses among names of restorers."""
    doubt: float
    """Smallest probability of none that is believed, in (0, 1]."""
    full_size: StrategySelector
    """Chooses among names of restorers of degraded pictures that keep their size, none among them."""
    trust: float
    """Smallest probability of such a restorer that is believed, in (0, 1]; below it the picture is left alone."""
    nearest: StrategySelector | None = added(None)  # noqa: RUF009
    """Chooses among the selector's names by nearness to the truth alone; None: nothing warns of enlargements."""
    caution: float = added(1.0)
    """Probability of none, by nearness, from which a picture is enlarged plainly, in (0, 1]."""


class Pick(NamedTuple):
    """The restorer of an enlargement."""

    name: str
    """Of the restorer."""
    chance: float
    """That it suits the picture best; of plain resizing out of caution, that it is nearest to the truth."""
    cautious: bool
    """Whether another was likelier to suit, and might have done harm."""


@dataclass(frozen=True)
class AutoOptions:
    """What a call of `--system auto` may change."""

    scale: float | None = None
    """Output pixels per input pixel, always reached; None: every picture gets what it needs: 1 when it is good or large
    and degraded, 4 when it is small."""
    seed: int = 0
    """Of the restorers that sample."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale <= 32:
            raise ValueError(f"scale must lie in (0, 32], got {self.scale}.")


@dataclass(frozen=True)
class Plan:
    """What is done with one picture."""

    need: str
    """none, enlarge or restore."""
    system: str
    """Name of the restorer."""
    scale: float | None
    """Output pixels per input pixel; None: the restorer's own."""
    why: str
    """The reason, for people, without the full stop."""
    chance: float
    """Probability of the restorer, in (0, 1]."""
    facts: Mapping[str, float]
    """Numbers about the picture."""

    def __str__(self) -> str:
        """In one line, for people."""
        system = PLAINLY if self.system == NONE else self.system
        return f"{self.need}, since {self.why}" if self.need == NONE else f"{self.need} with {system}, since {self.why}"


class Selection:
    """Plans what is done with pictures.

    Args:
        config: the gate and the selector.
    """

    def __init__(self, config: SelectorConfig):
        self.config = config

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, *, revision: str | None = None) -> Selection:
        """Load a gate and a selector.

        Args:
            source: a folder that `save_pretrained` wrote, or a name on the model hub; None: those of the project.
            revision: of a hub source.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it does not hold them.
        """
        found = hub.find(source, default=EMBEDDED, revision=revision)
        if found.path is None:
            raise ValueError(f"There is no {source} of the selector; name a folder.")
        return cls(load_config(SelectorConfig, found.path / "config.json"))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both to `folder`."""
        save_config(self.config, Path(folder) / "config.json")

    def weights(self) -> list[Path]:
        """The files and folders of the restorers that may be picked."""
        names = dict.fromkeys((*self.config.selector.strategies, *self.config.full_size.strategies))
        systems = [find_system(name) for name in names]
        return [path for system in systems for path in system.weights(None, system.asked())]

    def needs(self, facts: Mapping[str, float]) -> tuple[str, float]:
        """What a picture of these numbers needs, and how probable that is."""
        found = need(facts, self.config.gate, self.config.doubt)
        return found, self.config.gate.chances(facts)[found]

    def pick(self, facts: Mapping[str, float], allowed: Iterable[str] | None = None) -> Pick:
        """The restorer of an enlargement: the one that suits best, but none where restorers may do harm.

        Args:
            facts: numbers about the picture.
            allowed: names to choose among; None: all that were learnt.
        """
        seen = {name: value for name, value in facts.items() if name not in SIZES}
        names, config = None if allowed is None else list(allowed), self.config
        picked = config.selector.pick(seen, names)
        if config.nearest is not None and picked != NONE and (names is None or NONE in names):
            nearest = config.nearest.chances(seen).get(NONE, 0.0)
            if nearest >= config.caution:
                return Pick(NONE, nearest, True)
        return Pick(picked, config.selector.chances(seen)[picked], False)

    def plan(self, image: Tensor, scale: float | None = None, system: str | None = None) -> Plan:
        """What is done with a picture.

        Args:
            image: (1, 3, h, w) RGB in [0, 1].
            scale: that must be reached; None: what the picture needs.
            system: the restorer of pictures that need one; None: the selector names it, and where a scale above 1 is
                asked for the gate has nothing to say.
        """
        facts = features(image)
        wanted, sure = self.needs(facts)
        why = _REASONS[wanted].format(width=image.shape[-1], height=image.shape[-2], sure=sure)
        if system is None and scale is not None and scale > 1:
            wanted, why = "enlarge", f"{scale:g} times its size is asked for"
        if wanted == NONE:
            return Plan(wanted, NONE, scale, why, sure, facts)
        if system is not None:
            return Plan(wanted, system, scale, why, sure, facts)
        reached = (LARGER if wanted == "enlarge" else 1.0) if scale is None else scale
        if reached > 1:
            return self._enlarging(wanted, reached, why, facts)
        seen = {name: value for name, value in facts.items() if name not in SIZES}
        picked, chances = self.config.full_size.pick(seen), self.config.full_size.chances(seen)
        if picked == NONE or chances[picked] < self.config.trust:
            left = chances.get(NONE, 1 - chances[picked])
            why += f", but no restorer surely makes such pictures better ({left:.0%})"
            return Plan(NONE, NONE, scale, why, left, facts)
        why += f", and {picked} suits such pictures best ({chances[picked]:.0%})"
        return Plan(wanted, picked, reached, why, chances[picked], facts)

    def _enlarging(self, wanted: str, scale: float, why: str, facts: Mapping[str, float]) -> Plan:
        """The plan of an enlargement."""
        name, chance, cautious = self.pick(facts)
        if cautious:
            why += f", and restorers may take such pictures away from the truth ({chance:.0%}), so {PLAINLY} is taken"
        else:
            why += f", and {PLAINLY if name == NONE else name} suits such pictures best ({chance:.0%})"
        return Plan(wanted, name, scale, why, chance, facts)


_REASONS = {
    "none": "it is good as it is ({sure:.0%})",
    "enlarge": "it is small, {width} x {height} pixels ({sure:.0%})",
    "restore": "it is degraded ({sure:.0%})",
}
