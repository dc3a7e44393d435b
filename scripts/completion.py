"""Print a script with which a shell completes the commands, systems and options.

eval "$(burnish completion bash)"        (in ~/.bashrc; or zsh, tcsh)
"""

from __future__ import annotations

import importlib
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated, Any, Union

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("completion")
import tyro

from restoration.job import RestoreOptions
from vision.config import fail
from vision.job import Show

from .dispatch import Work

SHELLS = ("bash", "zsh", "tcsh")


def tree() -> Any:
    """All commands as one type: a union of their options, with the systems of a command as a union inside."""
    from restoration.iter import ITERCommand

    found: dict[str, Any] = {"restore": RestoreOptions[ITERCommand]}
    for name in ("edit", "reconstruct", "judge", "answer"):
        module = importlib.import_module(f".{name}", __package__)
        found[name] = typing.get_type_hints(module.parse)["return"]
    for name in ("train", "evaluate", "benchmark", "prompts", "convert", "serve"):
        module = importlib.import_module(f".{name}", __package__)
        systems = getattr(module, "RECIPES", None) or module.SYSTEMS
        found[name] = make_dataclass(name, [("system", _union({key: _options(work) for key, work in systems.items()}))])
    return _union(found)


def parse(arguments: Sequence[str]) -> str:
    """The shell."""
    if list(arguments) in (["-h"], ["--help"]):
        sys.stdout.write(f"usage: burnish completion {{{','.join(SHELLS)}}}\n\n{__doc__}")
        raise SystemExit(0)
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        fail(f"Name one shell of {', '.join(SHELLS)}.")
    return arguments[0]


def call(shell: str, show: Show) -> None:
    """Print the shell's script."""
    tyro.cli(tree(), prog="burnish", args=["--tyro-print-completion", shell])


def _options(work: Work | Mapping[str, Work]) -> Any:
    """The options of a system; of its recipes, the first one's."""
    work = work if isinstance(work, Work) else next(iter(work.values()))
    return getattr(importlib.import_module(work.module, __package__), work.options)


def _union(types: Mapping[str, Any]) -> Any:
    named = [Annotated[options, tyro.conf.subcommand(name=name, prefix_name=False)] for name, options in types.items()]
    return named[0] if len(named) == 1 else Union[tuple(named)]  # noqa: UP007
