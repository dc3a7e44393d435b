"""What the documentation says can be typed: commands parse, snippets compile, names exist, the site builds."""

from __future__ import annotations

import ast
import html
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.main import with_files
from tests.documented import PROJECT, burnish_lines, snippets


@pytest.mark.parametrize("line", burnish_lines(), ids=lambda line: line.text[:70])
def test_commands_of_the_documentation_parse(line, tmp_path, monkeypatch, capsys):
    command, *arguments = shlex.split(line.text.removesuffix(" ..."), comments=True)[1:]
    if {"--help", "-h"} & {command, *arguments}:
        return
    if command == "completion":
        assert arguments and arguments[0] in ("bash", "zsh", "tcsh")
        return
    monkeypatch.chdir(tmp_path)
    for _, code in snippets():
        if "class MyRestorer" in code:
            (tmp_path / "my_file.py").write_text(code)
    for folder in re.findall(r"one-step:(\S+)", line.text):
        (tmp_path / folder).mkdir(parents=True)
    for file in re.findall(r"@(\S+\.txt)", line.text):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    try:
        importlib.import_module(f"scripts.{command}").parse(with_files(arguments))
    except SystemExit:
        may_leave_out = line.text.endswith(" ...") or not line.whole
        assert may_leave_out and "must be given" in capsys.readouterr().err, f"{line.place}: {line.text}"


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


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built documentation, without a warning."""
    pytest.importorskip("material", reason="MkDocs Material is in the extra docs")
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_site_loads_nothing_from_elsewhere(site):
    remote = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"https?://", re.IGNORECASE)
    for page in site.rglob("*.html"):
        assert not remote.search(page.read_text(encoding="utf-8")), page


def test_links_of_the_site_lead_to_pages_pictures_and_places_that_are_there(site):
    places = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html") if page.name != "404.html"}
    names = {page.resolve(): set(re.findall(r'\bid="([^"]+)"', text)) for page, text in places.items()}
    for page, text in places.items():
        for link in re.findall(r'<(?:a|img)\b[^>]*?\b(?:href|src)="([^"]+)"', text):
            address, _, place = html.unescape(link).partition("#")
            if re.match(r"[a-z]+:", address):
                continue
            target = (page.parent / address).resolve() if address else page.resolve()
            assert target.exists(), f"{page.relative_to(site)} links to {link}"
            if place and target.suffix == ".html":
                assert place in names[target] | {"__skip"}, f"{page.relative_to(site)} links to {link}"


def test_every_public_name_is_in_the_reference(site):
    spec = importlib.util.spec_from_file_location("hooks", PROJECT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    missing = []
    for path in hooks.modules():
        text = (site / "reference" / path.with_suffix(".html")).read_text(encoding="utf-8")
        name = hooks.dotted(path)
        missing += [f"{name}.{inside}" for inside in hooks.defined(path) if f'id="{name}.{inside}"' not in text]
    assert not missing
