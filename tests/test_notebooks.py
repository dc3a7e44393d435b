"""The notebooks run from the first cell to the last, and are stored without what they print."""

from __future__ import annotations

import json

import pytest

from tests.documented import PROJECT

FOLDER = PROJECT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbclient and ipykernel are in the extra dev")
    nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel are in the extra dev")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = nbformat.read(path, as_version=4)
    for cell in made.cells:
        cell.source = cell.source.replace("from burnish", "from scripts")
    nbclient.NotebookClient(made, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_output(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# ")
    for cell in cells:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


def test_every_kind_of_user_has_one():
    assert {path.stem for path in NOTEBOOKS} == {
        "photographer",
        "medical_researcher",
        "3d_artist",
        "reward_model_trainer",
    }
