"""A few damaged inputs of every reader (`tests.fuzz` has many), and that the harness sees what is bad."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from tests import fuzz
from tests.fuzz_readers import READERS

CASES = 25
"""Of a reader; the slow ones, which have small shares, have fewer."""


@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs_give_a_result_or_a_sentence(name):
    reader = READERS[name]
    assert fuzz.run(name, reader, max(1, round(CASES * min(reader.share, 1))), seed=2024) == []


def raises(error):
    def read(*_):
        raise error

    return read


def busy(*_):
    while time.process_time():
        pass


GOOD = fuzz.Reader(lambda _: ["text"], lambda *_: None, fuzz.change_text)
BAD = {
    "KeyError": raises(KeyError("x")),
    "RecursionError": raises(RecursionError()),
    "MemoryError": raises(MemoryError()),
    "says nothing": raises(ValueError("")),
    "longer than 0.2 s": busy,
}


@pytest.mark.parametrize("reason", BAD)
def test_what_is_no_sentence_is_found(reason, monkeypatch):
    found = fuzz.judge(BAD[reason], seconds=0.2)
    assert found is not None and reason in found[0]


@pytest.mark.parametrize("error", [ValueError("said"), OSError("said"), ModuleNotFoundError("said")])
def test_results_and_sentences_are_good(error):
    assert fuzz.judge(lambda: 1) is None and fuzz.judge(raises(error)) is None


def test_memory_is_measured_case_by_case(monkeypatch):
    monkeypatch.setattr(fuzz, "BYTES", 0)
    monkeypatch.setattr(fuzz, "GROWTH", 100 << 20)
    assert "GB" in fuzz.judge(lambda: np.ones(200 << 20, np.uint8).sum())[0]
    assert fuzz.judge(lambda: np.ones(1 << 20, np.uint8).sum()) is None


def test_a_case_depends_on_its_number_alone_and_bad_ones_are_kept(tmp_path):
    seen = []
    reader = replace(GOOD, read=lambda text, _: seen.append(text))
    fuzz.run("some", reader, 6, seed=1)
    fuzz.run("some", reader, 2, seed=1, first=4)
    assert seen[5:7] == seen[8:10] and len(set(seen[1:7])) > 1

    def picky(text, _):
        if text != "text":
            raise KeyError(text)

    found = fuzz.run("some", replace(GOOD, read=picky), 4, seed=1, keep=tmp_path)
    assert found and len(list(tmp_path.glob("*.txt"))) == len(found) and "KeyError" in found[0].reason


def test_a_reader_that_refuses_what_is_good_fails():
    with pytest.raises(ValueError, match="never"):
        fuzz.run("some", replace(GOOD, read=raises(ValueError("never"))), 1, seed=1)
