"""Commands whose first word is a system: each has its options, and a function of its package does the work."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vision.config import cli, fail
from vision.job import Outcome, Show

T = TypeVar("T")


class Work(NamedTuple):
    """One thing that a command can do with a system."""

    module: str
    """Where its options and its function are; with a dot in front, beside this file."""
    options: str
    """Name of the class of its options there."""
    purpose: str
    """What it does, in a few words."""
    embedded: str | None = None
    """Configuration of the weights that come with the project, below its root: the help tells its values."""


def single(systems: Mapping[str, Work]) -> dict[str, dict[str, Work]]:
    """Systems with one recipe each."""
    return {system: {"": work} for system, work in systems.items()}


def parse(
    command: str, purpose: str, help: str, systems: Mapping[str, Mapping[str, Work]], arguments: Sequence[str]
) -> tuple[Any, Any]:
    """The module and the options that a command line names. Help, and a wrong line's sentence, end the program.

    Args:
        command: its name.
        purpose: what is done with the system, for the sentence about a wrong first word: "to measure".
        help: the command's docstring.
        systems: name -> recipe -> what it does; a system's first recipe is its default, --recipe names another.
        arguments: the words after the command.
    """
    system, rest = (arguments[0], list(arguments[1:])) if arguments else ("nothing", [])
    if system in ("-h", "--help"):
        sys.stdout.write(f"usage: burnish {command} SYSTEM [options]\n\n{help}\n{_list(systems)}")
        raise SystemExit(0)
    if system not in systems:
        fail(f"The first word must be the system {purpose} ({', '.join(systems)}), got {system}.")
    recipes = systems[system]
    recipe, prog = next(iter(recipes)), f"burnish {command} {system}"
    if "--recipe" in rest and "" not in recipes:
        place = rest.index("--recipe")
        recipe = "".join(rest[place + 1 : place + 2])
        del rest[place : place + 2]
        prog += f" --recipe {recipe}"
    if recipe not in recipes:
        fail(f"--recipe must be one of {', '.join(recipes)} for {system}, got {recipe or 'nothing'}.")
    work = recipes[recipe]
    module = importlib.import_module(work.module, __package__)
    more = "" if len(recipes) == 1 else f"\n\nRecipes of {system}:\n{_recipes(recipes)}"
    description = f"{(module.__doc__ or '').strip()}{more}"
    embedded = Path(__file__).resolve().parents[1] / work.embedded if work.embedded else None
    return module, cli(getattr(module, work.options), prog=prog, description=description, args=rest, embedded=embedded)


def single_command(
    name: str, options: type[T], help: str | None, embedded: Path | None = None
) -> Callable[[Sequence[str]], T]:
    """`parse` of a command without systems: its options from the command line.

    `embedded` is the config.json of the weights that come with the project, for the help.
    """

    def read(arguments: Sequence[str]) -> T:
        return cli(options, prog=f"burnish {name}", description=help, args=arguments, embedded=embedded)

    read.__annotations__["return"] = options  # which completion reads
    return read


def command(
    name: str, purpose: str, help: str, systems: Mapping[str, Work]
) -> tuple[Callable[[Sequence[str]], tuple[Any, Any]], Callable[[tuple[Any, Any], Show], int | None]]:
    """`parse` and `call` of a command that does one thing with each system, by the functions of its name."""

    def read(arguments: Sequence[str]) -> tuple[Any, Any]:
        return parse(name, purpose, help, single(systems), arguments)

    return read, lambda parsed, show: work(*parsed, name, show)


def work(module: Any, options: Any, name: str, show: Show) -> int | None:
    """Call the module's function of that name; returns the exit code."""
    outcome = getattr(module, name)(options, show)
    return outcome.code if isinstance(outcome, Outcome) else outcome if isinstance(outcome, int) else None


def _list(systems: Mapping[str, Mapping[str, Work]]) -> str:
    lines = []
    for system, recipes in systems.items():
        if len(recipes) == 1:
            lines.append(f"  {system:16} {next(iter(recipes.values())).purpose}\n")
        else:
            lines.append(f"  {system}\n{_recipes(recipes)}\n")
    several = " (and SYSTEM --recipe NAME --help)" if any(len(recipes) > 1 for recipes in systems.values()) else ""
    return "".join(["systems:\n", *lines, f"\nSYSTEM --help{several} lists the options.\n"])


def _recipes(recipes: Mapping[str, Work]) -> str:
    lines = [f"    --recipe {name:16} {work.purpose}" for name, work in recipes.items()]
    return "\n".join([lines[0] + " (the default)", *lines[1:]])
