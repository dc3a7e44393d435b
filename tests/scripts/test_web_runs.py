"""What visitors of the page read about a job."""

from __future__ import annotations

from scripts.web.runs import watch
from vision.job import Event


def test_visitors_do_not_read_where_their_files_lie(tmp_path):
    upload, results = tmp_path / "my page" / "uploads" / "3f0a9c" / "photo.png", tmp_path / "my page/results/07ab12"

    def work(show):
        show(Event("note", f"{upload}: its profile is kept."))
        show(Event("result", f"{results}: 2 images; run.json says how."))
        raise ValueError(f"Cannot read {upload}: it is cut off.")

    *_, last = watch(work, 60, folder=tmp_path / "my page")
    assert last.notes == ("photo.png: its profile is kept.", "results: 2 images; run.json says how.")
    assert last.error == "Cannot read photo.png: it is cut off."
