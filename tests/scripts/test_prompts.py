"""`burnish prompts` for every system, in small: what it writes and that the other command takes it."""

from __future__ import annotations

import importlib
import json

import numpy as np
import PIL.Image
import pytest

from reward_vlm.scl import SCLCorrector
from scripts import answer, edit, prompts, restore
from scripts.main import with_files
from tests.vision.edit.conftest import picture


def found(tmp_path, *words: str) -> tuple[list[dict], list[str]]:
    """The rows and the words of the file of options."""
    out = tmp_path / "out"
    module, options = prompts.parse([*words, "--out", str(out), "--search-rounds", "1", "--mutations", "1"])
    assert module.prompts(options).code == 0
    return json.loads((out / "prompts.json").read_text()), with_files([f"@{out / 'options.txt'}"])


def test_a_review_is_searched_by_the_answers_that_it_leaves_right(tmp_path):
    rows, words = found(tmp_path, "scl", "--limit", "4", "--batch-size", "4")
    assert len(rows) >= 4 and all(0 <= row["searched"] <= 1 for row in rows) and sum(row["found"] for row in rows) == 1
    best = max(rows, key=lambda row: row["found"])
    assert best["searched"] == max(row["searched"] for row in rows)
    options = answer.parse(["--image", "a.png", "--question", "?", "--choices", "a", "b", *words])
    assert options.options.reviews == (best["prompt"],)
    module, wrong = prompts.parse(["scl", "--out", str(tmp_path / "b"), "--turns", "2"])
    with pytest.raises(ValueError, match="answer without reviews"):
        module.prompts(wrong)


def test_first_answers_are_asked_once_for_all_reviews(tmp_path, monkeypatch):
    first, batch = [], SCLCorrector.batch

    def counted(self, questions, options=None, *, drafts=None, observers=()):
        first.append(len(questions) if drafts is None else 0)
        return batch(self, questions, options, drafts=drafts, observers=observers)

    monkeypatch.setattr(SCLCorrector, "batch", counted)
    rows, _ = found(tmp_path / "once", "scl", "--limit", "4", "--batch-size", "4")
    assert sum(first) == 4 and len(first) > 8
    monkeypatch.setattr(
        SCLCorrector, "batch", lambda self, *given, drafts=None: batch(self, *given)
    )  # own ones each time
    assert found(tmp_path / "often", "scl", "--limit", "4", "--batch-size", "4")[0] == rows


def test_words_are_searched_by_restorations_that_come_nearer_to_the_truth(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        picture(number, 64, 64).save(tmp_path / "photos" / f"{number}.png")
    rows, words = found(
        tmp_path, "pasd", "--hr", str(tmp_path / "photos"), "--source", "builtin:tiny", "--size", "64", "--steps", "1"
    )
    assert rows[0]["searched"] in (0, 1) and rows[0]["held_out"] in (0, 1)
    assert restore.parse(["a.png", "--out", "b", "--system", "pasd", *words]).options.added_prompt == words[1]
    assert words[0] == "--added-prompt" and words[1] == next(row["prompt"] for row in rows if row["found"])
    with pytest.raises(ValueError, match="kind must be one of bicubic"):
        importlib.import_module("restoration.pasd.search_prompts").WordSearch(tmp_path, kind="snow")


def test_a_condition_is_searched_by_what_the_classifier_says(tmp_path):
    region = np.zeros((32, 32), dtype=np.uint8)
    region[8:24, 8:24] = 255
    for folder in ("healthy", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        picture(number).save(tmp_path / "healthy" / f"{number}.png")
        PIL.Image.fromarray(region).save(tmp_path / "masks" / f"{number}.png")
    given = ["--inputs", str(tmp_path / "healthy"), "--masks", str(tmp_path / "masks"), "--source", "builtin:tiny"]
    rows, words = found(tmp_path, "pie", *given, "--frames", "1", "--steps", "2", "--prompts", "a picture,ill")
    assert rows[0]["prompt"] == "a picture,ill" and words[0] == "--prompt"
    assert edit.parse(["a.png", "--out", "b", "--ellipse", "0.5", "0.5", "0.1", "0.1", *words]).prompt == (words[1],)
