"""Public names of a package that are imported when they are asked for: torch and the rest take seconds to load."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, homes: Mapping[str, str]) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        homes: module -> its public names, separated by blanks.

    Raises:
        ValueError: a name is also that of a module of the package, which would be found instead once it is imported.
    """
    home = {name: module for module, names in homes.items() for name in names.split()}
    for module in homes:
        if module.removeprefix(f"{package}.") in home:
            raise ValueError(f"{module} has the name of something that {package} offers; give the file another name.")

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home[name]), name)

    return sorted(home), get, lambda: sorted(home)
