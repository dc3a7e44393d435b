"""What the documentation says can be typed: commands parse, snippets compile, names exist, the site builds."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
TEXTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "configs/*.md", "*/pretrained/**/README.md")
    for path in sorted(PROJECT.glob(pattern))
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(burnish [a-z]+ [^`]+)`")


def command_lines() -> list[tuple[str, str]]:
    """(place, command line) of every command that begins with `burnish` in the texts and in the commands' own help.

    A line that ends with " ..." leaves out what must be given beside; so may commands inside a sentence.
    """
    found = []
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        lines = [
            line for kind, body in _BLOCK.findall(text) if kind in ("", "sh", "bash") for line in body.splitlines()
        ]
        lines += [f"{line} ..." for line in _INLINE.findall(_BLOCK.sub("", text).replace("\n", " "))]
        found += [(str(path.relative_to(PROJECT)), line.strip()) for line in lines]
    for path in sorted((PROJECT / "scripts").glob("*.py")):
        told = ast.get_docstring(ast.parse(path.read_text())) or ""
        found += [(path.name, re.split(r"\s{2,}\(", line.strip())[0]) for line in told.splitlines()]
    return sorted({(place, line) for place, line in found if line.startswith("burnish ")})


@pytest.mark.parametrize("place, line", command_lines(), ids=lambda value: value[:70])
def test_commands_of_the_documentation_parse(place, line, tmp_path, monkeypatch, capsys):
    command, *arguments = shlex.split(line.removesuffix(" ..."), comments=True)[1:]
    if {"--help", "-h"} & {command, *arguments}:
        return
    if command == "completion":
        assert arguments and arguments[0] in ("bash", "zsh", "tcsh")
        return
    monkeypatch.chdir(tmp_path)
    for _, code in snippets():
        if "class MyRestorer" in code:
            (tmp_path / "my_file.py").write_text(code)
    for folder in re.findall(r"one-step:(\S+)", line):
        (tmp_path / folder).mkdir(parents=True)
    try:
        importlib.import_module(f"scripts.{command}").parse(arguments)
    except SystemExit:
        assert line.endswith(" ...") and "must be given" in capsys.readouterr().err, f"{place}: {line}"


def snippets() -> list[tuple[str, str]]:
    """(place, code) of the Python blocks."""
    return [
        (f"{path.relative_to(PROJECT)}:{number}", body)
        for path in TEXTS
        for number, (kind, body) in enumerate(_BLOCK.findall(path.read_text(encoding="utf-8")))
        if kind == "python"
    ]


@pytest.mark.parametrize("place, code", snippets(), ids=lambda value: value.splitlines()[0][:60])
def test_snippets_compile_and_import_what_exists(place, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (
            "burnish",
            "vision",
            "restoration",
            "recon3d",
            "reward_vlm",
        ):
            module = importlib.import_module("scripts" if node.module == "burnish" else node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{place}: {node.module} has no {alias.name}"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="MkDocs Material is in the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site" / "reference" / "vision" / "refine" / "loop.html").is_file()
    remote = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"https?://", re.IGNORECASE)
    assert not remote.search((tmp_path / "site" / "index.html").read_text(encoding="utf-8"))
