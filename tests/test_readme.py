"""What the README and the contributor's page show runs as it stands."""

from __future__ import annotations

import importlib
import re
import shlex
from itertools import pairwise
from pathlib import Path

import PIL.Image
import pytest

from scripts import restore
from scripts.main import COMMANDS

PROJECT = Path(__file__).resolve().parents[1]
README, CONTRIBUTING = ((PROJECT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
LINES = re.findall(r"^burnish (?!--).*$", README, re.M)


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def test_every_command_that_works_on_examples_is_shown():
    assert {shlex.split(line)[1] for line in LINES} == set(COMMANDS) - {"benchmark", "convert", "completion"}


@pytest.mark.parametrize("line", LINES)
def test_shown_commands_are_understood_and_their_files_are_there(line):
    words = shlex.split(line, comments=True)[1:]
    importlib.import_module(f"scripts.{words[0]}").parse(words[1:])  # a wrong option would end the process
    made = [word for flag, word in pairwise(words) if flag in ("--out", "--folder")]
    earlier = [shlex.split(other, comments=True) for other in LINES[: LINES.index(line)]]
    folders = [other[other.index("--out") + 1] for other in earlier if "--out" in other]
    for word in words[1:]:
        if "/" in word and word not in made:
            assert (PROJECT / word).exists() or word.startswith(tuple(f"{folder}/" for folder in folders)), word


@pytest.mark.parametrize("block", blocks(README))
def test_shown_python_runs(block, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(PROJECT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(block.replace("from burnish", "from scripts"), {})


def test_figures_of_the_table_stand_in_the_cards_that_it_links():
    rows = [line.split("|")[1:-1] for line in README.splitlines() if "/pretrained/" in line and line.startswith("|")]
    assert len(rows) >= 5
    for _, weights, _, speed, measured, _ in rows:
        card = (PROJECT / re.findall(r"\]\(([^)]+)\)", weights)[0]).read_text(encoding="utf-8")
        for number in re.findall(r"(?<![\w.])\.?\d+(?:\.\d+)?", speed + measured):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", card), f"{number}: {weights}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/index.md", "examples/README.md"])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", (PROJECT / page).read_text(encoding="utf-8")):
        assert ((PROJECT / page).parent / link).exists(), link


def test_a_restorer_of_twenty_lines_restores(tmp_path):
    (block,) = blocks(CONTRIBUTING)
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    (tmp_path / "my_file.py").write_text(block, encoding="utf-8")
    PIL.Image.effect_noise((9, 7), 50).convert("RGB").save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--scale", "3", "--device", "cpu"]
    assert restore.main(restore.parse([*words, "--system", f"{tmp_path}/my_file.py:MyRestorer"])) == 0
    with PIL.Image.open(tmp_path / "a.png") as small, PIL.Image.open(tmp_path / "out" / "a.png") as large:
        assert large.tobytes() == small.resize((27, 21), PIL.Image.Resampling.NEAREST).tobytes()
