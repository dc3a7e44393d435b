"""Files of results: continued, mended after a kill, and grown by one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reward_vlm.results import Results
from vision.job import Unusable

PROJECT = Path(__file__).resolve().parents[2]


def test_a_line_that_a_kill_cut_off_is_removed(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Results(path, {"seed": 0}).alone():
        pass
    path.write_text('{"row": 0}\n{"row": 1')
    results = Results(path, {"seed": 0})
    assert results.rows == [{"row": 0}] and path.read_text() == '{"row": 0}\n'
    with results.alone():
        results.add({"row": 1})
    assert Results(path, {"seed": 0}).rows == [{"row": 0}, {"row": 1}]


def test_two_processes_do_not_grow_one_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    other = f"from reward_vlm.results import Results; from pathlib import Path; Results(Path({str(path)!r}), {{}})"
    with Results(path, {}).alone():
        refused = subprocess.run([sys.executable, "-c", other], cwd=PROJECT, capture_output=True, text=True)
        assert refused.returncode and f"Another process works on {path}" in refused.stderr
    assert not subprocess.run([sys.executable, "-c", other], cwd=PROJECT).returncode


def test_a_run_that_failed_may_be_tried_again_in_the_same_process(tmp_path):
    results = Results(tmp_path / "rows.jsonl", {})
    with pytest.raises(ValueError) as kept, results.alone():
        raise ValueError("The model is broken.")
    with Results(tmp_path / "rows.jsonl", {}).alone():
        assert "broken" in str(kept.value)


def test_rows_are_not_added_to_a_folder_that_took_the_place_of_the_first(tmp_path):
    results = Results(tmp_path / "out" / "rows.jsonl", {})
    with pytest.raises(Unusable, match="was taken away while this worked; start again"), results.alone():
        results.add({"row": 0})
        (tmp_path / "out").rename(tmp_path / "elsewhere")
        results.add({"row": 1})
    assert not (tmp_path / "out").exists()
    assert Results(results.path, {}).rows == []
