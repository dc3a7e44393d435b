"""What the documentation says can be typed: command lines, and Python blocks."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[1]
TEXTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "configs/*.md", "*/pretrained/**/README.md")
    for path in sorted(PROJECT.glob(pattern))
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(burnish [a-z]+ [^`]+)`")


class Line(NamedTuple):
    """A line of shell that a text shows."""

    place: str
    """The file."""
    text: str
    """The line, with its comment."""
    whole: bool = True
    """Whether it can be typed as it stands; commands inside a sentence may leave out what must be given beside."""


def shell_lines() -> list[Line]:
    """Every line of the blocks of shell in the texts and in the commands' own help, and commands inside sentences."""
    found = []
    for path in TEXTS:
        text, place = path.read_text(encoding="utf-8"), str(path.relative_to(PROJECT))
        bodies = [body for kind, body in _BLOCK.findall(text) if kind in ("", "sh", "bash")]
        lines = [line.strip() for body in bodies for line in body.splitlines()]
        found += [Line(place, line) for line in lines if line and not line.startswith("#")]
        said = _INLINE.findall(_BLOCK.sub("", text).replace("\n", " "))
        found += [Line(place, " ".join(line.split()), whole=False) for line in said]
    for path in sorted((PROJECT / "scripts").rglob("*.py")):
        told = ast.get_docstring(ast.parse(path.read_text())) or ""
        lines = [re.split(r"\s{2,}\(", line.strip())[0] for line in told.splitlines()]
        found += [Line(path.name, line) for line in lines if line.startswith(("burnish ", "accelerate "))]
    return sorted(set(found))


def burnish_lines() -> list[Line]:
    """Those that begin with `burnish`."""
    return [line for line in shell_lines() if line.text.startswith("burnish ")]


def snippets() -> list[tuple[str, str]]:
    """(place, code) of the Python blocks."""
    return [
        (f"{path.relative_to(PROJECT)}:{number}", body)
        for path in TEXTS
        for number, (kind, body) in enumerate(_BLOCK.findall(path.read_text(encoding="utf-8")))
        if kind == "python"
    ]
