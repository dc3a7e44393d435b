"""The table of harm: what a row counts, and what is taken from other measurements."""

from __future__ import annotations

import json

import pytest

from vision.harm import harm_rows, losses, read_harm, write_harm


def test_a_row_counts_what_was_lost(tmp_path):
    rows = harm_rows("mend", {"sharp": [(30.0, 29.95), (30.0, 28.95)], "noisy": [(20.0, 22.0)]}, "dB", 0.1)
    sharp, noisy, every = rows
    assert (sharp["items"], sharp["worse"], sharp["difference"]) == (2, 0.5, pytest.approx(-0.55))
    assert (noisy["nothing"], noisy["with"], noisy["worse"]) == (20.0, 22.0, 0.0)
    assert (every["kind"], every["items"], every["difference"]) == ("all", 3, pytest.approx(0.9 / 3))
    assert list(losses(rows)) == ["mend on sharp is 0.55 dB worse than doing nothing."]
    write_harm(tmp_path, rows)
    assert read_harm(tmp_path) == rows
    assert [row["kind"] for row in harm_rows("mend", {"noisy": [(1.0, 1.0)]}, "dB", 0)] == ["noisy"]
    with pytest.raises(ValueError, match="got none of noisy"):
        harm_rows("mend", {"sharp": [(1.0, 1.0)], "noisy": []}, "dB", 0)


@pytest.mark.parametrize("content", [{"job": "mend"}, [3], [{"job": "mend", "kind": "all", "in": "dB", "items": 2}]])
def test_another_table_is_refused(tmp_path, content):
    with pytest.raises(FileNotFoundError, match="evaluate gtr --spoil, pie, scl and sharpened write one"):
        read_harm(tmp_path)
    (tmp_path / "harm.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="holds no table of harm"):
        read_harm(tmp_path)
