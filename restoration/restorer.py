"""What makes a class a restorer, and every restorer that `--system` names.

    none                  the picture as it is; with a scale, enlarged bicubically
    bicubic               plain enlargement
    iter, pasd            with their own options and weights
    iter:photo@0.5        ITER's small weights photo (or clean), at a fidelity
    iter:photo@1*0.75     and blended with plain enlargement: a share of 0.75 of the restoration
    pasd:fast             PASD with a preset
    one-step:FOLDER       a one-step restorer on Stable Diffusion (see `restoration.one_step`)
    network:FILE          any network that spandrel reads (see `restoration.networks`)
    FILE.py:CLASS         a class of one's own
    auto                  no restorer, but the one of these that suits each picture (see `restoration.selection`)

A restorer loads (`from_pretrained`), says its facts, tells the size of a result, and makes it band by band.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PRETRAINED = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class Facts:
    """What a caller must know of a restorer that gets certain options."""

    name: str
    """What to call it."""
    scale: float
    """Output pixels per input pixel and side."""
    smallest: int = 1
    """Smallest side of an input, in pixels."""
    tiling: bool = False
    """Whether large pictures are cut into tiles, so that memory does not grow with them."""
    seed: bool = False
    """Whether another `seed` in the options gives another result."""
    steps: bool = False
    """Whether it restores in steps, which observers see and `decode` shows."""
    copies: bool = False
    """Whether the result is the input, pixel by pixel."""
    keeps_grey: bool = False
    """Whether pictures without colours give results without colours."""


class Restorer(Protocol):
    """A loaded restorer; `Options`, a frozen dataclass, says what one call may change."""

    Options: type

    def facts(self, options: Any = None) -> Facts:
        """What a caller must know; None stands for the defaults."""

    def output_size(self, height: int, width: int, options: Any = None) -> tuple[int, int]:
        """Height and width of the result of a picture of `height` x `width` pixels."""

    def bands(
        self,
        image: Tensor,
        options: Any = None,
        *,
        finish: Callable[[Tensor], Tensor] | None = None,
        observers: Iterable[Callable[[Any], object]] = (),
        progress: Callable[[float], object] | None = None,
    ) -> Iterator[Tensor]:
        """The result of (1, 3, h, w) RGB in [0, 1] as bands (1, 3, rows, W) from top to bottom.

        Args:
            image: the picture.
            options: None for the defaults.
            finish: applied to finished pieces, for example `vision.images.to_uint8`.
            observers: called with every step.
            progress: called with the finished share in [0, 1].
        """


@dataclass(frozen=True)
class System:
    """A restorer that is not loaded yet: what a name stands for."""

    name: str
    """As it was given."""
    make: Callable[[], tuple[Any, type]]
    """The class of the restorer, and the options that the command line offers for it; imports them."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Options that the name sets."""
    loading: dict[str, Any] = field(default_factory=dict)
    """Arguments of `from_pretrained` that the name sets."""
    chooses: tuple[str, ...] = ()
    """Options that choose weights: they are arguments of `from_pretrained` too."""
    embedded: Path | None = None
    """Weights that come with the project."""
    config: Path | None = None
    """config.json of the embedded weights that are taken, for the help."""
    files: tuple[Path, ...] = ()
    """Files that the name names."""
    restores: bool = True
    """Whether it is a restorer; auto only picks some."""

    @property
    def options(self) -> type:
        """What the command line offers: the restorer's `Options`, and what chooses weights."""
        return self.make()[1]

    @property
    def is_own(self) -> bool:
        """Whether it is a class of a user's file."""
        return self.name.rpartition(":")[0].endswith(".py")

    def asked(self, **values: Any) -> Any:
        """The options with what the name sets, and those of `values` that there are."""
        names = {item.name for item in fields(self.options)}
        return self.completed(self.options(**{name: value for name, value in values.items() if name in names}))

    def completed(self, options: T) -> T:
        """`options` with what the name sets.

        Raises:
            ValueError: another value was chosen.
        """
        weights = {name: value for name, value in self.loading.items() if name in self.chooses}
        for item in fields(options):
            chosen, value = getattr(options, item.name), (self.fixed | weights).get(item.name)
            if value is not None and chosen not in (value, item.default):
                raise ValueError(f"The system {self.name} sets {item.name} to {value}; leave {item.name} {chosen} out.")
        return replace(options, **self.fixed)

    def arguments(self, source: str | None, options: Any) -> dict[str, Any]:
        """Arguments of `from_pretrained` but device and dtype.

        Raises:
            ValueError: the name and `source` both choose weights.
        """
        if source is not None and (self.embedded is None or self.loading):
            raise ValueError(f"The system {self.name} has no other weights; leave the source {source} out.")
        named = {item.name for item in fields(options)} & set(self.chooses)
        chosen = {name: getattr(options, name) for name in sorted(named)} | self.loading
        return {name: value for name, value in {"source": source, **chosen}.items() if value is not None}

    def weights(self, source: str | None, options: Any) -> list[Path]:
        """The files and folders that decide about results, as far as they are on this machine.

        Raises:
            FileNotFoundError: a folder or file that is named does not exist.
            ValueError: the name and `source` both choose weights, or a file is a pickled checkpoint.
        """
        from vision.hub import on_disk

        arguments = self.arguments(source, options)
        named = [on_disk(source, None)] if source is not None else [self.embedded, *self.files]
        named += [on_disk(arguments[name], None) for name in ("pasd", "style") if name in arguments]
        return [path for path in named if path is not None and path.exists()]

    def load(self, source: str | None, options: Any, **placed: Any) -> Restorer:
        """The restorer.

        Args:
            source: weights, where the system takes others; None for those that come with the project.
            options: may hold what chooses weights.
            placed: device and dtype.
        """
        return self.make()[0].from_pretrained(**self.arguments(source, options), **placed)


def find_system(name: str) -> System:
    """The system of a name, see this module's docstring.

    Raises:
        ValueError: there is no such system, or what follows its name is not understood.
        FileNotFoundError: the file that it names is missing.
    """
    kind, _, rest = name.partition(":")
    file, _, cls = name.rpartition(":")
    if file.endswith(".py"):
        path = _existing(file, name)
        return System(name, partial(_own, path, cls), files=(path,))
    if kind not in SYSTEMS:
        raise ValueError(f"There is no system {name!r}; choose {', '.join(SYSTEMS)}:FILE or FILE.py:CLASS.")
    system = replace(SYSTEMS[kind], name=name)
    if kind in ("network", "one-step"):
        path = _existing(rest, name, folder=kind == "one-step")
        return replace(system, loading={"source": str(path)}, files=(path,))
    if not rest:
        return system
    if kind == "pasd":
        return replace(system, fixed={"preset": _one_of(rest, _choices("restoration.pasd.options", "Preset"), name)})
    if kind != "iter":
        raise ValueError(f"The system {kind} takes nothing after its name, got {name!r}.")
    rest, times, blend = rest.partition("*")
    variant, at, fidelity = rest.partition("@")
    variants = _choices("restoration.iter.options", "Variant")
    fixed = {"fidelity": _dial("fidelity", fidelity, name)} if at else {}
    if times:
        fixed["blend"] = _dial("blend", blend, name)
    loading = {"variant": _one_of(variant, variants, name)}
    return replace(system, fixed=fixed, loading=loading, config=system.embedded / variant / "config.json")


def _classes(module: str, restorer: str, options: str) -> tuple[Any, type]:
    home = importlib.import_module(module)
    return getattr(home, restorer), getattr(home, options)


SYSTEMS = {
    "none": System("none", partial(_classes, "restoration.plain", "PlainRestorer", "PlainOptions")),
    "bicubic": System(
        "bicubic", partial(_classes, "restoration.plain", "PlainRestorer", "PlainOptions"), loading={"scale": 4}
    ),
    "iter": System(
        "iter",
        partial(_classes, "restoration.iter", "ITERRestorer", "ITERCommand"),
        chooses=("variant",),
        embedded=PRETRAINED / "iter-mini",
        config=PRETRAINED / "iter-mini" / "photo" / "config.json",
    ),
    "pasd": System(
        "pasd",
        partial(_classes, "restoration.pasd", "PASDRestorer", "PASDCommand"),
        chooses=("pasd", "style", "style_weight", "scheduler", "compile"),
        embedded=PRETRAINED / "pasd-mini",
        config=PRETRAINED / "pasd-mini" / "config.json",
    ),
    "auto": System(
        "auto",
        partial(_classes, "restoration.selection", "Selection", "AutoOptions"),
        embedded=PRETRAINED / "selector",
        restores=False,
    ),
    "one-step": System("one-step", partial(_classes, "restoration.one_step", "OneStepRestorer", "OneStepOptions")),
    "network": System("network", partial(_classes, "restoration.networks", "NetworkRestorer", "NetworkOptions")),
}
"""Systems by the first word of their names."""


def _own(path: Path, name: str) -> tuple[Any, type]:
    """A class of the user's own file, and its options; the file's code runs.

    Raises:
        ValueError: the file cannot be imported, or has no such class with `Options`.
    """
    module = f"_restorer_{path.stem}"
    spec = importlib.util.spec_from_file_location(module, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[module] = found  # dataclasses look their module up
    try:
        spec.loader.exec_module(found)
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be imported: {error}.") from error
    restorer = vars(found).get(name)
    if not isinstance(restorer, type) or "Options" not in vars(restorer):
        raise ValueError(f"{path} needs a class {name} with the dataclass Options inside; see CONTRIBUTING.md.")
    return restorer, restorer.Options


def _existing(file: str, name: str, folder: bool = False) -> Path:
    path = Path(file).expanduser()
    if not file or not (path.is_dir() if folder else path.is_file()):
        what = "folder" if folder else "file"
        raise FileNotFoundError(f"There is no {what} {file or 'behind the colon'} for the system {name!r}.")
    return path


def _choices(module: str, name: str) -> tuple[str, ...]:
    return get_args(getattr(importlib.import_module(module), name))


def _dial(what: str, word: str, name: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"A {what} is a number in [0, 1], got {word!r} in {name!r}.") from None


def _one_of(word: str, words: tuple[str, ...], name: str) -> str:
    if word not in words:
        raise ValueError(f"The system {name!r} must name one of {', '.join(words)} behind the colon, got {word!r}.")
    return word
