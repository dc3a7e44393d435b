"""What a picture needs, and which restorer gets it: behind `restore --only-if-needed` and `--system auto`.

A gate says none, enlarge or restore; a selector names the restorer. Both are linear choices on the numbers of
`restoration.features`, which `burnish train selector` learns from what every restorer made of pictures of known truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from restoration.features import features
from restoration.restorer import PRETRAINED, find_system
from vision import hub
from vision.config import load_config, save_config
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
        selector = self.config.selector if reached > 1 else self.config.full_size
        seen = {name: value for name, value in facts.items() if name not in SIZES}
        picked, chances = selector.pick(seen), selector.chances(seen)
        if reached <= 1 and (picked == NONE or chances[picked] < self.config.trust):
            left = chances.get(NONE, 1 - chances[picked])
            why += f", but no restorer surely makes such pictures better ({left:.0%})"
            return Plan(NONE, NONE, scale, why, left, facts)
        named = PLAINLY if picked == NONE else picked
        why += f", and {named} suits such pictures best ({chances[picked]:.0%})"
        return Plan(wanted, picked, reached, why, chances[picked], facts)


_REASONS = {
    "none": "it is good as it is ({sure:.0%})",
    "enlarge": "it is small, {width} x {height} pixels ({sure:.0%})",
    "restore": "it is degraded ({sure:.0%})",
}
