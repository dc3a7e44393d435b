"""Command lines whose first word names a system: every system has a module with its options and a `main` function."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from vision.config import cli, fail


def parse(
    script: str, purpose: str, systems: Mapping[str, tuple[str, str]], arguments: Sequence[str]
) -> tuple[Any, Any]:
    """The module of the system that the first argument names, and its options from the other arguments.

    Args:
        script: file name, for the help.
        purpose: what is done with the system, for the sentence about a wrong first word: "to measure".
        systems: name -> module, class of its options.
        arguments: of the command line. Unusable ones end the program with one sentence and exit code 2.
    """
    system = arguments[0] if arguments else "nothing"
    if system not in systems:
        fail(f"The first word must be the system {purpose} ({', '.join(systems)}), got {system}.")
    module_name, options_name = systems[system]
    module = importlib.import_module(module_name)
    return module, cli(getattr(module, options_name), prog=f"{script} {system}", args=arguments[1:])


def run(module: Any, options: Any) -> None:
    """Call the module's `main` and end the program with the exit code that it returns (None: 0)."""
    try:
        code = module.main(options)
    except (ValueError, OSError) as error:
        fail(str(error))
    raise SystemExit(code if isinstance(code, int) else 0)
