"""The search for prompts that commands run: what it keeps, what it writes, and that other commands take it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from scripts.main import with_files
from vision.job import Job
from vision.prompt_search import PromptSearch, mutated, search


@dataclass(frozen=True)
class Options(PromptSearch):
    """Of the tests."""


def run(tmp_path, solves, *, tasks=8, prompts=("a, b",), **more):
    told = []
    options = Options(tmp_path, **more)
    job = Job(tmp_path, options, show=lambda event: told.append(event.text))
    search(job, options, prompts, ("good", "bad"), tasks, solves, option="--prompt")
    return json.loads((tmp_path / "prompts.json").read_text()), (tmp_path / "options.txt").read_text(), told


def test_a_phrase_that_solves_tasks_is_found_and_held_out_tasks_are_only_counted(tmp_path):
    asked = []

    def solves(prompt, numbers):
        asked.append((prompt, tuple(numbers)))
        return ["good" in prompt.split(", ") or number % 8 == 0 for number in numbers]

    rows, options, _ = run(tmp_path, solves, search_rounds=6, mutations=6)
    assert rows[0] == {"prompt": "a, b", "found": False, "searched": 0.25, "held_out": 0.0}
    assert rows[1]["found"] and rows[1]["searched"] == rows[1]["held_out"] == 1
    assert options == f"--prompt\n{rows[1]['prompt']}\n" and "good" in rows[1]["prompt"]
    held = [prompt for prompt, numbers in asked if numbers == (1, 3, 5, 7)]
    assert sorted(held) == sorted(row["prompt"] for row in rows)  # no choice looks at them


def test_the_start_stays_where_nothing_is_better_and_overfitting_is_told(tmp_path):
    rows, options, told = run(tmp_path / "a", lambda prompt, numbers: [prompt == "a, b" for _ in numbers])
    assert len(rows) == 1 and rows[0]["found"] and options == "--prompt\na, b\n"
    assert not any("may not hold" in text for text in told)
    fooled = lambda prompt, numbers: [(prompt == "a, b") == bool(number % 2) for number in numbers]  # noqa: E731
    rows, _, told = run(tmp_path / "b", fooled)
    assert rows[-1]["searched"] == 1 and rows[-1]["held_out"] == 0 and any("may not hold" in text for text in told)
    with pytest.raises(ValueError, match="half of 2 or more tasks, got 1"):
        run(tmp_path / "c", fooled, tasks=1)
    with pytest.raises(ValueError, match="mutations and search_rounds must be at least 1"):
        Options(tmp_path, search_rounds=0)


def test_mutations_change_one_phrase_and_never_empty_a_prompt():
    rng, pool = np.random.default_rng(0), ("a", "b", "c", "d")
    for _ in range(200):
        after = mutated("a, b, c", pool, ", ", rng).split(", ")
        assert 2 <= len(after) <= 4 and len(set(after)) == len(after) and len(set(after) ^ {"a", "b", "c"}) <= 2
        assert mutated("a", ("a",), ", ", rng) == "a" and mutated("", pool, ", ", rng) in pool


def test_sentences_keep_their_marks():
    rng, said = np.random.default_rng(0), ("Look again.", "Are you sure?", "Answer.")
    for _ in range(50):
        after = mutated("Look again. Are you sure?", said, None, rng)
        assert set(after.replace(". ", ".|").replace("? ", "?|").split("|")) <= set(said)


def test_a_file_of_options_stands_for_its_words(tmp_path):
    file = tmp_path / "options.txt"
    file.write_text("--reviews\nLook again. Are you sure?\n")
    assert with_files(["a.png", f"@{file}", "--out", "x"]) == [
        "a.png",
        "--reviews",
        "Look again. Are you sure?",
        "--out",
        "x",
    ]
    assert with_files(["@name.png"]) == ["@name.png"]
    with pytest.raises(FileNotFoundError, match=r"no file of options gone\.txt"):
        with_files(["@gone.txt"])
